//! containerd's CRI: is it there, which version, does it offer our runtime.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hearth_api::RUNTIME_CLASS;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use proto::runtime_service_client::RuntimeServiceClient;

/// The generated messages.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated; documented in the .proto file"
)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));
}

/// Time for one question. Generous: a node that just booted answers slowly.
const CALL: Duration = Duration::from_secs(10);
/// Time between two questions while waiting.
const PAUSE: Duration = Duration::from_millis(200);

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// containerd answers and offers the runtime.
    Listed,
    /// containerd answers and does not offer the runtime.
    NotListed,
    /// containerd answers.
    Answer,
}

/// A client of containerd's CRI. Dials anew for each question: a connection would end with the containerd it was made to.
#[derive(Debug, Clone)]
pub struct Cri {
    socket: PathBuf,
}

impl Cri {
    /// A client of the socket at a path here.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// The version of configurations that the running containerd is made for. Fails where the container runtime is not a
    /// containerd that Hearth works with.
    pub async fn config_version(&self) -> Result<i64> {
        let ask = async {
            let answer = self
                .client()
                .await?
                .version(Request::new(proto::VersionRequest::default()))
                .await?;
            anyhow::Ok(answer.into_inner())
        };
        let answer = timeout(CALL, ask).await.context("no answer in time")??;
        config_version(&answer.runtime_name, &answer.runtime_version)
    }

    /// Whether the running containerd offers our runtime.
    pub async fn listed(&self) -> Result<bool> {
        let ask = async {
            let answer = self
                .client()
                .await?
                .status(Request::new(proto::StatusRequest { verbose: true }))
                .await?;
            anyhow::Ok(answer.into_inner())
        };
        let answer = timeout(CALL, ask).await.context("no answer in time")??;
        let conditions = answer.status.unwrap_or_default().conditions;
        if let Some(condition) = conditions
            .iter()
            .find(|condition| condition.r#type == "RuntimeReady" && !condition.status)
        {
            bail!(
                "containerd says that it is not ready: {} {}",
                condition.reason,
                condition.message
            );
        }
        if answer.runtime_handlers.is_empty() {
            return has_runtime(answer.info.get("config").map(String::as_str));
        }
        Ok(answer
            .runtime_handlers
            .iter()
            .any(|handler| handler.name == RUNTIME_CLASS))
    }

    /// Waits; the error says what was seen last.
    pub async fn wait(&self, wanted: Wanted, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let seen = match (self.listed().await, wanted) {
                (Ok(true), Wanted::Listed | Wanted::Answer)
                | (Ok(false), Wanted::NotListed | Wanted::Answer) => return Ok(()),
                (Ok(true), Wanted::NotListed) => {
                    format!("it still offers the runtime {RUNTIME_CLASS}")
                }
                (Ok(false), Wanted::Listed) => {
                    format!("it answers, but offers no runtime {RUNTIME_CLASS}")
                }
                (Err(error), _) => format!("{error:#}"),
            };
            ensure!(
                Instant::now() < end,
                "containerd at {} is not as wanted after {} s: {seen}",
                self.socket.display(),
                deadline.as_secs()
            );
            sleep(PAUSE).await;
        }
    }

    async fn client(&self) -> Result<RuntimeServiceClient<Channel>> {
        let socket = self.socket.clone();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The authority is never resolved; the connector dials the socket.
        let channel = Endpoint::from_static("http://containerd")
            .connect_with_connector(connector)
            .await;
        let channel = channel
            .with_context(|| format!("dial containerd's socket {}", self.socket.display()))?;
        Ok(RuntimeServiceClient::new(channel))
    }
}

/// containerd 1.7 knows no list of handlers; what it tells for debugging is the configuration that it runs with.
fn has_runtime(config: Option<&str>) -> Result<bool> {
    let config = config.context(
        "containerd says neither which runtimes it offers, nor with which configuration it runs",
    )?;
    // Not kept, and not shown: it may hold credentials of registries.
    let config: serde_json::Value =
        serde_json::from_str(config).context("read the configuration that containerd runs with")?;
    let runtimes = &config["containerd"]["runtimes"];
    Ok(runtimes.get(RUNTIME_CLASS).is_some())
}

fn config_version(name: &str, version: &str) -> Result<i64> {
    ensure!(
        name == "containerd",
        "the node's container runtime is {name}, and Hearth's shim needs containerd"
    );
    let mut numbers = version.trim_start_matches('v').split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(0)), _) | (Some(Ok(1)), Some(Ok(0..7))) => bail!(
            "the node runs containerd {version}, and its shims' interface is older than Hearth's; upgrade it to 1.7 or newer, or \
             keep Hearth from this node with node.nodeSelector"
        ),
        (Some(Ok(1u32)), _) => Ok(2),
        _ => Ok(3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_from_one_seven_on() {
        let check = |name: &str, version: &str, expected: Option<i64>| {
            assert_eq!(
                config_version(name, version).ok(),
                expected,
                "{name} {version}"
            );
        };
        check("containerd", "v2.4.2", Some(3));
        check("containerd", "2.0.0-rc.1", Some(3));
        check("containerd", "v1.7.28", Some(2));
        check("containerd", "1.7.0-rc.1", Some(2));
        check("containerd", "v1.6.38", None);
        check("containerd", "0123abc", Some(3));
        check("cri-o", "1.34.0", None);
        let error = config_version("containerd", "v1.6.38").unwrap_err();
        assert!(
            error.to_string().contains("upgrade it to 1.7 or newer"),
            "{error}"
        );
    }

    #[test]
    fn an_older_containerd_tells_by_its_configuration() {
        let check = |config: &str, expected: Option<bool>| {
            assert_eq!(has_runtime(Some(config)).ok(), expected, "{config}");
        };
        check(
            r#"{"containerd": {"runtimes": {"runc": {}, "hearth": {}}}}"#,
            Some(true),
        );
        check(r#"{"containerd": {"runtimes": {"runc": {}}}}"#, Some(false));
        check("{}", Some(false));
        check("no", None);
        assert!(has_runtime(None).is_err());
    }
}
