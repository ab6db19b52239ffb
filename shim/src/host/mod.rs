//! The functions of one container: brought from what is desired to what an engine holds, and kept there.
//!
//! One task owns all of it. Wishes come in as a whole map, so a wish that was missed does not matter; the truth goes
//! out as a [`Board`] that readers look at when it changes. A plain container is the case of one function whose wish
//! never changes.

mod handover;
pub mod plan;
mod quarantine;
mod slot;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hearth_contract::proto::{self, BundleKind, FunctionReport, State, from_engine, to_engine};
use hearth_contract::{FailureReason, StartKind};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bundle::Failure;
use crate::engine::{Death, Engine, Event, Parcel, Setup};
use crate::folders::Folder;
use crate::logs::Logs;
use crate::prepare::{Prepared, Preparer};
use crate::process::{self, Network};
use crate::workload::Ended;

use handover::{Before, Binary};
use plan::{Placed, Step, Wanted};
use slot::Slot;

/// Finished preparations that wait to be heard.
const QUEUE: usize = 64;
/// What traces call a function's module.
const MODULE: &str = "agent.js";
/// Removed functions that the board still names; older ones are known by their absence.
const REMOVED: usize = 1024;
/// How long an engine may take to remove one function before it is taken for lost.
const REMOVAL: Duration = Duration::from_secs(120);

/// What shall be.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Number of the wish, repeated on the board once it is in effect.
    pub revision: u64,
    /// Whether functions may be placed; before that they are only prepared.
    pub started: bool,
    /// Functions by UID.
    pub functions: BTreeMap<String, Wanted>,
    /// Stop accepting and finish what runs.
    pub drain: Option<Duration>,
}

/// What is.
#[derive(Debug, Clone, Default)]
pub struct Board {
    /// The last wish that is in effect or failed with a reason.
    pub revision: u64,
    /// Which artifacts the engine takes. Empty until one was up.
    pub fingerprint: String,
    /// Reports by UID.
    pub functions: BTreeMap<String, FunctionReport>,
    /// UIDs of which nothing is left, oldest first.
    pub removed: VecDeque<String>,
    /// What is prepared and what it exports, by UID.
    pub prepared: BTreeMap<String, BundleKind>,
    /// The last end of an engine, while none is up.
    pub down: Option<Death>,
    /// Ends of engines.
    pub deaths: u64,
    /// A command ended.
    pub exited: Option<Ended>,
    /// Draining is finished.
    pub drained: bool,
}

/// What a host is made of.
#[derive(Debug)]
pub struct Parts {
    /// The engine.
    pub setup: Setup,
    /// Where artifacts come from.
    pub preparer: Preparer,
    /// The guests' log.
    pub logs: Logs,
    /// Whether several functions share it.
    pub prefix_logs: bool,
    /// Whether components that serve HTTP are the only ones taken.
    pub http_only: bool,
    /// Folders that every function finds open.
    pub folders: Vec<Folder>,
    /// Working directory that every function is told; empty for none.
    pub working_directory: String,
    /// Pods of a node begin to use a new binary of the engine at different times within so long.
    pub handover_spread: Duration,
}

/// The functions of one container. Dropping it ends the engine.
#[derive(Debug)]
pub struct Host {
    /// Write wishes here.
    pub desired: watch::Sender<Desired>,
    /// Read the truth here.
    pub board: watch::Receiver<Board>,
    /// The engine's process.
    pub pid: watch::Receiver<Option<u32>>,
    /// Write here how much linear memory guests may hold, in bytes; 0: not bounded.
    pub memory: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Host {
    /// Starts the engine and the task.
    pub fn start(parts: Parts, desired: Desired) -> Self {
        let network = parts.setup.network.clone();
        let binary = Binary::new(parts.setup.exe.clone(), parts.handover_spread);
        let engine = Engine::start(parts.setup);
        let (pid, memory) = (engine.pid(), engine.memory());
        let (desired, wishes) = watch::channel(desired);
        let (publish, board) = watch::channel(Board::default());
        let (news, jobs) = mpsc::channel(QUEUE);
        let actor = Actor {
            engine,
            binary,
            up: None,
            before: None,
            is_drained: false,
            network,
            preparer: Arc::new(parts.preparer),
            logs: parts.logs,
            prefix_logs: parts.prefix_logs,
            http_only: parts.http_only,
            folders: parts.folders,
            working_directory: parts.working_directory,
            wishes,
            slots: BTreeMap::new(),
            publish,
            news,
            jobs,
            next_job: 0,
            next_mark: 1,
            drain_sent: false,
            removals: BTreeMap::new(),
        };
        Self {
            desired,
            board,
            pid,
            memory,
            task: tokio::spawn(actor.run()),
        }
    }
}

/// News of a preparation.
enum News {
    State(State),
    Done(Result<Prepared, Failure>),
}

struct Actor {
    engine: Engine,
    binary: Binary,
    /// Number and fingerprint of the engine that runs.
    up: Option<(u64, String)>,
    /// The engine before that, which answers calls until this one does.
    before: Option<Before>,
    /// The engine that runs has finished draining.
    is_drained: bool,
    network: Network,
    preparer: Arc<Preparer>,
    logs: Logs,
    prefix_logs: bool,
    http_only: bool,
    folders: Vec<Folder>,
    working_directory: String,
    wishes: watch::Receiver<Desired>,
    slots: BTreeMap<String, Slot>,
    publish: watch::Sender<Board>,
    news: mpsc::Sender<(String, u64, News)>,
    jobs: mpsc::Receiver<(String, u64, News)>,
    next_job: u64,
    next_mark: u64,
    drain_sent: bool,
    /// Removals that the engine has not finished, and until when it may.
    removals: BTreeMap<String, Instant>,
}

impl Actor {
    async fn run(mut self) {
        self.take_wish().await;
        loop {
            let wake = self.next_wake();
            tokio::select! {
                changed = self.wishes.changed() => match changed {
                    Ok(()) => self.take_wish().await,
                    Err(_) => return,
                },
                event = self.engine.events.recv() => match event {
                    Some(event) => self.take_event(event).await,
                    None => return,
                },
                Some((uid, job, news)) = self.jobs.recv() => self.take_news(uid, job, news).await,
                () = self.binary.replaced() => self.hand_over(),
                () = sleep_until(wake) => self.take_time().await,
            }
        }
    }

    /// When the next retry, overdue removal or end of an old engine is.
    fn next_wake(&self) -> Option<Instant> {
        let retries = self
            .slots
            .values()
            .filter_map(|slot| slot.failed.as_ref()?.retry_at);
        let before = self.before.as_ref().and_then(Before::wake);
        let overdue = self.removals.values().copied();
        retries.chain(overdue).chain(before).min()
    }

    async fn take_wish(&mut self) {
        let desired = self.wishes.borrow_and_update().clone();
        let mut touched: Vec<String> = Vec::new();
        for (uid, slot) in &mut self.slots {
            if !desired.functions.contains_key(uid) && slot.wanted.is_some() {
                slot.want(None);
                touched.push(uid.clone());
            }
        }
        for (uid, wanted) in &desired.functions {
            if !self.slots.contains_key(uid) {
                // It is back: what was said of its end is not true any more.
                self.publish
                    .send_modify(|board| board.removed.retain(|removed| removed != uid));
            }
            let slot = self.slots.entry(uid.clone()).or_insert_with(|| {
                let mark = self.next_mark;
                self.next_mark += 1;
                let mut slot = Slot::default();
                slot.mark = mark;
                slot
            });
            if slot.wanted.as_ref() != Some(wanted) || desired.started {
                slot.want(Some(wanted.clone()));
                touched.push(uid.clone());
            }
        }
        for uid in touched {
            self.advance(&uid).await;
        }
        if let (Some(deadline), false, Some((number, _))) =
            (desired.drain, self.drain_sent, &self.up)
        {
            self.drain_sent = true;
            if let Some(before) = &mut self.before {
                before.let_go();
            }
            let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
            let message = to_engine::Message::Drain(proto::Drain { deadline_ms });
            let parcel = Parcel {
                message,
                descriptors: Vec::new(),
            };
            self.engine.send(*number, parcel);
        } else if desired.drain.is_some() && self.up.is_none() {
            self.publish.send_modify(|board| board.drained = true);
        }
        self.note_revision();
    }

    async fn take_event(&mut self, event: Event) {
        match event {
            Event::Up {
                number,
                fingerprint,
                before,
            } => {
                match before {
                    Some(before) => {
                        tracing::info!(fingerprint, "another engine takes over");
                        self.binary.took_over();
                        self.before = Some(Before::new(before));
                        self.removals.clear();
                        self.slots.values_mut().for_each(Slot::engine_follows);
                    }
                    None => self.binary.started(),
                }
                self.up = Some((number, fingerprint.clone()));
                self.advance_all().await;
                // In this order: who sees that an engine is up sees no report that says it is not.
                self.publish.send_modify(|board| {
                    board.down = None;
                    board.fingerprint = fingerprint;
                });
            }
            Event::Down(death) => {
                self.up = None;
                self.removals.clear();
                for slot in self.slots.values_mut() {
                    slot.engine_lost();
                }
                self.find_guilty(&death);
                self.is_drained |= self.drain_sent;
                self.publish.send_modify(|board| {
                    board.down = Some(death);
                    board.deaths += 1;
                });
                self.note_drained();
                self.advance_all().await;
            }
            Event::NotFollowed(error) => {
                let again_in = self.binary.failed(Instant::now());
                tracing::error!(%error, ?again_in, "the new engine could not be started; the old one goes on");
            }
            Event::Left => {
                self.before = None;
                for slot in self.slots.values_mut() {
                    slot.is_bridged = false;
                }
                self.note_drained();
                self.show_all();
            }
            Event::Said(message) => self.take_message(message).await,
        }
        self.note_revision();
    }

    /// Keeps those functions away that engines die of. A container of one bundle ends instead: see `workload`.
    fn find_guilty(&mut self, death: &Death) {
        if !self.http_only || !death.is_crash() {
            return;
        }
        let now = Instant::now();
        let mut suspects = Vec::new();
        for (uid, slot) in &mut self.slots {
            if slot.wanted.is_some() && death.running.contains(&slot.mark) {
                slot.record.strike(now);
                tracing::warn!(uid, strikes = slot.record.strikes(), "the engine was in it");
                suspects.push((uid.clone(), slot.record));
            }
        }
        for uid in quarantine::guilty(&suspects) {
            if let Some(slot) = self.slots.get_mut(&uid) {
                tracing::error!(uid, "engines die of it; it is kept away for a while");
                slot.quarantine(&death.explained(), now);
            }
        }
    }

    async fn take_message(&mut self, message: from_engine::Message) {
        match message {
            from_engine::Message::Reports(reports) => {
                for report in reports.functions {
                    let uid = report.r#ref.clone().unwrap_or_default().uid;
                    if let Some(slot) = self.slots.get_mut(&uid) {
                        slot.heard(report);
                        self.show(&uid);
                    }
                }
            }
            from_engine::Message::Removed(removed) => {
                self.removals.remove(&removed.uid);
                if let Some(slot) = self.slots.get_mut(&removed.uid) {
                    slot.placed = None;
                    slot.said = None;
                }
                self.advance(&removed.uid).await;
            }
            from_engine::Message::Exited(exited) => {
                let ended = Ended {
                    code: u8::try_from(exited.code).unwrap_or(u8::MAX),
                    out_of_memory: exited.out_of_memory,
                    message: exited.message,
                };
                self.publish.send_modify(|board| board.exited = Some(ended));
            }
            from_engine::Message::Drained(drained) => {
                tracing::info!(calls_cut = drained.calls_cut, "drained");
                self.is_drained = true;
                self.note_drained();
            }
            from_engine::Message::Ready(_) => tracing::warn!("engine said Ready twice"),
        }
    }

    async fn take_news(&mut self, uid: String, job: u64, news: News) {
        let Some(slot) = self.slots.get_mut(&uid) else {
            return;
        };
        if slot.job.as_ref().map(|(number, _)| *number) != Some(job) {
            return;
        }
        match news {
            News::State(state) => slot.job_state = state,
            News::Done(result) => {
                slot.job = None;
                match result {
                    Ok(prepared) if self.http_only && prepared.kind == BundleKind::Command => {
                        slot.fail(Failure::new(
                            FailureReason::NoEntryPoint,
                            "the component is a command (it exports wasi:cli/run); a function needs wasi:http",
                        ));
                    }
                    Ok(prepared) => slot.prepared = Some(Arc::new(prepared)),
                    Err(failure) => {
                        tracing::info!(uid, %failure, "function cannot serve");
                        slot.fail(failure);
                    }
                }
            }
        }
        self.advance(&uid).await;
        self.note_revision();
    }

    async fn take_time(&mut self) {
        let now = Instant::now();
        if self.removals.values().any(|until| *until <= now) {
            // An engine that cannot remove is broken; ending it frees everything, and the rest is placed again.
            tracing::error!("engine did not finish a removal in time and is ended");
            self.removals.clear();
            if let Some(pid) = *self.engine.pid().borrow() {
                kill(pid);
            }
        }
        if let Some(before) = &mut self.before
            && before.wake().is_some_and(|until| until <= now)
        {
            tracing::warn!(
                "not every function came to serve in the new engine; the old one is let go"
            );
            before.let_go();
        }
        let due: Vec<_> = self
            .slots
            .iter_mut()
            .filter_map(|(uid, slot)| slot.retry(now).then(|| uid.clone()))
            .collect();
        for uid in due {
            self.advance(&uid).await;
        }
    }

    async fn advance_all(&mut self) {
        let all: Vec<_> = self.slots.keys().cloned().collect();
        for uid in all {
            self.advance(&uid).await;
        }
    }

    /// Takes steps until there is nothing to do for a function now.
    async fn advance(&mut self, uid: &str) {
        loop {
            let started = self.wishes.borrow().started;
            let Some(slot) = self.slots.get_mut(uid) else {
                return;
            };
            let engine = self
                .up
                .as_ref()
                .map(|(_, fingerprint)| fingerprint.as_str());
            match plan::next(&slot.situation(engine, started)) {
                Step::Nothing => break,
                Step::Prepare => self.prepare(uid).await,
                Step::Place => self.place(uid).await,
                Step::SetTarget(target) => {
                    if let Some(placed) = &mut slot.placed {
                        placed.function.target = target;
                    }
                    let uid = uid.to_owned();
                    let message = to_engine::Message::SetTarget(proto::SetTarget { uid, target });
                    self.tell(message, Vec::new());
                }
                Step::Remove => {
                    if let Some(placed) = &mut slot.placed {
                        placed.leaving = true;
                    }
                    self.removals
                        .insert(uid.to_owned(), Instant::now() + REMOVAL);
                    let uid = uid.to_owned();
                    let message = to_engine::Message::Remove(proto::Remove { uid });
                    self.tell(message, Vec::new());
                }
                Step::Forget => {
                    self.slots.remove(uid);
                    self.publish.send_modify(|board| {
                        board.functions.remove(uid);
                        board.prepared.remove(uid);
                        board.removed.push_back(uid.to_owned());
                        if board.removed.len() > REMOVED {
                            board.removed.pop_front();
                        }
                    });
                    return;
                }
            }
        }
        self.show(uid);
    }

    /// Starts a preparation.
    async fn prepare(&mut self, uid: &str) {
        let Some((_, fingerprint)) = self.up.clone() else {
            return;
        };
        // Callers wait in the accept queue while the bundle is on its way.
        if self.http_only && !self.listen(uid).await {
            return;
        }
        let Some(slot) = self.slots.get_mut(uid) else {
            return;
        };
        let Some(source) = slot.wanted.as_ref().map(|wanted| wanted.source.clone()) else {
            return;
        };
        self.next_job += 1;
        let job = self.next_job;
        let (preparer, news, uid) = (self.preparer.clone(), self.news.clone(), uid.to_owned());
        let task = tokio::spawn(async move {
            let states = news.clone();
            let name = uid.clone();
            let result = preparer
                .prepare(&fingerprint, &source, move |state| {
                    // A state that finds the queue full is followed by a later one.
                    let _ = states.try_send((name.clone(), job, News::State(state)));
                })
                .await;
            // The host is gone when nobody listens.
            let _ = news.send((uid, job, News::Done(result))).await;
        });
        slot.job_state = State::Compiling;
        slot.job = Some((job, task.abort_handle()));
    }

    /// Gives a prepared function to the engine.
    async fn place(&mut self, uid: &str) {
        let Some(slot) = self.slots.get(uid) else {
            return;
        };
        let (Some(wanted), Some(prepared)) = (slot.wanted.clone(), slot.prepared.clone()) else {
            return;
        };
        let (calls_lost, mark) = (slot.lost, slot.mark);
        // Nobody waited for a bundle that came while calls were answered.
        let start = match slot.answers {
            true => StartKind::Instantiate,
            false => prepared.start,
        };
        let mut descriptors = vec![prepared.artifact.clone()];
        if prepared.kind == BundleKind::Http {
            if !self.listen(uid).await {
                return;
            }
            let listener = self.slots.get(uid).and_then(|slot| slot.listener.as_ref());
            descriptors.extend(listener.map(|(_, socket)| socket.clone()));
        }
        descriptors.extend([self.logs.stdout.clone(), self.logs.stderr.clone()]);
        descriptors.extend(prepared.module.clone());
        descriptors.extend(prepared.environment.clone());
        let folders = self.folders.iter();
        descriptors.extend(folders.map(|folder| folder.descriptor.clone()));
        let folder = |folder: &Folder| proto::Folder {
            path: folder.path.clone(),
            writable: folder.writable,
        };
        let message = to_engine::Message::Place(proto::Place {
            function: Some(wanted.function.clone().into()),
            digest: prepared.digest.clone(),
            kind: prepared.kind.into(),
            prefix_logs: self.prefix_logs,
            start: start.as_str().to_owned(),
            placement: Some(prepared.placement),
            module: match prepared.module {
                Some(_) => MODULE.to_owned(),
                None => String::new(),
            },
            calls_lost,
            folders: self.folders.iter().map(folder).collect(),
            working_directory: self.working_directory.clone(),
            mark,
            environment: prepared.environment.is_some(),
        });
        self.tell(message, descriptors);
        if let Some(slot) = self.slots.get_mut(uid) {
            slot.said = None;
            slot.placed = Some(Placed {
                function: wanted.function,
                digest: prepared.digest.clone(),
                port: wanted.port,
                leaving: false,
                stale: false,
            });
        }
    }

    /// Opens a function's socket if it is not open yet. A failure is noted in the slot.
    async fn listen(&mut self, uid: &str) -> bool {
        let Some(slot) = self.slots.get_mut(uid) else {
            return false;
        };
        let Some(port) = slot.wanted.as_ref().map(|wanted| wanted.port) else {
            return false;
        };
        if slot.listener.is_some() {
            return true;
        }
        match process::listen(&self.network, port).await {
            Ok(socket) => {
                slot.listener = Some((port, Arc::new(socket)));
                true
            }
            Err(error) => {
                slot.fail(Failure::node(
                    &format!("opening port {port} in the pod's network"),
                    error,
                ));
                false
            }
        }
    }

    fn tell(&self, message: to_engine::Message, descriptors: Vec<Arc<std::os::fd::OwnedFd>>) {
        if let Some((number, _)) = &self.up {
            let parcel = Parcel {
                message,
                descriptors,
            };
            self.engine.send(*number, parcel);
        }
    }

    /// Puts a function's report on the board, when it changed.
    fn show(&self, uid: &str) {
        let Some(slot) = self.slots.get(uid) else {
            return;
        };
        if slot.wanted.is_none() {
            return;
        }
        let report = slot.report(self.up.is_some());
        let kind = slot.prepared.as_ref().map(|prepared| prepared.kind);
        self.publish.send_if_modified(|board| {
            if board.functions.get(uid) == Some(&report) && board.prepared.get(uid).copied() == kind
            {
                return false;
            }
            board.functions.insert(uid.to_owned(), report.clone());
            match kind {
                Some(kind) => board.prepared.insert(uid.to_owned(), kind),
                None => board.prepared.remove(uid),
            };
            true
        });
    }

    /// Starts an engine of the binary that was installed beside the one that runs, unless there is none to replace: one that
    /// is down is started from it anyway, one that drains ends, and a command cannot go on elsewhere.
    fn hand_over(&mut self) {
        let is_command = |slot: &Slot| {
            let prepared = slot.prepared.as_ref();
            prepared.is_some_and(|prepared| prepared.kind == BundleKind::Command)
        };
        if self.before.is_some() {
            // One after the other.
            return;
        }
        if self.up.is_none() || self.drain_sent || self.slots.values().any(is_command) {
            self.binary.started();
            return;
        }
        tracing::info!("the engine's binary was replaced");
        self.binary.is_tried();
        self.engine.hand_over();
    }

    /// Draining is finished when no engine has calls.
    fn note_drained(&self) {
        if self.is_drained && self.before.is_none() {
            self.publish.send_modify(|board| board.drained = true);
        }
    }

    fn show_all(&self) {
        self.slots.keys().for_each(|uid| self.show(uid));
    }

    /// Notes the wish as in effect once every function is. An engine before this one is not needed then.
    fn note_revision(&mut self) {
        let revision = self.wishes.borrow().revision;
        let settled = self.up.is_some() && self.slots.values().all(Slot::is_settled);
        if let (true, Some(before)) = (settled, &mut self.before) {
            before.let_go();
        }
        self.publish.send_if_modified(|board| {
            let changed = settled && board.revision != revision;
            if changed {
                board.revision = revision;
            }
            changed
        });
    }
}

/// Sleeps until a time; for ever where there is none.
pub(crate) async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn kill(pid: u32) {
    let Some(pid) = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    else {
        return;
    };
    // The process is our child and not reaped, so the id cannot be another's.
    if let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
        tracing::warn!(%error, "engine was not ended");
    }
}
