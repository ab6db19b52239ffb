//! The containers of one pod, and what each task call does to them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::{CreateTaskRequest, DeleteResponse};
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExit, TaskIO, TaskOOM, TaskStart,
};
use containerd_shim_protos::protobuf::MessageField;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cgroup::{Cgroup, Hierarchy};
use crate::config::Config;
use crate::container::{Ask, Exit, KILL, State, ask, signal_code};
use crate::containerd::Containerd;
use crate::error::TaskError;
use crate::events::{Events, timestamp};
use crate::last_words::LastWords;
use crate::logs::Logs;
use crate::process::{self, Network};
use crate::spec::{Kind, Resources, Spec, annotation, classify};
use crate::state_file::{self, StateFile};
use crate::sysctl;
use crate::workload::{Ended, Link, Surroundings, Workload};

/// Containers that one pod may have: init containers that ended are deleted before the next starts, so this is far
/// above what kubelet makes.
const CONTAINERS: usize = 256;
/// A container that started this long ago has settled.
const SETTLED: Duration = Duration::from_secs(1);

/// One container.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its bundle folder.
    pub bundle: PathBuf,
    /// Its streams, as containerd named them.
    pub stdio: [String; 3],
    kind: Kind,
    last_words: LastWords,
    state: watch::Sender<State>,
    signal: watch::Sender<u32>,
    /// Ends a creation that nobody waits for any more.
    abandoned: CancellationToken,
    /// Between create and start.
    workload: tokio::sync::Mutex<Option<Workload>>,
    /// From create on.
    engine: Mutex<Option<Link>>,
    cgroup: Option<Cgroup>,
}

impl Container {
    /// Where it is in its life.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Waits for the end.
    pub async fn wait(&self) -> Exit {
        let mut state = self.state.subscribe();
        let ended = state.wait_for(|state| state.exit().is_some()).await;
        // The sender is in this value, so the channel cannot close.
        ended.ok().and_then(|state| state.exit()).unwrap_or(Exit {
            code: u8::MAX,
            at: SystemTime::now(),
        })
    }

    /// Processes: the shim itself, which is the task, and the engine.
    pub fn pids(&self) -> Vec<u32> {
        let engine = self.engine().as_ref().and_then(Link::pid);
        std::iter::once(std::process::id()).chain(engine).collect()
    }

    fn engine(&self) -> std::sync::MutexGuard<'_, Option<Link>> {
        self.engine.lock().expect("no panic while it is held")
    }

    /// Its control group; `None` for a container without one.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    async fn remove_cgroup(&self) {
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup.remove().await
        {
            tracing::warn!(id = self.id, %error, "cgroup is left behind");
        }
    }
}

/// The pod.
#[derive(Debug)]
pub struct Pod {
    config: Config,
    containerd: Containerd,
    events: Events,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    /// The pause container's, for all. `None` before there is one.
    network: Mutex<Option<Network>>,
    /// Ends the shim.
    pub exit: CancellationToken,
}

/// Removes a half-made container unless it is finished.
struct Reservation<'a> {
    pod: &'a Pod,
    id: &'a str,
    finished: bool,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.pod.lock().remove(self.id);
        }
    }
}

impl Pod {
    /// A pod without containers.
    pub fn new(config: Config, containerd: Containerd, events: Events) -> Self {
        Self {
            config,
            containerd,
            events,
            containers: Mutex::default(),
            network: Mutex::default(),
            exit: CancellationToken::new(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers.lock().expect("no panic while it is held")
    }

    /// A container by its id.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, TaskError> {
        self.lock()
            .get(id)
            .cloned()
            .ok_or_else(|| TaskError::NoContainer(id.to_owned()))
    }

    /// Whether no container is left.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Task create.
    pub async fn create(&self, request: &CreateTaskRequest) -> Result<u32, TaskError> {
        if request.terminal {
            return Err(TaskError::NotOffered {
                call: "a terminal",
                why: "a hearth container runs a wasm bundle and has no processes; remove tty: true",
            });
        }
        if !request.checkpoint.is_empty() {
            return Err(TaskError::NotOffered {
                call: "restoring a checkpoint",
                why: "a hearth container keeps no state that could be restored",
            });
        }
        let bundle = PathBuf::from(&request.bundle);
        let spec =
            Spec::read(&bundle).map_err(|error| TaskError::InvalidRequest(error.to_string()))?;
        let kind = classify(&spec);
        let cgroup = match kind {
            Kind::Pause => None,
            Kind::Pool | Kind::Plain => cgroup_of(&spec)?,
        };
        let container = Arc::new(Container {
            id: request.id.clone(),
            bundle,
            stdio: [&request.stdin, &request.stdout, &request.stderr].map(Clone::clone),
            kind,
            last_words: LastWords::of(&spec),
            abandoned: CancellationToken::new(),
            state: watch::Sender::new(State::Creating),
            signal: watch::Sender::new(0),
            workload: tokio::sync::Mutex::new(None),
            engine: Mutex::default(),
            cgroup,
        });
        let mut reservation = self.reserve(&container)?;
        if let Some(sandbox) = spec.annotation(annotation::SANDBOX_ID)
            && let Err(error) = state_file::note_shim(&container.bundle, sandbox)
        {
            tracing::warn!(id = container.id, %error, "containerd loses this container when it is restarted");
        }
        let made = tokio::select! {
            made = self.make(&container, &spec) => made,
            () = container.abandoned.cancelled() => Err(TaskError::Abandoned(container.id.clone())),
        };
        if let Err(error) = made {
            container.remove_cgroup().await;
            tracing::info!(id = container.id, %error, "container cannot be created");
            drop(reservation);
            // Whoever deletes it waits for this.
            let exit = Exit {
                code: signal_code(KILL),
                at: SystemTime::now(),
            };
            container
                .state
                .send_modify(|state| *state = state.exited(exit));
            return Err(error);
        }
        change(&container.state, State::created)?;
        reservation.finished = true;
        drop(reservation);
        let pid = std::process::id();
        self.events
            .publish(TaskCreate {
                container_id: request.id.clone(),
                bundle: request.bundle.clone(),
                rootfs: request.rootfs.clone(),
                io: MessageField::some(TaskIO {
                    stdin: request.stdin.clone(),
                    stdout: request.stdout.clone(),
                    stderr: request.stderr.clone(),
                    ..Default::default()
                }),
                pid,
                ..Default::default()
            })
            .await;
        Ok(pid)
    }

    fn reserve<'a>(&'a self, container: &'a Arc<Container>) -> Result<Reservation<'a>, TaskError> {
        let mut containers = self.lock();
        if containers.contains_key(&container.id) {
            return Err(TaskError::Exists(container.id.clone()));
        }
        if containers.len() >= CONTAINERS {
            return Err(TaskError::InvalidRequest(format!(
                "a pod has at most {CONTAINERS} containers"
            )));
        }
        containers.insert(container.id.clone(), container.clone());
        Ok(Reservation {
            pod: self,
            id: &container.id,
            finished: false,
        })
    }

    async fn make(&self, container: &Container, spec: &Spec) -> Result<(), TaskError> {
        if container.kind == Kind::Pause {
            let network = network_of(spec);
            let settings = sysctl::of_network(&spec.linux.sysctl)
                .map_err(|error| TaskError::InvalidRequest(error.to_string()))?;
            process::set(&network, settings)
                .await
                .map_err(TaskError::node("setting the pod's sysctls"))?;
            *self.network.lock().expect("no panic while it is held") = Some(network);
            return Ok(());
        }
        if let Some(cgroup) = &container.cgroup {
            cgroup
                .create()
                .map_err(TaskError::node("making the container's cgroup"))?;
            cgroup
                .apply(&spec.linux.resources)
                .map_err(TaskError::node("applying the container's limits"))?;
        }
        // containerd names the shim's own namespace in app containers, because the pause task's process is the shim.
        let pods = self
            .network
            .lock()
            .expect("no panic while it is held")
            .clone();
        let around = Surroundings {
            config: &self.config,
            containerd: &self.containerd,
            network: pods.unwrap_or_else(|| network_of(spec)),
        };
        let logs = Logs::open(&container.stdio[1], &container.stdio[2])
            .map_err(TaskError::node("opening the container's log"))?;
        let workload = Workload::create(
            &around,
            &container.id,
            &container.bundle,
            spec,
            container.kind,
            logs,
            container.cgroup.clone(),
        )
        .await?;
        *container.engine() = Some(workload.link());
        *container.workload.lock().await = Some(workload);
        Ok(())
    }

    /// Task start.
    pub async fn start(self: &Arc<Self>, id: &str) -> Result<u32, TaskError> {
        let container = self.container(id)?;
        let mut slot = container.workload.lock().await;
        container.state().start()?;
        let mut workload = slot.take();
        if workload.is_none() && container.kind != Kind::Pause {
            return Err(TaskError::StartedInVain(id.to_owned()));
        }
        if let Some(workload) = &mut workload
            && let Err(error) = workload.start().await
        {
            // The container stays "created" for containerd, which kills and deletes it now.
            *slot = None;
            tracing::info!(id, %error, "container cannot be started");
            return Err(error);
        }
        change(&container.state, State::start)?;
        drop(slot);
        let pid = std::process::id();
        self.events
            .publish(TaskStart {
                container_id: id.to_owned(),
                pid,
                ..Default::default()
            })
            .await;
        if let Some(workload) = workload {
            let signal = container.signal.subscribe();
            let (pod, container) = (self.clone(), container.clone());
            tokio::spawn(trim_when_settled());
            tokio::spawn(async move {
                let ended = workload.run(signal).await;
                pod.ended(&container, ended).await;
            });
        }
        Ok(pid)
    }

    /// Task kill.
    pub async fn kill(&self, id: &str, signal: u32) -> Result<(), TaskError> {
        let container = self.container(id)?;
        // A start that goes on comes first: what it started is what is killed.
        let mut workload = container.workload.lock().await;
        let before = container.state();
        before.kill()?;
        if ask(signal) == Ask::Nothing {
            return Ok(());
        }
        if container.kind == Kind::Pause || before == State::Created {
            *workload = None;
            self.ended(&container, Ended::with(signal_code(signal)))
                .await;
            return Ok(());
        }
        change(&container.state, State::kill)?;
        container.signal.send_replace(signal);
        Ok(())
    }

    /// The end of a container: everything of it that runs is gone when its exit is told.
    async fn ended(&self, container: &Container, ended: Ended) {
        // The engine is being killed; when the group can be removed, it is gone.
        container.remove_cgroup().await;
        // Before the exit is told: who cleans up after that must not take it for the end of the shim.
        StateFile::in_bundle(&container.bundle).clear();
        container.last_words.say(&ended.message);
        if ended.out_of_memory {
            self.events
                .publish(TaskOOM {
                    container_id: container.id.clone(),
                    ..Default::default()
                })
                .await;
        }
        let exit = Exit {
            code: ended.code,
            at: SystemTime::now(),
        };
        let first = container.state.send_if_modified(|state| {
            let first = state.exit().is_none();
            *state = state.exited(exit);
            first
        });
        if first {
            self.events
                .publish(TaskExit {
                    container_id: container.id.clone(),
                    id: container.id.clone(),
                    pid: std::process::id(),
                    exit_status: exit.code.into(),
                    exited_at: MessageField::some(timestamp(exit.at)),
                    ..Default::default()
                })
                .await;
        }
    }

    /// Task delete.
    pub async fn delete(&self, id: &str) -> Result<DeleteResponse, TaskError> {
        let container = self.container(id)?;
        if container.state() == State::Creating {
            // containerd does so when it has waited long enough for a create.
            container.abandoned.cancel();
            return Ok(deleted(container.wait().await));
        }
        let mut workload = container.workload.lock().await;
        let exit = container.state().delete()?.unwrap_or(Exit {
            code: 0,
            at: SystemTime::now(),
        });
        *workload = None;
        container.remove_cgroup().await;
        if self.lock().remove(id).is_none() {
            return Err(TaskError::NoContainer(id.to_owned()));
        }
        let response = deleted(exit);
        self.events
            .publish(TaskDelete {
                container_id: id.to_owned(),
                id: id.to_owned(),
                pid: response.pid,
                exit_status: response.exit_status,
                exited_at: response.exited_at.clone(),
                ..Default::default()
            })
            .await;
        Ok(response)
    }

    /// Task update: new limits. What guests may hold follows the memory limit.
    pub fn update(&self, id: &str, resources: &Resources) -> Result<(), TaskError> {
        let container = self.container(id)?;
        let Some(cgroup) = &container.cgroup else {
            return Ok(());
        };
        let apply = || {
            cgroup
                .apply(resources)
                .map_err(TaskError::node("applying the container's new limits"))
        };
        let memory = resources.memory.filter(|memory| memory.limit.is_some());
        match (memory, &*container.engine()) {
            (Some(memory), Some(engine)) => engine.limit_memory(memory.limit_bytes(), apply),
            _ => apply(),
        }
    }
}

fn deleted(exit: Exit) -> DeleteResponse {
    DeleteResponse {
        pid: std::process::id(),
        exit_status: exit.code.into(),
        exited_at: MessageField::some(timestamp(exit.at)),
        ..Default::default()
    }
}

/// Gives back what starting a container touched.
async fn trim_when_settled() {
    tokio::time::sleep(SETTLED).await;
    if let Err(error) = hearth_footprint::trim() {
        tracing::warn!(%error, "memory of the start is kept");
    }
}

fn change(
    state: &watch::Sender<State>,
    step: impl FnOnce(State) -> Result<State, crate::container::IllegalMove>,
) -> Result<(), TaskError> {
    let mut result = Ok(());
    state.send_if_modified(|state| match step(*state) {
        Ok(next) => {
            *state = next;
            true
        }
        Err(error) => {
            result = Err(error);
            false
        }
    });
    Ok(result?)
}

fn network_of(spec: &Spec) -> Network {
    match spec.network_namespace() {
        Some(path) => Network::Pinned(path.to_owned()),
        None => Network::Node,
    }
}

/// The container's control group; `None` when its specification names none.
pub fn cgroup_of(spec: &Spec) -> Result<Option<Cgroup>, TaskError> {
    let path = &spec.linux.cgroups_path;
    if path.is_empty() {
        return Ok(None);
    }
    let hierarchy = Hierarchy::of_this_node().map_err(TaskError::node("looking for cgroups"))?;
    Cgroup::new(hierarchy, path)
        .map(Some)
        .map_err(|error| TaskError::InvalidRequest(error.to_string()))
}

/// The bundle folder of a shim that containerd starts or deletes: the flag, or where it was started.
pub fn bundle_folder(flag: &str) -> std::io::Result<PathBuf> {
    match flag {
        "" => std::env::current_dir(),
        flag => Ok(Path::new(flag).to_owned()),
    }
}
