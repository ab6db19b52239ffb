//! Code that comes at run time: a function that may, runs JavaScript which it was not deployed with, each call of it in an
//! instance of its own, with bounds of its own that are never more than the function's.
//!
//! Loaded code is a function like others to the rest of this crate, except that its calls are counted apart, that its log goes
//! to who loaded it, and that nobody else can call it. It is known by the digest of its text and of all that it may use: known
//! code is not compiled again, and code that was called before is given a warm instance. What is not called for long is
//! forgotten, and the oldest first where memory is short.

mod cache;
mod endpoint;
mod execution;
mod interface;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hearth_contract::egress::EgressRule;
use hearth_contract::function::Capabilities;
use hearth_contract::{Function, Limits, Outcome, StartKind};
use http::Request;
use http_body::Body;
use prometheus::IntGauge;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::artifact::Artifact;
use crate::call::{self, GuestBody};
use crate::capability::egress::Outside;
use crate::capability::folders::View;
use crate::function::{HostedFunction, Program};
use crate::host::Shared;
use crate::instance::Grants;
use crate::javascript::{Code, MAX_FILE_BYTES, MAX_SOURCE_BYTES, Module};
use crate::limits::MemoryBudget;
use crate::logs::LogSink;
use crate::meters::Meters;
use crate::positions::{self, Positions};
use crate::running::Mark;

pub(crate) use cache::Reason;
use cache::{Cache, Key};
pub(crate) use endpoint::PATH;
#[allow(
    unreachable_pub,
    reason = "the bindings of hearth:loader name the types of its resources"
)]
pub use execution::Execution;
pub(crate) use execution::{FUNCTIONS, Observer};
pub(crate) use interface::{LoadedCall, add_to_linker};

/// Modules of one code, at most.
const MODULES: usize = 256;
/// Bytes of what code finds in its `env`, names and values.
const ENV_BYTES: usize = 256 << 10;
/// Bytes of code that is in use and no longer kept: of calls that run, and of workers that a call holds.
const IN_USE_BYTES: u64 = 64 << 20;
/// Shortest time between two looks for code that is to be forgotten.
const SWEEP: Duration = Duration::from_millis(100);

/// What runs, and what it asks to use.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// The main one first.
    pub(crate) modules: Vec<Module>,
    /// Names, and values in JSON.
    pub(crate) env: Vec<(String, String)>,
    /// Names under which it calls back.
    pub(crate) functions: Vec<String>,
    pub(crate) egress: Vec<String>,
    pub(crate) limits: WantedLimits,
}

/// Bounds that somebody asks for. `None`: what is granted.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct WantedLimits {
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) cpu: Option<Duration>,
    pub(crate) outbound_calls: Option<u32>,
    pub(crate) response_body_bytes: Option<u64>,
}

/// Why code is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("no module is named {0:?}, which is to be the main one; the modules are {1}")]
    NoMain(String, String),
    #[error("two modules are named {0:?}")]
    Twice(String),
    #[error(
        "{0:?} is no name of a module: 1 to 256 bytes, without control characters, and not one of hearth:"
    )]
    Name(String),
    #[error("{0} modules are more than {MODULES}; bundle them")]
    Modules(usize),
    #[error("the modules have {0} bytes together, and code has at most {MAX_SOURCE_BYTES}")]
    Source(usize),
    #[error("the modules have {0} bytes with their source maps, and {MAX_FILE_BYTES} is the most")]
    File(usize),
    #[error("the env has {0} bytes of names and values, and {ENV_BYTES} is the most")]
    Env(usize),
    #[error(transparent)]
    Egress(#[from] hearth_contract::egress::InvalidRule),
    #[error("the memory limit is 0")]
    Memory,
    #[error(
        "calls hold {IN_USE_BYTES} bytes of code beside what spec.loader.cache.memory keeps; load less in one call, or call less at once"
    )]
    InUse,
}

impl Wanted {
    /// Puts the main module first.
    ///
    /// # Errors
    /// Says what is wrong with the modules.
    pub(crate) fn main(&mut self, name: &str) -> Result<(), Refused> {
        let at = self.modules.iter().position(|module| module.name == name);
        let Some(at) = at else {
            let names = self
                .modules
                .iter()
                .map(|module| format!("{:?}", module.name));
            let names = names.collect::<Vec<_>>().join(", ");
            return Err(Refused::NoMain(name.to_owned(), names));
        };
        self.modules.swap(0, at);
        self.modules[1..].sort_by(|a, b| a.name.cmp(&b.name));
        if self.modules.len() > MODULES {
            return Err(Refused::Modules(self.modules.len()));
        }
        for (index, module) in self.modules.iter().enumerate() {
            if module.name.is_empty()
                || module.name.len() > 256
                || module.name.contains(|c: char| c.is_control())
                || module.name.starts_with("hearth:")
            {
                return Err(Refused::Name(module.name.clone()));
            }
            if self.modules[..index]
                .iter()
                .any(|other| other.name == module.name)
            {
                return Err(Refused::Twice(module.name.clone()));
            }
        }
        Ok(())
    }

    /// The bytes of all of it.
    ///
    /// # Errors
    /// When it is too large.
    fn check_size(&self) -> Result<u64, Refused> {
        let files = self.modules.iter().map(|module| module.source.len());
        let file: usize = files.sum();
        if file > MAX_FILE_BYTES {
            return Err(Refused::File(file));
        }
        let sources = self.modules.iter();
        let sources = sources.map(|module| positions::apart(&module.source).0.len());
        let source: usize = sources.sum();
        if source > MAX_SOURCE_BYTES {
            return Err(Refused::Source(source));
        }
        let pairs = self
            .env
            .iter()
            .map(|(name, value)| name.len() + value.len());
        let names = self.functions.iter().map(String::len);
        let bytes = pairs.chain(names).sum();
        if bytes > ENV_BYTES {
            return Err(Refused::Env(bytes));
        }
        Ok((size_of::<HostedFunction>() + file + bytes) as u64)
    }

    /// The digest of all of it.
    fn key(&self) -> Key {
        let mut digest = Sha256::new();
        let mut add = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        let lists = [self.modules.len(), self.env.len(), self.functions.len()];
        for length in lists {
            add(&(length as u64).to_le_bytes());
        }
        for Module { name, source } in &self.modules {
            add(name.as_bytes());
            add(source.as_bytes());
        }
        for (name, value) in &self.env {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        for text in self.functions.iter().chain(&self.egress) {
            add(text.as_bytes());
        }
        add(format!("{:?}", self.limits).as_bytes());
        digest.finalize().into()
    }
}

/// What loaded code is told of its surroundings.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Names, and values in JSON.
    pub(crate) env: Vec<(String, String)>,
    /// Names under which it calls back.
    pub(crate) functions: Vec<String>,
    /// Dropped with the last instance.
    held: Held,
}

impl Loaded {
    /// Bytes of what came.
    pub(crate) fn bytes(&self) -> u64 {
        self.held.bytes
    }
}

/// Bytes that code takes for as long as it is there, kept or not.
#[derive(Debug)]
struct Held {
    bytes: u64,
    all: Arc<AtomicU64>,
}

impl Held {
    /// `None` where that is more than `most` together.
    fn new(bytes: u64, all: &Arc<AtomicU64>, most: u64) -> Option<Self> {
        let add = |held: u64| held.checked_add(bytes).filter(|held| *held <= most);
        let added = all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        let all = all.clone();
        added.ok().map(|_| Self { bytes, all })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Code that can be called.
#[derive(Clone)]
#[allow(
    unreachable_pub,
    reason = "the bindings of hearth:loader name the types of its resources"
)]
pub struct Worker {
    key: Key,
    function: Arc<HostedFunction>,
}

/// The loader of one function.
pub(crate) struct Loader {
    grant: hearth_contract::Loader,
    /// Whose it is.
    spec: Function,
    rules: Arc<[EgressRule]>,
    outside: Outside,
    budget: Arc<MemoryBudget>,
    /// Where lines of ours about its calls go.
    log: LogSink,
    environment: Arc<Artifact>,
    shared: Weak<Shared>,
    /// Its code runs as the function itself does, for who looks for what an engine died of.
    mark: Mark,
    meters: Arc<Meters>,
    places: Arc<Semaphore>,
    kept: Mutex<Kept>,
    /// Bytes of all code that is there.
    held: Arc<AtomicU64>,
    code: IntGauge,
    bytes: IntGauge,
}

struct Kept {
    cache: Cache<Worker>,
    /// A task looks for what is to be forgotten.
    is_swept: bool,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("key", &self.spec.key)
            .finish_non_exhaustive()
    }
}

impl Loader {
    /// The loader of the function `spec`, whose code runs in instances of `environment`.
    pub(crate) fn new(
        grant: &hearth_contract::Loader,
        spec: &Function,
        grants: &Grants,
        environment: Arc<Artifact>,
        shared: &Arc<Shared>,
        mark: Mark,
    ) -> Arc<Self> {
        let key = &spec.key;
        let labels = [key.namespace.as_str(), key.name.as_str()];
        Arc::new(Self {
            grant: grant.clone(),
            spec: spec.clone(),
            rules: grants.rules.clone(),
            outside: grants.outside.clone(),
            budget: grants.budget.clone(),
            log: grants.stderr.clone(),
            environment,
            meters: Arc::new(Meters::of_loaded(&shared.metrics, key)),
            places: Arc::new(Semaphore::new(grant.concurrency.get() as usize)),
            kept: Mutex::new(Kept {
                cache: Cache::new(),
                is_swept: false,
            }),
            held: Arc::default(),
            code: shared.metrics.loaded_code.with_label_values(&labels),
            bytes: shared.metrics.loaded_bytes.with_label_values(&labels),
            shared: Arc::downgrade(shared),
            mark,
        })
    }

    /// What the function and its code are told apart from others by: the meters that all code has.
    pub(crate) fn number(&self) -> usize {
        Arc::as_ptr(&self.meters).addr()
    }

    /// Digests of the tokens that open it to callers.
    pub(crate) fn tokens(&self) -> &[[u8; 32]] {
        &self.grant.tokens
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes code. It is compiled when it is called.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn load(self: &Arc<Self>, wanted: Wanted) -> Result<Worker, Refused> {
        let bytes = wanted.check_size()?;
        let key = wanted.key();
        let now = Instant::now();
        if let Some(worker) = self.kept().cache.get(&key, now) {
            return Ok(worker);
        }
        let most = self.grant.cache_bytes.saturating_add(IN_USE_BYTES);
        let held = Held::new(bytes, &self.held, most).ok_or(Refused::InUse)?;
        let worker = Worker {
            key,
            function: self.function(wanted, held)?,
        };
        let mut kept = self.kept();
        // Somebody may have been faster; it is the same.
        if let Some(there) = kept.cache.get(&key, now) {
            return Ok(there);
        }
        let bytes = worker.function.code_bytes();
        kept.cache.insert(key, worker.clone(), bytes, now);
        if !kept.is_swept
            && let Some(shared) = self.shared.upgrade()
        {
            kept.is_swept = true;
            shared.lanes.any().spawn(sweep(Arc::downgrade(self)));
        }
        drop(kept);
        self.evict();
        Ok(worker)
    }

    /// The function that loaded code is.
    fn function(&self, mut wanted: Wanted, held: Held) -> Result<Arc<HostedFunction>, Refused> {
        let limits = self.limits(&wanted.limits)?;
        let rules: Vec<EgressRule> = wanted
            .egress
            .iter()
            .map(|rule| rule.parse())
            .collect::<Result<_, _>>()?;
        let spec = Function {
            key: self.spec.key.clone(),
            generation: self.spec.generation,
            limits,
            capabilities: Capabilities::default(),
            target: 0,
            reuse: None,
        };
        let positions = Positions::of(&mut wanted.modules).map(Arc::new);
        let log = self.log.with_positions(positions);
        let grants = Grants {
            outside: self.outside.clone(),
            rules: rules.into(),
            within: Some(self.rules.clone()),
            budget: self.budget.clone(),
            stdout: log.clone(),
            stderr: log,
            view: View::default(),
            loader: None,
            loaded: Some(Arc::new(Loaded {
                env: wanted.env,
                functions: wanted.functions,
                held,
            })),
        };
        let program = Program {
            digest: String::new(),
            artifact: self.environment.clone(),
            code: Some(Code::new(wanted.modules)),
            mark: self.mark,
        };
        let shared = self.shared.upgrade();
        let shared = shared.expect("a guest or a connection that loads code runs in its host");
        let meters = self.meters.clone();
        let first = Some(StartKind::Compile);
        Ok(HostedFunction::new(
            spec, shared, grants, program, meters, first,
        ))
    }

    /// Of what is asked for and what is granted the lower.
    fn limits(&self, wanted: &WantedLimits) -> Result<Limits, Refused> {
        let (grant, own) = (&self.grant, &self.spec.limits);
        let memory = grant.memory_bytes.min(own.memory_bytes);
        let memory = match wanted.memory_bytes {
            Some(bytes) => memory.min(bytes.try_into().map_err(|_| Refused::Memory)?),
            None => memory,
        };
        let least = |granted: Duration, own: Duration, wanted: Option<Duration>| {
            granted.min(own).min(wanted.unwrap_or(granted))
        };
        let calls = grant.outbound_calls.min(own.outbound_calls);
        Ok(Limits {
            memory_bytes: memory,
            deadline: least(grant.deadline, own.deadline, wanted.deadline),
            cpu: least(grant.cpu, own.cpu, wanted.cpu),
            concurrency: grant.concurrency,
            outbound_calls: calls.min(wanted.outbound_calls.unwrap_or(calls)),
            response_body_bytes: own
                .response_body_bytes
                .min(wanted.response_body_bytes.unwrap_or(u64::MAX)),
            ..*own
        })
    }

    /// Calls code, and tells `observer` all that happens.
    ///
    /// # Errors
    /// How the call ended, and why, where the code did not answer.
    pub(crate) async fn call<B>(
        self: &Arc<Self>,
        worker: &Worker,
        request: Request<B>,
        observer: Arc<Observer>,
    ) -> Result<http::Response<GuestBody>, (Outcome, String)>
    where
        B: Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let problem = format!(
                "{} calls of loaded code run, which is all that spec.loader.concurrency allows",
                self.grant.concurrency
            );
            let refused = (Outcome::Overloaded, problem);
            self.meters
                .count(refused.0, StartKind::Instantiate, Duration::ZERO);
            observer.refused(&refused);
            return Err(refused);
        };
        observer.occupy(place);
        let answered = call::observed(worker.function.clone(), request, observer).await;
        self.called(worker);
        answered
    }

    /// Code was called: it is known how much of it there is, and code that was called before gets a warm instance.
    fn called(&self, worker: &Worker) {
        let bytes = worker.function.code_bytes();
        let most = self.grant.warm as usize;
        let mut kept = self.kept();
        kept.cache.resize(&worker.key, bytes);
        let cold = match worker.function.was_called_before() {
            true => kept.cache.warm(&worker.key, most),
            false => None,
        };
        drop(kept);
        if let Some(cold) = cold {
            worker.function.set_target(1);
            for worker in cold {
                worker.function.set_target(0);
            }
        }
        self.evict();
    }

    /// Forgets what is too old or too much. True when nothing is left.
    fn evict(&self) -> bool {
        let mut kept = self.kept();
        let gone = kept
            .cache
            .evict(self.grant.cache_bytes, self.grant.idle, Instant::now());
        let (count, bytes) = kept.cache.size();
        kept.is_swept &= count > 0;
        drop(kept);
        self.code.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        for (worker, reason) in gone {
            worker.function.retire();
            if let Some(shared) = self.shared.upgrade() {
                let key = &self.spec.key;
                let labels = [&key.namespace, &key.name, reason.as_str()];
                shared.metrics.forgotten.with_label_values(&labels).inc();
            }
        }
        count == 0
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        let kept = self.kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (worker, _) in kept.cache.evict(0, Duration::ZERO, Instant::now()) {
            worker.function.retire();
        }
        self.code.set(0);
        self.bytes.set(0);
    }
}

/// Forgets old code of a loader while it keeps some.
async fn sweep(loader: Weak<Loader>) {
    loop {
        let Some(idle) = loader.upgrade().map(|loader| loader.grant.idle) else {
            return;
        };
        tokio::time::sleep((idle / 4).max(SWEEP)).await;
        let is_done = loader.upgrade().is_none_or(|loader| loader.evict());
        if is_done {
            return;
        }
    }
}
