//! Pushing to an OCI registry: the distribution API over HTTP, with the credentials that `docker login` and `podman login` keep.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use indicatif::ProgressBar;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::progress::{self, Shown};

/// Most bytes of an answer that is read.
const ANSWER_BYTES: usize = 4 << 20;
/// How long one request may take; a blob is sent in it.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(300);
/// Media type of a manifest.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A name in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// `host[:port]`.
    pub(crate) registry: String,
    /// The repository there.
    pub(crate) repository: String,
    /// The tag.
    pub(crate) tag: String,
}

impl std::str::FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            return Err("what is pushed is named by a tag, not by a digest".to_owned());
        }
        let (first, rest) = text.split_once('/').unwrap_or(("", text));
        // As every client reads it: a first part without a dot, a port or `localhost` is of Docker Hub.
        let is_host = first.contains(['.', ':']) || first == "localhost";
        let (registry, path) = match is_host {
            true => (first, rest.to_owned()),
            false if text.contains('/') => ("docker.io", text.to_owned()),
            false => ("docker.io", format!("library/{text}")),
        };
        let (repository, tag) = path.rsplit_once(':').unwrap_or((&path, "latest"));
        let is_word = |word: &str, more: &str| {
            !word.is_empty()
                && word
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c))
        };
        if !repository.split('/').all(|part| is_word(part, "._-")) {
            return Err(format!(
                "the repository {repository:?} has other signs than a-z, 0-9, '.', '_', '-' and '/'"
            ));
        }
        if !is_word(&tag.to_lowercase(), "._-") || tag.len() > 128 {
            return Err(format!(
                "the tag {tag:?} has other signs than letters, digits, '.', '_' and '-'"
            ));
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}:{}", self.registry, self.repository, self.tag)
    }
}

/// One blob of an artifact.
pub(crate) struct Blob {
    /// What it is.
    pub(crate) media_type: &'static str,
    /// Its bytes.
    pub(crate) bytes: Bytes,
    /// What a client that pulls it calls the file; empty: nothing.
    pub(crate) title: &'static str,
}

impl Blob {
    /// What a user calls it.
    pub(crate) fn name(&self) -> &'static str {
        if self.title.is_empty() {
            self.media_type
        } else {
            self.title
        }
    }
}

/// What is pushed.
pub(crate) struct Artifact {
    /// `artifactType` of the manifest; empty: none.
    pub(crate) kind: &'static str,
    /// The configuration.
    pub(crate) config: Blob,
    /// In order.
    pub(crate) layers: Vec<Blob>,
}

/// `sha256:…` of bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

impl Artifact {
    fn manifest(&self) -> Vec<u8> {
        let descriptor = |blob: &Blob| {
            let mut descriptor = serde_json::json!({
                "mediaType": blob.media_type,
                "digest": digest(&blob.bytes),
                "size": blob.bytes.len(),
            });
            if !blob.title.is_empty() {
                descriptor["annotations"] =
                    serde_json::json!({"org.opencontainers.image.title": blob.title});
            }
            descriptor
        };
        let mut manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(&self.config),
            "layers": self.layers.iter().map(descriptor).collect::<Vec<_>>(),
        });
        if !self.kind.is_empty() {
            manifest["artifactType"] = self.kind.into();
        }
        manifest.to_string().into_bytes()
    }
}

/// Pushes an artifact and returns the digest of its manifest. `on_blob` hears of each blob, and whether it was sent: those that
/// the registry has already are not.
///
/// # Errors
/// When the registry cannot be reached, refuses who asks, or refuses what comes.
pub(crate) async fn push(
    reference: &Reference,
    artifact: &Artifact,
    is_plain: bool,
    mut on_blob: impl FnMut(&Blob, bool),
) -> Result<String> {
    let mut session = Session::new(reference, is_plain);
    for blob in artifact.layers.iter().chain([&artifact.config]) {
        let is_new = session
            .blob(blob)
            .await
            .with_context(|| format!("push to {reference}"))?;
        on_blob(blob, is_new);
    }
    let manifest = artifact.manifest();
    let name = digest(&manifest);
    let path = format!("/v2/{}/manifests/{}", reference.repository, reference.tag);
    let answer = session
        .send(Method::PUT, &path, Some((MANIFEST, manifest.into())))
        .await
        .with_context(|| format!("push to {reference}"))?;
    ensure!(
        answer.status == StatusCode::CREATED,
        "{reference}: the registry refuses the manifest: {answer}"
    );
    Ok(name)
}

/// An answer, read whole.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<Error>,
        }
        #[derive(Deserialize)]
        struct Error {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        write!(f, "{}", self.status)?;
        if let Ok(Errors { errors }) = serde_json::from_slice(&self.body) {
            for Error { code, message } in errors {
                write!(f, ", {code}: {message}")?;
            }
        }
        Ok(())
    }
}

/// Requests to one repository.
struct Session<'a> {
    reference: &'a Reference,
    /// `scheme://host`.
    base: String,
    authorization: Option<String>,
    tls: Arc<rustls::ClientConfig>,
}

impl<'a> Session<'a> {
    fn new(reference: &'a Reference, is_plain: bool) -> Self {
        let host = match reference.registry.as_str() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let is_local = ["localhost", "127.0.0.1", "[::1]"].contains(&name);
        let scheme = if is_plain || is_local {
            "http"
        } else {
            "https"
        };
        let roots = rustls::RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has what TLS 1.2 and 1.3 need")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            reference,
            base: format!("{scheme}://{host}"),
            authorization: None,
            tls: Arc::new(tls),
        }
    }

    /// Sends a blob that is not there. Whether it was sent.
    async fn blob(&mut self, blob: &Blob) -> Result<bool> {
        let name = digest(&blob.bytes);
        let blobs = format!("/v2/{}/blobs", self.reference.repository);
        let there = self
            .send(Method::HEAD, &format!("{blobs}/{name}"), None)
            .await?;
        if there.status == StatusCode::OK {
            return Ok(false);
        }
        let begun = self
            .send(Method::POST, &format!("{blobs}/uploads/"), None)
            .await?;
        ensure!(
            begun.status == StatusCode::ACCEPTED,
            "the registry takes no upload: {begun}"
        );
        let location = begun
            .headers
            .get(LOCATION)
            .and_then(|value| value.to_str().ok());
        let location = location.context("the registry says not where to upload to")?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let place = format!("{location}{separator}digest={name}");
        let bar = progress::sending(blob.name(), blob.bytes.len() as u64);
        let body = Some(("application/octet-stream", blob.bytes.clone()));
        let sent = self.send_shown(Method::PUT, &place, body, &bar).await;
        bar.finish_and_clear();
        let sent = sent?;
        ensure!(
            sent.status == StatusCode::CREATED,
            "the registry refuses a blob: {sent}"
        );
        Ok(true)
    }

    /// [`Self::send_shown`] of what is small.
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<Answer> {
        self.send_shown(method, path, body, &ProgressBar::hidden())
            .await
    }

    /// One request; where the registry asks who it is, once more with credentials. What is sent of its body is shown.
    async fn send_shown(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
        bar: &ProgressBar,
    ) -> Result<Answer> {
        let url = match path.starts_with('/') {
            true => format!("{}{path}", self.base),
            false => path.to_owned(),
        };
        // A place elsewhere gets no credentials of this registry.
        let is_ours = url.starts_with(&format!("{}/", self.base));
        let authorization = self.authorization.clone().filter(|_| is_ours);
        let answer = self
            .once(&method, &url, &body, authorization.as_deref(), bar)
            .await?;
        if answer.status != StatusCode::UNAUTHORIZED || !is_ours {
            return Ok(answer);
        }
        let asked = answer
            .headers
            .get(WWW_AUTHENTICATE)
            .and_then(|value| value.to_str().ok());
        let challenge = Challenge::read(asked.unwrap_or_default()).with_context(|| {
            format!(
                "{} asks for credentials in a way that is not known",
                self.base
            )
        })?;
        let authorization = self.authorize(&challenge).await?;
        self.authorization = Some(authorization.clone());
        let answer = self
            .once(&method, &url, &body, Some(&authorization), bar)
            .await?;
        ensure!(
            answer.status != StatusCode::UNAUTHORIZED && answer.status != StatusCode::FORBIDDEN,
            "{} does not let these credentials push to {}: {answer}; log in with docker login or podman login",
            self.reference.registry,
            self.reference.repository
        );
        Ok(answer)
    }

    async fn authorize(&self, challenge: &Challenge) -> Result<String> {
        let login = login(&self.reference.registry).await?;
        let Challenge::Bearer { realm, service } = challenge else {
            let login = login.with_context(|| {
                format!(
                    "{} wants a login; docker login or podman login keeps one",
                    self.reference.registry
                )
            })?;
            return login.basic();
        };
        let scope = format!("repository:{}:pull,push", self.reference.repository);
        let answer = match &login {
            // A token of its own kind is exchanged.
            Some(Login {
                token: Some(token), ..
            }) => {
                let form = form(&[
                    ("grant_type", "refresh_token"),
                    ("refresh_token", token),
                    ("service", service),
                    ("scope", &scope),
                    ("client_id", "hearth"),
                ]);
                let body = Some(("application/x-www-form-urlencoded", Bytes::from(form)));
                self.once(&Method::POST, realm, &body, None, &ProgressBar::hidden())
                    .await?
            }
            _ => {
                let separator = if realm.contains('?') { '&' } else { '?' };
                let query = form(&[("service", service), ("scope", &scope)]);
                let basic = login.as_ref().map(Login::basic).transpose()?;
                let url = format!("{realm}{separator}{query}");
                let bar = ProgressBar::hidden();
                self.once(&Method::GET, &url, &None, basic.as_deref(), &bar)
                    .await?
            }
        };
        ensure!(
            answer.status == StatusCode::OK,
            "{realm} gives no token: {answer}; log in with docker login or podman login"
        );
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let Token {
            token,
            access_token,
        } = serde_json::from_slice(&answer.body).context("read a token")?;
        let token = token
            .or(access_token)
            .context("the answer holds no token")?;
        Ok(format!("Bearer {token}"))
    }

    async fn once(
        &self,
        method: &Method,
        url: &str,
        body: &Option<(&str, Bytes)>,
        authorization: Option<&str>,
        bar: &ProgressBar,
    ) -> Result<Answer> {
        let uri: Uri = url.parse().with_context(|| format!("the address {url}"))?;
        let host = uri
            .host()
            .with_context(|| format!("{url} has no host"))?
            .to_owned();
        let is_tls = uri.scheme_str() != Some("http");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = uri
            .authority()
            .map_or(host.as_str(), |authority| authority.as_str());
        let (kind, bytes) = body.clone().unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, authority)
            .header(CONTENT_LENGTH, bytes.len());
        if !kind.is_empty() {
            request = request.header(CONTENT_TYPE, kind);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Shown::new(bytes, bar.clone()))?;
        let exchange = async {
            let address = (host.trim_start_matches('[').trim_end_matches(']'), port);
            let stream = TcpStream::connect(address).await?;
            if !is_tls {
                return exchange(stream, request).await;
            }
            let name = ServerName::try_from(host.clone())?;
            let connector = TlsConnector::from(self.tls.clone());
            exchange(connector.connect(name, stream).await?, request).await
        };
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .map_err(|_| anyhow!("no answer within {} s", PATIENCE.as_secs()))
            .and_then(|answer| answer)
            .with_context(|| format!("{method} {url}"))
    }
}

async fn exchange<S>(stream: S, request: Request<Shown>) -> Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await;
    let answer = match response {
        Ok(response) => {
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| anyhow!("{error}"))?.to_bytes();
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
            })
        }
        Err(error) => Err(error.into()),
    };
    connection.abort();
    answer
}

/// `application/x-www-form-urlencoded`.
fn form(fields: &[(&str, &str)]) -> String {
    let escaped = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(byte).to_string()
                }
                byte => format!("%{byte:02X}"),
            })
            .collect()
    };
    let pairs: Vec<String> = (fields.iter())
        .map(|(name, value)| format!("{name}={}", escaped(value)))
        .collect();
    pairs.join("&")
}

/// How a registry wants to be told who asks.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: String },
}

impl Challenge {
    fn read(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameter = |name: &str| {
            let start = rest.find(&format!("{name}=\""))? + name.len() + 2;
            Some(rest[start..].split('"').next()?.to_owned())
        };
        Some(Self::Bearer {
            realm: parameter("realm")?,
            service: parameter("service").unwrap_or_default(),
        })
    }
}

/// Who pushes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Login {
    user: String,
    password: String,
    /// In place of a password: what a token is got for.
    token: Option<String>,
}

impl Login {
    fn basic(&self) -> Result<String> {
        if self.token.is_some() {
            bail!("the registry wants a password, and the login that is kept is a token");
        }
        let pair = format!("{}:{}", self.user, self.password);
        Ok(format!("Basic {}", STANDARD.encode(pair)))
    }
}

/// What `docker login` and `podman login` write.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Logins {
    auths: BTreeMap<String, Auth>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// The usual files, the first that knows the registry.
fn files() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = variable("HOME").unwrap_or_default();
    let docker = variable("DOCKER_CONFIG").unwrap_or_else(|| home.join(".docker"));
    let mut files: Vec<PathBuf> = variable("REGISTRY_AUTH_FILE").into_iter().collect();
    files.push(docker.join("config.json"));
    files.extend(variable("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")));
    files.push(home.join(".config/containers/auth.json"));
    files
}

async fn login(registry: &str) -> Result<Option<Login>> {
    for file in files() {
        let Ok(text) = std::fs::read(&file) else {
            continue;
        };
        let logins: Logins =
            serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()))?;
        if let Some(helper) = logins.helper(registry) {
            if let Some(login) = ask(helper, registry).await? {
                return Ok(Some(login));
            }
        } else if let Some(login) = logins.login(registry) {
            return Ok(Some(login));
        }
    }
    Ok(None)
}

impl Logins {
    /// Names that a registry goes by.
    fn names(registry: &str) -> Vec<String> {
        let mut names = vec![registry.to_owned(), format!("https://{registry}")];
        if registry == "docker.io" {
            names.push("https://index.docker.io/v1/".to_owned());
            names.push("index.docker.io".to_owned());
        }
        names
    }

    fn helper(&self, registry: &str) -> Option<&str> {
        let own = Self::names(registry)
            .iter()
            .find_map(|name| self.cred_helpers.get(name));
        let known = Self::names(registry).iter().any(|name| {
            self.auths
                .get(name)
                .is_some_and(|auth| !auth.auth.is_empty())
        });
        let store = self.creds_store.as_ref().filter(|_| !known);
        own.or(store).map(String::as_str)
    }

    fn login(&self, registry: &str) -> Option<Login> {
        let auth = Self::names(registry)
            .into_iter()
            .find_map(|name| self.auths.get(&name))?;
        let decoded = STANDARD.decode(auth.auth.trim()).ok();
        let decoded = decoded
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .unwrap_or_default();
        let (user, password) = decoded
            .split_once(':')
            .unwrap_or((&auth.username, &auth.password));
        Some(Login {
            user: user.to_owned(),
            password: password.to_owned(),
            token: Some(auth.identitytoken.clone()).filter(|token| !token.is_empty()),
        })
    }
}

/// Asks a credential helper.
async fn ask(helper: &str, registry: &str) -> Result<Option<Login>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Kept {
        username: String,
        secret: String,
    }
    let program = format!("docker-credential-{helper}");
    let name = match registry {
        "docker.io" => "https://index.docker.io/v1/",
        other => other,
    };
    let mut process = tokio::process::Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}, which keeps the logins"))?;
    if let Some(mut input) = process.stdin.take() {
        tokio::io::AsyncWriteExt::write_all(&mut input, name.as_bytes()).await?;
    }
    let output = process.wait_with_output().await?;
    // It knows no login, which a registry for all does not need.
    if !output.status.success() {
        return Ok(None);
    }
    let kept: Kept = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("read what {program} answers"))?;
    let is_token = kept.username == "<token>";
    Ok(Some(Login {
        user: kept.username,
        password: if is_token {
            String::new()
        } else {
            kept.secret.clone()
        },
        token: is_token.then_some(kept.secret),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::Mutex;

    use http::Response;
    use http_body_util::Full;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    #[test]
    fn names_are_read_as_other_clients_read_them() {
        for (text, registry, repository, tag) in [
            (
                "localhost:5000/agents/a:1",
                "localhost:5000",
                "agents/a",
                "1",
            ),
            ("r.example.com/a", "r.example.com", "a", "latest"),
            ("me/a:v1.2_x-Y", "docker.io", "me/a", "v1.2_x-Y"),
            ("a", "docker.io", "library/a", "latest"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(
                (
                    reference.registry.as_str(),
                    reference.repository.as_str(),
                    reference.tag.as_str()
                ),
                (registry, repository, tag)
            );
        }
        for wrong in [
            "",
            "r.io/A",
            "r.io/a@sha256:0",
            "r.io/a:",
            "r.io/a:b c",
            "r.io//a",
        ] {
            assert!(wrong.parse::<Reference>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn challenges_and_logins_are_read() {
        let bearer = Challenge::read(r#"Bearer realm="https://a/t",service="s",scope="x""#);
        let expected = Challenge::Bearer {
            realm: "https://a/t".to_owned(),
            service: "s".to_owned(),
        };
        assert_eq!(bearer, Some(expected));
        assert_eq!(Challenge::read("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(Challenge::read("Digest x"), None);
        let logins: Logins = serde_json::from_str(&format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{}"}},"r.io":{{"identitytoken":"t"}}}},"credHelpers":{{"h.io":"x"}},"credsStore":"all"}}"#,
            STANDARD.encode("me:pass:word")
        ))
        .unwrap();
        let login = logins.login("docker.io").unwrap();
        assert_eq!(
            (login.user.as_str(), login.password.as_str()),
            ("me", "pass:word")
        );
        assert_eq!(logins.login("r.io").unwrap().token.as_deref(), Some("t"));
        assert_eq!(logins.helper("h.io"), Some("x"));
        assert_eq!(
            (logins.helper("docker.io"), logins.helper("other.io")),
            (None, Some("all"))
        );
        assert_eq!(form(&[("a", "b c:/"), ("d", "e")]), "a=b%20c%3A%2F&d=e");
    }

    type Seen = Arc<Mutex<Vec<String>>>;

    /// A registry that gives tokens to anyone and takes everything that comes with one.
    async fn answer(
        request: Request<Incoming>,
        address: String,
        seen: Seen,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (method, path) = (request.method().clone(), request.uri().to_string());
        let is_known = request
            .headers()
            .get(AUTHORIZATION)
            .is_some_and(|value| value == "Bearer t0ken");
        let length = request
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .len();
        let response = Response::builder();
        let response = match path.as_str() {
            path if path.starts_with("/token?") => {
                response.body(Full::from(r#"{"token":"t0ken"}"#))
            }
            _ if !is_known => response
                .status(401)
                .header(
                    WWW_AUTHENTICATE,
                    format!("Bearer realm=\"http://{address}/token\",service=\"s\""),
                )
                .body(Full::default()),
            path => {
                seen.lock().unwrap().push(format!(
                    "{method} {} {length}",
                    path.split(':').next().unwrap()
                ));
                let status = match method {
                    Method::HEAD if path.ends_with(&digest(b"there")) => 200,
                    Method::HEAD => 404,
                    Method::POST => 202,
                    _ => 201,
                };
                response
                    .status(status)
                    .header(LOCATION, "/upload?x=1")
                    .body(Full::default())
            }
        };
        Ok(response.unwrap())
    }

    #[tokio::test]
    async fn what_is_not_there_is_sent_with_a_token() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Seen::default();
        let (host, calls) = (address.clone(), seen.clone());
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (host, calls) = (host.clone(), calls.clone());
                let service =
                    service_fn(move |request| answer(request, host.clone(), calls.clone()));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        let blob = |bytes: &'static [u8]| Blob {
            media_type: "text/x",
            bytes: Bytes::from_static(bytes),
            title: "",
        };
        let artifact = Artifact {
            kind: "a/b",
            config: blob(b"{}"),
            layers: vec![blob(b"there"), blob(b"new")],
        };
        let reference: Reference = format!("{address}/me/a:1").parse().unwrap();
        let mut sent = Vec::new();
        let name = push(&reference, &artifact, false, |_, is_new| sent.push(is_new))
            .await
            .unwrap();
        server.abort();
        assert_eq!(name, digest(&artifact.manifest()));
        assert_eq!(sent, [false, true, true]);
        let length = artifact.manifest().len();
        let expected = [
            "HEAD /v2/me/a/blobs/sha256 0".to_owned(),
            "HEAD /v2/me/a/blobs/sha256 0".to_owned(),
            "POST /v2/me/a/blobs/uploads/ 0".to_owned(),
            "PUT /upload?x=1&digest=sha256 3".to_owned(),
            "HEAD /v2/me/a/blobs/sha256 0".to_owned(),
            "POST /v2/me/a/blobs/uploads/ 0".to_owned(),
            "PUT /upload?x=1&digest=sha256 2".to_owned(),
            format!("PUT /v2/me/a/manifests/1 {length}"),
        ];
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}
