//! A small stand-in for the shim: starts the binary, passes descriptors, reads reports.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hearth_contract::channel::{self, Channel};
use hearth_contract::proto::{self, compile_result, from_engine, to_engine};
use hearth_contract::{Function, FunctionKey, Limits};
use hearth_test_guests::{Guest, javascript_environment};
use http::{Request, Response};
use http_body_util::{BodyExt, Collected, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// Longer than any step takes, also on a machine that compiles beside.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The number of functions where it is noted what runs.
pub(crate) const MARK: u64 = 7;

fn spawn(subcommand: &str) -> (Channel, Child) {
    let (ours, theirs) = channel::pair().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_hearth-engine"))
        .arg(subcommand)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    (Channel::new(ours).unwrap(), child)
}

/// A compile helper at work.
pub(crate) struct Helper {
    control: Channel,
    child: Child,
    artifact: File,
}

impl Helper {
    /// Starts one, and asks it for an artifact.
    pub(crate) async fn start(
        input: proto::BundleInput,
        inputs: &[&[u8]],
        deadline: Duration,
    ) -> Self {
        let (control, child) = spawn("compile");
        let artifact = tempfile::tempfile().unwrap();
        let files: Vec<File> = inputs
            .iter()
            .map(|bytes| {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(bytes).unwrap();
                file
            })
            .collect();
        let descriptors: Vec<_> = std::iter::once(artifact.as_fd())
            .chain(files.iter().map(AsFd::as_fd))
            .collect();
        let request = proto::CompileRequest {
            input: input.into(),
            deadline_ms: deadline.as_millis().try_into().unwrap(),
        };
        control.send(&request, &descriptors).await.unwrap();
        Self {
            control,
            child,
            artifact,
        }
    }

    /// What it said, and how it ended.
    pub(crate) async fn ended(mut self) -> (Option<Made>, ExitStatus) {
        let answer = self.control.receive::<proto::CompileResult>();
        // One that is killed says nothing, and may not have read everything.
        let answer = tokio::time::timeout(DEADLINE, answer).await.unwrap().ok();
        let status = self.child.wait().await.unwrap();
        let made = answer
            .flatten()
            .map(|(answer, _)| match answer.result.unwrap() {
                compile_result::Result::Compiled(compiled) => Ok((compiled, self.artifact)),
                compile_result::Result::Failure(failure) => Err(failure),
            });
        (made, status)
    }
}

/// What a compile helper says, with the artifact where it made one.
pub(crate) type Made = Result<(proto::Compiled, File), proto::Failure>;

/// Asks the compile helper for an artifact.
pub(crate) async fn compile(input: proto::BundleInput, inputs: &[&[u8]]) -> Made {
    let (made, _) = Helper::start(input, inputs, DEADLINE).await.ended().await;
    made.expect("an answer")
}

/// Artifacts by the name of their guest.
type Artifacts = HashMap<&'static str, Arc<Vec<u8>>>;

/// An artifact, compiled once for all tests of this binary.
pub(crate) async fn artifact(
    name: &'static str,
    wasm: impl FnOnce() -> anyhow::Result<Vec<u8>>,
) -> OwnedFd {
    static DONE: LazyLock<Mutex<Artifacts>> = LazyLock::new(Mutex::default);
    let known = DONE.lock().unwrap().get(name).cloned();
    let bytes = match known {
        Some(bytes) => bytes,
        None => {
            let wasm = wasm().unwrap();
            let (_, mut file) = compile(proto::BundleInput::Wasm, &[&wasm]).await.unwrap();
            let mut bytes = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            let bytes = Arc::new(bytes);
            DONE.lock().unwrap().insert(name, bytes.clone());
            bytes
        }
    };
    // A descriptor that can only be read, as the shim passes it.
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    File::open(file.path()).unwrap().into()
}

/// What the shim knows of an engine.
pub(crate) struct Engine {
    control: Channel,
    child: Child,
    reports: HashMap<String, proto::FunctionReport>,
    removed: Vec<String>,
    pub(crate) metrics: SocketAddr,
    logs: Option<std::io::PipeReader>,
    log_writer: OwnedFd,
}

/// A function of the test's.
pub(crate) fn function(name: &str, change: impl FnOnce(&mut Function)) -> Function {
    let key = FunctionKey {
        uid: format!("uid-{name}"),
        namespace: "test".to_owned(),
        name: name.to_owned(),
    };
    let limits = Limits {
        deadline: Duration::from_millis(1500),
        ..Limits::default()
    };
    let mut function = Function {
        key,
        generation: 1,
        limits,
        capabilities: Default::default(),
        target: 2,
        reuse: None,
    };
    change(&mut function);
    function
}

/// A function whose deadline ends nothing but what would go on for ever.
pub(crate) fn patient(name: &str) -> Function {
    function(name, |function| {
        function.limits.deadline = Duration::from_secs(30);
    })
}

impl Engine {
    pub(crate) async fn start() -> Self {
        Self::start_with(0).await
    }

    /// With `memory_bytes` of linear memory for all its guests; 0: not bounded.
    pub(crate) async fn start_with(memory_bytes: u64) -> Self {
        Self::start_as(proto::Start {
            memory_bytes,
            ..proto::Start::default()
        })
        .await
    }

    /// With the certificates, in PEM, that calls out trust.
    pub(crate) async fn start_trusting(roots_pem: String) -> Self {
        Self::start_as(proto::Start {
            roots_pem,
            ..proto::Start::default()
        })
        .await
    }

    /// Noting in `running` which functions run: each that is placed is [`MARK`].
    pub(crate) async fn start_noting(running: &File) -> Self {
        let start = proto::Start {
            running: true,
            ..proto::Start::default()
        };
        Self::start_noting_as(start, &[running.as_fd()]).await
    }

    async fn start_as(start: proto::Start) -> Self {
        Self::start_noting_as(start, &[]).await
    }

    async fn start_noting_as(start: proto::Start, running: &[BorrowedFd<'_>]) -> Self {
        let (control, child) = spawn("run");
        let metrics = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = metrics.local_addr().unwrap();
        let (logs, writer) = std::io::pipe().unwrap();
        // As the shim makes it: who logs more than is read does not wait.
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let engine = Self {
            control,
            child,
            reports: HashMap::new(),
            removed: Vec::new(),
            metrics: address,
            logs: Some(logs),
            log_writer: writer.into(),
        };
        let from_engine::Message::Ready(ready) = engine.receive().await else {
            panic!("the first word is not Ready")
        };
        assert!(!ready.fingerprint.is_empty());
        let start = proto::Start {
            metrics: true,
            ..start
        };
        let descriptors = [&[metrics.as_fd()], running].concat();
        engine
            .send(to_engine::Message::Start(start), &descriptors)
            .await;
        engine
    }

    pub(crate) async fn send(&self, message: to_engine::Message, descriptors: &[BorrowedFd<'_>]) {
        self.control
            .send(
                &proto::ToEngine {
                    message: Some(message),
                },
                descriptors,
            )
            .await
            .unwrap();
    }

    pub(crate) async fn receive(&self) -> from_engine::Message {
        let got = tokio::time::timeout(DEADLINE, self.control.receive::<proto::FromEngine>())
            .await
            .unwrap()
            .unwrap();
        got.expect("the engine closed the socket")
            .0
            .message
            .unwrap()
    }

    /// Places a guest and returns the address it answers on.
    pub(crate) async fn place(&self, guest: Guest, function: Function) -> SocketAddr {
        let artifact = artifact(guest.name(), || guest.wasm()).await;
        self.place_with(artifact, None, None, function).await
    }

    /// Places a guest that loads code.
    pub(crate) async fn place_loading(&self, guest: Guest, function: Function) -> SocketAddr {
        let own = artifact(guest.name(), || guest.wasm()).await;
        let environment = artifact("javascript", javascript_environment).await;
        self.place_with(own, None, Some(environment), function)
            .await
    }

    /// Places a function whose module, `agent.js`, is `source`.
    pub(crate) async fn place_javascript(&self, source: &str, function: Function) -> SocketAddr {
        let artifact = artifact("javascript", javascript_environment).await;
        let mut module = tempfile::tempfile().unwrap();
        module.write_all(source.as_bytes()).unwrap();
        self.place_with(artifact, Some(module.into()), None, function)
            .await
    }

    /// Places an artifact, with a module where it is the JavaScript environment, and with the environment where it loads code.
    pub(crate) async fn place_with(
        &self,
        artifact: OwnedFd,
        module: Option<OwnedFd>,
        environment: Option<OwnedFd>,
        function: Function,
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let place = proto::Place {
            function: Some(function.into()),
            digest: "sha256:test".to_owned(),
            kind: proto::BundleKind::Http.into(),
            prefix_logs: true,
            placement: Some(proto::Placement {
                compile_ms: 1500,
                ..proto::Placement::default()
            }),
            module: module
                .as_ref()
                .map_or_else(String::new, |_| "agent.js".to_owned()),
            environment: environment.is_some(),
            mark: MARK,
            ..proto::Place::default()
        };
        let log = self.log_writer.as_fd();
        let mut descriptors = vec![artifact.as_fd(), listener.as_fd(), log, log];
        descriptors.extend(module.as_ref().map(AsFd::as_fd));
        descriptors.extend(environment.as_ref().map(AsFd::as_fd));
        self.send(to_engine::Message::Place(place), &descriptors)
            .await;
        address
    }

    /// Runs a command; returns its exit code.
    pub(crate) async fn run(&self, guest: Guest, function: Function) -> u32 {
        let artifact = artifact(guest.name(), || guest.wasm()).await;
        let place = proto::Place {
            function: Some(function.into()),
            kind: proto::BundleKind::Command.into(),
            ..proto::Place::default()
        };
        let log = self.log_writer.as_fd();
        self.send(
            to_engine::Message::Place(place),
            &[artifact.as_fd(), log, log],
        )
        .await;
        loop {
            if let from_engine::Message::Exited(exited) = self.receive().await {
                return exited.code;
            }
        }
    }

    /// Reads messages until the report of `name` satisfies `wanted`.
    pub(crate) async fn report(
        &mut self,
        name: &str,
        wanted: impl Fn(&proto::FunctionReport) -> bool,
    ) -> proto::FunctionReport {
        let uid = format!("uid-{name}");
        loop {
            if let Some(report) = self.reports.get(&uid).filter(|report| wanted(report)) {
                return report.clone();
            }
            self.note().await;
        }
    }

    /// Reads messages until `name` was removed.
    pub(crate) async fn removed(&mut self, name: &str) {
        while !self.removed.contains(&format!("uid-{name}")) {
            self.note().await;
        }
    }

    async fn note(&mut self) {
        match self.receive().await {
            from_engine::Message::Reports(reports) => {
                for report in reports.functions {
                    let uid = report.r#ref.as_ref().unwrap().uid.clone();
                    self.reports.insert(uid, report);
                }
            }
            from_engine::Message::Removed(removed) => self.removed.push(removed.uid),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// The most resident memory that the process has had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The resident memory that the process has now, in bytes.
    pub(crate) fn resident_memory(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id().unwrap());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes: u64 = line
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap();
        kilobytes << 10
    }

    /// Processor time, in the kernel's ticks, that threads took whose names begin so.
    pub(crate) fn ticks(&self, name: &str) -> u64 {
        let process = self.child.id().unwrap();
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let stat = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("stat"));
        // One may have ended meanwhile.
        let all = threads.filter_map(|thread| stat(thread.unwrap()).ok());
        let ticks = all.filter_map(|stat| {
            let (before, after) = stat.rsplit_once(')').unwrap();
            let (_, this) = before.split_once('(').unwrap();
            // proc_pid_stat(5): utime and stime are the 12th and 13th after the name.
            let times = after.split_whitespace().skip(11).take(2);
            this.starts_with(name)
                .then(|| times.map(|time| time.parse::<u64>().unwrap()).sum::<u64>())
        });
        ticks.sum()
    }

    /// Ends the engine by closing its control socket, and returns everything it logged for its guests.
    pub(crate) async fn end(mut self) -> String {
        drop(self.control);
        tokio::time::timeout(DEADLINE, self.child.wait())
            .await
            .unwrap()
            .unwrap();
        drop(self.log_writer);
        let mut text = String::new();
        self.logs.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

/// Ended calls of a report under one outcome.
pub(crate) fn ended(report: &proto::FunctionReport, outcome: &str) -> u64 {
    let calls = report.calls.iter().filter(|call| call.outcome == outcome);
    calls.map(|call| call.count).sum()
}

/// A request's body that a test writes while the call runs. It ends when its sender is dropped.
pub(crate) struct Pieces(mpsc::Receiver<Frame<Bytes>>);

/// A body and its sender.
pub(crate) fn pieces() -> (mpsc::Sender<Frame<Bytes>>, Pieces) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Pieces(receiver))
}

impl Pieces {
    /// A body that is written already.
    pub(crate) fn whole(bytes: &[u8]) -> Self {
        let (sender, body) = pieces();
        if !bytes.is_empty() {
            sender
                .try_send(Frame::data(Bytes::copy_from_slice(bytes)))
                .unwrap();
        }
        body
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// The next piece of an answer's body.
pub(crate) async fn piece(body: &mut Incoming) -> Bytes {
    let frame = tokio::time::timeout(DEADLINE, body.frame()).await.unwrap();
    frame.unwrap().unwrap().into_data().unwrap()
}

/// Everything that is left of an answer's body, or how it broke off.
pub(crate) async fn rest(body: Incoming) -> hyper::Result<Collected<Bytes>> {
    tokio::time::timeout(DEADLINE, body.collect())
        .await
        .expect("the body neither ends nor breaks off")
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) outcome: Option<String>,
    pub(crate) retry_after: bool,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn of(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let outcome = head.headers.get("hearth-outcome");
        let body = rest(body).await.unwrap().to_bytes();
        Self {
            status: head.status.as_u16(),
            outcome: outcome.map(|value| value.to_str().unwrap().to_owned()),
            retry_after: head.headers.contains_key("retry-after"),
            headers: head.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }
}

/// One call over a connection of its own.
pub(crate) async fn call(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> Answer {
    let body = Full::new(Bytes::copy_from_slice(body));
    Answer::of(send(address, method, path, body).await).await
}

/// One request over a connection of its own; the body of what comes back is still to be read.
pub(crate) async fn send<B>(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: B,
) -> Response<Incoming>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", address.to_string())
        .body(body)
        .unwrap();
    tokio::time::timeout(DEADLINE, sender.send_request(request))
        .await
        .unwrap()
        .unwrap()
}

/// GET.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    call(address, "GET", path, b"").await
}
