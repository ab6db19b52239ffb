//! Plays a trace against a policy, as operator and pool pods would act.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use hearth_planner::size::{Bounds, Cost, Policy, STEP, Seen, Sizer};
use hearth_planner::{Function, Group, Namespace, Pod};

use super::traces::{DAY, DAYS, Trace};

/// Pool pods.
const NAMES: [&str; 2] = ["a", "b"];
const PODS: usize = NAMES.len();
/// Instances that a pod makes at once: one a core.
const REFILLS: usize = 16;

/// How a function's number of warm instances is found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizing {
    /// Lower bound.
    pub(crate) least: u32,
    /// Policy above it.
    pub(crate) policy: Policy,
    /// How long less must be needed before instances go.
    pub(crate) window: Duration,
}

/// What calls of the last day met.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    /// Calls.
    pub(crate) calls: u64,
    /// Calls for which no warm instance waited.
    pub(crate) non_hits: u64,
    /// Seconds times mebibytes that instances held.
    pub(crate) memory: f64,
}

/// One pod's instances.
#[derive(Debug, Default)]
struct Stock {
    target: u32,
    warm: u32,
    /// When those that are being made are ready, in milliseconds, the first one first.
    making: VecDeque<f64>,
    seen: Seen,
    /// The step of [`STEP`] that calls are counted in, and those in it.
    step: (u64, u32),
}

impl Stock {
    /// Makes what is missing, as of `now`.
    fn refill(&mut self, now: f64, start_ms: f64) {
        while let Some(ready) = self.making.front().copied().filter(|ready| *ready <= now) {
            self.making.pop_front();
            if self.warm < self.target {
                self.warm += 1;
            }
            self.make(ready, start_ms);
        }
        self.make(now, start_ms);
    }

    fn make(&mut self, now: f64, start_ms: f64) {
        while self.making.len() < REFILLS && self.warm + (self.making.len() as u32) < self.target {
            self.making.push_back(now + start_ms);
        }
    }

    /// A call comes. Whether a warm instance waited.
    fn call(&mut self, now: u64, start_ms: f64) -> bool {
        self.refill(now as f64, start_ms);
        let step = now / STEP.as_millis() as u64;
        if self.step.0 != step {
            self.step = (step, 0);
        }
        self.step.1 += 1;
        self.seen.calls += 1;
        self.seen.burst = self.seen.burst.max(self.step.1);
        self.seen.in_use = 1;
        let is_hit = self.warm > 0;
        self.warm -= u32::from(is_hit);
        self.refill(now as f64, start_ms);
        is_hit
    }
}

/// Plays one function's trace.
pub(crate) fn replay(trace: &Trace, sizing: Sizing) -> Outcome {
    let start_ms = trace.start.as_secs_f64() * 1000.0;
    let cost = Cost {
        start: trace.start,
        is_reused: false,
    };
    let bounds = Bounds {
        least: sizing.least,
        most: 1000,
        window: sizing.window,
    };
    let mut stocks: [Stock; PODS] = std::array::from_fn(|_| Stock::default());
    let (mut sizer, mut outcome) = (Sizer::default(), Outcome::default());
    let mut calls = trace.calls.iter().copied().peekable();
    let (mut held, mut planned) = (Vec::new(), (0, Vec::new()));
    // Each call goes to the pods in turn, as a Service does it on average.
    let mut turn = 0;
    for second in 0..DAYS * DAY {
        let is_last_day = second >= (DAYS - 1) * DAY;
        while let Some(at) = calls.next_if(|at| *at < (second + 1) * 1000) {
            turn = (turn + 1) % PODS;
            let is_hit = stocks[turn].call(at, start_ms);
            if is_last_day {
                outcome.calls += 1;
                outcome.non_hits += u64::from(!is_hit);
            }
        }
        let seen = NAMES.into_iter().zip(&mut stocks);
        let seen = seen.map(|(name, stock)| (name, std::mem::take(&mut stock.seen)));
        sizer.observe(second, sizing.window, cost, seen, |_| true);
        let wanted = sizer.size(second, sizing.policy, bounds).wanted;
        let demand = sizer.demand(wanted, NAMES);
        if (wanted, &demand) != (planned.0, &planned.1) {
            held = targets(wanted, demand.clone(), trace.bytes, held);
            planned = (wanted, demand);
        }
        for (index, stock) in stocks.iter_mut().enumerate() {
            stock.target = held
                .iter()
                .find(|(pod, _)| *pod == index)
                .map_or(0, |(_, target)| *target);
            stock.warm = stock.warm.min(stock.target);
            stock.refill((second * 1000 + 1000) as f64, start_ms);
            if is_last_day {
                let instances = stock.warm as usize + stock.making.len();
                outcome.memory += instances as f64 * trace.bytes as f64 / f64::from(1 << 20);
            }
        }
    }
    outcome
}

/// Where the wanted instances go.
fn targets(
    wanted: u32,
    demand: Vec<(usize, u32)>,
    bytes: u64,
    held: Vec<(usize, u32)>,
) -> Vec<(usize, u32)> {
    let function = Function {
        wanted,
        most: u32::MAX,
        weight: NonZeroU32::MIN,
        instance_bytes: bytes,
        held,
        demand,
    };
    let group = Group {
        pods: vec![Pod::default(); PODS],
        functions: vec![function],
    };
    let namespace = Namespace {
        quota: None,
        groups: vec![group],
    };
    let mut plan = hearth_planner::plan(&namespace);
    std::mem::take(&mut plan.groups[0][0].targets)
}
