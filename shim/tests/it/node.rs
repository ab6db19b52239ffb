//! A node with one pod: the Task service of the shim in this process, its engines, and a containerd to ask.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{
    CreateTaskRequest, DeleteRequest, KillRequest, StartRequest, StateRequest, WaitRequest,
};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use hearth_contract::{Function, FunctionKey, Limits, proto};
use hearth_shim::cgroup::{Cgroup, Hierarchy};
use hearth_shim::config::Config;
use hearth_shim::containerd::Containerd;
use hearth_shim::engine::Setup;
use hearth_shim::events::Events;
use hearth_shim::host::plan::Wanted;
use hearth_shim::host::{Board, Desired, Host, Parts};
use hearth_shim::logs::Logs;
use hearth_shim::pod::Pod;
use hearth_shim::prepare::{Image, Preparer, Source};
use hearth_shim::process::{NOBODY, Network};
use hearth_shim::serve::services;
use hearth_shim::spec::{Memory, Resources};
use hearth_shim::state_file::StateFile;
use hearth_test_guests::Guest;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use ttrpc::asynchronous::Server;
use ttrpc::context::Context;

use crate::containerd::{Heard, Store};

/// Longer than any step takes, also on a machine that compiles beside.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The engine's binary.
pub(crate) fn engine() -> PathBuf {
    program("hearth-engine")
}

/// A program of the workspace: cargo builds it beside these tests when it builds the workspace's.
pub(crate) fn program(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let program = exe.ancestors().nth(2).unwrap().join(name);
    assert!(
        program.exists(),
        "{} is not there; test the whole workspace, or build {name} first",
        program.display()
    );
    program
}

pub(crate) struct Node {
    pub(crate) store: Store,
    pub(crate) heard: Heard,
    pub(crate) task: TaskClient,
    pub(crate) dir: TempDir,
    pub(crate) pod: Arc<Pod>,
    _servers: [Server; 2],
}

/// No bound of its own: the test's.
pub(crate) fn unbounded() -> Context {
    ttrpc::context::with_duration(DEADLINE)
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::with_engine(engine()).await
    }

    /// A node whose engines are of this binary.
    pub(crate) async fn with_engine(engine: PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Engines are another user's processes.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let (store, heard) = (Store::default(), Heard::default());
        let path = |name: &str| dir.path().join(name);
        store.serve(&path("containerd.sock"));
        let events = heard.serve(&path("events.sock")).await;
        let config = Config {
            state_dir: path("state"),
            engine,
            handover_spread_ms: 0,
            ..Config::default()
        };
        let address = path("containerd.sock").display().to_string();
        let containerd = Containerd::new(&address, "k8s.io").unwrap();
        let address = path("events.sock").display().to_string();
        let (publisher, _) = Events::start(address, "k8s.io".to_owned());
        let pod = Arc::new(Pod::new(config, containerd, publisher));
        let address = format!("unix://{}", path("task.sock").display());
        let mut server = Server::new()
            .bind(&address)
            .unwrap()
            .register_service(services(&pod));
        server.start().await.unwrap();
        let task = TaskClient::new(Client::connect(&address).await.unwrap());
        Self {
            store,
            heard,
            task,
            dir,
            pod,
            _servers: [events, server],
        }
    }

    /// A container's bundle folder with this specification in it.
    pub(crate) fn bundle(&self, id: &str, spec: &Value) -> PathBuf {
        let bundle = self.dir.path().join("bundles").join(id);
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        bundle
    }

    /// The request for a container with this specification, whose output is a file beside it.
    pub(crate) fn request(&self, id: &str, spec: &Value) -> CreateTaskRequest {
        let log = format!("file://{}", self.log_path(id).display());
        CreateTaskRequest {
            id: id.to_owned(),
            bundle: self.bundle(id, spec).display().to_string(),
            stdout: log.clone(),
            stderr: log,
            ..CreateTaskRequest::default()
        }
    }

    fn log_path(&self, id: &str) -> PathBuf {
        self.dir.path().join(format!("{id}.log"))
    }

    /// Everything that a container wrote.
    pub(crate) fn log(&self, id: &str) -> String {
        std::fs::read_to_string(self.log_path(id)).unwrap_or_default()
    }

    /// Creates a container of a guest.
    pub(crate) async fn create(&self, id: &str, guest: Guest, spec: &Value) -> ttrpc::Result<u32> {
        let image = format!("registry.example.com/{}:1", guest.name());
        self.store.put(&image, guest.wasm().unwrap());
        self.store.container(id, &image);
        let created = self.task.create(unbounded(), &self.request(id, spec)).await;
        created.map(|response| response.pid)
    }

    /// Creates the container that holds the pod's network, and starts it.
    pub(crate) async fn pause(&self) {
        let spec = json!({"annotations": {"io.kubernetes.cri.container-type": "sandbox"}});
        let request = self.request("pause", &spec);
        self.task.create(unbounded(), &request).await.unwrap();
        self.start_task("pause").await.unwrap();
    }

    pub(crate) async fn start_task(&self, id: &str) -> ttrpc::Result<u32> {
        let request = StartRequest {
            id: id.to_owned(),
            ..StartRequest::default()
        };
        let started = self.task.start(unbounded(), &request).await;
        started.map(|response| response.pid)
    }

    pub(crate) async fn kill(&self, id: &str, signal: u32) -> ttrpc::Result<()> {
        let request = KillRequest {
            id: id.to_owned(),
            signal,
            ..KillRequest::default()
        };
        self.task.kill(unbounded(), &request).await.map(drop)
    }

    /// The exit code, once there is one.
    pub(crate) async fn wait(&self, id: &str) -> ttrpc::Result<u32> {
        let request = WaitRequest {
            id: id.to_owned(),
            ..WaitRequest::default()
        };
        let waited = self.task.wait(unbounded(), &request).await;
        waited.map(|response| response.exit_status)
    }

    pub(crate) async fn delete(&self, id: &str) -> ttrpc::Result<u32> {
        let request = DeleteRequest {
            id: id.to_owned(),
            ..DeleteRequest::default()
        };
        let deleted = self.task.delete(unbounded(), &request).await;
        deleted.map(|response| response.exit_status)
    }

    /// The word for a container's state.
    pub(crate) async fn state(&self, id: &str) -> ttrpc::Result<String> {
        let request = StateRequest {
            id: id.to_owned(),
            ..StateRequest::default()
        };
        let state = self.task.state(unbounded(), &request).await;
        state.map(|response| format!("{:?}", response.status.enum_value_or_default()))
    }

    /// A specification with the file whose text kubelet shows as the container's message, and that file.
    pub(crate) fn with_last_words(&self, mut spec: Value) -> (Value, PathBuf) {
        let folder = self.dir.path().join("pods/u-1/containers/agent");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("1f2e");
        std::fs::write(&file, "").unwrap();
        spec["annotations"]["io.kubernetes.cri.sandbox-uid"] = json!("u-1");
        spec["mounts"] = json!([
            {"destination": "/dev/termination-log", "type": "bind", "source": file},
        ]);
        (spec, file)
    }

    /// Where the installer would have put the JavaScript environment.
    pub(crate) fn javascript(&self) -> PathBuf {
        self.dir.path().join("hearth-javascript.wasm")
    }

    /// A host of functions as a pool's container has it, with its metrics on the port.
    pub(crate) async fn host(&self, metrics: u16) -> Host {
        self.host_of(engine(), metrics).await
    }

    /// The same with engines of this binary.
    pub(crate) async fn host_of(&self, exe: PathBuf, metrics: u16) -> Host {
        Host::start(self.parts(exe, metrics), Desired::default())
    }

    /// What such a host is made of.
    pub(crate) fn parts(&self, exe: PathBuf, metrics: u16) -> Parts {
        let listener = std::net::TcpListener::bind(("::", metrics)).unwrap();
        let setup = Setup {
            exe: exe.clone(),
            network: Network::Node,
            rights: NOBODY,
            cgroup: None,
            oom_score_adj: None,
            start: proto::Start {
                metrics: true,
                ..proto::Start::default()
            },
            metrics: Some(Arc::new(listener.into())),
            state_file: StateFile::in_bundle(self.dir.path()),
        };
        let config = Config {
            state_dir: self.dir.path().join("state"),
            engine: exe,
            javascript: self.javascript(),
            ..Config::default()
        };
        let containerd = self.dir.path().join("containerd.sock");
        let containerd = Containerd::new(&containerd.display().to_string(), "k8s.io").unwrap();
        Parts {
            setup,
            preparer: Preparer::new(containerd, &config, None),
            logs: Logs::open("", "").unwrap(),
            prefix_logs: true,
            http_only: true,
            folders: Vec::new(),
            working_directory: String::new(),
            handover_spread: Duration::ZERO,
        }
    }

    /// A function of a guest, for a host, with as many warm instances on this port.
    pub(crate) fn wanted(&self, guest: Guest, warm: u32, port: u16) -> Wanted {
        let image = format!("registry.example.com/{}:1", guest.name());
        self.store.put(&image, guest.wasm().unwrap());
        Wanted {
            function: Function {
                key: FunctionKey {
                    uid: guest.name().to_owned(),
                    namespace: "test".to_owned(),
                    name: guest.name().to_owned(),
                },
                generation: 1,
                limits: Limits::default(),
                capabilities: Default::default(),
                target: warm,
                reuse: None,
            },
            source: source(image),
            port,
        }
    }

    /// What a host says once it says what is wanted.
    pub(crate) async fn board(&self, host: &mut Host, wanted: impl Fn(&Board) -> bool) -> Board {
        let waited = tokio::time::timeout(DEADLINE, host.board.wait_for(wanted)).await;
        let board = waited.map(|board| board.unwrap().clone());
        board.unwrap_or_else(|_| panic!("it says {:?}", host.board.borrow()))
    }

    /// The engine of a container, once one runs that is none of `before`.
    pub(crate) async fn engine_pid(&self, id: &str, before: &[u32]) -> u32 {
        eventually("an engine", || {
            let pids = self.pod.container(id).ok()?.pids();
            // A compile helper may still be going.
            let runs = |pid: &u32| {
                let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                words.ends_with(b"\0run\0")
            };
            let mut engines = pids.into_iter().skip(1).filter(runs);
            engines.find(|pid| !before.contains(pid))
        })
        .await
    }
}

/// The bundle that an image has, pulled when it is not there.
pub(crate) fn source(image: impl Into<String>) -> Source {
    Source::Image(Image {
        image: image.into(),
        digest: None,
        pull: true,
        loads: false,
    })
}

/// The specification of a plain container: arguments, environment, and what else differs.
pub(crate) fn plain(args: &[&str], env: &[&str]) -> Value {
    json!({
        "process": {"args": args, "env": env},
        "annotations": {
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.container-name": "agent",
            "io.kubernetes.cri.sandbox-namespace": "test",
        },
    })
}

/// A specification with a control group of its own, and so many bytes of memory in it.
pub(crate) fn limited(mut spec: Value, memory: u64) -> Value {
    spec["linux"] = json!({
        "cgroupsPath": group_path(),
        "resources": {"memory": {"limit": memory}},
    });
    spec
}

/// Where nobody has a control group.
fn group_path() -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    format!("/hearth-test-{}-{number}", std::process::id())
}

/// A control group with so many bytes of memory. It goes with this value, and with it what runs in it.
pub(crate) struct Group(pub(crate) Cgroup);

impl Group {
    pub(crate) fn new(memory: i64) -> Self {
        let group = Cgroup::new(Hierarchy::of_this_node().unwrap(), &group_path()).unwrap();
        group.create().unwrap();
        let memory = Memory {
            limit: Some(memory),
            swap: None,
        };
        let resources = Resources {
            memory: Some(memory),
            ..Resources::default()
        };
        group.apply(&resources).unwrap();
        Self(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.0.kill();
        // What was killed leaves a moment later.
        let until = Instant::now() + Duration::from_secs(5);
        while self.0.remove_now().is_err() && Instant::now() < until {
            std::thread::yield_now();
        }
    }
}

/// A port that nobody has now.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("[::]:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// The code and the sentence of a refusal.
pub(crate) fn refusal<T: std::fmt::Debug>(answer: ttrpc::Result<T>) -> (ttrpc::Code, String) {
    match answer.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
        other => panic!("no status: {other}"),
    }
}

/// Looks until it is there.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < until, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// One HTTP call to this machine over a connection of its own: the whole answer, empty when the connection broke.
pub(crate) async fn call(port: u16, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    tokio::time::timeout(DEADLINE, exchange)
        .await
        .expect("an answer or an end")
        .unwrap_or_default()
}

/// Whether a process is there and has not ended.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Calls one after the other, each over a connection of its own.
pub(crate) struct Callers {
    enough: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<(u32, u32)>>,
}

impl Callers {
    /// As many callers as this at once.
    pub(crate) fn start(port: u16, count: usize) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let caller = |enough: Arc<AtomicBool>| async move {
            let (mut answered, mut failed) = (0, 0);
            while !enough.load(Ordering::Relaxed) {
                match call(port, "/").await.starts_with("HTTP/1.1 200") {
                    true => answered += 1,
                    false => failed += 1,
                }
            }
            (answered, failed)
        };
        let tasks = (0..count).map(|_| tokio::spawn(caller(enough.clone())));
        Self {
            tasks: tasks.collect(),
            enough,
        }
    }

    /// How many calls were answered, and how many were not.
    pub(crate) async fn end(self) -> (u32, u32) {
        self.enough.store(true, Ordering::Relaxed);
        let (mut answered, mut failed) = (0, 0);
        for task in self.tasks {
            let (all, broken) = task.await.unwrap();
            (answered, failed) = (answered + all, failed + broken);
        }
        (answered, failed)
    }
}
