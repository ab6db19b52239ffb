//! Calls out: only hosts that the function's rules name, over connections of our own.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hearth_contract::egress::{EgressRule, Scheme};
use http::uri::Scheme as UriScheme;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::loader::{FUNCTIONS, LoadedCall, Observer};
use super::names::{LookupError, Names};
use super::paced::Paced;
use crate::logs::LogSink;

/// What a guest's own timeouts default to; the call's deadline is usually shorter.
const CONNECT: Duration = Duration::from_secs(10);
const FIRST_BYTE: Duration = Duration::from_secs(600);

/// What all calls out of a process share.
#[derive(Clone)]
pub(crate) struct Outside {
    pub(crate) names: Names,
    pub(crate) tls: Arc<rustls::ClientConfig>,
}

/// The hooks of one instance.
pub(crate) struct Egress {
    pub(crate) outside: Outside,
    pub(crate) rules: Arc<[EgressRule]>,
    /// Rules of which one must allow what one of the others does: those of who loaded this code.
    pub(crate) within: Option<Arc<[EgressRule]>>,
    pub(crate) log: LogSink,
    /// Calls out that this call may still make.
    pub(crate) left: u32,
    /// The next request is not one over the network, but calls code that the guest loaded.
    pub(crate) next: Option<LoadedCall>,
    /// The guest is loaded code: who hears what it does.
    pub(crate) observer: Option<Arc<Observer>>,
}

impl Egress {
    /// Why a call out is not made, if it is not. The guest hears the code, the owner's log the sentence.
    fn refusal(&mut self, target: &Result<Target, Error>) -> Option<Error> {
        let Ok(target) = target else {
            return Some(Error::HttpRequestUriInvalid);
        };
        let allows = |rule: &EgressRule| rule.allows(target.scheme, &target.host, target.port);
        let Target { host, port, .. } = target;
        let is_within = |rules: &Arc<[EgressRule]>| rules.iter().any(allows);
        if let Some(within) = &self.within {
            if !self.rules.iter().any(allows) {
                self.log.note(&format!(
                    "call to {host}:{port} denied: no rule in the code's egress names it"
                ));
                return Some(Error::HttpRequestDenied);
            }
            if !is_within(within) {
                self.log.note(&format!(
                    "call to {host}:{port} denied: who loaded this code may not call it either (spec.egress.allow)"
                ));
                return Some(Error::HttpRequestDenied);
            }
        } else if !is_within(&self.rules) {
            self.log.note(&format!(
                "call to {host}:{port} denied: no egress rule names it (spec.egress.allow; a pod's annotation hearth.dev/egress)"
            ));
            return Some(Error::HttpRequestDenied);
        }
        self.count(&format!("{host}:{port}"))
    }

    /// Counts a call out, or says why there is to be none.
    fn count(&mut self, what: &str) -> Option<Error> {
        let Some(left) = self.left.checked_sub(1) else {
            self.log.note(&format!(
                "call to {what} denied: this call has made as many calls out as spec.limits.outboundCalls allows"
            ));
            return Some(Error::HttpRequestDenied);
        };
        self.left = left;
        None
    }
}

impl WasiHttpHooks for Egress {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        // How the guest's side ended its reading of the answer; nobody waits for it.
        _received: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<
        dyn Future<
                Output = Result<
                    (
                        http::Response<WasiBody>,
                        Box<dyn Future<Output = Result<(), Error>> + Send>,
                    ),
                    Error,
                >,
            > + Send,
    > {
        if let Some(call) = self.next.take() {
            return Box::new(async move { Ok((call.send(request).await?, nothing_left())) });
        }
        let is_back = request.uri().authority().is_some_and(|to| to == FUNCTIONS);
        if let Some(observer) = self.observer.clone().filter(|_| is_back) {
            let refused = self.count("a function of who loaded this code");
            return Box::new(async move {
                match refused {
                    Some(error) => Err(error),
                    None => Ok((observer.invoke(request).await?, nothing_left())),
                }
            });
        }
        let target = Target::of(request.uri());
        let refused = self.refusal(&target);
        let outside = self.outside.clone();
        let log = self.log.clone();
        Box::new(async move {
            if let Some(error) = refused {
                return Err(error);
            }
            send(&outside, target?, request, options, &log).await
        })
    }
}

/// What is left to be done for an answer that no connection brings.
fn nothing_left() -> Box<dyn Future<Output = Result<(), Error>> + Send> {
    Box::new(std::future::ready(Ok(())))
}

/// Where a request goes.
struct Target {
    scheme: Scheme,
    host: String,
    port: u16,
}

impl Target {
    fn of(uri: &http::Uri) -> Result<Self, Error> {
        let scheme = match uri.scheme() {
            Some(scheme) if *scheme == UriScheme::HTTP => Scheme::Http,
            _ => Scheme::Https,
        };
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let port = authority.port_u16().unwrap_or(scheme.default_port());
        Ok(Self {
            scheme,
            host: authority.host().to_owned(),
            port,
        })
    }
}

async fn send(
    outside: &Outside,
    target: Target,
    mut request: http::Request<WasiBody>,
    options: Option<RequestOptions>,
    log: &LogSink,
) -> Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), Error>> + Send>,
    ),
    Error,
> {
    let connect_timeout = options
        .and_then(|options| options.connect_timeout)
        .unwrap_or(CONNECT);
    let first_byte_timeout = options
        .and_then(|options| options.first_byte_timeout)
        .unwrap_or(FIRST_BYTE);
    let stream = tokio::time::timeout(connect_timeout, connect(outside, &target, log))
        .await
        .map_err(|_| Error::ConnectionTimeout)??;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(broken)?;
    // The connection is driven beside the guest and ends with the body, or when the guest drops it.
    let driver = AbortOnDropHandle::new(tokio::spawn(connection));
    // Scheme and authority in the request line would address a proxy.
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    *request.uri_mut() = path.parse().map_err(|_| Error::HttpRequestUriInvalid)?;
    let response = tokio::time::timeout(first_byte_timeout, sender.send_request(request))
        .await
        .map_err(|_| Error::ConnectionReadTimeout)?
        .map_err(broken)?;
    let io = async move {
        match driver.await {
            Ok(Err(error)) => Err(broken(error)),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    };
    let pace = options.and_then(|options| options.between_bytes_timeout);
    let body = |body: Incoming| match pace {
        Some(pace) => Paced::new(body.map_err(broken), pace).boxed_unsync(),
        None => body.map_err(broken).boxed_unsync(),
    };
    Ok((response.map(body), Box::new(io)))
}

/// Why an exchange over a connection failed, as a guest is told.
fn broken(error: hyper::Error) -> Error {
    let source = error.source();
    // The guest's own: of the body that it was sending.
    match source.and_then(|source| source.downcast_ref::<Error>()) {
        Some(Error::HttpRequestBodySize(size)) => return Error::HttpRequestBodySize(*size),
        Some(_) => return Error::HttpProtocolError,
        None => {}
    }
    let io = source.and_then(|source| source.downcast_ref::<io::Error>());
    let is_cut = io.is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof);
    if is_cut || error.is_incomplete_message() {
        Error::HttpResponseIncomplete
    } else if io.is_some() || error.is_closed() || error.is_canceled() {
        Error::ConnectionTerminated
    } else {
        Error::HttpProtocolError
    }
}

/// Why there is no connection, as a guest is told.
fn unconnected(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Error::DestinationIpUnroutable
        }
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            Error::ConnectionTerminated
        }
        _ => Error::DestinationUnavailable,
    }
}

/// Why TLS could not be agreed upon, as a guest is told.
fn insecure(error: &io::Error) -> Error {
    let reason = error.get_ref();
    match reason.and_then(|reason| reason.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(alert)) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        },
        Some(_) => Error::TlsProtocolError,
        None => unconnected(error),
    }
}

/// Why a name has no address, as a guest is told.
fn unresolved(error: &LookupError) -> Error {
    let rcode = match error {
        LookupError::Timeout(_) => return Error::DnsTimeout,
        LookupError::Unknown(_) => Some("NXDOMAIN".to_owned()),
        LookupError::NoServer(_) | LookupError::Failed { .. } => None,
    };
    Error::DnsError {
        rcode,
        info_code: None,
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(
    outside: &Outside,
    target: &Target,
    log: &LogSink,
) -> Result<Box<dyn Stream>, Error> {
    let addresses = outside
        .names
        .lookup(&target.host, target.port)
        .await
        .map_err(|error| {
            log.note(&error.to_string());
            unresolved(&error)
        })?;
    let failed = |error: &dyn std::fmt::Display| {
        let Target { host, port, .. } = target;
        log.note(&format!("call to {host}:{port} failed: {error}"));
    };
    let mut last = None;
    let mut connected = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                connected = Some(stream);
                break;
            }
            Err(error) => last = Some(error),
        }
    }
    let Some(stream) = connected else {
        let error = last.unwrap_or_else(|| io::Error::other("the name has no address"));
        failed(&error);
        return Err(unconnected(&error));
    };
    // Small requests and answers: waiting to fill a segment only costs time.
    stream
        .set_nodelay(true)
        .map_err(|error| unconnected(&error))?;
    match target.scheme {
        Scheme::Http => Ok(Box::new(stream)),
        Scheme::Https => {
            let bare = target
                .host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned();
            let name = ServerName::try_from(bare).map_err(|_| Error::TlsCertificateError)?;
            let connector = tokio_rustls::TlsConnector::from(outside.tls.clone());
            let secured = connector.connect(name, stream).await;
            Ok(Box::new(secured.map_err(|error| {
                failed(&error);
                insecure(&error)
            })?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_code() {
        for (kind, code) in [
            (io::ErrorKind::TimedOut, "ConnectionTimeout"),
            (io::ErrorKind::NetworkUnreachable, "DestinationIpUnroutable"),
            (io::ErrorKind::ConnectionReset, "ConnectionTerminated"),
            // What a network policy that rejects may say.
            (io::ErrorKind::PermissionDenied, "DestinationUnavailable"),
        ] {
            assert_eq!(format!("{:?}", unconnected(&kind.into())), code);
        }
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure);
        let said = format!("{:?}", insecure(&io::Error::other(alert)));
        assert!(said.contains("alert_id: Some(40)"), "{said}");
        let late = unresolved(&LookupError::Timeout("a".to_owned()));
        assert!(matches!(late, Error::DnsTimeout), "{late:?}");
        let unknown = format!("{:?}", unresolved(&LookupError::Unknown("a".to_owned())));
        assert!(unknown.contains("NXDOMAIN"), "{unknown}");
    }
}
