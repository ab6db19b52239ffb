//! The engine's side of the control socket: messages in, the host told, reports out.

use std::collections::HashMap;
use std::fs::File;
use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hearth_contract::channel::{Channel, PACKET_BYTES};
use hearth_contract::proto::{self, from_engine, to_engine};
use hearth_contract::{FailureReason, Function, StartKind, brief};
use hearth_wasm_host::capability::folders::{Folder, View};
use hearth_wasm_host::capability::names::Names;
use hearth_wasm_host::javascript::{MAX_FILE_BYTES, Module};
use hearth_wasm_host::{
    Artifact, CommandEnd, Engine, EngineSettings, Host, HostSettings, PlaceError, Placed, Running,
    serve,
};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::Backdoor;
use crate::lockdown::Role;

/// Changes within this time go out together.
const REPORT_EVERY: Duration = Duration::from_millis(10);
/// An engine without a placement for this long has settled.
const SETTLED: Duration = Duration::from_secs(1);
/// A chunk of reports stays below this, well below a packet's bound.
const CHUNK_BYTES: usize = PACKET_BYTES / 2;
/// Messages to the shim that wait; when it does not read, whoever reports waits too.
const OUTBOX: usize = 64;

pub(crate) fn main(backdoor: Option<Backdoor>) -> Result<()> {
    super::confine(Role::Run)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let control = Arc::new(super::control()?);
        serve(control, backdoor).await
    });
    // Calls that still run end with the process: the shim has decided that.
    runtime.shutdown_background();
    ended
}

async fn serve(control: Arc<Channel>, backdoor: Option<Backdoor>) -> Result<()> {
    let engine = Engine::new(EngineSettings::default())
        .map_err(|error| anyhow::anyhow!("{error:#}"))
        .context("start wasmtime")?
        .with_probe(backdoor.map(|backdoor| backdoor.guest));
    let ready = proto::Ready {
        fingerprint: engine.fingerprint(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    send(&control, from_engine::Message::Ready(ready)).await?;
    let Some((message, descriptors)) = receive(&control).await? else {
        return Ok(());
    };
    let to_engine::Message::Start(start) = message else {
        bail!("the first message is not Start")
    };
    let mut descriptors = descriptors.into_iter();
    let metrics = start.metrics.then(|| {
        let socket = descriptors.next();
        socket.context("Start promises a socket for metrics and carries none")
    });
    let running = match start.running {
        true => {
            let file = descriptors
                .next()
                .context("Start promises a file for what runs and carries none")?;
            Running::in_file(file).context("map the file for what runs")?
        }
        false => Running::default(),
    };
    let settings = HostSettings {
        names: Names::new(&start.resolver.unwrap_or_default()),
        memory_bytes: start.memory_bytes,
        roots_pem: start.roots_pem,
        cores: NonZeroUsize::new(start.cores as usize),
        running,
    };
    let host =
        Arc::new(Host::new(engine, &settings).map_err(|error| anyhow::anyhow!("{error:#}"))?);
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    if let Some(listener) = metrics.transpose()? {
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::spawn(serve::about(listener, host.clone(), stop.clone()));
    }
    let placed = Arc::new(Notify::new());
    tokio::spawn(trim(placed.clone(), stop.clone()));
    let (outbox, inbox) = mpsc::channel(OUTBOX);
    let writer = tokio::spawn(write(control.clone(), inbox));
    tokio::spawn(report(host.clone(), outbox.clone(), stop.clone()));
    let rim = Rim {
        host,
        outbox,
        placed,
        pipes: ByFile::default(),
        artifacts: ByFile::default(),
    };
    while let Some((message, descriptors)) = receive(&control).await? {
        if rim.obey(message, descriptors).await? {
            break;
        }
    }
    drop(rim);
    stop.cancel();
    // What was said last reaches the shim; bounded, because it may be gone.
    if tokio::time::timeout(Duration::from_secs(1), writer)
        .await
        .is_err()
    {
        tracing::warn!("the shim did not read the last messages");
    }
    Ok(())
}

async fn receive(control: &Channel) -> Result<Option<(to_engine::Message, Vec<OwnedFd>)>> {
    loop {
        let Some((message, descriptors)) = control
            .receive::<proto::ToEngine>()
            .await
            .context("control socket")?
        else {
            return Ok(None);
        };
        match message.message {
            Some(message) => return Ok(Some((message, descriptors))),
            None => tracing::warn!(
                "the shim sent a message that this engine does not know; the shim is newer"
            ),
        }
    }
}

async fn send(control: &Channel, message: from_engine::Message) -> Result<()> {
    control
        .send(
            &proto::FromEngine {
                message: Some(message),
            },
            &[],
        )
        .await
        .context("control socket")
}

async fn write(control: Arc<Channel>, mut inbox: mpsc::Receiver<from_engine::Message>) {
    while let Some(message) = inbox.recv().await {
        if let Err(error) = send(&control, message).await {
            tracing::warn!(%error, "the shim cannot be told");
            return;
        }
    }
}

/// Sends what changed, at most every [`REPORT_EVERY`].
async fn report(
    host: Arc<Host>,
    outbox: mpsc::Sender<from_engine::Message>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = host.changed() => {}
        }
        let changed = host.changed_reports();
        for functions in chunks(changed, CHUNK_BYTES) {
            if outbox
                .send(from_engine::Message::Reports(proto::Reports { functions }))
                .await
                .is_err()
            {
                return;
            }
        }
        tokio::time::sleep(REPORT_EVERY).await;
    }
}

/// Cuts reports into pieces of at most `bytes` encoded bytes, at least one report each.
fn chunks(reports: Vec<proto::FunctionReport>, bytes: usize) -> Vec<Vec<proto::FunctionReport>> {
    use hearth_contract::proto::encoded_len;
    let mut chunks: Vec<Vec<_>> = Vec::new();
    let mut room = 0;
    for report in reports {
        let length = encoded_len(&report) + 8;
        match chunks.last_mut() {
            Some(last) if length <= room => last.push(report),
            _ => {
                chunks.push(vec![report]);
                room = bytes;
            }
        }
        room = room.saturating_sub(length);
    }
    chunks
}

/// What functions have in common, by the file that its descriptor is of. Each placement brings descriptors of its own:
/// all kept, they would be several for each of thousands of functions, of a few log pipes and a few artifacts.
struct ByFile<T>(Mutex<HashMap<(u64, u64), Weak<T>>>);

impl<T> Default for ByFile<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> ByFile<T> {
    /// What was made of the same file and is in use, or what `make` makes of this one. While it is in use it keeps its
    /// file open or mapped, so that no other file gets the number.
    fn shared(&self, file: OwnedFd, make: impl FnOnce(OwnedFd) -> Result<T>) -> Result<Arc<T>> {
        let stat = rustix::fs::fstat(&file).context("look at a descriptor")?;
        let number = (stat.st_dev, stat.st_ino);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = known.get(&number).and_then(Weak::upgrade) {
            return Ok(there);
        }
        if known.len() == known.capacity() {
            known.retain(|_, thing| thing.strong_count() > 0);
        }
        let made = Arc::new(make(file)?);
        known.insert(number, Arc::downgrade(&made));
        Ok(made)
    }
}

struct Rim {
    host: Arc<Host>,
    outbox: mpsc::Sender<from_engine::Message>,
    /// Told of every placement.
    placed: Arc<Notify>,
    pipes: ByFile<OwnedFd>,
    artifacts: ByFile<Artifact>,
}

/// Gives back what starting and placing touched, once no placement came for [`SETTLED`].
async fn trim(placed: Arc<Notify>, stop: CancellationToken) {
    loop {
        while tokio::time::timeout(SETTLED, placed.notified())
            .await
            .is_ok()
        {}
        if let Err(error) = hearth_footprint::trim() {
            tracing::warn!(%error, "memory of the start is kept");
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = placed.notified() => {}
        }
    }
}

impl Rim {
    /// Does what a message says. True when it was the last one.
    async fn obey(&self, message: to_engine::Message, descriptors: Vec<OwnedFd>) -> Result<bool> {
        match message {
            to_engine::Message::Start(_) => tracing::warn!("a second Start was passed over"),
            to_engine::Message::Place(place) => self.place(place, descriptors).await?,
            to_engine::Message::SetTarget(wire) => self.host.set_target(&wire.uid, wire.target),
            to_engine::Message::SetMemory(wire) => self.host.set_memory(wire.memory_bytes),
            to_engine::Message::Remove(wire) => {
                let (host, outbox) = (self.host.clone(), self.outbox.clone());
                tokio::spawn(async move {
                    host.remove(&wire.uid).await;
                    // The shim may be gone; then nobody asks.
                    let _ = outbox
                        .send(from_engine::Message::Removed(proto::Removed {
                            uid: wire.uid,
                        }))
                        .await;
                });
            }
            to_engine::Message::Drain(wire) => {
                let calls_cut = self
                    .host
                    .drain(Duration::from_millis(wire.deadline_ms.into()))
                    .await;
                self.outbox
                    .send(from_engine::Message::Drained(proto::Drained { calls_cut }))
                    .await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn place(&self, place: proto::Place, descriptors: Vec<OwnedFd>) -> Result<()> {
        let wire = place.function.clone().context("Place without a function")?;
        let kind = place.kind();
        let placed = match Function::try_from(wire.clone()) {
            Ok(function) => match kind {
                proto::BundleKind::Command => self
                    .run_command(function, &place, descriptors)
                    .map_err(|error| (FailureReason::NodeFault, format!("{error:#}"))),
                _ => self.place_function(function, &place, descriptors),
            },
            Err(error) => Err((
                FailureReason::NodeFault,
                format!("shim and engine disagree about the function: {error}"),
            )),
        };
        if let Err((reason, message)) = placed {
            let report = proto::FunctionReport {
                r#ref: wire.r#ref,
                generation: wire.generation,
                state: proto::State::Failed.into(),
                failure: Some(proto::Failure {
                    reason: reason.as_str().to_owned(),
                    message: brief(message),
                }),
                digest: place.digest,
                ..proto::FunctionReport::default()
            };
            self.outbox
                .send(from_engine::Message::Reports(proto::Reports {
                    functions: vec![report],
                }))
                .await?;
        }
        Ok(())
    }

    fn place_function(
        &self,
        function: Function,
        place: &proto::Place,
        mut descriptors: Vec<OwnedFd>,
    ) -> Result<(), (FailureReason, String)> {
        let fault = |problem: String| (FailureReason::NodeFault, problem);
        // Behind those that every function has.
        let has_source = !place.module.is_empty() && descriptors.len() > 4;
        let source = has_source.then(|| descriptors.remove(4));
        let has_environment = place.environment && descriptors.len() > 4;
        let environment = has_environment.then(|| descriptors.remove(4));
        let module = source
            .map(|source| read_module(&place.module, source))
            .transpose()?;
        let ([artifact, listener, stdout, stderr], folders) =
            apart(place, descriptors).map_err(|error| fault(format!("{error:#}")))?;
        let view = View::new(&folders, &place.working_directory)
            .map_err(|error| fault(format!("a folder cannot be given: {error:#}")))?;
        let artifact = self
            .artifacts
            .shared(artifact, |file| Ok(Artifact::of(file)))
            .map_err(|error| fault(format!("{error:#}")))?;
        let environment = environment
            .map(|file| self.artifacts.shared(file, |file| Ok(Artifact::of(file))))
            .transpose()
            .map_err(|error| fault(format!("{error:#}")))?;
        let pipe = |pipe| {
            let shared = self.pipes.shared(pipe, Ok);
            shared.map_err(|error| fault(format!("{error:#}")))
        };
        let placed = Placed {
            function,
            digest: place.digest.clone(),
            artifact,
            module,
            environment,
            listener: TcpListener::from(listener),
            stdout: pipe(stdout)?,
            stderr: pipe(stderr)?,
            prefix_logs: place.prefix_logs,
            first: StartKind::from_word(&place.start),
            placement: place.placement.unwrap_or_default(),
            calls_lost: place.calls_lost,
            view,
            mark: place.mark,
        };
        self.placed.notify_one();
        match self.host.place(placed) {
            Ok(_) => Ok(()),
            Err(PlaceError::Bundle(error)) => Err((error.reason(), error.to_string())),
            Err(
                error @ (PlaceError::Command
                | PlaceError::NoCommand
                | PlaceError::NoModule
                | PlaceError::NoEnvironment
                | PlaceError::NoLoader),
            ) => Err((FailureReason::NoEntryPoint, error.to_string())),
            Err(error @ PlaceError::Socket(_)) => Err(fault(error.to_string())),
        }
    }

    /// Starts a command; `Exited` tells its end.
    fn run_command(
        &self,
        function: Function,
        place: &proto::Place,
        descriptors: Vec<OwnedFd>,
    ) -> Result<()> {
        let ([artifact, stdout, stderr], folders) = apart(place, descriptors)?;
        let view = View::new(&folders, &place.working_directory)
            .map_err(|error| anyhow::anyhow!("a folder cannot be given: {error:#}"))?;
        let artifact = self
            .artifacts
            .shared(artifact, |file| Ok(Artifact::of(file)))?;
        let (host, outbox) = (self.host.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let uid = function.key.uid.clone();
            let ended = host
                .run_command(
                    &function,
                    &artifact,
                    &Arc::new(stdout),
                    &Arc::new(stderr),
                    &view,
                )
                .await
                .unwrap_or_else(|error| CommandEnd {
                    code: 126,
                    problem: error.to_string(),
                    out_of_memory: false,
                });
            // The shim may be gone; then nobody asks.
            let _ = outbox
                .send(from_engine::Message::Exited(proto::Exited {
                    uid,
                    code: ended.code.into(),
                    message: brief(ended.problem),
                    out_of_memory: ended.out_of_memory,
                }))
                .await;
        });
        Ok(())
    }
}

/// A function's module from the file that holds it.
fn read_module(name: &str, source: OwnedFd) -> Result<Module, (FailureReason, String)> {
    let file = File::from(source);
    let fault = |error: std::io::Error| {
        let problem = format!("the function's module cannot be read: {error}");
        (FailureReason::NodeFault, problem)
    };
    let refused = |problem: String| (FailureReason::LoadFailed, problem);
    let length = file.metadata().map_err(fault)?.len() as usize;
    // No more than it takes to see that it is too long.
    let mut bytes = vec![0; length.min(MAX_FILE_BYTES + 1)];
    // From its start: the position is shared with whoever passed the descriptor.
    file.read_exact_at(&mut bytes, 0).map_err(fault)?;
    Module::new(name, bytes).map_err(refused)
}

/// The descriptors that every placement of a kind has, and the folders that came behind them.
fn apart<const N: usize>(
    place: &proto::Place,
    mut descriptors: Vec<OwnedFd>,
) -> Result<([OwnedFd; N], Vec<Folder>)> {
    let (got, wanted) = (descriptors.len(), N + place.folders.len());
    if got != wanted {
        bail!("the function needs {wanted} descriptors and came with {got}");
    }
    let folders = descriptors.split_off(N);
    let folders = place.folders.iter().zip(folders);
    let folders = folders.map(|(folder, descriptor)| Folder {
        path: folder.path.clone(),
        writable: folder.writable,
        descriptor,
    });
    let folders = folders.collect();
    match descriptors.try_into() {
        Ok(descriptors) => Ok((descriptors, folders)),
        Err(_) => bail!("the function came with {got} descriptors"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_descriptor_of_a_file_is_kept() {
        let pipes = ByFile::default();
        let shared = |pipe: std::io::PipeWriter| pipes.shared(pipe.into(), Ok).unwrap();
        let (_reader, writer) = std::io::pipe().unwrap();
        let first = shared(writer.try_clone().unwrap());
        assert!(Arc::ptr_eq(&first, &shared(writer)));
        let (_reader, other) = std::io::pipe().unwrap();
        assert!(!Arc::ptr_eq(&first, &shared(other)));
    }

    #[test]
    fn files_that_are_gone_are_forgotten() {
        let pipes = ByFile::default();
        for _ in 0..1000 {
            let (_reader, writer) = std::io::pipe().unwrap();
            pipes.shared(writer.into(), Ok).unwrap();
        }
        assert!(pipes.0.lock().unwrap().capacity() < 100);
    }

    #[test]
    fn chunks_stay_below_their_bound_and_lose_nothing() {
        let report = |digest: &str| proto::FunctionReport {
            digest: digest.to_owned(),
            ..proto::FunctionReport::default()
        };
        let reports: Vec<_> = (0..100).map(|at| report(&format!("{at:0100}"))).collect();
        let cut = chunks(reports.clone(), 1000);
        assert!(cut.len() > 10);
        assert_eq!(cut.concat(), reports);
        assert_eq!(chunks(vec![report(&"x".repeat(5000))], 1000).len(), 1);
        assert!(chunks(Vec::new(), 1000).is_empty());
    }
}
