//! One function in this process: its linked bundle, its warm instances, its places for calls. Code that a function loads at
//! run time is one too.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_contract::{FailureReason, Function, Outcome, StartKind, brief, proto};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use wasmtime::Store;
use wasmtime_wasi_http::handler::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::bindings;

use crate::artifact::Artifact;
use crate::capability::loader::Loader;
use crate::host::Shared;
use crate::instance::{self, Grants, Instance};
use crate::javascript::{Code, Environment, LoadError};
use crate::lanes::{self, Carried, Overspent, Spent, metered};
use crate::meters::Meters;
use crate::pool::Counts;
use crate::running::Mark;

/// Longest start-up of an instance, and the most processor time that it may take.
const START: Duration = Duration::from_secs(10);
/// Instances of ended calls that wait to be taken apart, at most.
const USED: usize = 4;
/// A function whose calls left the quick lane begins this many calls in the slow one before it is tried again.
const HEAVY_CALLS: u32 = 64;
/// Time between two reports about a function.
const REPORTS: Duration = Duration::from_millis(50);
/// Pause before a warm instance is tried again after a failure; doubled up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A function that is placed.
pub struct HostedFunction {
    pub(crate) spec: Function,
    pub(crate) shared: Arc<Shared>,
    pub(crate) grants: Grants,
    pub(crate) program: Program,
    pool: Mutex<Pool>,
    /// A task keeps the pool at its target.
    refilling: AtomicBool,
    /// That task waits before it tries again: it takes nothing apart meanwhile.
    is_pausing: AtomicBool,
    /// Calls that are still to begin in the slow lane.
    heavy: AtomicU32,
    retired: CancellationToken,
    places: Arc<Semaphore>,
    queued: AtomicU32,
    in_use: AtomicU32,
    called: AtomicU64,
    /// Instances that calls were handed.
    activations: AtomicU64,
    /// The word under which the first call is counted, until it came.
    first: Mutex<Option<StartKind>>,
    failure: Mutex<Option<(FailureReason, String)>>,
    /// It was told that a report would say something new, and none was made since.
    is_changed: AtomicBool,
    /// What was reported last, and when.
    reported: Mutex<Option<(Instant, proto::FunctionReport)>>,
    meters: Arc<Meters>,
    cost: Cost,
    /// Runs code that comes at run time, where the function may.
    pub(crate) loader: Option<Arc<Loader>>,
}

/// What a function's instances are made from.
pub(crate) struct Program {
    /// Digest of the bundle, repeated in reports.
    pub(crate) digest: String,
    pub(crate) artifact: Arc<Artifact>,
    /// The user's module, where the bundle is the JavaScript environment.
    pub(crate) code: Option<Code>,
    /// How it is noted that they run.
    pub(crate) mark: Mark,
}

#[derive(Default)]
struct Pool {
    counts: Counts,
    warm: Vec<Instance>,
    /// Their calls ended; taking them apart takes longer than an answer should wait.
    used: Vec<Instance>,
}

/// What an instance costs. Planning reads it.
#[derive(Default)]
struct Cost {
    /// Linear memory of the one that was made last.
    bytes: AtomicU64,
    /// Time to make one, in microseconds: a mean that follows the last ones.
    start_us: AtomicU32,
}

impl Cost {
    fn made(&self, bytes: u64, took: Duration) {
        self.bytes.store(bytes, Ordering::Relaxed);
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        // Of two that are made at once one may not count.
        let mean = match self.start_us.load(Ordering::Relaxed) {
            0 => took,
            mean => mean - mean / 8 + took / 8,
        };
        self.start_us.store(mean.max(1), Ordering::Relaxed);
    }
}

impl std::fmt::Debug for HostedFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostedFunction")
            .field("key", &self.spec.key)
            .finish_non_exhaustive()
    }
}

/// Why no instance could be handed out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("no instance could be made within the call's deadline, or 10 s")]
    Deadline,
    #[error("no instance could be made: {0:#}")]
    Failed(wasmtime::Error),
    #[error(transparent)]
    Load(LoadError),
}

impl StartError {
    fn reason(&self) -> FailureReason {
        match self {
            Self::Deadline | Self::Failed(_) => FailureReason::StartFailed,
            Self::Load(_) => FailureReason::LoadFailed,
        }
    }
}

/// A place among the function's concurrent calls; leaving it is dropping it.
pub(crate) struct Place {
    function: Arc<HostedFunction>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.function.in_use.fetch_sub(1, Ordering::Relaxed);
        self.function.meters.in_use.dec();
        self.function.note_change();
    }
}

/// An instance is in a call from which it may come back. Dropped without that, it is known not to.
pub(crate) struct Lent(Option<Arc<HostedFunction>>);

impl Lent {
    fn new(function: &Arc<HostedFunction>) -> Self {
        Self(Some(function.clone()))
    }

    /// Whether the instance is kept.
    fn came_back(mut self, counts: &mut Counts) -> bool {
        self.0 = None;
        counts.returned()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(function) = self.0.take() {
            function.pool().counts.lost();
            // Not on this thread's account: the instance may be dropped anywhere.
            function.refill_on(&function.shared.lanes.any());
        }
    }
}

/// One more in a queue, until it is dropped.
struct Queued<'a>(&'a HostedFunction);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::Relaxed);
        self.0.meters.queued.dec();
    }
}

impl HostedFunction {
    /// `meters` count its calls, `first` is the word for the first of them when that waited for more than an instance.
    pub(crate) fn new(
        spec: Function,
        shared: Arc<Shared>,
        grants: Grants,
        program: Program,
        meters: Arc<Meters>,
        first: Option<StartKind>,
    ) -> Arc<Self> {
        let counts = Counts {
            target: spec.target,
            ..Counts::default()
        };
        let function = Arc::new(Self {
            places: Arc::new(Semaphore::new(spec.limits.concurrency.get() as usize)),
            spec,
            shared,
            loader: grants.loader.clone(),
            grants,
            program,
            pool: Mutex::new(Pool {
                counts,
                ..Pool::default()
            }),
            refilling: AtomicBool::new(false),
            is_pausing: AtomicBool::new(false),
            heavy: AtomicU32::new(0),
            retired: CancellationToken::new(),
            queued: AtomicU32::new(0),
            in_use: AtomicU32::new(0),
            called: AtomicU64::new(0),
            activations: AtomicU64::new(0),
            first: Mutex::new(first),
            failure: Mutex::new(None),
            is_changed: AtomicBool::new(false),
            reported: Mutex::new(None),
            meters,
            cost: Cost::default(),
        });
        function.shared.host(&function);
        function.refill_on(&function.shared.lanes.any());
        function
    }

    /// When it was called last, by the clock of the process; 0 for never.
    pub(crate) fn called(&self) -> u64 {
        self.called.load(Ordering::Relaxed)
    }

    /// A warm instance, for a call of another function that needs its memory more. No other is made in its place before the
    /// next call.
    pub(crate) fn give_up_warm(self: &Arc<Self>) -> Option<Instance> {
        let mut pool = self.pool();
        let instance = if pool.counts.take() {
            pool.warm.pop()
        } else {
            None
        };
        drop(pool);
        if instance.is_some() {
            self.meters.warm.dec();
            self.note_change();
        }
        instance
    }

    /// A report would say something new.
    pub(crate) fn note_change(self: &Arc<Self>) {
        if !self.is_loaded() && !self.is_changed.swap(true, Ordering::AcqRel) {
            self.shared.changes.tell(self.clone());
        }
    }

    /// Whether a report would come too soon after the last one.
    pub(crate) fn is_reported(&self) -> bool {
        let reported = self.reported();
        reported
            .as_ref()
            .is_some_and(|(at, _)| at.elapsed() < REPORTS)
    }

    fn reported(&self) -> MutexGuard<'_, Option<(Instant, proto::FunctionReport)>> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The report, when it differs from the last one: a busy function is often back to where it was.
    pub(crate) fn news(&self) -> Option<proto::FunctionReport> {
        // Before the look: a change after it is told of again.
        self.is_changed.store(false, Ordering::Release);
        let report = self.report();
        let mut reported = self.reported();
        if matches!(&*reported, Some((_, last)) if *last == report) {
            return None;
        }
        *reported = Some((Instant::now(), report.clone()));
        Some(report)
    }

    /// Counts an ended call.
    pub(crate) fn count(self: &Arc<Self>, outcome: Outcome, start: StartKind, duration: Duration) {
        self.meters.count(outcome, start, duration);
        // The call's place was left before.
        self.note_change();
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how many instances are kept warm.
    pub fn set_target(self: &Arc<Self>, target: u32) {
        let surplus = {
            let mut pool = self.pool();
            let surplus = pool.counts.set_target(target) as usize;
            let keep = pool.warm.len() - surplus;
            pool.warm.split_off(keep)
        };
        self.meters.warm.sub(surplus.len() as i64);
        drop(surplus);
        self.refill_on(&self.shared.lanes.any());
        self.note_change();
    }

    /// Ends the pool: warm instances go, none are made; calls that run go on.
    pub(crate) fn retire(self: &Arc<Self>) {
        self.retired.cancel();
        self.set_target(0);
    }

    /// A place for a call, or none within the queue's bounds.
    pub(crate) async fn place(self: &Arc<Self>) -> Option<Place> {
        let permit = match self.places.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let limits = &self.spec.limits;
                if self.queued.fetch_add(1, Ordering::Relaxed) >= limits.queue_length {
                    self.queued.fetch_sub(1, Ordering::Relaxed);
                    return None;
                }
                self.meters.queued.inc();
                let queued = Queued(self);
                let permit =
                    tokio::time::timeout(limits.queue_wait, self.places.clone().acquire_owned())
                        .await;
                drop(queued);
                permit.ok()?.ok()?
            }
        };
        self.in_use.fetch_add(1, Ordering::Relaxed);
        self.meters.in_use.inc();
        self.note_change();
        Some(Place {
            function: self.clone(),
            _permit: permit,
        })
    }

    /// Hands out an instance: a warm one, or one made now.
    pub(crate) async fn activate(self: &Arc<Self>) -> Result<(Instance, StartKind), StartError> {
        let first = self.take_first();
        self.called.store(self.shared.clock(), Ordering::Relaxed);
        self.activations.fetch_add(1, Ordering::Relaxed);
        let warm = {
            let mut pool = self.pool();
            let there = match self.spec.reuse {
                Some(_) => pool.counts.lend(),
                None => pool.counts.take(),
            };
            if there { pool.warm.pop() } else { None }
        };
        if let Some(mut instance) = warm {
            self.meters.warm.dec();
            instance.lent = self.spec.reuse.map(|_| Lent::new(self));
            self.refill_on(&Handle::current());
            return Ok((instance, first.unwrap_or(StartKind::Hit)));
        }
        let mut instance = self.make(None).await?;
        if self.spec.reuse.is_some() {
            self.pool().counts.lent += 1;
            instance.lent = Some(Lent::new(self));
        }
        Ok((instance, first.unwrap_or(StartKind::Instantiate)))
    }

    fn take_first(&self) -> Option<StartKind> {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Takes an instance whose call ended well: it waits for the next one where the function reuses instances.
    pub(crate) fn give_back(self: &Arc<Self>, mut instance: Instance) {
        let is_reusable = |reuse| instance.is_reusable(reuse);
        if self.spec.reuse.as_ref().is_some_and(is_reusable)
            && let Some(lent) = instance.lent.take()
        {
            let mut pool = self.pool();
            if lent.came_back(&mut pool.counts) {
                pool.warm.push(instance);
                self.meters.warm.inc();
                return;
            }
        }
        self.discard(instance);
    }

    /// Takes an instance that no other call may have. It is taken apart after its answer went out.
    pub(crate) fn discard(self: &Arc<Self>, instance: Instance) {
        if lanes::is_slow() {
            self.shared.lanes.drop_promptly(instance);
            self.refill_on(&self.shared.lanes.any());
            return;
        }
        let mut pool = self.pool();
        if pool.used.len() < USED && !self.is_pausing.load(Ordering::Relaxed) {
            pool.used.push(instance);
            drop(pool);
            self.refill_on(&Handle::current());
        }
    }

    /// Whether a call begins in the slow lane.
    pub(crate) fn is_heavy(&self) -> bool {
        let less = |calls: u32| calls.checked_sub(1);
        let heavy = &self.heavy;
        heavy
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }

    /// What a call says of those that come.
    pub(crate) fn learn(&self, spent: &Spent) {
        if spent.is_much() || lanes::took(self.number(), spent.time()) {
            self.heavy.store(HEAVY_CALLS, Ordering::Relaxed);
        }
    }

    /// Before a call that began at `started` takes anything: calls of other functions go first when this one had its share.
    pub(crate) async fn take_turn(&self, started: Instant) {
        lanes::turn(self.number(), started).await;
    }

    /// What threads tell functions apart by. A function and all code that it loads have one share: they do not wait for each
    /// other, and none of them leaves the thread because the other is called there.
    fn number(&self) -> usize {
        match &self.loader {
            Some(loader) => loader.number(),
            None => Arc::as_ptr(&self.meters).addr(),
        }
    }

    /// Makes an instance here, or in the slow lane when its start-up code computes. `permit` is kept while it is here.
    async fn make(
        self: &Arc<Self>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Instance, StartError> {
        let spent = Arc::new(Spent::default());
        let (function, meter) = (self.clone(), spent.clone());
        // A refill brings a permit.
        let is_called = permit.is_none();
        let work = async move { function.instantiate(&meter, is_called).await };
        let lanes = self.shared.lanes.clone();
        let mut work = Carried::new(work, spent, lanes);
        let mut permit = permit;
        let made = std::future::poll_fn(|cx| {
            let made = std::pin::Pin::new(&mut work).poll(cx);
            if work.is_slow() {
                permit = None;
            }
            made
        });
        let panicked = || {
            let problem = "the host panicked, which is a bug of Hearth";
            Err(StartError::Failed(wasmtime::Error::msg(problem)))
        };
        made.await.unwrap_or_else(panicked)
    }

    async fn instantiate(&self, spent: &Spent, is_called: bool) -> Result<Instance, StartError> {
        // Start-up code has the time of a call, and no more than refilling can spare.
        let bound = self.spec.limits.deadline.min(START);
        let Program { artifact, code, .. } = &self.program;
        let callable = self.shared.callable(artifact, code.is_some());
        let (pre, environment) = callable
            .map_err(|error| StartError::Failed(wasmtime::Error::msg(error.to_string())))?;
        let engine = match pre {
            ProxyPre::P2(pre) => pre.engine(),
            ProxyPre::P3(pre) => pre.engine(),
        };
        let mut store = instance::store(engine, &self.spec, &self.grants);
        store.data_mut().limiter.is_called = is_called;
        let started = Instant::now();
        let work = self
            .program
            .mark
            .over(self.start(pre, environment, &mut store));
        let work = metered(work, spent, bound);
        let made = tokio::time::timeout(bound, work).await;
        match made {
            Ok(Ok(Ok(Ok(proxy)))) => {
                let made = Instant::now();
                let bytes = store.data().limiter.held();
                self.cost.made(bytes, made - started);
                Ok(Instance {
                    store,
                    proxy,
                    made,
                    calls: 0,
                    lent: None,
                })
            }
            Ok(Ok(Ok(Err(error)))) => Err(StartError::Load(error)),
            Ok(Ok(Err(error))) => Err(StartError::Failed(error)),
            Ok(Err(Overspent)) | Err(_) => Err(StartError::Deadline),
        }
    }

    /// Makes an instance, and evaluates the user's module in it where there is one.
    async fn start(
        &self,
        pre: &ProxyPre<instance::State>,
        environment: Option<&Environment>,
        store: &mut Store<instance::State>,
    ) -> wasmtime::Result<Result<Proxy, LoadError>> {
        let code = &self.program.code;
        let (Some(code), Some(environment), ProxyPre::P2(pre)) = (code, environment, pre) else {
            return Ok(Ok(pre.instantiate_async(store).await?));
        };
        let pre = pre.instance_pre();
        let spare = || instance::store(pre.engine(), &self.spec, &self.grants);
        let made = code.instantiate(environment, pre, store, spare).await?;
        Ok(match made {
            Ok(instance) => Ok(Proxy::P2(bindings::Proxy::new(store, &instance)?)),
            Err(error) => Err(error),
        })
    }

    /// Whether a call came before the one that ends now, or runs beside it.
    pub(crate) fn was_called_before(&self) -> bool {
        self.activations.load(Ordering::Relaxed) > 1
    }

    /// Whether it is code that another function loaded, of which nobody is told.
    pub(crate) fn is_loaded(&self) -> bool {
        self.grants.loaded.is_some()
    }

    /// Bytes that keeping it takes, roughly: what came, and what was made of that. 0 for code that was not loaded.
    pub(crate) fn code_bytes(&self) -> u64 {
        let came = self.grants.loaded.as_ref().map_or(0, |code| code.bytes());
        let compiled = self.program.code.as_ref().map_or(0, Code::compiled_bytes);
        came + (compiled + self.grants.stderr.positions_bytes()) as u64
    }

    /// Whether the function's code is JavaScript.
    pub(crate) fn is_javascript(&self) -> bool {
        self.program.code.is_some()
    }

    /// Sees to it that a task keeps the pool at its target; one that is there will see the need.
    fn refill_on(self: &Arc<Self>, runtime: &Handle) {
        if !self.refilling.swap(true, Ordering::AcqRel) {
            runtime.spawn(self.clone().refill());
        }
    }

    /// Takes used instances apart and makes new ones until the target is reached.
    async fn refill(self: Arc<Self>) {
        loop {
            self.keep_warm().await;
            self.refilling.store(false, Ordering::Release);
            let pool = self.pool();
            let is_done = pool.used.is_empty() && !pool.counts.is_short();
            drop(pool);
            // What came between the last look and the store was told to nobody.
            if is_done || self.refilling.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }

    async fn keep_warm(self: &Arc<Self>) {
        let mut pause = RETRY.0;
        loop {
            let used = std::mem::take(&mut self.pool().used);
            let inside = self.program.mark.enter();
            drop(used);
            drop(inside);
            if !self.start_one() {
                return;
            }
            // Closed never: the semaphore lives as long as the process's functions.
            let permit = self.shared.refills.clone().acquire_owned().await.ok();
            match self.make(permit).await {
                Ok(instance) => {
                    pause = RETRY.0;
                    self.keep(instance);
                }
                Err(error) => {
                    self.give_up_one(&error);
                    self.is_pausing.store(true, Ordering::Relaxed);
                    let ended = self.retired.cancelled();
                    let is_retired = tokio::time::timeout(pause, ended).await.is_ok();
                    self.is_pausing.store(false, Ordering::Relaxed);
                    if is_retired {
                        return;
                    }
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    fn start_one(&self) -> bool {
        self.pool().counts.start_one()
    }

    fn keep(self: &Arc<Self>, instance: Instance) {
        let refused = {
            let mut pool = self.pool();
            if pool.counts.made() {
                pool.warm.push(instance);
                self.meters.warm.inc();
                // A call that comes now waits for nothing.
                self.take_first();
                None
            } else {
                Some(instance)
            }
        };
        drop(refused);
        self.set_failure(None);
        self.note_change();
    }

    fn give_up_one(self: &Arc<Self>, error: &StartError) {
        let problem = self.grants.stderr.translated(error.to_string());
        self.pool().counts.failed();
        self.meters.refill_failures.inc();
        self.grants
            .stderr
            .note(&format!("a warm instance could not be made: {problem}"));
        self.set_failure(Some((error.reason(), brief(problem))));
        self.note_change();
    }

    fn set_failure(&self, failure: Option<(FailureReason, String)>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// The truth about this function, as the operator sees it.
    pub fn report(&self) -> proto::FunctionReport {
        let counts = self.pool().counts;
        let failure = self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let in_use = self.in_use.load(Ordering::Relaxed);
        // One more that finds no room is no failure of those that serve: `warm` below the target says it.
        let failure = failure.filter(|_| counts.warm == 0 && in_use == 0);
        let state = match failure {
            Some(_) => proto::State::Failed,
            None => proto::State::Serving,
        };
        proto::FunctionReport {
            r#ref: Some(self.spec.key.clone().into()),
            generation: self.spec.generation,
            state: state.into(),
            failure: failure.map(|(reason, message)| proto::Failure {
                reason: reason.as_str().to_owned(),
                message,
            }),
            digest: self.program.digest.clone(),
            warm: counts.warm,
            in_use,
            queued: self.queued.load(Ordering::Relaxed),
            calls: self.meters.tally.report(),
            instance_bytes: self.cost.bytes.load(Ordering::Relaxed),
            start_us: self.cost.start_us.load(Ordering::Relaxed),
            durations: self.meters.tally.durations(),
            // Placement and what callers meet are the shim's to say: it holds the socket.
            ..proto::FunctionReport::default()
        }
    }

    /// Calls that run now.
    pub(crate) fn running(&self) -> u32 {
        self.in_use.load(Ordering::Relaxed)
    }
}
