//! What an app container does between create and its end: a host of functions, and when that means an exit.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hearth_contract::proto::{self, BundleKind, State};
use hearth_contract::{FailureReason, METRICS_PORT};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cgroup::Cgroup;
use crate::config::Config;
use crate::container::{Ask, KILL, ask, signal_code};
use crate::containerd::Containerd;
use crate::engine::{Death, Setup};
use crate::error::TaskError;
use crate::host::{Board, Desired, Host, Parts, sleep_until};
use crate::logs::Logs;
use crate::prepare::{Image, Preparer, Source};
use crate::process::{self, NOBODY, Network, Rights};
use crate::spec::{Kind, Spec, User, annotation};
use crate::state_file::StateFile;
use crate::{folders, plain, pool, protection, resolver};

/// How long a start waits for the first word of a plain container's instance. Later it counts as started, and the
/// guest's start-up goes on.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// How long calls may go on after SIGTERM. Kubelet's SIGKILL comes first unless the pod's grace period is longer.
const DRAIN: Duration = Duration::from_secs(600);
/// How long a pod goes on as before after SIGTERM, while a function of it answers: so long may nodes take to learn that its
/// endpoints are gone, and until then they send it calls. kube-proxy carries changes out once a second.
const FAREWELL: Duration = Duration::from_secs(3);
/// Ends of a plain container's engine in a row after which the container ends, so that kubelet shows a crash loop.
const PLAIN_DEATHS: u32 = 5;

/// What a container shares with its pod.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// The node's settings.
    pub config: &'a Config,
    /// containerd's API.
    pub containerd: &'a Containerd,
    /// The pod's network.
    pub network: Network,
}

/// An app container's engine and functions.
#[derive(Debug)]
pub struct Workload {
    host: Host,
    kind: Kind,
    uid: String,
    stream: Option<JoinHandle<()>>,
    operator: Option<pool::Operator>,
}

impl Drop for Workload {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            stream.abort();
        }
    }
}

/// A workload's engine, whichever it is.
#[derive(Debug)]
pub struct Link {
    pid: watch::Receiver<Option<u32>>,
    memory: watch::Sender<u64>,
}

impl Link {
    /// The process that runs now.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// Changes the container's memory limit by `apply`, and with it what its guests may hold: they have less before that, more
    /// behind it, and as much as they had where it fails.
    pub fn limit_memory<E>(
        &self,
        limit: Option<u64>,
        apply: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let (before, after) = (*self.memory.borrow(), guest_bytes(limit));
        self.bound(tighter(before, after));
        let applied = apply();
        self.bound(if applied.is_ok() { after } else { before });
        applied
    }

    fn bound(&self, bytes: u64) {
        self.memory
            .send_if_modified(|held| std::mem::replace(held, bytes) != bytes);
    }
}

/// What guests may hold of a container's memory, in bytes; 0: not bounded.
fn guest_bytes(limit: Option<u64>) -> u64 {
    limit.map_or(0, hearth_contract::guest_bytes)
}

fn tighter(one: u64, other: u64) -> u64 {
    match (one, other) {
        (0, bytes) | (bytes, 0) => bytes,
        (one, other) => one.min(other),
    }
}

/// How a workload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Exit code.
    pub code: u8,
    /// Whether it had all the memory that it may have and could not go on: the kernel ended it, or the guest ended itself.
    pub out_of_memory: bool,
    /// Why, for the container's status. Empty where the code says all.
    pub message: String,
}

impl Ended {
    /// An end that needs no explanation.
    pub const fn with(code: u8) -> Self {
        Self {
            code,
            out_of_memory: false,
            message: String::new(),
        }
    }
}

impl Workload {
    /// Starts the engine and, for a plain container, gets its bundle ready. The control group exists already.
    pub async fn create(
        around: &Surroundings<'_>,
        id: &str,
        bundle: &Path,
        spec: &Spec,
        kind: Kind,
        logs: Logs,
        cgroup: Option<Cgroup>,
    ) -> Result<Self, TaskError> {
        let invalid = |problem: String| TaskError::InvalidRequest(problem);
        let mut desired = Desired::default();
        let mut operator = None;
        match kind {
            Kind::Pool => {
                operator = Some(
                    pool::Operator::from_spec(spec).map_err(|error| invalid(error.to_string()))?,
                );
            }
            Kind::Plain | Kind::Pause => {
                protection::check(spec).map_err(|error| invalid(error.to_string()))?;
                let source = Source::Image(Image {
                    image: image_name(around.containerd, id, spec).await?,
                    digest: None,
                    pull: false,
                    loads: false,
                });
                let wanted =
                    plain::wanted(id, spec, source).map_err(|error| invalid(error.to_string()))?;
                desired.functions.insert(id.to_owned(), wanted);
            }
        }
        let setup = setup(around, bundle, spec, kind, cgroup.clone()).await?;
        let preparer = Preparer::new(around.containerd.clone(), around.config, cgroup);
        let parts = Parts {
            setup,
            preparer,
            logs,
            prefix_logs: kind == Kind::Pool,
            http_only: kind == Kind::Pool,
            folders: match kind {
                // What the operator mounts is the shim's.
                Kind::Pool => Vec::new(),
                _ => folders::of_container(spec).map_err(|error| invalid(error.to_string()))?,
            },
            working_directory: working_directory(spec),
            handover_spread: Duration::from_millis(around.config.handover_spread_ms.into()),
        };
        let mut workload = Self {
            host: Host::start(parts, desired),
            kind,
            uid: id.to_owned(),
            stream: None,
            operator,
        };
        workload.prepared().await?;
        Ok(workload)
    }

    /// Waits until the engine is up and, for a plain container, its bundle is ready.
    async fn prepared(&mut self) -> Result<(), TaskError> {
        let uid = self.uid.clone();
        let kind = self.kind;
        // Every step behind this has a bound of its own.
        let board = self
            .host
            .board
            .wait_for(|board| {
                board.down.is_some()
                    || match kind {
                        Kind::Pool => !board.fingerprint.is_empty(),
                        _ => board.prepared.contains_key(&uid) || failure(board, &uid).is_some(),
                    }
            })
            .await
            .map_err(|_| TaskError::InvalidRequest("the container is gone".to_owned()))?;
        if let Some(death) = &board.down {
            return Err(engine_failure(death));
        }
        match failure(&board, &self.uid) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Task start: places the function, or opens the stream to the operator.
    pub async fn start(&mut self) -> Result<(), TaskError> {
        self.host
            .desired
            .send_modify(|desired| desired.started = true);
        if let Some(operator) = self.operator.take() {
            let stream = pool::run(operator, self.host.desired.clone(), self.host.board.clone());
            self.stream = Some(tokio::spawn(stream));
            return Ok(());
        }
        let uid = self.uid.clone();
        let first_word = self.host.board.wait_for(|board| {
            let state = board.functions.get(&uid).map(|report| report.state());
            matches!(state, Some(State::Serving | State::Failed))
                || board.exited.is_some()
                || board.down.is_some()
        });
        match tokio::time::timeout(FIRST_WORD, first_word).await {
            Ok(Ok(board)) => match failure(&board, &self.uid) {
                // The engine may have died of this function; run() decides what that means.
                Some(_) if board.down.is_some() || board.exited.is_some() => Ok(()),
                Some(error) => Err(error),
                None => Ok(()),
            },
            Ok(Err(_)) => Ok(()),
            Err(_) => {
                tracing::info!(uid = self.uid, "guest is still starting");
                Ok(())
            }
        }
    }

    /// What reaches the engine wherever the workload is.
    pub fn link(&self) -> Link {
        Link {
            pid: self.host.pid.clone(),
            memory: self.host.memory.clone(),
        }
    }

    /// Lives until the container ends. `signal` holds the last one that was sent, 0 for none.
    pub async fn run(mut self, mut signal: watch::Receiver<u32>) -> Ended {
        let mut draining = false;
        let mut farewell = None;
        let mut deaths = 0;
        // What start saw on the board counts too: a command may have ended by then.
        self.host.board.mark_changed();
        loop {
            tokio::select! {
                changed = signal.changed() => {
                    let signal = match changed {
                        Ok(()) => *signal.borrow_and_update(),
                        Err(_) => KILL,
                    };
                    match ask(signal) {
                        Ask::Nothing => {}
                        Ask::Kill => return Ended::with(signal_code(signal)),
                        // A command takes no signals: nothing to drain, so it ends.
                        Ask::Drain if self.is_command() => return Ended::with(signal_code(signal)),
                        Ask::Drain if draining => {}
                        Ask::Drain => {
                            draining = true;
                            farewell = Some(Instant::now() + FAREWELL);
                            self.host.board.mark_changed();
                        }
                    }
                }
                changed = self.host.board.changed() => {
                    if changed.is_err() {
                        return Ended::with(u8::MAX);
                    }
                    let board = self.host.board.borrow_and_update();
                    if let Some(ended) = &board.exited {
                        tracing::info!(uid = self.uid, ?ended, "command ended");
                        return ended.clone();
                    }
                    // Before a look at engines that ended: this one ends by itself when it has drained.
                    if draining && board.drained {
                        return Ended::with(0);
                    }
                    if board.deaths > deaths {
                        deaths = board.deaths;
                        let is_command = is_command(&board, &self.uid);
                        if let Some(ended) = board.down.as_ref().and_then(|death| after_death(death, self.kind, is_command, draining)) {
                            return ended;
                        }
                    }
                    if farewell.is_some() && !is_called(&board) {
                        farewell = Some(Instant::now());
                    }
                }
                () = sleep_until(farewell) => {
                    farewell = None;
                    self.host.desired.send_modify(|desired| desired.drain = Some(DRAIN));
                }
            }
        }
    }

    fn is_command(&self) -> bool {
        is_command(&self.host.board.borrow(), &self.uid)
    }
}

fn is_command(board: &Board, uid: &str) -> bool {
    board.prepared.get(uid) == Some(&BundleKind::Command)
}

/// Whether calls may still come that others are about to send elsewhere.
fn is_called(board: &Board) -> bool {
    board.functions.values().any(|report| report.answers)
}

/// Whether the end of an engine is the end of its container. A pool, and a plain server now and then, go on.
fn after_death(death: &Death, kind: Kind, is_command: bool, draining: bool) -> Option<Ended> {
    let code = death
        .signal
        .and_then(|signal| u32::try_from(signal).ok())
        .map_or(u8::MAX, signal_code);
    let ended = Ended {
        code,
        out_of_memory: death.out_of_memory,
        message: death.explained(),
    };
    let ends = match kind {
        Kind::Pool => draining,
        Kind::Plain | Kind::Pause => {
            is_command || draining || death.out_of_memory || death.in_a_row >= PLAIN_DEATHS
        }
    };
    ends.then_some(ended)
}

fn failure(board: &Board, uid: &str) -> Option<TaskError> {
    // While the engine is down, reports say so; the caller looks at `down` first.
    let report = board.functions.get(uid)?;
    if report.state() != State::Failed || board.fingerprint.is_empty() {
        return None;
    }
    let failure = report.failure.clone().unwrap_or_default();
    Some(TaskError::Bundle {
        reason: FailureReason::from_word(&failure.reason).unwrap_or(FailureReason::NodeFault),
        message: failure.message,
    })
}

fn engine_failure(death: &Death) -> TaskError {
    let message = match death.out_of_memory {
        true => format!(
            "{}: the container's memory limit is too small for an engine; give it at least 32Mi",
            death.message
        ),
        false => death.message.clone(),
    };
    TaskError::Bundle {
        reason: FailureReason::NodeFault,
        message,
    }
}

/// The name under which containerd has the container's image.
async fn image_name(containerd: &Containerd, id: &str, spec: &Spec) -> Result<String, TaskError> {
    let known = containerd.container_image(id).await;
    match (known, spec.annotation(annotation::IMAGE_NAME)) {
        (Ok(name), _) if !name.is_empty() => Ok(name),
        (_, Some(name)) => Ok(name.to_owned()),
        (Ok(_), None) => Err(TaskError::InvalidRequest(
            "the container has no image; a hearth container runs the bundle in its image"
                .to_owned(),
        )),
        (Err(status), None) => Err(TaskError::Bundle {
            reason: FailureReason::NodeFault,
            message: format!(
                "containerd does not say which image the container has: {}",
                status.message()
            ),
        }),
    }
}

async fn setup(
    around: &Surroundings<'_>,
    bundle: &Path,
    spec: &Spec,
    kind: Kind,
    cgroup: Option<Cgroup>,
) -> Result<Setup, TaskError> {
    // Containers of one plain pod share a network, so only a pool, which is alone, has the fixed port.
    let metrics = match kind {
        Kind::Pool => Some(Arc::new(
            process::listen(&around.network, METRICS_PORT)
                .await
                .map_err(TaskError::node(format!(
                    "opening port {METRICS_PORT} for metrics"
                )))?,
        )),
        _ => None,
    };
    Ok(Setup {
        exe: around.config.engine.clone(),
        network: around.network.clone(),
        rights: rights_of(&spec.process.user),
        cgroup,
        oom_score_adj: spec.process.oom_score_adj,
        start: proto::Start {
            metrics: metrics.is_some(),
            resolver: Some(resolver::of_pod(spec)),
            memory_bytes: guest_bytes(spec.memory_limit()),
            roots_pem: String::new(),
            cores: spec.cores(),
            // Each engine gets a file of its own.
            running: false,
        },
        metrics,
        state_file: StateFile::in_bundle(bundle),
    })
}

/// Nobody is root: neither as a user nor by a group.
fn rights_of(user: &User) -> Rights {
    let or = |id, nobody| if id == 0 { nobody } else { id };
    let groups = user.additional_gids.iter().copied();
    Rights {
        uid: or(user.uid, NOBODY.uid),
        gid: or(user.gid, NOBODY.gid),
        groups: groups.filter(|group| *group != 0).collect(),
    }
}

/// Where relative paths begin, when the container says so: every container has the root if nothing else.
fn working_directory(spec: &Spec) -> String {
    match spec.process.cwd.as_str() {
        "/" => String::new(),
        path => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_the_containers_user_and_never_root() {
        let rights = |json: &str| rights_of(&serde_json::from_str(json).unwrap());
        assert_eq!(
            rights(r#"{"uid":0,"gid":0,"additionalGids":[0,2000]}"#),
            Rights {
                groups: vec![2000],
                ..NOBODY
            }
        );
        assert_eq!(
            rights(r#"{"uid":1000,"gid":3000}"#),
            Rights {
                uid: 1000,
                gid: 3000,
                groups: Vec::new(),
            }
        );
    }

    #[test]
    fn guests_let_go_before_a_limit_is_lowered_and_get_more_once_it_is_raised() {
        const MIB: u64 = 1 << 20;
        // What they had, the limit, whether that could be set, what they have meanwhile and then.
        for (had, limit, is_set, meanwhile, then) in [
            (224, Some(64), true, 32, 32),
            (224, Some(64), false, 32, 224),
            (32, Some(256), true, 32, 224),
            (32, Some(256), false, 32, 32),
            (32, None, true, 32, 0),
            (0, Some(64), true, 32, 32),
        ] {
            let (memory, told) = watch::channel(had * MIB);
            let (_, pid) = watch::channel(None);
            let link = Link { pid, memory };
            let set = link.limit_memory(limit.map(|limit| limit * MIB), || {
                assert_eq!(*told.borrow(), meanwhile * MIB, "{had} to {limit:?}");
                if is_set { Ok(()) } else { Err(()) }
            });
            assert_eq!((set.is_ok(), *told.borrow()), (is_set, then * MIB));
        }
    }

    #[test]
    fn an_engines_end_is_a_containers_end_when_it_must_be() {
        let check = |kind, is_command, draining, oom, in_a_row, expected: Option<u8>| {
            let death = Death {
                message: String::new(),
                signal: Some(9),
                out_of_memory: oom,
                in_a_row,
                running: Vec::new(),
            };
            let ended = after_death(&death, kind, is_command, draining);
            assert_eq!(ended.map(|ended| ended.code), expected);
        };
        check(Kind::Plain, false, false, false, 1, None);
        check(Kind::Plain, false, false, false, PLAIN_DEATHS, Some(137));
        check(Kind::Plain, false, false, true, 1, Some(137));
        check(Kind::Plain, true, false, false, 1, Some(137));
        check(Kind::Pool, false, false, true, 50, None);
        check(Kind::Pool, false, true, false, 1, Some(137));
    }
}
