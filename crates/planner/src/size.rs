//! How many warm instances a function needs.
//!
//! What must be warm is what calls take before new ones are made: with start-up code that takes 20 us one instance serves
//! thousands of calls a second, with 300 ms it takes as many as calls come in 300 ms. So the need follows from calls and
//! start-up time by Little's law, with a quantile instead of the mean.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::History;

/// Calls are counted in steps of about this.
pub const STEP: Duration = Duration::from_millis(50);
/// Standard deviations above the mean: of a Poisson process, 99 of 100 times no more come.
const DEVIATIONS: f64 = 2.33;
/// Pieces of the window that the highest need of is kept.
const PIECES: usize = 6;
/// A level falls by this part in a second.
const FALL: u32 = 10;
/// A forecast is acted upon this long before.
const LEAD: u64 = 10;

/// What one pod saw of a function in one second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Calls that came.
    pub calls: u32,
    /// The most of them that came within [`STEP`].
    pub burst: u32,
    /// The most that ran at once.
    pub in_use: u32,
}

/// What an instance takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Time to make one, start-up code included.
    pub start: Duration,
    /// An instance comes back from its call, and counts as held meanwhile.
    pub is_reused: bool,
}

/// Instances that a pod needs for what it saw.
pub fn need(seen: Seen, cost: Cost) -> u32 {
    if seen.calls == 0 && seen.in_use == 0 {
        return 0;
    }
    let start = cost.start.as_secs_f64();
    let even = f64::from(seen.calls) * start;
    let at_once = f64::from(seen.burst) * (start / STEP.as_secs_f64()).min(1.0);
    let mean = even.max(at_once);
    let waiting = (mean + DEVIATIONS * mean.sqrt()).ceil().max(1.0);
    // Bounded far below where the conversion would not hold.
    let waiting = waiting.min(1e6) as u32;
    match cost.is_reused {
        true => waiting.saturating_add(seen.in_use),
        false => waiting,
    }
}

/// The need of one pod over time: up at once, down when it was lower for a whole window, and then step by step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Level {
    /// The highest need in each piece of the window, the current one first.
    pieces: [u32; PIECES],
    /// When the current piece began, in seconds.
    began: u64,
    /// The second in which it fell last.
    fell: u64,
    now: u32,
}

impl Level {
    /// Takes up what was needed in a second. Whether the level changed. Within a second it falls once.
    fn observe(&mut self, second: u64, need: u32, window: Duration) -> bool {
        let length = (window.as_secs() / PIECES as u64).max(1);
        let passed = second.saturating_sub(self.began) / length;
        if passed > 0 {
            let shift = usize::try_from(passed).map_or(PIECES, |passed| passed.min(PIECES));
            self.pieces.rotate_right(shift);
            self.pieces[..shift].fill(0);
            self.began += passed * length;
        }
        self.pieces[0] = self.pieces[0].max(need);
        let (before, highest) = (self.now, self.pieces.iter().copied().max().unwrap_or(0));
        if highest >= self.now {
            self.now = highest;
        } else if second > self.fell {
            self.now = highest.max(self.now - (self.now / FALL).max(1));
            self.fell = second;
        }
        self.now != before
    }
}

/// How a function's number of warm instances is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Only what the object and its windows say.
    Fixed,
    /// What recent calls need.
    Reactive,
    /// What recent calls need, and before that what was needed at this time of earlier days.
    Predictive,
}

/// What bounds the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// At least.
    pub least: u32,
    /// At most.
    pub most: u32,
    /// How long the need must be lower before the number falls.
    pub window: Duration,
}

/// What decided a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The lower bound: replicas, or a window of the schedule.
    Least,
    /// Calls of late.
    Calls,
    /// Earlier days.
    Forecast,
    /// The upper bound.
    Most,
}

/// A number and what decided it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sized {
    /// Warm instances over all pods.
    pub wanted: u32,
    /// What decided it.
    pub rule: Rule,
    /// What calls of late need, 0 where the policy does not ask.
    pub calls: u32,
    /// What was needed on earlier days, 0 where the policy does not ask.
    pub forecast: u32,
}

/// What is remembered of one function.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sizer {
    levels: BTreeMap<String, Level>,
    history: History,
}

impl Sizer {
    /// Has it remember earlier days, beside what it saw itself.
    pub fn remember(&mut self, history: History) {
        self.history.follow(history);
    }

    /// Takes a pod for one that has needed `level` instances up to a second (since the epoch), unless it knows better. For
    /// who was not there when that was found: from then on it falls as it would have fallen.
    pub fn assume(&mut self, second: u64, window: Duration, pod: &str, level: u32) {
        if level > 0 && !self.levels.contains_key(pod) {
            let mut assumed = Level::default();
            assumed.observe(second, level, window);
            self.levels.insert(pod.to_owned(), assumed);
        }
    }

    /// What it remembers of earlier days.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Takes up what the pods saw in a second (since the epoch). Pods that are not `alive` are forgotten. Whether the need of
    /// a pod changed.
    pub fn observe<'a>(
        &mut self,
        second: u64,
        window: Duration,
        cost: Cost,
        pods: impl IntoIterator<Item = (&'a str, Seen)>,
        alive: impl Fn(&str) -> bool,
    ) -> bool {
        let (mut all, mut is_other) = (0, false);
        for (pod, seen) in pods {
            let need = need(seen, cost);
            all += need;
            if need > 0 {
                let level = self.levels.entry(pod.to_owned()).or_default();
                is_other |= level.observe(second, need, window);
            }
        }
        self.levels.retain(|pod, level| {
            // Of a pod of which nothing is heard, it lowers the level; of another it says nothing new.
            is_other |= level.observe(second, 0, window);
            let stays = level.now > 0 && alive(pod);
            is_other |= !stays;
            stays
        });
        self.history.observe(second, all);
        is_other
    }

    /// Where `wanted` instances are needed: index of a pod and a weight. What calls of late do not account for is needed on
    /// every pod alike.
    pub fn demand<'a>(
        &self,
        wanted: u32,
        pods: impl IntoIterator<Item = &'a str, IntoIter: ExactSizeIterator>,
    ) -> Vec<(usize, u32)> {
        let pods = pods.into_iter();
        let count = u32::try_from(pods.len()).unwrap_or(u32::MAX);
        let more = wanted.saturating_sub(self.calls());
        let level = |pod| self.levels.get(pod).map_or(0, |level| level.now);
        let weights = pods.map(|pod| level(pod).saturating_mul(count).saturating_add(more));
        let weights = weights.enumerate().filter(|(_, weight)| *weight > 0);
        weights.collect()
    }

    /// What calls of late need, all pods together.
    fn calls(&self) -> u32 {
        self.levels.values().map(|level| level.now).sum()
    }

    /// The number that is wanted at a second (since the epoch). A forecast only raises it.
    pub fn size(&self, second: u64, policy: Policy, bounds: Bounds) -> Sized {
        let calls = match policy {
            Policy::Fixed => 0,
            Policy::Reactive | Policy::Predictive => self.calls(),
        };
        let forecast = match policy {
            Policy::Fixed | Policy::Reactive => 0,
            Policy::Predictive => self
                .history
                .forecast(second)
                .max(self.history.forecast(second + LEAD)),
        };
        let (wanted, rule) = [
            (bounds.least, Rule::Least),
            (calls, Rule::Calls),
            (forecast, Rule::Forecast),
        ]
        .into_iter()
        .rev()
        .max_by_key(|(wanted, _)| *wanted)
        .unwrap_or((bounds.least, Rule::Least));
        let (wanted, rule) = match wanted > bounds.most {
            true => (bounds.most, Rule::Most),
            false => (wanted, rule),
        };
        Sized {
            wanted,
            rule,
            calls,
            forecast,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn cost(millis: u64) -> Cost {
        Cost {
            start: Duration::from_millis(millis),
            is_reused: false,
        }
    }

    fn seen(calls: u32, burst: u32) -> Seen {
        Seen {
            calls,
            burst,
            in_use: 1,
        }
    }

    #[test]
    fn the_need_follows_calls_and_what_an_instance_takes() {
        let quick = Cost {
            start: Duration::from_micros(20),
            is_reused: false,
        };
        for (seen, cost, expected) in [
            (Seen::default(), cost(300), 0),
            // Twenty microseconds: one serves thousands a second.
            (seen(2000, 100), quick, 1),
            // 100 calls a second for 300 ms: 30, and 12.8 above.
            (seen(100, 5), cost(300), 43),
            // The same calls all at once.
            (seen(100, 100), cost(300), 124),
            // A call that came before still runs.
            (seen(0, 0), cost(300), 1),
        ] {
            assert_eq!(need(seen, cost), expected, "{seen:?} {cost:?}");
        }
        let reused = Cost {
            is_reused: true,
            ..quick
        };
        let busy = Seen {
            in_use: 8,
            ..seen(2000, 100)
        };
        assert_eq!(need(busy, reused), 9);
    }

    /// What is wanted after each second of calls to one pod.
    fn sizes(policy: Policy, calls: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let bounds = Bounds {
            least: 1,
            most: 1000,
            window: WINDOW,
        };
        let mut sizer = Sizer::default();
        let size = |(second, calls): (u64, u32)| {
            let seen = seen(calls, calls.div_ceil(20));
            sizer.observe(second, WINDOW, cost(300), [("p", seen)], |_| true);
            sizer.size(second, policy, bounds).wanted
        };
        (0..).zip(calls).map(size).collect()
    }

    #[test]
    fn up_at_once_and_down_after_the_window_step_by_step() {
        let burst = (0..300).map(|second| if second == 100 { 100 } else { 0 });
        let sizes = sizes(Policy::Reactive, burst);
        let high = sizes[100];
        assert!(sizes[99] == 1 && high > 30);
        assert!(sizes[100..150].iter().all(|size| *size == high));
        for pair in sizes[100..].windows(2) {
            assert!(pair[1] <= pair[0] && pair[0] - pair[1] <= (pair[0] / 10).max(1));
        }
        assert_eq!(sizes[299], 1);
    }

    #[test]
    fn what_another_found_falls_as_it_would_have_fallen() {
        let bounds = Bounds {
            least: 1,
            most: 1000,
            window: WINDOW,
        };
        let mut sizer = Sizer::default();
        sizer.assume(100, WINDOW, "p", 40);
        sizer.assume(100, WINDOW, "p", 90);
        let mut size = |second| {
            sizer.observe(second, WINDOW, cost(300), [], |_| true);
            sizer.size(second, Policy::Reactive, bounds).wanted
        };
        let sizes: Vec<_> = (101..300).map(&mut size).collect();
        assert!(sizes[..59].iter().all(|size| *size == 40), "{sizes:?}");
        assert_eq!((sizes[59], sizes[198]), (36, 1), "{sizes:?}");
    }

    #[test]
    fn what_happened_on_two_days_is_expected_on_the_third() {
        let day = 86_400;
        let noon = (0..3 * day)
            .map(|second| u32::from(second % day >= 43_200 && second % day < 43_260) * 50);
        let sizes = sizes(Policy::Predictive, noon);
        let before_noon = |day_number: usize| sizes[day_number * day as usize + 43_195];
        assert_eq!([before_noon(0), before_noon(1)], [1, 1]);
        assert!(before_noon(2) >= 20, "{}", before_noon(2));
        // And not for long.
        assert_eq!(sizes[2 * day as usize + 43_180], 1);
    }

    proptest! {
        #[test]
        fn a_forecast_only_raises_and_bounds_hold(
            calls in prop::collection::vec(0u32..100, 1..50),
            past in prop::collection::vec(0u32..500, 2..200),
            least in 0u32..20,
            most in 1u32..50,
            later in 0u64..86_400,
        ) {
            let mut history = History::default();
            for (step, need) in past.iter().enumerate() {
                history.observe(step as u64 * 30, *need);
                history.observe(86_400 + step as u64 * 30, *need);
            }
            let mut sizer = Sizer::default();
            sizer.remember(history);
            let start = 2 * 86_400 + later;
            for (second, calls) in (start..).zip(&calls) {
                sizer.observe(second, WINDOW, cost(300), [("p", seen(*calls, *calls))], |_| true);
                let bounds = Bounds { least: least.min(most), most, window: WINDOW };
                let size = |policy| sizer.size(second, policy, bounds).wanted;
                let [fixed, reactive, predictive] = [Policy::Fixed, Policy::Reactive, Policy::Predictive].map(size);
                prop_assert!(bounds.least == fixed && fixed <= reactive && reactive <= predictive && predictive <= most);
            }
        }

        #[test]
        fn demand_is_of_pods_that_are_there(levels in prop::collection::vec(0u32..50, 1..5), wanted in 0u32..100) {
            let names = ["a", "b", "c", "d", "e"];
            let mut sizer = Sizer::default();
            let pods = names.iter().copied().zip(levels.iter().map(|calls| seen(*calls, *calls)));
            sizer.observe(1, WINDOW, cost(300), pods, |_| true);
            let demand = sizer.demand(wanted, names);
            prop_assert!(demand.iter().all(|(pod, weight)| *pod < names.len() && *weight > 0));
            prop_assert!(demand.is_sorted_by(|a, b| a.0 < b.0));
            // Who has more calls is not given less.
            let weight = |pod: usize| demand.iter().find(|(at, _)| *at == pod).map_or(0, |(_, weight)| *weight);
            for pair in (0..levels.len()).collect::<Vec<_>>().windows(2) {
                if levels[pair[0]] >= levels[pair[1]] && levels[pair[1]] > 0 {
                    prop_assert!(weight(pair[0]) >= weight(pair[1]));
                }
            }
        }
    }
}
