//! One engine process: started, watched, and started again when it ends.
//!
//! This knows the process and the channel, not the functions: whoever owns an [`Engine`] hears [`Event::Up`] after
//! each start and places everything again. Between two starts lie at least 20 ms, which grow to 5 s and begin again once an
//! engine has lived for a minute: one that ran for longer than that is followed at once. Callers meanwhile wait in the accept
//! queues of sockets that the shim holds.
//!
//! Asked to, it starts another engine beside the one that runs. Both accept from the same sockets until the owner lets the
//! old one go.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_contract::proto::{self, FromEngine, ToEngine, from_engine, to_engine};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::cgroup::Cgroup;
use crate::container::KILL;
use crate::host::sleep_until;
use crate::process::{self, Network, Process, Rights};
use crate::running::Running;
use crate::state_file::StateFile;

/// Messages that wait to be sent. A full queue makes the sender wait: the engine reads slower than we write.
const QUEUE: usize = 64;
/// How long an engine may take from its first instruction to `Ready`.
const READY: Duration = Duration::from_secs(15);
/// How long an engine whose channel is closed may take to end by itself.
const GOODBYE: Duration = Duration::from_secs(1);
/// Shortest and longest time between the starts of two engines.
const BETWEEN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// How long calls may go on in an engine whose place another has taken.
const LEAVE: Duration = Duration::from_secs(600);
/// After an engine that lived so long the times between starts begin again.
const LIVED: Duration = Duration::from_secs(60);

/// What an engine is started with.
#[derive(Debug)]
pub struct Setup {
    /// The binary.
    pub exe: PathBuf,
    /// The pod's network.
    pub network: Network,
    /// User and groups.
    pub rights: Rights,
    /// The container's control group; `None` where the node has none to offer.
    pub cgroup: Option<Cgroup>,
    /// From the container's quality of service.
    pub oom_score_adj: Option<i32>,
    /// The first message.
    pub start: proto::Start,
    /// Listening socket for `/metrics`, when `start` says so.
    pub metrics: Option<Arc<OwnedFd>>,
    /// Where the process is written down for a shim that dies.
    pub state_file: StateFile,
}

/// A message and what travels with it.
#[derive(Debug)]
pub struct Parcel {
    /// The message.
    pub message: to_engine::Message,
    /// Its descriptors, in the contract's order.
    pub descriptors: Vec<Arc<OwnedFd>>,
}

/// How an engine ended.
#[derive(Debug, Clone)]
pub struct Death {
    /// A sentence for logs and reports.
    pub message: String,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container because memory ran out.
    pub out_of_memory: bool,
    /// Ends without a minute of life between them, this one included.
    pub in_a_row: u32,
    /// Marks of the functions in whose code it was.
    pub running: Vec<u64>,
}

impl Death {
    /// Whether what ran in it may have ended it: by a signal of its own doing, or by memory that it took until the kernel ended
    /// the process. A KILL for any other reason is somebody's wish. An engine that ends with a code does so on the thread that
    /// listens to the shim, where no guest runs: what ran beside that has no part in it.
    pub fn is_crash(&self) -> bool {
        let is_killed = self.signal == Some(KILL.cast_signed());
        self.out_of_memory || (self.signal.is_some() && !is_killed)
    }

    /// The message, and what it means of memory.
    pub fn explained(&self) -> String {
        match self.out_of_memory {
            true => format!(
                "{}: the container's processes and guests took all of resources.limits.memory",
                self.message
            ),
            false => self.message.clone(),
        }
    }
}

/// What an owner hears, in order.
#[derive(Debug)]
pub enum Event {
    /// An engine runs and holds nothing yet. Messages go to it when they carry its number.
    Up {
        /// Its number.
        number: u64,
        /// Which artifacts it takes.
        fingerprint: String,
        /// After [`Engine::hand_over`]: the engine before it, which answers calls until it is let go.
        before: Option<Predecessor>,
    },
    /// After [`Engine::hand_over`]: another engine could not be started; the one that runs goes on.
    NotFollowed(std::io::Error),
    /// A predecessor has ended.
    Left,
    /// It said something.
    Said(from_engine::Message),
    /// It is gone; what was in it is lost.
    Down(Death),
}

/// An engine that another takes the place of. When this is dropped it accepts no more, and ends when its calls have.
#[derive(Debug)]
pub struct Predecessor {
    _holds: oneshot::Sender<()>,
}

#[derive(Debug)]
enum Order {
    /// To the engine with that number.
    Send(u64, Box<Parcel>),
    /// Start another beside the one that runs.
    HandOver,
}

/// A supervised engine. Dropping it ends the process.
#[derive(Debug)]
pub struct Engine {
    orders: mpsc::UnboundedSender<Order>,
    /// What happens to it.
    pub events: mpsc::Receiver<Event>,
    pid: watch::Receiver<Option<u32>>,
    memory: watch::Sender<u64>,
    supervisor: JoinHandle<()>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The process is killed when the task's future is dropped.
        self.supervisor.abort();
    }
}

impl Engine {
    /// Starts the first process and the supervision.
    pub fn start(setup: Setup) -> Self {
        // Not bounded here: its sender also reads what the engine says, so each could wait for the other. There are at
        // most a few for each function, and a pool has at most as many functions as ports.
        let (orders, waiting) = mpsc::unbounded_channel();
        let (said, events) = mpsc::channel(QUEUE);
        let (set_pid, pid) = watch::channel(None);
        let (memory, memory_bytes) = watch::channel(setup.start.memory_bytes);
        let supervisor = tokio::spawn(
            Supervisor {
                setup,
                waiting,
                said,
                pid: set_pid,
                memory: memory_bytes,
                number: 0,
                running: None,
                leaving: JoinSet::new(),
            }
            .run(),
        );
        Self {
            orders,
            events,
            pid,
            memory,
            supervisor,
        }
    }

    /// Sends to the engine with that number; to a later one nothing is sent.
    pub fn send(&self, number: u64, parcel: Parcel) {
        // The supervisor lives as long as this value.
        let _ = self.orders.send(Order::Send(number, Box::new(parcel)));
    }

    /// Starts another engine beside the one that runs; [`Event::Up`] says when it took over, and [`Event::NotFollowed`] that it
    /// cannot be started. Where none runs now, the next one to start is it.
    pub fn hand_over(&self) {
        let _ = self.orders.send(Order::HandOver);
    }

    /// How much linear memory the guests of an engine may hold, in bytes; 0: not bounded. Written anew, it is told to those
    /// that run, and later ones start with it.
    pub fn memory(&self) -> watch::Sender<u64> {
        self.memory.clone()
    }

    /// The process that runs now.
    pub fn pid(&self) -> watch::Receiver<Option<u32>> {
        self.pid.clone()
    }
}

struct Supervisor {
    setup: Setup,
    waiting: mpsc::UnboundedReceiver<Order>,
    said: mpsc::Sender<Event>,
    pid: watch::Sender<Option<u32>>,
    /// What guests may hold.
    memory: watch::Receiver<u64>,
    /// Of the engine that was started last.
    number: u64,
    /// What the engine runs that was started last, as it says itself.
    running: Option<Running>,
    /// Predecessors; they end with this.
    leaving: JoinSet<()>,
}

impl Supervisor {
    async fn run(mut self) {
        let mut in_a_row = 0;
        loop {
            let mut born = Instant::now();
            let kills = self.oom_kills();
            let (message, signal) = match self.live(&mut born).await {
                Ok(status) => (describe(status), status.signal()),
                Err(error) => (format!("engine could not run: {error}"), None),
            };
            self.pid.send_replace(None);
            self.setup.state_file.clear();
            let running = self
                .running
                .take()
                .map_or(Ok(Vec::new()), |file| file.marks());
            let running = running.unwrap_or_else(|error| {
                tracing::error!(%error, "what the engine ran is not known");
                Vec::new()
            });
            in_a_row = match born.elapsed() >= LIVED {
                true => 1,
                false => in_a_row + 1,
            };
            tracing::warn!(message, in_a_row, "engine ended");
            let death = Death {
                message,
                signal,
                // The group's count is the compile helper's too.
                out_of_memory: signal == Some(KILL.cast_signed()) && self.oom_kills() > kills,
                in_a_row,
                running,
            };
            if self.said.send(Event::Down(death)).await.is_err() {
                return;
            }
            tokio::time::sleep(pause(in_a_row, born.elapsed())).await;
        }
    }

    /// One process after the other, from the start of the first to an end that nobody asked for.
    async fn live(&mut self, born: &mut Instant) -> std::io::Result<ExitStatus> {
        let mut process = self.spawn().await?;
        self.note(&process);
        let fingerprint = match self.greet(&process).await {
            Ok((fingerprint, running)) => {
                self.running = Some(running);
                fingerprint
            }
            Err(error) => {
                // A signal, maybe for its memory, says more than the silence that follows.
                return match tokio::time::timeout(GOODBYE, process.child.wait()).await {
                    Ok(Ok(status)) if status.signal().is_some() => Ok(status),
                    _ => Err(error),
                };
            }
        };
        // What waits was meant for an engine that is gone.
        while self.waiting.try_recv().is_ok() {}
        let mut channel_open = self.up(fingerprint, None).await;
        while channel_open {
            tokio::select! {
                received = process.channel.receive::<FromEngine>() => match unless_reset(received)? {
                    Some((FromEngine { message: Some(message) }, _)) => {
                        channel_open = self.said.send(Event::Said(message)).await.is_ok();
                    }
                    Some(_) => tracing::warn!("engine sent a message of an unknown kind"),
                    None => channel_open = false,
                },
                order = self.waiting.recv() => match order {
                    Some(Order::Send(to, parcel)) if to == self.number => {
                        channel_open = unless_broken(send(&process, *parcel).await)?;
                    }
                    Some(Order::Send(..)) => {}
                    Some(Order::HandOver) => match self.successor().await {
                        Ok((successor, fingerprint, running)) => {
                            self.running = Some(running);
                            *born = Instant::now();
                            self.note(&successor);
                            let before = std::mem::replace(&mut process, successor);
                            let (holds, held) = oneshot::channel();
                            while self.leaving.try_join_next().is_some() {}
                            let memory = self.memory.clone();
                            self.leaving.spawn(leave(before, held, memory, self.said.clone()));
                            let before = Some(Predecessor { _holds: holds });
                            channel_open = self.up(fingerprint, before).await;
                        }
                        Err(error) => {
                            channel_open = self.said.send(Event::NotFollowed(error)).await.is_ok();
                        }
                    },
                    None => channel_open = false,
                },
                Ok(()) = self.memory.changed() => {
                    let told = send(&process, of_memory(&mut self.memory)).await;
                    channel_open = unless_broken(told)?;
                }
            }
        }
        end(&mut process).await
    }

    async fn spawn(&self) -> std::io::Result<Process> {
        let setup = &self.setup;
        let process = process::spawn(&setup.exe, "run", &setup.network, &setup.rights).await?;
        if let Some(cgroup) = &setup.cgroup {
            cgroup.add(process.pid)?;
        }
        if let Some(score) = setup.oom_score_adj {
            process::set_oom_score(process.pid, score)?;
        }
        Ok(process)
    }

    async fn successor(&self) -> std::io::Result<(Process, String, Running)> {
        let process = self.spawn().await?;
        let (fingerprint, running) = self.greet(&process).await?;
        Ok((process, fingerprint, running))
    }

    /// Names the process that runs to whoever asks.
    fn note(&self, process: &Process) {
        self.setup.state_file.write(process.pid);
        self.pid.send_replace(Some(process.pid));
    }

    /// Tells of another engine. False when nobody listens.
    async fn up(&mut self, fingerprint: String, before: Option<Predecessor>) -> bool {
        self.number += 1;
        let up = Event::Up {
            number: self.number,
            fingerprint,
            before,
        };
        self.said.send(up).await.is_ok()
    }

    /// Start and Ready: its fingerprint, and where it says what it runs.
    async fn greet(&self, process: &Process) -> std::io::Result<(String, Running)> {
        let running = Running::create()?;
        let metrics = self.setup.metrics.iter().cloned();
        let start = Parcel {
            message: to_engine::Message::Start(proto::Start {
                running: true,
                memory_bytes: *self.memory.borrow(),
                ..self.setup.start.clone()
            }),
            descriptors: metrics.chain([running.descriptor()]).collect(),
        };
        let exchange = async {
            send(process, start).await?;
            process.channel.receive::<FromEngine>().await
        };
        let received = tokio::time::timeout(READY, exchange).await.map_err(|_| {
            std::io::Error::other(format!("it was not ready within {} s", READY.as_secs()))
        })??;
        match received {
            Some((
                FromEngine {
                    message: Some(from_engine::Message::Ready(ready)),
                },
                _,
            )) => Ok((ready.fingerprint, running)),
            Some(_) => Err(std::io::Error::other("its first message was not Ready")),
            None => Err(std::io::Error::other(
                "it ended before it was ready; its log is in containerd's",
            )),
        }
    }

    fn oom_kills(&self) -> u64 {
        self.setup.cgroup.as_ref().map_or(0, Cgroup::oom_kills)
    }
}

/// How long to wait before the next start, after so many engines that did not live long, of which the last one lived for `lived`.
fn pause(in_a_row: u32, lived: Duration) -> Duration {
    let doublings = in_a_row.saturating_sub(1).min(10);
    let between = (BETWEEN.0 * 2u32.pow(doublings)).min(BETWEEN.1);
    between.saturating_sub(lived)
}

/// The rest of an engine's life once another has taken its place: it answers calls until it is let go, and then those that
/// it has.
async fn leave(
    mut process: Process,
    mut held: oneshot::Receiver<()>,
    mut memory: watch::Receiver<u64>,
    said: mpsc::Sender<Event>,
) {
    let mut until = None;
    loop {
        tokio::select! {
            // What it says is true no more.
            received = process.channel.receive::<FromEngine>() => match received {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            },
            _ = &mut held, if until.is_none() => {
                until = Some(tokio::time::Instant::now() + LEAVE);
                let deadline_ms = u32::try_from(LEAVE.as_millis()).unwrap_or(u32::MAX);
                let drain = Parcel {
                    message: to_engine::Message::Drain(proto::Drain { deadline_ms }),
                    descriptors: Vec::new(),
                };
                if send(&process, drain).await.is_err() {
                    break;
                }
            },
            Ok(()) = memory.changed() => {
                if send(&process, of_memory(&mut memory)).await.is_err() {
                    break;
                }
            }
            () = sleep_until(until) => break,
        }
    }
    match end(&mut process).await {
        Ok(status) => tracing::info!(message = describe(status), "the old engine has left"),
        Err(error) => tracing::warn!(%error, "the old engine was not seen to end"),
    }
    // The owner may be gone.
    let _ = said.send(Event::Left).await;
}

/// Waits for the end of an engine whose channel is closed, and ends it when that takes too long.
async fn end(process: &mut Process) -> std::io::Result<ExitStatus> {
    match tokio::time::timeout(GOODBYE, process.child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            process.child.start_kill()?;
            process.child.wait().await
        }
    }
}

/// An engine that is killed with messages unread resets the channel: that is its end, which its status explains.
fn unless_reset<T>(received: std::io::Result<Option<T>>) -> std::io::Result<Option<T>> {
    match received {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
        other => other,
    }
}

/// Whether an engine is there to be told more.
fn unless_broken(sent: std::io::Result<()>) -> std::io::Result<bool> {
    match sent {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        sent => sent.map(|()| true),
    }
}

/// What guests may hold now.
fn of_memory(memory: &mut watch::Receiver<u64>) -> Parcel {
    let memory_bytes = *memory.borrow_and_update();
    Parcel {
        message: to_engine::Message::SetMemory(proto::SetMemory { memory_bytes }),
        descriptors: Vec::new(),
    }
}

async fn send(process: &Process, parcel: Parcel) -> std::io::Result<()> {
    let message = ToEngine {
        message: Some(parcel.message),
    };
    let descriptors: Vec<_> = parcel.descriptors.iter().map(AsFd::as_fd).collect();
    process.channel.send(&message, &descriptors).await
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("engine was ended by signal {signal}"),
        (None, Some(code)) => format!("engine ended with code {code}"),
        (None, None) => "engine ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_are_what_a_guest_may_have_brought_about() {
        for (signal, out_of_memory, expected) in [
            (Some(11), false, true),
            (Some(6), false, true),
            (Some(9), false, false),
            (Some(9), true, true),
            (None, false, false),
        ] {
            let death = Death {
                message: "m".to_owned(),
                signal,
                out_of_memory,
                in_a_row: 1,
                running: Vec::new(),
            };
            assert_eq!(death.is_crash(), expected, "{death:?}");
            assert_eq!(death.explained().contains("memory"), out_of_memory);
        }
    }

    #[test]
    fn starts_lie_apart_and_an_engine_that_lived_is_followed_at_once() {
        let millis = Duration::from_millis;
        for (in_a_row, lived, expected) in [
            (1, 0, 20),
            (1, 15, 5),
            (3, 0, 80),
            (u32::MAX, 0, 5_000),
            (5, 320, 0),
            (u32::MAX, 60_000, 0),
        ] {
            assert_eq!(pause(in_a_row, millis(lived)), millis(expected));
        }
    }
}
