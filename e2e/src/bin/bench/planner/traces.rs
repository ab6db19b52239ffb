//! Traces, and synthetic ones, the same in every run: calls of functions over some days.

use std::time::Duration;

use crate::engine::zipf::Random;

/// Days of a trace. What happens on the last one is what policies are compared by: a forecast needs the others.
pub(crate) const DAYS: u64 = 3;
/// Seconds of a day.
pub(crate) const DAY: u64 = 86_400;

/// Calls of one function.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    /// When each call comes, in milliseconds since the start, in order.
    pub(crate) calls: Vec<u64>,
    /// Time to make an instance.
    pub(crate) start: Duration,
    /// Memory of an instance, in bytes.
    pub(crate) bytes: u64,
}

/// Time to the next event of a Poisson process of this rate.
fn pause(random: &mut Random, rate: f64) -> f64 {
    -(1.0 - random.unit()).ln() / rate
}

/// A normal variate (Box and Muller).
fn normal(random: &mut Random) -> f64 {
    let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.unit()).cos()
}

/// Calls of a Poisson process whose rate (per second) changes with time (in seconds) and is at most `most`: events of the
/// highest rate, thinned.
fn poisson(random: &mut Random, most: f64, rate: impl Fn(f64) -> f64) -> Vec<u64> {
    let (mut now, mut calls) = (0.0, Vec::new());
    loop {
        now += pause(random, most);
        if now >= (DAYS * DAY) as f64 {
            return calls;
        }
        if random.unit() * most < rate(now) {
            calls.push((now * 1000.0) as u64);
        }
    }
}

/// The day's curve: 0 at night to 1 in the afternoon.
fn day(second: f64) -> f64 {
    let angle = (second / DAY as f64 - 0.3) * std::f64::consts::TAU;
    (0.5 + 0.5 * angle.sin()).powi(2)
}

const SLOW: Duration = Duration::from_millis(300);
/// Time to make an instance, where a trace does not say it: a third of the functions each.
pub(crate) const STARTS: [Duration; 3] =
    [Duration::from_micros(20), Duration::from_millis(20), SLOW];
/// Memory of an instance, where a trace does not say it.
pub(crate) const BYTES: u64 = 8 << 20;

/// People use agents by day.
pub(crate) fn diurnal() -> Vec<Trace> {
    let trace = |seed| Trace {
        calls: poisson(&mut Random::new(seed), 8.0, |now| 0.05 + 7.9 * day(now)),
        start: SLOW,
        bytes: BYTES,
    };
    (0..3).map(trace).collect()
}

/// People by day, and jobs that call at fixed times: a minute of many calls on the hour, shorter ones at its half, and now and
/// then a burst that nobody could know of.
pub(crate) fn bursty() -> Vec<Trace> {
    let trace = |seed: u64| {
        let mut random = Random::new(seed + 100);
        let surprises: Vec<f64> = (0..2 * DAYS)
            .map(|_| random.unit() * (DAYS * DAY) as f64)
            .collect();
        let rate = |now: f64| {
            let in_hour = now % 3600.0;
            let job = match in_hour {
                second if second < 60.0 => 30.0,
                second if (1800.0..1820.0).contains(&second) => 15.0,
                _ => 0.0,
            };
            let surprise = surprises.iter().any(|at| (0.0..30.0).contains(&(now - at)));
            let surprise = if surprise { 20.0 } else { 0.0 };
            0.02 + day(now) + job + surprise
        };
        Trace {
            calls: poisson(&mut random, 52.0, rate),
            start: SLOW,
            bytes: BYTES,
        }
    };
    (0..3).map(trace).collect()
}

/// Few functions have most of the calls: the n-th has an n-th of the first one's.
pub(crate) fn zipf() -> Vec<Trace> {
    let trace = |rank: u64| {
        let rate = 10.0 / rank as f64;
        Trace {
            calls: poisson(&mut Random::new(rank + 200), rate, |_| rate),
            start: SLOW,
            bytes: BYTES,
        }
    };
    (1..=30).map(trace).collect()
}

/// The shape that "Serverless in the Wild" (Shahrad et al., USENIX ATC 2020) gives of Azure Functions: rates over eight
/// orders of magnitude, 45 % of functions called less than once an hour and 81 % less than once a minute; 29 % called by
/// timers, which are regular; the others irregular, half of them with a coefficient of variation above 1.
pub(crate) fn azure() -> Vec<Trace> {
    let trace = |index: u64| {
        let mut random = Random::new(index + 300);
        // A log-normal rate whose quantiles are the two above: once an hour at 45 %, once a minute at 81 %.
        let rate = (-8.19 + 0.126 * 4.08 + 4.08 * normal(&mut random))
            .exp()
            .min(20.0);
        let kind = random.unit();
        let calls = match kind {
            kind if kind < 0.29 => timer(&mut random, rate),
            kind if kind < 0.65 => poisson(&mut random, rate, |now| rate * (0.2 + 0.8 * day(now))),
            _ => clumped(&mut random, rate),
        };
        Trace {
            calls,
            start: STARTS[(index % 3) as usize],
            bytes: BYTES,
        }
    };
    (0..120).map(trace).collect()
}

/// Calls at a fixed period of whole minutes.
fn timer(random: &mut Random, rate: f64) -> Vec<u64> {
    let period = ((1.0 / rate / 60.0).round().clamp(1.0, 1440.0) * 60_000.0) as u64;
    let first = (random.unit() * 60_000.0) as u64;
    (first..DAYS * DAY * 1000)
        .step_by(period as usize)
        .collect()
}

/// Calls in clumps: ten on average, within seconds.
fn clumped(random: &mut Random, rate: f64) -> Vec<u64> {
    let (mut now, mut calls) = (0.0, Vec::new());
    let end = (DAYS * DAY) as f64;
    while now < end {
        now += pause(random, rate / 10.0);
        let mut at = now;
        while at < end {
            calls.push((at * 1000.0) as u64);
            if random.unit() < 0.1 {
                break;
            }
            at += pause(random, 5.0);
        }
    }
    calls.retain(|at| *at < DAYS * DAY * 1000);
    calls.sort_unstable();
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_the_same_in_every_run_and_in_order() {
        for make in [bursty, azure] {
            let (one, two) = (make(), make());
            for (one, two) in one.iter().zip(&two) {
                assert_eq!(one.calls, two.calls);
                assert!(one.calls.is_sorted());
            }
        }
    }

    #[test]
    fn rates_have_the_quantiles_of_the_paper() {
        let traces = azure();
        let rarer = |seconds: u64| {
            let rare = traces
                .iter()
                .filter(|trace| (trace.calls.len() as u64) < DAYS * DAY / seconds);
            rare.count() as f64 / traces.len() as f64
        };
        assert!((0.33..0.57).contains(&rarer(3600)), "{}", rarer(3600));
        assert!((0.69..0.93).contains(&rarer(60)), "{}", rarer(60));
    }
}
