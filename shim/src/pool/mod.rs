//! A pool container: the operator's wishes become the host's, the host's board becomes reports.

mod stream;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use hearth_contract::channel::PACKET_BYTES;
use hearth_contract::proto::{self, FunctionReport, State};
use hearth_contract::{FUNCTION_PORTS, FailureReason, Function, pool_env};

use crate::host::Desired;
use crate::host::plan::Wanted;
use crate::prepare::{Image, Source};
use crate::spec::{Spec, annotation};

pub use stream::run;

/// Where the operator is and how to prove who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// `https://ADDRESS:PORT`.
    pub url: String,
    /// Name that its certificate must carry.
    pub name: String,
    /// PEM of the authority that signed it.
    pub authority: String,
    /// The pod's projected volume with the token, on the node.
    pub volume: PathBuf,
    /// The token in it. Read at every dial: kubelet renews it.
    pub token: PathBuf,
    /// UID of our pod.
    pub pod_uid: String,
}

/// A pool container that lacks what the operator should have given it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "pool container without {0}; pool pods are made by the operator, maybe it is of another version"
)]
pub struct Incomplete(&'static str);

impl Operator {
    /// Reads the container's environment and mounts.
    pub fn from_spec(spec: &Spec) -> Result<Self, Incomplete> {
        let env = |name| {
            spec.env_value(name)
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
                .ok_or(Incomplete(name))
        };
        let pod_uid = spec.annotation(annotation::POD_UID).unwrap_or_default();
        let in_container = PathBuf::from(env(pool_env::TOKEN_PATH)?);
        let (volume, token) = spec
            .mounted(&in_container)
            .filter(|(volume, token)| {
                is_projected(volume, pod_uid) && !token.as_os_str().is_empty()
            })
            .ok_or(Incomplete("a projected volume of its own with a token"))?;
        Ok(Self {
            url: env(pool_env::STREAM)?,
            name: env(pool_env::STREAM_NAME)?,
            authority: env(pool_env::STREAM_CA)?,
            volume,
            token,
            pod_uid: pod_uid.to_owned(),
        })
    }
}

/// Whether a mount's source is a projected volume that kubelet made for this very pod. The token is read as root and shown
/// to the address in the pod's environment, so a path that the pod's author chose must not lead to another file.
fn is_projected(source: &Path, pod_uid: &str) -> bool {
    let mut parts: Vec<_> = source.components().collect();
    let is_plain = source.is_absolute()
        && parts
            .iter()
            .skip(1)
            .all(|part| matches!(part, Component::Normal(_)));
    parts.pop();
    let folder: PathBuf = parts.iter().collect();
    !pod_uid.is_empty()
        && is_plain
        && folder.ends_with(format!("pods/{pod_uid}/volumes/kubernetes.io~projected"))
}

/// What the operator wants, kept over reconnects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    pub(crate) revision: u64,
    pub(crate) functions: BTreeMap<String, Wanted>,
    /// Functions that cannot even be tried, with the report that says so.
    pub(crate) refused: BTreeMap<String, FunctionReport>,
}

impl Wishes {
    /// Takes one message. Pure.
    pub(crate) fn take(&mut self, message: proto::FromOperator) {
        self.revision = message.revision;
        if message.snapshot {
            self.functions.clear();
            self.refused.clear();
        }
        for uid in message.remove {
            self.functions.remove(&uid);
            self.refused.remove(&uid);
        }
        for placed in message.functions {
            let wire = placed.function.clone().unwrap_or_default();
            let uid = wire.r#ref.clone().unwrap_or_default().uid;
            match wanted(placed) {
                Ok(wanted) => {
                    self.refused.remove(&uid);
                    self.functions.insert(uid, wanted);
                }
                Err(problem) => {
                    tracing::warn!(uid, problem, "function from the operator is refused");
                    self.functions.remove(&uid);
                    self.refused.insert(uid, refusal(wire, problem));
                }
            }
        }
    }

    /// The host's form.
    pub(crate) fn desired(&self, now: &Desired) -> Desired {
        Desired {
            revision: self.revision,
            functions: self.functions.clone(),
            ..now.clone()
        }
    }
}

/// Largest function, encoded: it goes to the engine in one packet.
const MAX_FUNCTION_BYTES: usize = PACKET_BYTES - (8 << 10);

fn wanted(placed: proto::PlacedFunction) -> Result<Wanted, String> {
    let function = placed.function.ok_or("field function is missing")?;
    let bytes = proto::encoded_len(&function);
    let function = Function::try_from(function).map_err(|error| error.to_string())?;
    let port = u16::try_from(placed.port)
        .ok()
        .filter(|port| FUNCTION_PORTS.contains(port))
        .ok_or_else(|| {
            format!(
                "port {} is not one of {} to {}",
                placed.port,
                FUNCTION_PORTS.start(),
                FUNCTION_PORTS.end()
            )
        })?;
    let source = match (placed.image.is_empty(), placed.javascript.is_empty()) {
        (false, true) => Source::Image(Image {
            image: placed.image,
            digest: Some(placed.digest).filter(|digest| !digest.is_empty()),
            pull: true,
            loads: function.capabilities.loader.is_some(),
        }),
        (true, false) => Source::JavaScript(placed.javascript.into()),
        _ => return Err("one of the fields image and javascript is needed".to_owned()),
    };
    if bytes > MAX_FUNCTION_BYTES {
        return Err(format!(
            "the function takes {bytes} bytes with its environment, and a node takes {MAX_FUNCTION_BYTES}; make spec.env smaller"
        ));
    }
    Ok(Wanted {
        function,
        source,
        port,
    })
}

fn refusal(function: proto::Function, problem: String) -> FunctionReport {
    FunctionReport {
        r#ref: function.r#ref,
        generation: function.generation,
        state: State::Failed.into(),
        failure: Some(proto::Failure {
            reason: FailureReason::NodeFault.as_str().to_owned(),
            message: format!(
                "the shim cannot read what the operator sent, maybe their versions differ: {problem}"
            ),
        }),
        ..FunctionReport::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_contract::Limits;

    fn placed(uid: &str, port: u32) -> proto::PlacedFunction {
        proto::PlacedFunction {
            function: Some(proto::Function {
                r#ref: Some(proto::FunctionRef {
                    namespace: "n".into(),
                    name: uid.into(),
                    uid: uid.into(),
                }),
                generation: 1,
                limits: Some(Limits::default().into()),
                capabilities: None,
                target: 1,
                reuse: None,
            }),
            image: "r.io/a:1".into(),
            digest: String::new(),
            port,
            javascript: String::new(),
        }
    }

    fn message(
        revision: u64,
        snapshot: bool,
        functions: Vec<proto::PlacedFunction>,
        remove: &[&str],
    ) -> proto::FromOperator {
        proto::FromOperator {
            revision,
            snapshot,
            functions,
            remove: remove.iter().map(|uid| (*uid).to_owned()).collect(),
        }
    }

    fn names(wishes: &Wishes) -> Vec<&str> {
        wishes.functions.keys().map(String::as_str).collect()
    }

    #[test]
    fn snapshots_replace_and_changes_add_up() {
        let mut wishes = Wishes::default();
        wishes.take(message(
            1,
            true,
            vec![placed("a", 20_000), placed("b", 20_001)],
            &[],
        ));
        assert_eq!(names(&wishes), ["a", "b"]);
        wishes.take(message(2, false, vec![placed("c", 20_002)], &["a"]));
        assert_eq!(names(&wishes), ["b", "c"]);
        wishes.take(message(7, true, vec![placed("b", 20_001)], &[]));
        assert_eq!(names(&wishes), ["b"]);
        assert_eq!(wishes.desired(&Desired::default()).revision, 7);
    }

    #[test]
    fn what_cannot_be_read_is_reported_and_alone() {
        let mut wishes = Wishes::default();
        let mut zero = placed("z", 20_001);
        zero.function.as_mut().unwrap().limits = Some(proto::Limits::default());
        wishes.take(message(
            1,
            true,
            vec![placed("a", 20_000), zero, placed("p", 80)],
            &[],
        ));
        assert_eq!(names(&wishes), ["a"]);
        let problem = |uid: &str| wishes.refused[uid].failure.clone().unwrap().message;
        assert!(problem("z").contains("deadline_ms"), "{}", problem("z"));
        assert!(problem("p").contains("port 80"), "{}", problem("p"));
    }

    #[test]
    fn a_pool_container_says_where_its_operator_is() {
        let spec: Spec = serde_json::from_str(
            r#"{"process":{"env":["HEARTH_STREAM=https://10.0.0.1:8443","HEARTH_STREAM_NAME=s","HEARTH_STREAM_CA=pem",
                "HEARTH_TOKEN_PATH=/var/run/hearth/token"]},
                "mounts":[{"destination":"/var/run/hearth","source":"/kubelet/pods/u/volumes/kubernetes.io~projected/t"}],
                "annotations":{"io.kubernetes.cri.sandbox-uid":"u"}}"#,
        )
        .unwrap();
        let operator = Operator::from_spec(&spec).unwrap();
        assert!(operator.volume.ends_with("kubernetes.io~projected/t"));
        assert_eq!(operator.token, PathBuf::from("token"));
        assert_eq!(operator.pod_uid, "u");
        let missing = Operator::from_spec(&Spec::default()).unwrap_err();
        assert!(missing.to_string().contains("HEARTH_TOKEN_PATH"));
    }

    #[test]
    fn only_the_pods_own_projected_volume_holds_a_token() {
        let check = |source: &str, expected| {
            assert_eq!(is_projected(Path::new(source), "u"), expected, "{source}");
        };
        check(
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~projected/t",
            true,
        );
        check(
            "/var/lib/kubelet/pods/v/volumes/kubernetes.io~projected/t",
            false,
        );
        check(
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/t",
            false,
        );
        check(
            "/x/pods/u/volumes/kubernetes.io~projected/t/../../../../v",
            false,
        );
        check("pods/u/volumes/kubernetes.io~projected/t", false);
        check("proc", false);
        assert!(!is_projected(
            Path::new("/pods//volumes/kubernetes.io~projected/t"),
            ""
        ));
    }
}
