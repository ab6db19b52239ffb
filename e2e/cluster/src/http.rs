//! Just enough of an HTTP client for the registry and for a look at an answer: one request a connection, blocking, HTTP/1.0 so
//! that an answer ends where its connection ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// How long one read or write may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// What to ask.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`, `PUT`, …
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Headers beside `Host` and `Content-Length`.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body, empty for none.
    pub body: &'a [u8],
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

/// Sends a request from the calling thread's network namespace.
pub fn send(address: SocketAddr, host: &str, request: Request<'_>) -> Result<Response> {
    let exchange = || -> Result<Response> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.write_all(head(host, request).as_bytes())?;
        stream.write_all(request.body)?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        parse(&bytes)
    };
    exchange().with_context(|| format!("{} http://{address}{}", request.method, request.path))
}

fn head(host: &str, request: Request<'_>) -> String {
    let Request {
        method,
        path,
        headers,
        body,
    } = request;
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head + &format!("Content-Length: {}\r\n\r\n", body.len())
}

fn parse(bytes: &[u8]) -> Result<Response> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.context("the answer has no end of headers: is this an HTTP server?")?;
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    ensure!(
        status_line.starts_with("HTTP/1."),
        "not an HTTP answer: {status_line:?}"
    );
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Response {
        status: status.with_context(|| format!("no status in {status_line:?}"))?,
        headers,
        body: bytes[end + 4..].to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let answer = parse(b"HTTP/1.0 202 Accepted\r\nLocation: /v2/x\r\n\r\nhello\n").unwrap();
        assert_eq!(
            (answer.status, answer.header("location")),
            (202, Some("/v2/x"))
        );
        assert_eq!(answer.text(), "hello");
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_err());
    }

    #[test]
    fn a_request_says_how_long_it_is() {
        let request = Request {
            method: "PUT",
            path: "/v2/x?digest=y",
            headers: &[("A", "b")],
            body: b"abc",
        };
        assert_eq!(
            head("localhost:5000", request),
            "PUT /v2/x?digest=y HTTP/1.0\r\nHost: localhost:5000\r\nA: b\r\nContent-Length: 3\r\n\r\n"
        );
    }
}
