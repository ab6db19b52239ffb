//! A stand-in for the shim: starts the engine, tells it what to run, hears its reports.

use std::collections::HashMap;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hearth_contract::channel::{self, Channel};
use hearth_contract::function::Capabilities;
use hearth_contract::proto::{self, compile_result, from_engine, to_engine};
use hearth_contract::{Function, FunctionKey, Limits};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// Longer than any step takes, also on a machine that does other things.
const DEADLINE: Duration = Duration::from_secs(60);

/// A compiled bundle on the disk, as a node keeps it.
#[derive(Debug)]
pub(crate) struct Artifact {
    path: PathBuf,
}

impl Artifact {
    /// Has the compile helper make it.
    pub(crate) async fn compile(
        engine: &Path,
        component: &Path,
        artifact: PathBuf,
    ) -> Result<Self> {
        // Not written over: who has an earlier one mapped keeps it as it was.
        if artifact.exists() {
            std::fs::remove_file(&artifact)?;
        }
        let output = File::create_new(&artifact)
            .with_context(|| format!("create {}", artifact.display()))?;
        let input =
            File::open(component).with_context(|| format!("read {}", component.display()))?;
        let (channel, mut child) = spawn(engine, "compile")?;
        let request = proto::CompileRequest {
            input: proto::BundleInput::Wasm.into(),
            deadline_ms: 60_000,
        };
        let inputs = [output.as_fd(), input.as_fd()];
        channel.send(&request, &inputs).await?;
        let answer = tokio::time::timeout(DEADLINE, channel.receive::<proto::CompileResult>());
        let (answer, _) = answer
            .await
            .context("the compile helper takes too long")??
            .context("the compile helper ended without an answer")?;
        child.wait().await?;
        match answer.result {
            Some(compile_result::Result::Compiled(_)) => Ok(Self { path: artifact }),
            Some(compile_result::Result::Failure(failure)) => {
                bail!("compile {}: {}", component.display(), failure.message)
            }
            None => bail!("the compile helper's answer is empty"),
        }
    }

    /// The same bytes as another file, as if they were of another bundle.
    pub(crate) fn copy(&self, name: &str) -> Result<Self> {
        let path = self.path.with_file_name(name);
        std::fs::copy(&self.path, &path).with_context(|| format!("write {}", path.display()))?;
        Ok(Self { path })
    }

    /// Removes the file; who has it mapped keeps it.
    pub(crate) fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).with_context(|| format!("remove {}", self.path.display()))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The last report of each function, by UID.
type Reports = HashMap<String, proto::FunctionReport>;

/// An engine process. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Engine {
    channel: Arc<Channel>,
    child: Child,
    reports: watch::Receiver<Reports>,
    metrics: String,
    /// Where guests' lines go.
    log: File,
}

impl Engine {
    /// Starts one that holds nothing.
    pub(crate) async fn start(program: &Path) -> Result<Self> {
        let (channel, child) = spawn(program, "run")?;
        let first = tokio::time::timeout(DEADLINE, channel.receive::<proto::FromEngine>());
        let (first, _) = first
            .await
            .context("the engine does not get ready")??
            .context("the engine ended before it was ready")?;
        ensure!(
            matches!(first.message, Some(from_engine::Message::Ready(_))),
            "the engine's first word is {first:?}"
        );
        let metrics = TcpListener::bind("127.0.0.1:0")?;
        let channel = Arc::new(channel);
        let (told, reports) = watch::channel(Reports::new());
        tokio::spawn(listen(channel.clone(), told));
        let engine = Self {
            channel,
            child,
            reports,
            metrics: metrics.local_addr()?.to_string(),
            log: File::options().write(true).open("/dev/null")?,
        };
        let start = proto::Start {
            metrics: true,
            ..proto::Start::default()
        };
        engine
            .send(to_engine::Message::Start(start), &[metrics.as_fd()])
            .await?;
        Ok(engine)
    }

    /// The process.
    pub(crate) fn process(&self) -> Result<u32> {
        self.child.id().context("the engine has ended")
    }

    /// Where it answers `/metrics`.
    pub(crate) fn metrics(&self) -> &str {
        &self.metrics
    }

    async fn send(
        &self,
        message: to_engine::Message,
        descriptors: &[std::os::fd::BorrowedFd<'_>],
    ) -> Result<()> {
        let message = proto::ToEngine {
            message: Some(message),
        };
        let sent = tokio::time::timeout(DEADLINE, self.channel.send(&message, descriptors));
        sent.await
            .context("the engine does not read")?
            .context("send to the engine")
    }

    /// Places a function behind a socket, and does not wait for it. The artifact is opened anew, as it is for functions of
    /// different bundles.
    pub(crate) async fn place(
        &self,
        function: Function,
        artifact: &Artifact,
        listener: &TcpListener,
    ) -> Result<()> {
        self.place_with(function, artifact, None, listener).await
    }

    /// The same, with a module where the artifact is the JavaScript environment.
    async fn place_with(
        &self,
        function: Function,
        artifact: &Artifact,
        module: Option<File>,
        listener: &TcpListener,
    ) -> Result<()> {
        let path = artifact.path();
        let artifact = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let place = proto::Place {
            function: Some(function.into()),
            digest: "sha256:bench".to_owned(),
            kind: proto::BundleKind::Http.into(),
            prefix_logs: true,
            module: module
                .as_ref()
                .map_or_else(String::new, |_| "agent.js".to_owned()),
            ..proto::Place::default()
        };
        let log = self.log.as_fd();
        let mut descriptors = vec![artifact.as_fd(), listener.as_fd(), log, log];
        descriptors.extend(module.as_ref().map(AsFd::as_fd));
        self.send(to_engine::Message::Place(place), &descriptors)
            .await
    }

    /// Places a function on a port of its own and waits until it answers, with as many warm instances as it should have.
    /// Returns its address.
    pub(crate) async fn serve(
        &mut self,
        function: Function,
        artifact: &Artifact,
    ) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (uid, target) = (function.key.uid.clone(), function.target);
        self.place(function, artifact, &listener).await?;
        self.reported(&[uid], |report| report.warm >= target)
            .await?;
        Ok(listener.local_addr()?.to_string())
    }

    /// The same for a module, with the artifact of the JavaScript environment.
    pub(crate) async fn serve_javascript(
        &mut self,
        function: Function,
        artifact: &Artifact,
        source: &str,
    ) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (uid, target) = (function.key.uid.clone(), function.target);
        let path = artifact.path().with_file_name(format!("{uid}.js"));
        std::fs::write(&path, source).with_context(|| format!("write {}", path.display()))?;
        let module = File::open(&path)?;
        self.place_with(function, artifact, Some(module), &listener)
            .await?;
        self.reported(&[uid], |report| report.warm >= target)
            .await?;
        Ok(listener.local_addr()?.to_string())
    }

    /// Changes how many instances of a function are kept warm.
    pub(crate) async fn set_target(&self, uid: &str, target: u32) -> Result<()> {
        let message = to_engine::Message::SetTarget(proto::SetTarget {
            uid: uid.to_owned(),
            target,
        });
        self.send(message, &[]).await
    }

    /// Waits until what is reported of each of these functions is as wanted.
    ///
    /// # Errors
    /// When one of them has failed, the engine has ended, or it takes too long.
    pub(crate) async fn reported(
        &mut self,
        uids: &[String],
        is_wanted: impl Fn(&proto::FunctionReport) -> bool,
    ) -> Result<()> {
        let is_over =
            |report: &proto::FunctionReport| report.failure.is_some() || is_wanted(report);
        let all = self.reports.wait_for(|reports| {
            let mut those = uids.iter().map(|uid| reports.get(uid));
            those.all(|report| report.is_some_and(is_over))
        });
        let reports = tokio::time::timeout(DEADLINE, all)
            .await
            .context("the engine does not report what is waited for")?
            .context("the engine ended; it says above why")?;
        let failed = uids
            .iter()
            .filter_map(|uid| reports.get(uid)?.failure.as_ref());
        match failed.into_iter().next() {
            None => Ok(()),
            Some(failure) => bail!("{}: {}", failure.reason, failure.message),
        }
    }

    /// Ends it, and waits until it is gone.
    ///
    /// # Errors
    /// When it has ended by itself, which explains what went wrong meanwhile.
    pub(crate) async fn end(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the engine has ended by itself: {status}");
        }
        self.child.kill().await.context("end the engine")
    }
}

fn spawn(program: &Path, subcommand: &str) -> Result<(Channel, Child)> {
    let (ours, theirs) = channel::pair()?;
    let child = Command::new(program)
        .arg(subcommand)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    Ok((Channel::new(ours)?, child))
}

/// Keeps the last report of each function, until the engine ends.
async fn listen(channel: Arc<Channel>, told: watch::Sender<Reports>) {
    while let Ok(Some((message, _))) = channel.receive::<proto::FromEngine>().await {
        let Some(from_engine::Message::Reports(news)) = message.message else {
            continue;
        };
        told.send_modify(|reports| {
            for report in news.functions {
                if let Some(function) = &report.r#ref {
                    reports.insert(function.uid.clone(), report);
                }
            }
        });
    }
}

/// A function with the limits that a manifest without any gets.
pub(crate) fn function(name: &str, target: u32) -> Function {
    Function {
        key: FunctionKey {
            uid: name.to_owned(),
            namespace: "bench".to_owned(),
            name: name.to_owned(),
        },
        generation: 1,
        limits: Limits::default(),
        capabilities: Capabilities::default(),
        target,
        reuse: None,
    }
}
