//! `spec.scaling` as planning uses it.

use std::num::NonZeroU32;
use std::time::Duration;

use hearth_api::convert;
use hearth_api::v1alpha1::{AgentFunctionSpec, ScalingPolicy};
use hearth_planner::size::{Bounds, Cost, Policy, Rule, Seen, Sizer};
use hearth_planner::windows::Window;
use k8s_openapi::jiff::Timestamp;

use crate::fleet;
use crate::meter::Tick;

/// How long fewer must be needed before instances go, where the object does not say.
const WINDOW: Duration = Duration::from_secs(60);
/// Time to make an instance, until one was made.
const UNKNOWN_START: Duration = Duration::from_millis(1);

/// How a function's number of warm instances is found.
#[derive(Debug, Clone)]
pub(crate) struct Scaling {
    policy: Policy,
    most: u32,
    window: Duration,
    /// Share of what does not suffice for all.
    pub(crate) weight: NonZeroU32,
    /// Each with its name.
    windows: Vec<(String, Window)>,
    replicas: u32,
    is_reused: bool,
}

/// Why `spec.scaling` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spec.scaling.windows: {name:?}: {problem}")]
pub(crate) struct InvalidScaling {
    name: String,
    #[source]
    problem: hearth_planner::windows::InvalidWindow,
}

impl Scaling {
    /// What a spec says; nothing where it says `replicas` alone.
    ///
    /// # Errors
    /// Names the window that cannot be used.
    pub(crate) fn of(spec: &AgentFunctionSpec) -> Result<Option<Self>, InvalidScaling> {
        let Some(scaling) = &spec.scaling else {
            return Ok(None);
        };
        // The schema bounds all of them from below.
        let number = |value: i32| u32::try_from(value).unwrap_or(0);
        let windows = scaling.windows.iter().map(|window| {
            let zone = window.time_zone.as_deref().unwrap_or("UTC");
            let length = Duration::from_secs(60 * u64::from(number(window.minutes)));
            let made = Window::new(&window.start, zone, length, number(window.replicas));
            match made {
                Ok(made) => Ok((window.name.clone(), made)),
                Err(problem) => Err(InvalidScaling {
                    name: window.name.clone(),
                    problem,
                }),
            }
        });
        let seconds = scaling.scale_down_seconds.map(number);
        Ok(Some(Self {
            policy: match scaling.policy {
                Some(ScalingPolicy::Fixed) => Policy::Fixed,
                Some(ScalingPolicy::Reactive) => Policy::Reactive,
                Some(ScalingPolicy::Predictive) | None => Policy::Predictive,
            },
            most: number(scaling.max_replicas),
            window: seconds.map_or(WINDOW, |seconds| Duration::from_secs(seconds.into())),
            weight: NonZeroU32::new(scaling.weight.map_or(1, number)).unwrap_or(NonZeroU32::MIN),
            windows: windows.collect::<Result<_, _>>()?,
            replicas: convert::replicas(spec),
            is_reused: spec.reuse.is_some(),
        }))
    }

    /// Takes up what pods saw in a second. Whether a pod needs another number than before.
    pub(crate) fn observe<'a>(
        &self,
        sizer: &mut Sizer,
        now: Timestamp,
        cost: fleet::Cost,
        ticks: &[(&'a str, &'a Tick)],
        alive: impl Fn(&str) -> bool,
    ) -> bool {
        let cost = Cost {
            start: match cost.start_us {
                0 => UNKNOWN_START,
                micros => Duration::from_micros(micros.into()),
            },
            is_reused: self.is_reused,
        };
        let number = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let seen = ticks.iter().map(|(pod, tick)| {
            let seen = Seen {
                calls: number(tick.counted.came),
                burst: number(tick.counted.burst),
                in_use: tick.counted.in_use,
            };
            (*pod, seen)
        });
        sizer.observe(second(now), self.window, cost, seen, alive)
    }

    /// Has a sizer go on from what another found for a pod.
    pub(crate) fn assume(&self, sizer: &mut Sizer, now: Timestamp, pod: &str, level: u32) {
        sizer.assume(second(now), self.window, pod, level);
    }

    /// The number that is wanted now.
    pub(crate) fn size(&self, sizer: &Sizer, now: Timestamp) -> Decision {
        let open = self.windows.iter().enumerate();
        let open = open.map(|(index, (_, window))| (window.least(now), index));
        let open = open.filter(|(replicas, _)| *replicas > 0).max();
        let window = open.map_or(0, |(replicas, _)| replicas);
        let bounds = Bounds {
            least: self.replicas.max(window),
            most: self.most,
            window: self.window,
        };
        let sized = sizer.size(second(now), self.policy, bounds);
        let by = match sized.rule {
            Rule::Least if window > self.replicas => "Window",
            Rule::Least => "Replicas",
            Rule::Calls => "Calls",
            Rule::Forecast => "Forecast",
            Rule::Most => "Maximum",
        };
        Decision {
            wanted: sized.wanted,
            by,
            replicas: self.replicas,
            window: open.map(|(replicas, index)| (index, replicas)),
            calls: sized.calls,
            forecast: sized.forecast,
            maximum: self.most,
        }
    }

    /// Name of a window, by its index.
    pub(crate) fn window_name(&self, index: usize) -> &str {
        &self.windows[index].0
    }
}

/// A number, and what it was found from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Warm instances that are wanted.
    pub(crate) wanted: u32,
    /// The word for what decided that.
    pub(crate) by: &'static str,
    /// `spec.replicas`.
    pub(crate) replicas: u32,
    /// Index of the open window that asks for most, and what it asks for.
    pub(crate) window: Option<(usize, u32)>,
    /// What calls of late need.
    pub(crate) calls: u32,
    /// What was needed on earlier days.
    pub(crate) forecast: u32,
    /// The upper bound.
    pub(crate) maximum: u32,
}

fn second(now: Timestamp) -> u64 {
    u64::try_from(now.as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Counted;

    fn scaling(text: serde_json::Value) -> Result<Option<Scaling>, InvalidScaling> {
        let mut spec = serde_json::json!({"bundle": {"image": "a"}, "replicas": 2});
        spec["scaling"] = text;
        Scaling::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn a_number_says_what_decided_it() {
        let office = serde_json::json!({
            "maxReplicas": 9,
            "policy": "Reactive",
            "windows": [{"name": "office", "start": "0 8 * * MON-FRI", "minutes": 60, "replicas": 5}],
        });
        let scaling = scaling(office).unwrap().unwrap();
        let cost = fleet::Cost {
            bytes: 1,
            start_us: 300_000,
        };
        let tick = |came| Tick {
            counted: Counted {
                came,
                ..Counted::default()
            },
            ..Tick::default()
        };
        // A Monday.
        for (time, came, expected) in [
            ("2026-03-02T07:00:00Z", 0, (2, "Replicas")),
            ("2026-03-02T08:30:00Z", 0, (5, "Window")),
            ("2026-03-02T08:30:00Z", 10, (8, "Calls")),
            ("2026-03-02T08:30:00Z", 90, (9, "Maximum")),
        ] {
            let (mut sizer, now) = (Sizer::default(), time.parse().unwrap());
            let is_other = scaling.observe(&mut sizer, now, cost, &[("p", &tick(came))], |_| true);
            assert_eq!(is_other, came > 0);
            let decision = scaling.size(&sizer, now);
            assert_eq!((decision.wanted, decision.by), expected, "{time} {came}");
            let office = decision
                .window
                .map(|(index, replicas)| (scaling.window_name(index), replicas));
            assert_eq!(office, time.contains("T08").then_some(("office", 5)));
            assert_eq!((decision.replicas, decision.maximum), (2, 9));
        }
    }

    #[test]
    fn a_window_that_cannot_be_used_is_named() {
        assert!(scaling(serde_json::Value::Null).unwrap().is_none());
        for (start, zone, word) in [
            ("0 8 * * NODAY", "UTC", "cron"),
            ("0 8 * * *", "Mars/Base", "Mars/Base"),
        ] {
            let window = serde_json::json!({
                "maxReplicas": 9,
                "windows": [{"name": "w", "start": start, "timeZone": zone, "minutes": 60, "replicas": 5}],
            });
            let error = scaling(window).unwrap_err().to_string();
            assert!(
                error.starts_with("spec.scaling.windows: \"w\": ") && error.contains(word),
                "{error}"
            );
        }
    }
}
