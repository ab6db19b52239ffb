//! One function in this process: its linked bundle, its warm instances, its places for calls, its tallies.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use hearth_contract::{FailureReason, Function, Outcome, StartKind, brief, proto};
use prometheus::{Histogram, IntCounter, IntGauge};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::host::Shared;
use crate::instance::{self, Grants, Instance};
use crate::pool::Counts;

/// Longest start-up of an instance: it holds one of the few places in which all functions make theirs.
const START: Duration = Duration::from_secs(10);
/// Pause before a warm instance is tried again after a failure; doubled up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A function that is placed.
pub struct HostedFunction {
    pub(crate) spec: Function,
    pub(crate) digest: String,
    pub(crate) shared: Arc<Shared>,
    pub(crate) grants: Grants,
    pre: wasmtime_wasi_http::handler::ProxyPre<instance::State>,
    pool: Mutex<Pool>,
    refill: Notify,
    retired: CancellationToken,
    places: Arc<Semaphore>,
    queued: AtomicU32,
    in_use: AtomicU32,
    /// The word under which the first call is counted, until it came.
    first: Mutex<Option<StartKind>>,
    failure: Mutex<Option<String>>,
    tally: Arc<Tally>,
    gauges: Gauges,
    ended: Ended,
}

#[derive(Default)]
struct Pool {
    counts: Counts,
    warm: Vec<Instance>,
}

/// Handles of the metrics of ended calls: looking one up by its labels takes longer than counting.
#[derive(Default)]
struct Ended {
    calls: [[OnceLock<IntCounter>; StartKind::ALL.len()]; Outcome::ALL.len()],
    duration: [OnceLock<Histogram>; StartKind::ALL.len()],
}

struct Gauges {
    warm: IntGauge,
    in_use: IntGauge,
    queued: IntGauge,
}

/// Ended calls since the process started, by outcome and start. Outlives a change of the function's generation.
#[derive(Debug, Default)]
pub struct Tally {
    counts: [[AtomicU64; StartKind::ALL.len()]; Outcome::ALL.len()],
}

impl Tally {
    pub(crate) fn count(&self, outcome: Outcome, start: StartKind) {
        self.counts[outcome as usize][start as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn report(&self) -> Vec<proto::CallCount> {
        let mut calls = Vec::new();
        for outcome in Outcome::ALL {
            for start in StartKind::ALL {
                let count = self.counts[*outcome as usize][*start as usize].load(Ordering::Relaxed);
                if count > 0 {
                    let (outcome, start) = (outcome.as_str().to_owned(), start.as_str().to_owned());
                    calls.push(proto::CallCount {
                        outcome,
                        start,
                        count,
                    });
                }
            }
        }
        calls
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
}

/// A place among the function's concurrent calls; leaving it is dropping it.
pub(crate) struct Place {
    function: Arc<HostedFunction>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.function.in_use.fetch_sub(1, Ordering::Relaxed);
        self.function.gauges.in_use.dec();
        self.function.shared.changed.notify_one();
    }
}

/// One more in a queue, until it is dropped.
struct Queued<'a>(&'a HostedFunction);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::Relaxed);
        self.0.gauges.queued.dec();
    }
}

impl HostedFunction {
    pub(crate) fn new(
        spec: Function,
        digest: String,
        shared: Arc<Shared>,
        grants: Grants,
        pre: wasmtime_wasi_http::handler::ProxyPre<instance::State>,
        first: Option<StartKind>,
        tally: Arc<Tally>,
    ) -> Arc<Self> {
        let labels = [spec.key.namespace.as_str(), spec.key.name.as_str()];
        let metrics = &shared.metrics;
        let gauges = Gauges {
            warm: metrics
                .instances
                .with_label_values(&[labels[0], labels[1], "warm"]),
            in_use: metrics
                .instances
                .with_label_values(&[labels[0], labels[1], "in_use"]),
            queued: metrics.queued.with_label_values(&labels),
        };
        let counts = Counts {
            target: spec.target,
            ..Counts::default()
        };
        let function = Arc::new(Self {
            places: Arc::new(Semaphore::new(spec.limits.concurrency.get() as usize)),
            spec,
            digest,
            shared,
            grants,
            pre,
            pool: Mutex::new(Pool {
                counts,
                warm: Vec::new(),
            }),
            refill: Notify::new(),
            retired: CancellationToken::new(),
            queued: AtomicU32::new(0),
            in_use: AtomicU32::new(0),
            first: Mutex::new(first),
            failure: Mutex::new(None),
            tally,
            gauges,
            ended: Ended::default(),
        });
        tokio::spawn(function.clone().keep_warm());
        function.refill.notify_one();
        function
    }

    /// Counts an ended call.
    pub(crate) fn count(&self, outcome: Outcome, start: StartKind, duration: Duration) {
        let (namespace, name) = (&self.spec.key.namespace, &self.spec.key.name);
        let metrics = &self.shared.metrics;
        self.ended.calls[outcome as usize][start as usize]
            .get_or_init(|| {
                let labels = [namespace, name, outcome.as_str(), start.as_str()];
                metrics.calls.with_label_values(&labels)
            })
            .inc();
        self.ended.duration[start as usize]
            .get_or_init(|| {
                let labels = [namespace, name, start.as_str()];
                metrics.duration.with_label_values(&labels)
            })
            .observe(duration.as_secs_f64());
        self.tally.count(outcome, start);
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how many instances are kept warm.
    pub fn set_target(&self, target: u32) {
        let surplus = {
            let mut pool = self.pool();
            let surplus = pool.counts.set_target(target) as usize;
            let keep = pool.warm.len() - surplus;
            pool.warm.split_off(keep)
        };
        self.gauges.warm.sub(surplus.len() as i64);
        drop(surplus);
        self.refill.notify_one();
        self.shared.changed.notify_one();
    }

    /// Ends the pool: warm instances go, none are made; calls that run go on.
    pub(crate) fn retire(&self) {
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
                self.gauges.queued.inc();
                let queued = Queued(self);
                let permit =
                    tokio::time::timeout(limits.queue_wait, self.places.clone().acquire_owned())
                        .await;
                drop(queued);
                permit.ok()?.ok()?
            }
        };
        self.in_use.fetch_add(1, Ordering::Relaxed);
        self.gauges.in_use.inc();
        Some(Place {
            function: self.clone(),
            _permit: permit,
        })
    }

    /// Hands out an instance: a warm one, or one made now.
    pub(crate) async fn activate(&self) -> Result<(Instance, StartKind), StartError> {
        let first = self.take_first();
        let warm = {
            let mut pool = self.pool();
            if pool.counts.take() {
                pool.warm.pop()
            } else {
                None
            }
        };
        if let Some(instance) = warm {
            self.gauges.warm.dec();
            self.refill.notify_one();
            return Ok((instance, first.unwrap_or(StartKind::Hit)));
        }
        let instance = self.make().await?;
        Ok((instance, first.unwrap_or(StartKind::Instantiate)))
    }

    fn take_first(&self) -> Option<StartKind> {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    async fn make(&self) -> Result<Instance, StartError> {
        // Start-up code has the time of a call, and no more than refilling can spare.
        let bound = self.spec.limits.deadline.min(START);
        let mut store = instance::store(&self.shared.engine, &self.spec, &self.grants);
        let made = tokio::time::timeout(bound, self.pre.instantiate_async(&mut store)).await;
        match made {
            Ok(Ok(proxy)) => Ok(Instance { store, proxy }),
            Ok(Err(error)) => Err(StartError::Failed(error)),
            Err(_) => Err(StartError::Deadline),
        }
    }

    /// Makes instances until the target is reached, then waits until one is taken or the target moves.
    async fn keep_warm(self: Arc<Self>) {
        let mut pause = RETRY.0;
        loop {
            tokio::select! {
                () = self.retired.cancelled() => return,
                () = self.refill.notified() => {}
            }
            while self.start_one() {
                // Few at once: refilling must not take the cores from calls.
                let permit = self.shared.refills.acquire().await;
                let made = self.make().await;
                drop(permit);
                match made {
                    Ok(instance) => {
                        pause = RETRY.0;
                        self.keep(instance);
                    }
                    Err(error) => {
                        self.give_up_one(&error.to_string());
                        tokio::select! {
                            () = self.retired.cancelled() => return,
                            () = tokio::time::sleep(pause) => {}
                        }
                        pause = (pause * 2).min(RETRY.1);
                    }
                }
            }
        }
    }

    fn start_one(&self) -> bool {
        self.pool().counts.start_one()
    }

    fn keep(&self, instance: Instance) {
        let refused = {
            let mut pool = self.pool();
            if pool.counts.made() {
                pool.warm.push(instance);
                self.gauges.warm.inc();
                // A call that comes now waits for nothing.
                self.take_first();
                None
            } else {
                Some(instance)
            }
        };
        drop(refused);
        self.set_failure(None);
        self.shared.changed.notify_one();
    }

    fn give_up_one(&self, problem: &str) {
        self.pool().counts.failed();
        let labels = [
            self.spec.key.namespace.as_str(),
            self.spec.key.name.as_str(),
        ];
        self.shared
            .metrics
            .refill_failures
            .with_label_values(&labels)
            .inc();
        self.grants
            .stderr
            .note(&format!("a warm instance could not be made: {problem}"));
        self.set_failure(Some(brief(problem.to_owned())));
        self.shared.changed.notify_one();
    }

    fn set_failure(&self, failure: Option<String>) {
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
            failure: failure.map(|message| proto::Failure {
                reason: FailureReason::StartFailed.as_str().to_owned(),
                message,
            }),
            digest: self.digest.clone(),
            warm: counts.warm,
            in_use,
            queued: self.queued.load(Ordering::Relaxed),
            calls: self.tally.report(),
            // Placement and what callers meet are the shim's to say: it holds the socket.
            ..proto::FunctionReport::default()
        }
    }

    /// Calls that run now.
    pub(crate) fn running(&self) -> u32 {
        self.in_use.load(Ordering::Relaxed)
    }
}
