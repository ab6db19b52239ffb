//! `bench planner`: sizing policies beside each other on traces, synthetic ones or recorded, and how long a plan takes. Needs no cluster and no
//! clock but for the last: what is played is played in the time of the trace.

mod recorded;
mod replay;
mod traces;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use hearth_e2e::figure::{Aim, Figure};
use hearth_planner::size::Policy;
use hearth_planner::{Function, Group, Namespace, Pod};

use replay::{Outcome, Sizing, replay};
use traces::{DAY, Trace};

/// Makes a set of traces.
type Make = fn() -> Vec<Trace>;

/// The policy that others stand beside, and the one that a function without `policy` has.
const PEER: &str = "Reactive";
const DEFAULT: &str = "Predictive";
/// Runs of the plan; the longest counts.
const RUNS: usize = 5;

/// Plays a recorded trace, or all synthetic ones, and plans; `say` hears each figure when it is there.
///
/// # Errors
/// When the trace cannot be read.
pub(crate) fn run(recorded: &[PathBuf], say: impl Fn(&Figure)) -> Result<()> {
    if !recorded.is_empty() {
        let recorded = recorded::read(recorded)?;
        if recorded.left_out > 0 {
            eprintln!(
                "{} functions are played; {} more are left out",
                recorded.traces.len(),
                recorded.left_out
            );
        }
        compare("recorded", &recorded.traces, &say);
        return Ok(());
    }
    let makes: [(&str, Make); 4] = [
        ("diurnal", traces::diurnal),
        ("bursty", traces::bursty),
        ("Zipf", traces::zipf),
        ("Azure", traces::azure),
    ];
    for (name, make) in makes {
        compare(name, &make(), &say);
    }
    plans(say);
    Ok(())
}

fn policies() -> [(&'static str, Sizing); 5] {
    let sizing = |least, policy, seconds| Sizing {
        least,
        policy,
        window: Duration::from_secs(seconds),
    };
    [
        (PEER, sizing(1, Policy::Reactive, 60)),
        (DEFAULT, sizing(1, Policy::Predictive, 60)),
        ("Predictive, 300 s", sizing(1, Policy::Predictive, 300)),
        ("Fixed at 1", sizing(1, Policy::Fixed, 60)),
        ("Fixed at 10", sizing(10, Policy::Fixed, 60)),
    ]
}

/// Plays one set of traces against each policy.
fn compare(name: &str, traces: &[Trace], say: &impl Fn(&Figure)) {
    let mut peer = None;
    for (policy, sizing) in policies() {
        let outcomes: Vec<_> = traces
            .iter()
            .map(|trace| (trace, replay(trace, sizing)))
            .collect();
        let sum =
            |of: fn(&Outcome) -> f64| outcomes.iter().map(|(_, outcome)| of(outcome)).sum::<f64>();
        let calls = sum(|outcome| outcome.calls as f64);
        let non_hits = 1e6 * sum(|outcome| outcome.non_hits as f64) / calls;
        let memory = sum(|outcome| outcome.memory) / DAY as f64;
        let (peer_non_hits, peer_memory) = *peer.get_or_insert((non_hits, memory));
        // What was promised is about traffic that a forecast can know.
        let is_held = policy == DEFAULT && name == "bursty";
        let aim = |share| {
            if is_held {
                Aim::RatioAtMost(share)
            } else {
                Aim::None
            }
        };
        let figure = |what: &str, value, unit, beside, aim| Figure {
            bench: "planner",
            measure: format!("{name}, {policy}: {what}"),
            value,
            unit,
            peer: (policy != PEER)
                .then_some((PEER, beside))
                .filter(|(_, value)| *value > 0.0),
            aim,
        };
        say(&figure(
            "calls not hits",
            non_hits,
            "ppm",
            peer_non_hits,
            aim(0.5),
        ));
        say(&figure("memory held", memory, "MiB", peer_memory, aim(1.1)));
        say(&figure(
            "added latency p99",
            added(&outcomes, 0.99),
            "ms",
            0.0,
            Aim::None,
        ));
    }
}

/// The `q`-quantile of what calls waited for an instance, in milliseconds.
fn added(outcomes: &[(&Trace, Outcome)], q: f64) -> f64 {
    let calls: u64 = outcomes.iter().map(|(_, outcome)| outcome.calls).sum();
    // Those that waited, the longest first.
    let mut waited: Vec<_> = outcomes
        .iter()
        .map(|(trace, outcome)| (trace.start, outcome.non_hits))
        .collect();
    waited.sort_by(|a, b| b.cmp(a));
    let mut above = (calls as f64 * (1.0 - q)) as u64;
    for (start, count) in waited {
        if count > above {
            return start.as_secs_f64() * 1000.0;
        }
        above -= count;
    }
    0.0
}

/// 1,000 pods and 100,000 functions, more of them than there is room for: from nothing, and again.
fn plans(say: impl Fn(&Figure)) {
    let pods = vec![
        Pod {
            memory: Some(512 << 20)
        };
        1000
    ];
    let function = |index: usize| Function {
        wanted: (index % 13) as u32,
        most: 100,
        weight: NonZeroU32::MIN,
        instance_bytes: 1 << (20 + index % 3),
        held: Vec::new(),
        demand: Vec::new(),
    };
    let group = Group {
        functions: (0..100_000).map(function).collect(),
        pods,
    };
    let mut namespace = Namespace {
        quota: None,
        groups: vec![group],
    };
    for what in ["from nothing", "again"] {
        let mut longest = Duration::ZERO;
        let mut plan = hearth_planner::Plan::default();
        for _ in 0..RUNS {
            let started = Instant::now();
            plan = hearth_planner::plan(&namespace);
            longest = longest.max(started.elapsed());
        }
        let functions = namespace.groups[0].functions.iter_mut();
        for (function, placement) in functions.zip(&plan.groups[0]) {
            function.held.clone_from(&placement.targets);
        }
        say(&Figure {
            bench: "planner",
            measure: format!("plan of 1,000 pods, 100,000 functions, {what}"),
            value: longest.as_secs_f64() * 1000.0,
            unit: "ms",
            peer: None,
            aim: Aim::AtMost(1000.0),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_wins_where_calls_come_as_on_earlier_days() {
        let traces = traces::bursty();
        let of = |wanted: &str| {
            let policies = policies();
            let (_, sizing) = policies.iter().find(|(name, _)| *name == wanted).unwrap();
            replay(&traces[0], *sizing)
        };
        let (ours, peer) = (of(DEFAULT), of(PEER));
        assert_eq!(ours.calls, peer.calls);
        assert!(ours.non_hits * 2 <= peer.non_hits, "{ours:?}, {peer:?}");
        assert!(ours.memory <= peer.memory * 1.1, "{ours:?}, {peer:?}");
    }

    #[test]
    fn a_quantile_of_what_was_added() {
        let trace = |millis| Trace {
            calls: Vec::new(),
            start: Duration::from_millis(millis),
            bytes: 0,
        };
        let outcome = |calls, non_hits| Outcome {
            calls,
            non_hits,
            memory: 0.0,
        };
        let (slow, quick) = (trace(300), trace(2));
        let outcomes = [(&quick, outcome(900, 50)), (&slow, outcome(100, 8))];
        assert_eq!(added(&outcomes, 0.999), 300.0);
        assert_eq!(added(&outcomes, 0.99), 2.0);
        assert_eq!(added(&outcomes, 0.9), 0.0);
    }
}
