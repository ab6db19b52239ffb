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

    /// Fails where the container runtime is not a containerd that Hearth works with.
    pub async fn check_version(&self) -> Result<()> {
        let ask = async {
            let answer = self
                .client()
                .await?
                .version(Request::new(proto::VersionRequest::default()))
                .await?;
            anyhow::Ok(answer.into_inner())
        };
        let answer = timeout(CALL, ask).await.context("no answer in time")??;
        is_supported(&answer.runtime_name, &answer.runtime_version)
    }

    /// Whether the running containerd offers our runtime.
    pub async fn listed(&self) -> Result<bool> {
        let ask = async {
            let answer = self
                .client()
                .await?
                .status(Request::new(proto::StatusRequest::default()))
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

fn is_supported(name: &str, version: &str) -> Result<()> {
    ensure!(
        name == "containerd",
        "the node's container runtime is {name}, and Hearth's shim needs containerd"
    );
    let major = version
        .trim_start_matches('v')
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    ensure!(
        major.is_none_or(|major| major >= 2),
        "the node runs containerd {version}, which replaces whole tables by imported ones; Hearth needs 2.0 or newer"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_supported;

    #[test]
    fn containerd_from_two_on() {
        let check = |name: &str, version: &str, expected: bool| {
            assert_eq!(
                is_supported(name, version).is_ok(),
                expected,
                "{name} {version}"
            );
        };
        check("containerd", "v2.4.2", true);
        check("containerd", "2.0.0-rc.1", true);
        check("containerd", "v1.7.28", false);
        check("containerd", "0123abc", true);
        check("cri-o", "1.34.0", false);
    }
}
