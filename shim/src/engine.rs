//! One engine process: started, watched, and started again when it ends.
//!
//! This knows the process and the channel, not the functions: whoever owns an [`Engine`] hears [`Event::Up`] after
//! each start and places everything again. Between an end and the next start lies a pause that grows from 20 ms to
//! 5 s and starts over once an engine has lived for a minute. Callers meanwhile wait in the accept queues of sockets
//! that the shim holds.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_contract::proto::{self, FromEngine, ToEngine, from_engine, to_engine};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::cgroup::Cgroup;
use crate::process::{self, Network, Process};
use crate::state_file::StateFile;

/// Messages that wait to be sent. A full queue makes the sender wait: the engine reads slower than we write.
const QUEUE: usize = 64;
/// How long an engine may take from its first instruction to `Ready`.
const READY: Duration = Duration::from_secs(15);
/// How long an engine whose channel is closed may take to end by itself.
const GOODBYE: Duration = Duration::from_secs(1);
/// Shortest and longest pause before a restart.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// An engine that lived so long starts the pauses over.
const LIVED: Duration = Duration::from_secs(60);

/// What an engine is started with.
#[derive(Debug)]
pub struct Setup {
    /// The binary.
    pub exe: PathBuf,
    /// The pod's network.
    pub network: Network,
    /// User and group.
    pub user: (u32, u32),
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
    },
    /// It said something.
    Said(from_engine::Message),
    /// It is gone; what was in it is lost.
    Down(Death),
}

/// A supervised engine. Dropping it ends the process.
#[derive(Debug)]
pub struct Engine {
    parcels: mpsc::UnboundedSender<(u64, Parcel)>,
    /// What happens to it.
    pub events: mpsc::Receiver<Event>,
    pid: watch::Receiver<Option<u32>>,
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
        let (parcels, waiting) = mpsc::unbounded_channel();
        let (said, events) = mpsc::channel(QUEUE);
        let (set_pid, pid) = watch::channel(None);
        let supervisor = tokio::spawn(
            Supervisor {
                setup,
                waiting,
                said,
                pid: set_pid,
            }
            .run(),
        );
        Self {
            parcels,
            events,
            pid,
            supervisor,
        }
    }

    /// Sends to the engine with that number; to a later one nothing is sent.
    pub fn send(&self, number: u64, parcel: Parcel) {
        // The supervisor lives as long as this value.
        let _ = self.parcels.send((number, parcel));
    }

    /// The process that runs now.
    pub fn pid(&self) -> watch::Receiver<Option<u32>> {
        self.pid.clone()
    }
}

struct Supervisor {
    setup: Setup,
    waiting: mpsc::UnboundedReceiver<(u64, Parcel)>,
    said: mpsc::Sender<Event>,
    pid: watch::Sender<Option<u32>>,
}

impl Supervisor {
    async fn run(mut self) {
        let mut in_a_row = 0;
        for number in 1.. {
            let born = Instant::now();
            let kills = self.oom_kills();
            let (message, signal) = match self.live(number).await {
                Ok(status) => (describe(status), status.signal()),
                Err(error) => (format!("engine could not run: {error}"), None),
            };
            self.pid.send_replace(None);
            self.setup.state_file.clear();
            in_a_row = match born.elapsed() >= LIVED {
                true => 1,
                false => in_a_row + 1,
            };
            tracing::warn!(message, in_a_row, "engine ended");
            let death = Death {
                message,
                signal,
                out_of_memory: self.oom_kills() > kills,
                in_a_row,
            };
            if self.said.send(Event::Down(death)).await.is_err() {
                return;
            }
            let doublings = (in_a_row - 1).min(10);
            tokio::time::sleep((PAUSE.0 * 2u32.pow(doublings)).min(PAUSE.1)).await;
        }
    }

    /// One process, from its start to its end.
    async fn live(&mut self, number: u64) -> std::io::Result<ExitStatus> {
        let setup = &self.setup;
        let mut process = process::spawn(&setup.exe, "run", &setup.network, setup.user).await?;
        setup.state_file.write(process.pid);
        self.pid.send_replace(Some(process.pid));
        if let Some(cgroup) = &setup.cgroup {
            cgroup.add(process.pid)?;
        }
        if let Some(score) = setup.oom_score_adj {
            process::set_oom_score(process.pid, score)?;
        }
        let fingerprint = self.greet(&process).await?;
        // What waits was meant for an engine that is gone.
        while self.waiting.try_recv().is_ok() {}
        let up = Event::Up {
            number,
            fingerprint,
        };
        let alive = self.said.send(up).await.is_ok();
        let mut channel_open = alive;
        while channel_open {
            tokio::select! {
                received = process.channel.receive::<FromEngine>() => match unless_reset(received)? {
                    Some((FromEngine { message: Some(message) }, _)) => {
                        channel_open = self.said.send(Event::Said(message)).await.is_ok();
                    }
                    Some(_) => tracing::warn!("engine sent a message of an unknown kind"),
                    None => channel_open = false,
                },
                parcel = self.waiting.recv() => match parcel {
                    Some((to, parcel)) if to == number => match send(&process, parcel).await {
                        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => channel_open = false,
                        sent => sent?,
                    },
                    Some(_) => {}
                    None => channel_open = false,
                },
            }
        }
        match tokio::time::timeout(GOODBYE, process.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                process.child.start_kill()?;
                process.child.wait().await
            }
        }
    }

    /// Start and Ready.
    async fn greet(&self, process: &Process) -> std::io::Result<String> {
        let start = Parcel {
            message: to_engine::Message::Start(self.setup.start.clone()),
            descriptors: self.setup.metrics.iter().cloned().collect(),
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
            )) => Ok(ready.fingerprint),
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

/// An engine that is killed with messages unread resets the channel: that is its end, which its status explains.
fn unless_reset<T>(received: std::io::Result<Option<T>>) -> std::io::Result<Option<T>> {
    match received {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
        other => other,
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
