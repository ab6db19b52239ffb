//! All functions of one process: place, change, remove, drain, report.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use hearth_contract::{Function, StartKind, proto};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_http::handler::ProxyPre;

use crate::artifact::Artifact;
use crate::bundle::BundleError;
use crate::capability::egress::Outside;
use crate::capability::folders::View;
use crate::capability::loader::Loader;
use crate::capability::names::Names;
use crate::engine::Engine;
use crate::function::{HostedFunction, Program};
use crate::instance::{self, Grants, Linked, Linkers, State};
use crate::javascript::{Code, Environment, Module};
use crate::lanes::Lanes;
use crate::limits::{MemoryBudget, Relief};
use crate::logs::{LogBudget, LogSink};
use crate::meters::{Meters, Tally};
use crate::metrics::Metrics;
use crate::positions::Positions;
use crate::running::{Mark, Running};
use crate::serve::{self, Current};

/// Warm instances that are made at once in the quick lane, all functions together: refilling must not take its threads
/// from calls.
const REFILLS: usize = 2;

/// How long a removal waits for calls; those that run longer end at their own deadlines.
const REMOVAL: Duration = Duration::from_secs(30);

/// What a process is told at its start.
#[derive(Debug, Clone, Default)]
pub struct HostSettings {
    /// Names to addresses for calls out.
    pub names: Names,
    /// Linear memory of all instances together, in bytes; 0: not bounded. [`Host::set_memory`] changes it.
    pub memory_bytes: u64,
    /// PEM certificates that calls out trust; empty: the public roots that are built in.
    pub roots_pem: String,
    /// Cores that guests may use; `None`: all that the process may.
    pub cores: Option<NonZeroUsize>,
    /// Where it is noted which functions run.
    pub running: Running,
}

/// What all functions share.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) metrics: Metrics,
    pub(crate) changes: Changes,
    pub(crate) refills: Arc<Semaphore>,
    pub(crate) lanes: Arc<Lanes>,
    running: Running,
    outside: Outside,
    budget: Arc<MemoryBudget>,
    linkers: Linkers,
    /// Every function that has instances.
    hosted: Mutex<Vec<Weak<HostedFunction>>>,
    started: Instant,
}

impl Shared {
    /// Time since the process began to host, in milliseconds.
    pub(crate) fn clock(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn link<'a>(&self, artifact: &'a Artifact) -> Result<&'a Linked, BundleError> {
        artifact.linked(&self.engine, &self.linkers)
    }

    /// What instances of a function are made of: its bundle, and how that takes a module, which it must where the function
    /// has one.
    pub(crate) fn callable<'a>(
        &self,
        artifact: &'a Artifact,
        has_module: bool,
    ) -> Result<(&'a ProxyPre<State>, Option<&'a Environment>), PlaceError> {
        match (self.link(artifact)?, has_module) {
            (Linked::Command(_), _) => Err(PlaceError::Command),
            (Linked::Http(_, Some(_)), false) => Err(PlaceError::NoModule),
            (Linked::Http(_, None), true) => Err(PlaceError::NoEnvironment),
            (Linked::Http(pre, environment), _) => Ok((pre, environment.as_ref())),
        }
    }

    pub(crate) fn host(&self, function: &Arc<HostedFunction>) {
        let mut hosted = self.hosted.lock().unwrap_or_else(PoisonError::into_inner);
        if hosted.len() == hosted.capacity() {
            hosted.retain(|function| function.strong_count() > 0);
        }
        hosted.push(Arc::downgrade(function));
    }
}

impl Relief for Shared {
    /// Warm instances go, those first whose function was called longest ago.
    fn relieve(&self, bytes: u64) -> bool {
        let hosted = self.hosted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut functions: Vec<_> = hosted.iter().filter_map(Weak::upgrade).collect();
        drop(hosted);
        functions.sort_by_cached_key(|function| function.called());
        let mut freed = 0;
        for function in functions {
            while freed < bytes {
                let Some(instance) = function.give_up_warm() else {
                    break;
                };
                freed += instance.store.data().limiter.held();
            }
        }
        freed >= bytes
    }
}

/// Functions of which a report may say something new.
#[derive(Default)]
pub(crate) struct Changes {
    functions: Mutex<Vec<Arc<HostedFunction>>>,
    told: Notify,
}

impl Changes {
    fn list(&self) -> MutexGuard<'_, Vec<Arc<HostedFunction>>> {
        self.functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Each function is told of once between two reports: [`HostedFunction::note_change`] sees to that.
    pub(crate) fn tell(&self, function: Arc<HostedFunction>) {
        self.list().push(function);
        self.told.notify_one();
    }
}

/// Where a function's bundle, socket and logs are.
#[derive(Debug)]
pub struct Placed {
    /// The function.
    pub function: Function,
    /// Digest of its bundle, repeated in reports.
    pub digest: String,
    /// The compiled bundle.
    pub artifact: Arc<Artifact>,
    /// The user's module, where the bundle is the JavaScript environment.
    pub module: Option<Module>,
    /// The compiled JavaScript environment, where the function may load code and is not itself an instance of that.
    pub environment: Option<Arc<Artifact>>,
    /// The socket that callers reach.
    pub listener: std::net::TcpListener,
    /// Standard output; a pipe that does not block.
    pub stdout: Arc<OwnedFd>,
    /// Standard error, and our own lines about the function.
    pub stderr: Arc<OwnedFd>,
    /// Put the function's name before each line.
    pub prefix_logs: bool,
    /// The word under which its first call is counted, when that call waited for more than an instance.
    pub first: Option<StartKind>,
    /// What it took to have the bundle here.
    pub placement: proto::Placement,
    /// Calls to it that ended with processes before this one.
    pub calls_lost: u64,
    /// What it sees of files.
    pub view: View,
    /// Its number where it is noted which functions run; 0: it is not noted.
    pub mark: u64,
}

/// Why a function was not placed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The bundle cannot be linked.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// It is a command, which no caller can reach.
    #[error(
        "the component exports wasi:cli/run only: it is a command, which runs as a Pod or Job, and no function that can be called"
    )]
    Command,
    /// It is no command.
    #[error("the component exports no wasi:cli/run")]
    NoCommand,
    /// It is the JavaScript environment, and there is no code for it.
    #[error("the component is the JavaScript environment, which answers no calls without a module")]
    NoModule,
    /// There is code, and the component cannot run it.
    #[error("the component is not the JavaScript environment, which alone runs a module")]
    NoEnvironment,
    /// It may load code, and there is nothing to run that in.
    #[error("the function may load code (spec.loader), and no JavaScript environment came with it")]
    NoLoader,
    /// The socket cannot be used.
    #[error("the listening socket cannot be used: {0}")]
    Socket(#[from] std::io::Error),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandEnd {
    /// Exit code.
    pub code: u8,
    /// Why it was stopped; empty when it ended by itself.
    pub problem: String,
    /// Whether it was stopped after it had been refused memory.
    pub out_of_memory: bool,
}

struct Entry {
    current: Current,
    tally: Arc<Tally>,
    /// Where the server listens.
    address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Entry {
    fn function(&self) -> Arc<HostedFunction> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// All functions of one process, and the threads that they run on.
pub struct Host {
    shared: Arc<Shared>,
    functions: Mutex<HashMap<String, Entry>>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("functions", &self.entries().len())
            .finish_non_exhaustive()
    }
}

impl Host {
    /// A host without functions.
    ///
    /// # Errors
    /// When the certificates cannot be read or a thread cannot be made.
    pub fn new(engine: Engine, settings: &HostSettings) -> wasmtime::Result<Self> {
        let outside = Outside {
            names: settings.names.clone(),
            tls: Arc::new(tls(&settings.roots_pem)?),
        };
        let budget = Arc::new(MemoryBudget::new(settings.memory_bytes));
        let shared = Shared {
            engine,
            metrics: Metrics::new(budget.clone()),
            changes: Changes::default(),
            refills: Arc::new(Semaphore::new(REFILLS)),
            lanes: Arc::new(Lanes::start(settings.cores)?),
            running: settings.running,
            outside,
            budget,
            linkers: Linkers::default(),
            hosted: Mutex::default(),
            started: Instant::now(),
        };
        let shared = Arc::new(shared);
        let relief: Weak<dyn Relief> = Arc::<Shared>::downgrade(&shared);
        shared.budget.relieved_by(relief);
        Ok(Self {
            shared,
            functions: Mutex::new(HashMap::new()),
        })
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The process's metrics.
    pub fn metrics(&self) -> Metrics {
        self.shared.metrics.clone()
    }

    /// Returns when every thread that answers calls has shown that it does.
    ///
    /// # Errors
    /// When one is gone.
    pub async fn answer(&self) -> Result<(), tokio::task::JoinError> {
        self.shared.lanes.answer().await
    }

    fn grants(
        &self,
        function: &Function,
        stdout: &Arc<OwnedFd>,
        stderr: &Arc<OwnedFd>,
        prefix: bool,
        view: &View,
        positions: Option<Positions>,
    ) -> Grants {
        let positions = positions.map(Arc::new);
        let name = prefix.then_some(function.key.name.as_str());
        let labels = [function.key.namespace.as_str(), function.key.name.as_str()];
        let log = Arc::new(LogBudget::new(
            function.limits.log_bytes_per_second,
            self.shared.metrics.dropped_lines.with_label_values(&labels),
        ));
        Grants {
            outside: self.shared.outside.clone(),
            rules: function.capabilities.egress.clone().into(),
            budget: self.shared.budget.clone(),
            stdout: LogSink::new(stdout.clone(), name, log.clone(), positions.clone()),
            stderr: LogSink::new(stderr.clone(), name, log, positions),
            view: view.clone(),
            within: None,
            loader: None,
            loaded: None,
        }
    }

    /// Places a function, or a new generation of one: new calls go to it, calls that run end where they are, and
    /// connections stay open when the socket is the same.
    ///
    /// # Errors
    /// Says why not; what was placed before stays.
    pub fn place(&self, mut placed: Placed) -> Result<Arc<HostedFunction>, PlaceError> {
        let mark = Mark::new(self.shared.running, placed.mark);
        // Mapping and linking are of its making too.
        let _inside = mark.enter();
        // One that is to have instances says now whether it can; another when it is called.
        if placed.function.target > 0 {
            self.shared
                .callable(&placed.artifact, placed.module.is_some())?;
        }
        let positions = Positions::of(placed.module.as_mut_slice());
        let address = placed.listener.local_addr()?;
        placed.listener.set_nonblocking(true)?;
        let mut grants = self.grants(
            &placed.function,
            &placed.stdout,
            &placed.stderr,
            placed.prefix_logs,
            &placed.view,
            positions,
        );
        if let Some(grant) = &placed.function.capabilities.loader {
            let own = placed.module.as_ref().map(|_| &placed.artifact);
            let environment = placed.environment.as_ref().or(own);
            let environment = environment.ok_or(PlaceError::NoLoader)?.clone();
            let function = &placed.function;
            let loader = Loader::new(grant, function, &grants, environment, &self.shared, mark);
            grants.loader = Some(loader);
        }
        let key = &placed.function.key;
        self.shared.metrics.placed(key, &placed.placement);
        let uid = key.uid.clone();
        let mut entries = self.entries();
        let before = entries.remove(&uid);
        if before.is_none() {
            self.shared.metrics.lost(key, placed.calls_lost);
        }
        let tally = before
            .as_ref()
            .map(|entry| entry.tally.clone())
            .unwrap_or_default();
        let meters = Meters::of_function(&self.shared.metrics, &placed.function.key, tally.clone());
        let function = HostedFunction::new(
            placed.function,
            self.shared.clone(),
            grants,
            Program {
                digest: placed.digest,
                artifact: placed.artifact,
                code: placed.module.map(|module| Code::new(vec![module])),
                mark,
            },
            Arc::new(meters),
            placed.first,
        );
        if let Some(entry) = &before {
            let old = std::mem::replace(
                &mut *entry
                    .current
                    .write()
                    .unwrap_or_else(PoisonError::into_inner),
                function.clone(),
            );
            old.retire();
        }
        let entry = match before {
            // The same socket under another descriptor: who listens goes on, and no caller loses a connection.
            Some(entry) if entry.address == address => entry,
            before => {
                let current = match before {
                    Some(entry) => {
                        entry.stop.cancel();
                        entry.current
                    }
                    None => Arc::new(RwLock::new(function.clone())),
                };
                let stop = CancellationToken::new();
                let lanes = self.shared.lanes.clone();
                let server = serve::function(placed.listener, current.clone(), lanes, stop.clone());
                Entry {
                    current,
                    tally,
                    address,
                    stop,
                    server: self.shared.lanes.any().spawn(server),
                }
            }
        };
        entries.insert(uid, entry);
        function.note_change();
        Ok(function)
    }

    /// Changes how much linear memory all instances may hold together, in bytes; 0: not bounded.
    pub fn set_memory(&self, bytes: u64) {
        self.shared.budget.set_limit(bytes);
    }

    /// Changes a target. Unknown functions are passed over: a removal may have crossed the change.
    pub fn set_target(&self, uid: &str, target: u32) {
        if let Some(entry) = self.entries().get(uid) {
            entry.function().set_target(target);
        }
    }

    /// Removes a function; its calls end, at the latest at their deadlines, before this returns.
    pub async fn remove(&self, uid: &str) {
        let Some(entry) = self.entries().remove(uid) else {
            return;
        };
        let function = entry.function();
        entry.stop.cancel();
        function.retire();
        // The function's deadline ends its calls, and with them their connections; a long one is not waited for.
        let bound = function.spec.limits.deadline + serve::LAST_CALL + Duration::from_secs(1);
        let bound = REMOVAL.min(bound);
        if tokio::time::timeout(bound, entry.server).await.is_err() {
            tracing::warn!(function = %function.spec.key, "connections outlived the function's deadline");
        }
        let key = &function.spec.key;
        self.shared.metrics.forget(key);
    }

    /// Stops accepting and waits until all calls ended or `deadline` passed. Returns how many calls were cut.
    pub async fn drain(&self, deadline: Duration) -> u32 {
        let entries: Vec<Entry> = self.entries().drain().map(|(_, entry)| entry).collect();
        for entry in &entries {
            entry.stop.cancel();
        }
        let current: Vec<_> = entries.iter().map(Entry::function).collect();
        let ended = futures::future::join_all(entries.into_iter().map(|entry| entry.server));
        match tokio::time::timeout(deadline, ended).await {
            Ok(_) => 0,
            Err(_) => current.iter().map(|function| function.running()).sum(),
        }
    }

    /// What is true now of every function of which that differs from what was reported last. A function that was reported
    /// a moment ago waits for the next time.
    pub fn changed_reports(&self) -> Vec<proto::FunctionReport> {
        let changed = std::mem::take(&mut *self.shared.changes.list());
        let (early, due): (Vec<_>, Vec<_>) = changed
            .into_iter()
            .partition(|function| function.is_reported());
        for function in early {
            self.shared.changes.tell(function);
        }
        let entries = self.entries();
        due.iter()
            .filter_map(|function| entries.get(&function.spec.key.uid)?.function().news())
            .collect()
    }

    /// Returns when [`Host::changed_reports`] has something to say.
    pub async fn changed(&self) {
        self.shared.changes.told.notified().await;
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When the bundle is no command.
    pub async fn run_command(
        &self,
        function: &Function,
        artifact: &Artifact,
        stdout: &Arc<OwnedFd>,
        stderr: &Arc<OwnedFd>,
        view: &View,
    ) -> Result<CommandEnd, PlaceError> {
        let Linked::Command(pre) = self.shared.link(artifact)? else {
            return Err(PlaceError::NoCommand);
        };
        let grants = self.grants(function, stdout, stderr, false, view, None);
        let mut store = instance::store(pre.engine(), function, &grants);
        let run = async {
            let command = pre.instantiate_async(&mut store).await?;
            command.wasi_cli_run().call_run(&mut store).await
        };
        let ended = |code| CommandEnd {
            code,
            problem: String::new(),
            out_of_memory: false,
        };
        Ok(match run.await {
            Ok(Ok(())) => ended(0),
            Ok(Err(())) => ended(1),
            Err(error) => match error.downcast_ref::<wasmtime_wasi::I32Exit>() {
                // What a shell sees of an exit status.
                Some(exit) => ended((exit.0 & 0xff) as u8),
                None => {
                    let out_of_memory = store.data().limiter.refused;
                    let problem = match out_of_memory {
                        true => format!("the guest reached its memory limit: {error:#}"),
                        false => format!("{error:#}"),
                    };
                    grants.stderr.note(&problem);
                    CommandEnd {
                        code: if out_of_memory { 137 } else { 134 },
                        problem,
                        out_of_memory,
                    }
                }
            },
        })
    }
}

fn tls(roots_pem: &str) -> wasmtime::Result<rustls::ClientConfig> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    if roots_pem.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    } else {
        for certificate in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
            roots.add(certificate?)?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
