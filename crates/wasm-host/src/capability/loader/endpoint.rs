//! The loader for callers of a function: `POST` with a token, code in JSON, and what became of it in JSON. It is there for
//! functions whose `spec.loader.endpoint` names the digest of a token; elsewhere the path is the guest's like any other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::execution::{Observer, Report};
use super::{Loader, Refused, Wanted, WantedLimits};
use crate::call::GuestBody;
use crate::javascript::Module;

/// Where it is.
pub(crate) const PATH: &str = "/.hearth/loader";

/// Bytes of an answer's body, which is held whole.
const ANSWER_BYTES: u64 = 8 << 20;
/// How long a caller may take to send the code.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a caller sends.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Code {
    main_module: String,
    modules: BTreeMap<String, String>,
    #[serde(default)]
    env: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    egress: Vec<String>,
    #[serde(default)]
    limits: AskedLimits,
    #[serde(default)]
    request: Asked,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AskedLimits {
    memory_bytes: Option<u64>,
    deadline_milliseconds: Option<u32>,
    cpu_milliseconds: Option<u32>,
    outbound_calls: Option<u32>,
}

/// The request that the code is to answer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Asked {
    method: String,
    url: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            url: "http://loader.hearth/".to_owned(),
            headers: BTreeMap::new(),
            body: String::new(),
        }
    }
}

/// What became of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Became {
    outcome: &'static str,
    start: &'static str,
    problem: String,
    milliseconds: f64,
    cpu_milliseconds: f64,
    memory_bytes: u64,
    log: Vec<Line>,
    dropped_lines: u32,
    response: Option<Answered>,
}

#[derive(Debug, Serialize)]
struct Line {
    stream: &'static str,
    text: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answered {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    /// `body` is bytes in base64.
    is_base64: bool,
}

impl Loader {
    /// Answers a request to [`PATH`].
    pub(crate) async fn answer<B>(self: &Arc<Self>, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        if !is_open(request.headers(), self.tokens()) {
            let text = "send a token of this function's loader: Authorization: Bearer TOKEN";
            let mut refused = refusal(StatusCode::UNAUTHORIZED, text);
            let challenge = HeaderValue::from_static("Bearer");
            refused.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            return refused;
        }
        if request.method() != Method::POST {
            let mut refused = refusal(StatusCode::METHOD_NOT_ALLOWED, "the loader takes POST");
            let allowed = HeaderValue::from_static("POST");
            refused.headers_mut().insert(ALLOW, allowed);
            return refused;
        }
        let most = usize::try_from(self.spec.limits.request_body_bytes).unwrap_or(usize::MAX);
        let body = Limited::new(request.into_body(), most).collect();
        let body = match tokio::time::timeout(PATIENCE, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                let text = format!("the code has more than {most} bytes (spec.limits.requestBody)");
                return refusal(StatusCode::PAYLOAD_TOO_LARGE, &text);
            }
            Ok(Err(_)) | Err(_) => {
                return refusal(StatusCode::REQUEST_TIMEOUT, "the code did not come whole");
            }
        };
        match self.run(&body).await {
            Ok(became) => json(&became),
            Err((status, problem)) => refusal(status, &problem),
        }
    }

    async fn run(self: &Arc<Self>, body: &[u8]) -> Result<Became, (StatusCode, String)> {
        let wrong = |problem: String| (StatusCode::BAD_REQUEST, problem);
        let code = serde_json::from_slice::<Code>(body);
        let code = code.map_err(|error| wrong(format!("the code cannot be read: {error}")))?;
        let millis = |millis: u32| Duration::from_millis(millis.into());
        let modules = code.modules.into_iter();
        let env = code.env.into_iter();
        let mut wanted = Wanted {
            modules: modules
                .map(|(name, source)| Module { name, source })
                .collect(),
            env: env.map(|(name, value)| (name, value.to_string())).collect(),
            functions: Vec::new(),
            egress: code.egress,
            limits: WantedLimits {
                memory_bytes: code.limits.memory_bytes,
                deadline: code.limits.deadline_milliseconds.map(millis),
                cpu: code.limits.cpu_milliseconds.map(millis),
                outbound_calls: code.limits.outbound_calls,
                response_body_bytes: Some(ANSWER_BYTES),
            },
        };
        let request = asked(code.request).map_err(wrong)?;
        let worker = wanted
            .main(&code.main_module)
            .and_then(|()| self.load(wanted))
            .map_err(|refused| match refused {
                Refused::InUse => (StatusCode::SERVICE_UNAVAILABLE, refused.to_string()),
                _ => wrong(refused.to_string()),
            })?;
        let observer = Arc::new(Observer::default());
        let answered = match self.call(&worker, request, observer.clone()).await {
            Ok(response) => answered(response).await,
            Err(_) => None,
        };
        Ok(became(observer.report().await, answered))
    }
}

/// Whether a request brings a token of one of these digests.
fn is_open(headers: &HeaderMap, digests: &[[u8; 32]]) -> bool {
    let field = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let Some((scheme, token)) = field.and_then(|field| field.split_at_checked(7)) else {
        return false;
    };
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return false;
    }
    let digest: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
    let is_same = |known: &[u8; 32]| {
        // Every byte is looked at, wherever the first difference is.
        let pairs = known.iter().zip(&digest);
        pairs.fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
    };
    digests.iter().filter(|known| is_same(known)).count() > 0
}

fn asked(asked: Asked) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder()
        .method(asked.method.as_str())
        .uri(asked.url.as_str());
    for (name, value) in &asked.headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::from(asked.body)));
    let request = request.map_err(|error| format!("the request cannot be made: {error}"))?;
    match request.uri().authority() {
        Some(_) => Ok(request),
        None => Err("the request's url is a whole one, http://host/path".to_owned()),
    }
}

/// The answer, whole; nothing when it broke off, which the report tells.
async fn answered(response: Response<GuestBody>) -> Option<Answered> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    let fields = head.headers.iter();
    let (body, is_base64) = match std::str::from_utf8(&body) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (STANDARD.encode(&body), true),
    };
    Some(Answered {
        status: head.status.as_u16(),
        headers: fields
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.as_str().to_owned(), value)
            })
            .collect(),
        body,
        is_base64,
    })
}

fn became(report: Report, response: Option<Answered>) -> Became {
    let line = |(is_error, text): (bool, String)| Line {
        stream: if is_error { "stderr" } else { "stdout" },
        text,
    };
    let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    Became {
        outcome: report.outcome.as_str(),
        start: report.start.as_str(),
        problem: report.problem,
        milliseconds: millis(report.duration),
        cpu_milliseconds: millis(report.cpu),
        memory_bytes: report.memory_bytes,
        log: report.log.lines.into_iter().map(line).collect(),
        dropped_lines: report.log.dropped,
        response,
    }
}

fn json(became: &Became) -> Response<Full<Bytes>> {
    match serde_json::to_vec(became) {
        Ok(bytes) => {
            let mut response = Response::new(Full::new(Bytes::from(bytes)));
            let kind = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn refusal(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_it_and_nothing_else_does() {
        let digests = [
            Sha256::digest(b"secret").into(),
            Sha256::digest(b"next").into(),
        ];
        let open = |field: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(field) = field {
                headers.insert(AUTHORIZATION, field.parse().unwrap());
            }
            is_open(&headers, &digests)
        };
        assert!(open(Some("Bearer secret")) && open(Some("bearer next")));
        for wrong in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer secre"),
            Some("Bearer secret2"),
            Some("Basic secret"),
            Some("secret"),
        ] {
            assert!(!open(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn fuzz_loader_code() {
        let examples = [
            r#"{"mainModule":"a.js","modules":{"a.js":"export default {}"},"env":{"A":[1,null]},"egress":["https://a.b"],"limits":{"memoryBytes":1,"deadlineMilliseconds":2},"request":{"method":"PUT","url":"http://a.b/c?d","headers":{"x":"y"},"body":"z"}}"#,
            r#"{"mainModule":"","modules":{}}"#,
        ];
        hearth_fuzz::text("fuzz_loader_code", &examples, |input| {
            if let Ok(code) = serde_json::from_str::<Code>(input)
                && let Ok(request) = asked(code.request)
            {
                assert!(request.uri().authority().is_some());
            }
        });
    }
}
