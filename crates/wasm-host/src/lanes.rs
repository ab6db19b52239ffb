//! Threads that calls run on, in two lanes.
//!
//! The quick lane has up to a thread a core, each with a runtime of its own, started when the connections need it. A
//! connection is given to one of them and stays: its calls, their guests and the refills that they ask for run there, and nothing is handed from thread to thread. Guests
//! that compute for longer than [`QUICK`] are carried on in the slow lane, whose threads the kernel runs when the quick
//! lane leaves it a core: a guest that spins delays its neighbours by as much as it takes to notice. Calls of a function that
//! takes more than its share of a thread, while others are called there, begin in the slow lane too when each is [`COSTLY`].

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

/// Processor time that a guest may take in the quick lane.
pub(crate) const QUICK: Duration = Duration::from_millis(2);

/// Both lanes. Their threads end when this is dropped.
pub(crate) struct Lanes {
    /// Those that were started: never none.
    quick: Mutex<Vec<Worker>>,
    /// Threads of each lane, at most.
    width: usize,
    next: AtomicUsize,
    slow: OnceLock<Slow>,
}

struct Worker {
    handle: Handle,
    connections: Arc<AtomicUsize>,
    /// Dropped to end the thread.
    _stop: oneshot::Sender<()>,
}

impl Worker {
    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn claim(&self) -> Claim {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Claim {
            handle: self.handle.clone(),
            connections: self.connections.clone(),
        }
    }
}

/// A connection's claim on a worker, until it is dropped.
pub(crate) struct Claim {
    pub(crate) handle: Handle,
    connections: Arc<AtomicUsize>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A runtime that may be dropped anywhere: whoever waits for its threads must not be one that others wait for. And a thread of
/// ordinary priority for what its threads leave behind.
struct Slow {
    runtime: Option<Runtime>,
    left: Option<mpsc::Sender<Box<dyn Send>>>,
}

impl Slow {
    fn start(width: usize) -> Self {
        let runtime = Builder::new_multi_thread()
            .thread_name("slow")
            .worker_threads(width)
            .on_thread_start(yield_to_others)
            .enable_all()
            .build();
        let (left, things) = mpsc::channel::<Box<dyn Send>>();
        let janitor = thread::Builder::new()
            .name("janitor".to_owned())
            .spawn(move || things.into_iter().for_each(drop));
        Self {
            runtime: runtime
                .inspect_err(|error| tracing::error!(%error, "no slow lane"))
                .ok(),
            left: janitor
                .inspect_err(|error| tracing::warn!(%error, "the slow lane cleans up itself"))
                .ok()
                .map(|_| left),
        }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Cores that this process may use, when it may use so many of the machine's.
fn width(cores: Option<NonZeroUsize>) -> usize {
    let of_machine = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    cores.map_or(of_machine, |cores| of_machine.min(cores.get()))
}

impl Lanes {
    /// Starts the first thread of the quick lane. Each lane has at most as many as `cores`, and as the machine has.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub(crate) fn start(cores: Option<NonZeroUsize>) -> std::io::Result<Self> {
        Ok(Self {
            quick: Mutex::new(vec![worker(0)?]),
            width: width(cores),
            next: AtomicUsize::new(0),
            slow: OnceLock::new(),
        })
    }

    fn quick(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.quick.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when each quick thread has done a little of what it is given: one that stands still answers no calls. Those of
    /// the slow lane may have to wait for long, and are not asked.
    ///
    /// # Errors
    /// When a thread is gone.
    pub(crate) async fn answer(&self) -> Result<(), tokio::task::JoinError> {
        let handles: Vec<_> = {
            let quick = self.quick();
            quick.iter().map(|worker| worker.handle.clone()).collect()
        };
        let asked: Vec<_> = handles.iter().map(|quick| quick.spawn(async {})).collect();
        for answer in asked {
            answer.await?;
        }
        Ok(())
    }

    /// A quick thread for work that belongs to none, each in turn.
    pub(crate) fn any(&self) -> Handle {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let quick = self.quick();
        quick[turn % quick.len()].handle.clone()
    }

    /// The quick thread with the fewest connections: a new one when each has some and there is a core for it.
    pub(crate) fn claim(&self) -> Claim {
        let mut quick = self.quick();
        if quick.len() < self.width && quick.iter().all(|worker| worker.connections() > 0) {
            match worker(quick.len()) {
                Ok(worker) => quick.push(worker),
                Err(error) => tracing::warn!(%error, "one thread less for calls"),
            }
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let count = quick.len();
        let least = (0..count)
            .map(|offset| &quick[(turn + offset) % count])
            .min_by_key(|worker| worker.connections());
        least.unwrap_or(&quick[0]).claim()
    }

    /// The slow lane, which is started when the first guest needs it; where that fails, the quick one.
    pub(crate) fn slow(&self) -> Handle {
        let slow = self.slow.get_or_init(|| Slow::start(self.width));
        let runtime = slow.runtime.as_ref();
        runtime.map_or_else(|| self.any(), |slow| slow.handle().clone())
    }

    /// Drops `thing`; where a thread of the slow lane would, another does. To take an instance apart holds the process's
    /// memory map and the pool of instances, for which all threads wait: a thread that makes way for others must not have them.
    pub(crate) fn drop_promptly<T: Send + 'static>(&self, thing: T) {
        let slow = self.slow.get().filter(|_| is_slow());
        if let Some(left) = slow.and_then(|slow| slow.left.as_ref()) {
            // A thread that is gone gives it back in the error.
            drop(left.send(Box::new(thing)));
        }
    }
}

fn worker(number: usize) -> std::io::Result<Worker> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    thread::Builder::new()
        .name(format!("quick-{number}"))
        .spawn(move || {
            // An error is the sender's end, which is what is waited for.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
    Ok(Worker {
        handle,
        connections: Arc::default(),
        _stop: stop,
    })
}

thread_local! {
    static IS_SLOW: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is of the slow lane.
pub(crate) fn is_slow() -> bool {
    IS_SLOW.get()
}

/// For the calling thread alone. An idle thread (`SCHED_IDLE`) makes way at once for any other that wakes; one of the lowest
/// niceness keeps its core for the scheduler's slice first, which is a millisecond and more on Linux 6.6 and later.
fn yield_to_others() {
    IS_SLOW.set(true);
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let thread = thread_native_id();
    if let Err(error) = set_thread_priority_and_policy(thread, ThreadPriority::Min, idle) {
        tracing::warn!(?error, "the slow lane is as quick as the other");
    }
}

/// Processor time that a guest took, in its call or in its start-up code.
#[derive(Debug, Default)]
pub(crate) struct Spent(AtomicU64);

impl Spent {
    fn add(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(crate) fn time(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Whether the guest belongs to the slow lane.
    pub(crate) fn is_much(&self) -> bool {
        self.time() >= QUICK
    }
}

/// Processor time of a thread that one function's calls may have of a [`ROUND`] while other functions are called there.
const SHARE: Duration = Duration::from_micros(300);
/// Time of a call above which others do not wait for it. Below, to hand it to another thread would cost more than it gives.
const COSTLY: Duration = Duration::from_micros(100);
/// What a share is of.
const ROUND: Duration = Duration::from_millis(1);
/// Other functions are called on a thread when one was so long ago.
const LATELY: Duration = Duration::from_millis(100);

thread_local! {
    static TURNS: RefCell<Turns> = const { RefCell::new(Turns::NONE) };
}

/// Whose calls a thread runs. Functions are told apart by a number of their own.
#[derive(Debug)]
struct Turns {
    /// When the round began.
    round: Option<Instant>,
    /// What each function's calls took of it.
    taken: Vec<(usize, Duration)>,
    /// The function whose call began last, and when.
    last: Option<(usize, Instant)>,
    /// When the last call of any other function began.
    other: Option<Instant>,
}

impl Turns {
    const NONE: Self = Self {
        round: None,
        taken: Vec::new(),
        last: None,
        other: None,
    };

    /// A call of `function` begins. Whether it should let others go first.
    fn begin(&mut self, function: usize, now: Instant) -> bool {
        if self.round.is_none_or(|round| now - round > ROUND) {
            self.round = Some(now);
            self.taken.clear();
        }
        if let Some((last, at)) = self.last
            && last != function
        {
            self.other = Some(at);
        }
        self.last = Some((function, now));
        let mut taken = self.taken.iter();
        self.has_others(function, now) && taken.any(|(of, time)| *of == function && *time > SHARE)
    }

    /// A call of `function` took this long. Whether it stands in the way of others. Threads on which no call begins, those of
    /// the slow lane, have no turns.
    fn add(&mut self, function: usize, time: Duration) -> bool {
        let Some((_, now)) = self.last else {
            return false;
        };
        let taken = match self.taken.iter_mut().find(|(of, _)| *of == function) {
            Some((_, taken)) => {
                *taken += time;
                *taken
            }
            None => {
                self.taken.push((function, time));
                time
            }
        };
        time > COSTLY && taken > SHARE && self.has_others(function, now)
    }

    /// Whether calls of functions other than this one began lately.
    fn has_others(&self, function: usize, now: Instant) -> bool {
        let last = self.last.filter(|(last, _)| *last != function);
        let last = last.map(|(_, at)| at).or(self.other);
        last.is_some_and(|other| now - other < LATELY)
    }
}

/// A call of `function` begins `now`. Lets calls of other functions of this thread go first when it had its share: those that
/// came meanwhile are looked for.
pub(crate) async fn turn(function: usize, now: Instant) {
    if TURNS.with_borrow_mut(|turns| turns.begin(function, now)) {
        tokio::task::yield_now().await;
    }
}

/// A call of `function` took `time` of this thread. Whether its next ones should leave the thread to others.
pub(crate) fn took(function: usize, time: Duration) -> bool {
    TURNS.with_borrow_mut(|turns| turns.add(function, time))
}

/// A guest took more processor time than it may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overspent;

/// Runs a guest's work while it takes at most `limit` of processor time. It is seen each time when the guest gives its
/// thread back, which it does at every tick of the epoch at the latest.
pub(crate) async fn metered<F: Future>(
    work: F,
    spent: &Spent,
    limit: Duration,
) -> Result<F::Output, Overspent> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let clock = Clock::start();
        let polled = work.as_mut().poll(cx);
        spent.add(clock.elapsed());
        match polled {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending if spent.time() > limit => Poll::Ready(Err(Overspent)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// The time of one poll: by the wall while it is short, which costs next to nothing; else by the thread's own clock, which
/// others that are run meanwhile do not advance.
struct Clock {
    start: Instant,
    /// The last reading of the thread's clock before that.
    reading: Reading,
}

/// What the thread's clock said, and when.
#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    thread: Duration,
}

thread_local! {
    /// The last one: each is a system call.
    static READ: Cell<Option<Reading>> = const { Cell::new(None) };
}

/// Time of a poll that says nothing of how much of it was the guest's.
const SHORT: Duration = Duration::from_micros(500);
/// Age of a reading that is taken for now.
const FRESH: Duration = Duration::from_millis(1);

impl Clock {
    fn start() -> Self {
        let start = Instant::now();
        let last = READ.get().filter(|last| start - last.at < FRESH);
        let reading = last.unwrap_or_else(|| {
            let thread = thread_time();
            READ.set(Some(Reading { at: start, thread }));
            Reading { at: start, thread }
        });
        Self { start, reading }
    }

    fn elapsed(&self) -> Duration {
        let wall = self.start.elapsed();
        if wall < SHORT {
            return wall;
        }
        // Between the reading and the start the thread is taken to have run.
        let before = self.start - self.reading.at;
        thread_time().saturating_sub(self.reading.thread + before)
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is negative for this clock.
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// A guest's work, polled where it is while it is quick, and carried on in the slow lane when it is not.
pub(crate) struct Carried<F: Future> {
    place: Place<F>,
    spent: Arc<Spent>,
    lanes: Arc<Lanes>,
}

enum Place<F: Future> {
    Here(Pin<Box<F>>),
    Slow(AbortOnDropHandle<F::Output>),
    /// Between the two; never seen.
    Moving,
}

impl<F> Carried<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    /// Work that nobody has polled yet. `spent` is what [`metered`] counts in it.
    pub(crate) fn new(work: F, spent: Arc<Spent>, lanes: Arc<Lanes>) -> Self {
        Self {
            place: Place::Here(Box::pin(work)),
            spent,
            lanes,
        }
    }

    /// Begins in the slow lane.
    pub(crate) fn slow(mut self) -> Self {
        self.carry();
        self
    }

    /// Whether it is in the slow lane by now.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self.place, Place::Slow(_))
    }

    fn carry(&mut self) {
        if let Place::Here(work) = std::mem::replace(&mut self.place, Place::Moving) {
            let task = self.lanes.slow().spawn(work);
            self.place = Place::Slow(AbortOnDropHandle::new(task));
        }
    }
}

impl<F> Future for Carried<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    /// `None` when the work panicked in the slow lane.
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Place::Here(work) = &mut self.place {
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            if !self.spent.is_much() {
                return Poll::Pending;
            }
            self.carry();
        }
        match &mut self.place {
            Place::Slow(task) => Poll::Ready(ready!(Pin::new(task).poll(cx)).ok()),
            Place::Here(_) | Place::Moving => Poll::Pending,
        }
    }
}

impl<F: Future> std::fmt::Debug for Carried<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Carried").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what a guest may take in the quick lane.
    fn compute() {
        let started = thread_time();
        while thread_time() < started + QUICK {}
    }

    fn name_of_thread() -> String {
        thread::current().name().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_thread_that_stands_still_does_not_answer() {
        let lanes = Lanes::start(None).unwrap();
        lanes.answer().await.unwrap();
        let (goes_on, stands) = mpsc::channel::<()>();
        lanes.any().spawn(async move { stands.recv() });
        let asked = tokio::time::timeout(Duration::from_millis(50), lanes.answer());
        assert!(asked.await.is_err());
        drop(goes_on);
        lanes.answer().await.unwrap();
    }

    #[test]
    fn a_function_that_had_its_share_lets_others_go_first() {
        let (busy, other) = (1, 2);
        let start = Instant::now();
        let after = |micros| start + Duration::from_micros(micros);
        let mut turns = Turns::NONE;
        turns.begin(busy, start);
        turns.add(busy, SHARE * 2);
        assert!(!turns.begin(busy, after(600)), "nobody else is called");
        assert!(!turns.begin(other, after(610)), "it took nothing");
        assert!(turns.begin(busy, after(620)));
        turns.add(busy, SHARE * 2);
        assert!(!turns.begin(busy, after(1_700)), "a new round");
        turns.add(busy, SHARE * 2);
        assert!(turns.begin(busy, after(1_800)), "others were called lately");
        let later = start + LATELY * 2;
        turns.begin(busy, later);
        turns.add(busy, SHARE * 2);
        assert!(!turns.begin(busy, later), "nobody else is called any more");
    }

    #[test]
    fn a_costly_call_stands_in_the_way_of_others_that_are_there() {
        let (busy, other) = (1, 2);
        let start = Instant::now();
        let mut turns = Turns::NONE;
        turns.begin(busy, start);
        assert!(!turns.add(busy, SHARE * 2), "nobody else is called");
        turns.begin(other, start);
        assert!(!turns.add(other, COSTLY * 2), "less than its share");
        assert!(turns.add(busy, COSTLY * 2));
        turns.begin(busy, start);
        assert!(turns.add(busy, COSTLY * 2));
        assert!(!turns.add(busy, COSTLY / 2), "others hardly wait for it");
        turns.begin(busy, start + LATELY * 2);
        assert!(
            !turns.add(busy, SHARE * 2),
            "nobody else is called any more"
        );
    }

    #[test]
    fn a_thread_on_which_no_call_begins_keeps_nothing_of_them() {
        let mut turns = Turns::NONE;
        turns.add(1, SHARE);
        assert!(turns.taken.is_empty());
    }

    #[tokio::test]
    async fn connections_are_spread() {
        let lanes = Lanes::start(None).unwrap();
        let claims: Vec<_> = (0..lanes.width * 3).map(|_| lanes.claim()).collect();
        assert_eq!(lanes.quick().len(), lanes.width);
        for worker in &*lanes.quick() {
            assert_eq!(worker.connections(), 3);
        }
        drop(claims);
        assert_eq!(lanes.quick()[0].connections(), 0);
    }

    #[tokio::test]
    async fn one_connection_after_the_other_needs_one_thread() {
        let lanes = Lanes::start(None).unwrap();
        for _ in 0..lanes.width + 1 {
            drop(lanes.claim());
        }
        assert_eq!(lanes.quick().len(), 1);
    }

    #[tokio::test]
    async fn work_that_computes_is_carried_to_the_slow_lane() {
        let lanes = Arc::new(Lanes::start(None).unwrap());
        let spent = Arc::new(Spent::default());
        let meter = spent.clone();
        let work = async move {
            let computing = async {
                let first = name_of_thread();
                compute();
                tokio::task::yield_now().await;
                [first, name_of_thread()]
            };
            metered(computing, &meter, Duration::MAX).await
        };
        let carried = Carried::new(work, spent, lanes.clone());
        let threads = lanes.any().spawn(carried).await.unwrap().unwrap().unwrap();
        assert!(threads[0].starts_with("quick-"), "{threads:?}");
        assert_eq!(threads[1], "slow");
    }

    #[tokio::test]
    async fn what_the_slow_lane_leaves_is_dropped_by_another_thread() {
        struct Left(Option<oneshot::Sender<String>>);
        impl Drop for Left {
            fn drop(&mut self) {
                let _ = self.0.take().unwrap().send(name_of_thread());
            }
        }
        let lanes = Arc::new(Lanes::start(None).unwrap());
        for (handle, dropped_by) in [(lanes.slow(), "janitor"), (lanes.any(), "quick-0")] {
            let (sender, dropped) = oneshot::channel();
            let lanes = lanes.clone();
            handle.spawn(async move { lanes.drop_promptly(Left(Some(sender))) });
            assert_eq!(dropped.await.unwrap(), dropped_by);
        }
    }

    #[tokio::test]
    async fn time_is_counted_while_work_computes_and_not_while_it_waits() {
        let spent = Spent::default();
        let waiting = tokio::time::sleep(Duration::from_millis(30));
        let limit = Duration::from_millis(20);
        assert_eq!(metered(waiting, &spent, limit).await, Ok(()));
        let spinning = async {
            loop {
                compute();
                tokio::task::yield_now().await;
            }
        };
        let ended: Result<(), _> = metered(spinning, &spent, limit).await;
        assert_eq!(ended, Err(Overspent));
    }

    #[tokio::test]
    async fn dropping_carried_work_ends_it() {
        let lanes = Arc::new(Lanes::start(None).unwrap());
        let (sender, receiver) = oneshot::channel::<()>();
        let work = async move {
            let _held = sender;
            std::future::pending::<()>().await;
        };
        let carried = Carried::new(work, Arc::default(), lanes).slow();
        assert!(carried.is_slow());
        drop(carried);
        // Returns when the work, and with it the sender, is gone.
        receiver.await.unwrap_err();
    }
}
