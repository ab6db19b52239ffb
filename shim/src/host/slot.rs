//! Everything that is known about one function in a container, and the report made of it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hearth_contract::proto::{self, FunctionReport, State};
use hearth_contract::{Outcome, StartKind};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::plan::{Placed, Situation, Wanted};
use crate::bundle::Failure;
use crate::prepare::Prepared;

/// Shortest and longest pause before what failed is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(300));

/// A failure and when to try again; `None`: when the function is changed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) retry_at: Option<Instant>,
}

/// One function.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) wanted: Option<Wanted>,
    pub(super) prepared: Option<Arc<Prepared>>,
    /// The preparation that runs: its number and the handle that ends it.
    pub(super) job: Option<(u64, AbortHandle)>,
    pub(super) job_state: State,
    pub(super) failed: Option<Failed>,
    pub(super) failures: u32,
    pub(super) placed: Option<Placed>,
    /// Kept from before the bundle is there until the function goes, over every engine.
    pub(super) listener: Option<(u16, Arc<OwnedFd>)>,
    /// The engine's last word.
    pub(super) said: Option<FunctionReport>,
    /// Calls that were in engines that ended.
    pub(super) lost: u64,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some((_, job)) = self.job.take() {
            job.abort();
        }
    }
}

impl Slot {
    /// Takes a new wish. What was prepared stays when the bundle is the same; a wish that changes anything but
    /// the target is tried at once.
    pub(super) fn want(&mut self, wanted: Option<Wanted>) {
        let (old, new) = (self.wanted.as_ref(), wanted.as_ref());
        let same_source = old.map(|old| &old.source) == new.map(|new| &new.source);
        let same_generation =
            old.map(|old| old.function.generation) == new.map(|new| new.function.generation);
        if !same_source {
            self.prepared = None;
            if let Some((_, job)) = self.job.take() {
                job.abort();
            }
        }
        if !same_source || !same_generation {
            self.failed = None;
            self.failures = 0;
        }
        let port = wanted.as_ref().map(|wanted| wanted.port);
        if self.listener.as_ref().map(|(port, _)| *port) != port {
            self.listener = None;
        }
        self.wanted = wanted;
    }

    /// Notes a failure and plans the next try.
    pub(super) fn fail(&mut self, failure: Failure) {
        let pause = (PAUSE.0 * 2u32.pow(self.failures.min(16))).min(PAUSE.1);
        self.failures += 1;
        let retry_at = failure.reason.is_retried().then(|| Instant::now() + pause);
        self.failed = Some(Failed { failure, retry_at });
    }

    /// Forgets a failure whose time has come. Returns whether it did.
    pub(super) fn retry(&mut self, now: Instant) -> bool {
        let due = self
            .failed
            .as_ref()
            .and_then(|failed| failed.retry_at)
            .is_some_and(|at| at <= now);
        if due {
            self.failed = None;
            if let Some(placed) = &mut self.placed {
                placed.stale = true;
            }
        }
        due
    }

    /// The engine is gone, and with it what it held.
    pub(super) fn engine_lost(&mut self) {
        if let Some(said) = self.said.take() {
            self.lost += u64::from(said.in_use) + u64::from(said.queued);
        }
        self.placed = None;
    }

    /// The engine said how it is.
    pub(super) fn heard(&mut self, report: FunctionReport) {
        if self.placed.as_ref().is_none_or(|placed| placed.leaving) {
            return;
        }
        match report.state() {
            State::Failed if self.failed.is_none() => {
                let wire = report.failure.clone().unwrap_or_default();
                let reason = hearth_contract::FailureReason::from_word(&wire.reason)
                    .unwrap_or(hearth_contract::FailureReason::NodeFault);
                self.fail(Failure::new(reason, wire.message));
            }
            State::Serving => {
                self.failed = None;
                self.failures = 0;
            }
            _ => {}
        }
        self.said = Some(report);
    }

    pub(super) fn situation<'a>(&'a self, engine: Option<&'a str>, started: bool) -> Situation<'a> {
        Situation {
            wanted: self.wanted.as_ref(),
            engine,
            started,
            prepared: self
                .prepared
                .as_ref()
                .map(|prepared| (prepared.digest.as_str(), prepared.fingerprint.as_str())),
            preparing: self.job.is_some(),
            failed: self.failed.is_some(),
            placed: self.placed.as_ref(),
        }
    }

    /// Whether the wish is in effect, or failed with a reason.
    pub(super) fn is_settled(&self) -> bool {
        let serves = self
            .said
            .as_ref()
            .is_some_and(|said| said.state() == State::Serving);
        let in_effect = match (&self.wanted, &self.placed) {
            (Some(wanted), Some(placed)) => {
                serves
                    && !placed.leaving
                    && !placed.stale
                    && placed.function.target == wanted.function.target
                    && self.prepared.is_some()
            }
            _ => false,
        };
        in_effect || self.failed.is_some()
    }

    /// The truth about the function now.
    pub(super) fn report(&self, engine_is_up: bool) -> FunctionReport {
        let mut report = self.said.clone().unwrap_or_default();
        if let Some(wanted) = &self.wanted {
            report.r#ref = Some(wanted.function.key.clone().into());
            report.generation = wanted.function.generation;
        }
        if let Some(prepared) = &self.prepared {
            report.placement = Some(prepared.placement.clone());
        }
        if report.digest.is_empty() {
            if let Some(prepared) = &self.prepared {
                report.digest.clone_from(&prepared.digest);
            }
        }
        if self.lost > 0 {
            report.calls.push(proto::CallCount {
                outcome: Outcome::EngineLost.as_str().to_owned(),
                start: StartKind::Hit.as_str().to_owned(),
                count: self.lost,
            });
        }
        report.failure = None;
        match &self.failed {
            Some(failed) => {
                report.set_state(State::Failed);
                report.failure = Some(failed.failure.clone().into());
            }
            None if !engine_is_up => {
                report.set_state(State::Failed);
                report.failure = Some(
                    Failure::new(
                        hearth_contract::FailureReason::NodeFault,
                        "the engine is being started; calls wait",
                    )
                    .into(),
                );
            }
            None if self.job.is_some() => report.set_state(self.job_state),
            None if self.said.is_none() => report.set_state(State::Compiling),
            None => {}
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_contract::FailureReason;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end_where_trying_cannot_help() {
        let mut slot = Slot::default();
        for expected in [500, 1_000, 2_000] {
            slot.fail(Failure::new(FailureReason::PullFailed, "x"));
            let pause = Duration::from_millis(expected);
            let now = Instant::now();
            assert_eq!(slot.failed.as_ref().unwrap().retry_at, Some(now + pause));
            assert!(!slot.retry(now));
            assert!(slot.retry(now + pause));
        }
        slot.fail(Failure::new(FailureReason::NotABundle, "x"));
        assert_eq!(slot.failed.as_ref().unwrap().retry_at, None);
        assert!(!slot.retry(Instant::now() + Duration::from_secs(1 << 20)));
    }

    #[test]
    fn calls_in_an_engine_that_ends_are_counted() {
        let said = FunctionReport {
            in_use: 3,
            queued: 2,
            ..FunctionReport::default()
        };
        let mut slot = Slot::default();
        slot.said = Some(said);
        slot.engine_lost();
        let report = slot.report(false);
        assert_eq!(report.state(), State::Failed);
        assert_eq!(report.calls[0].outcome, "engine_lost");
        assert_eq!(report.calls[0].count, 5);
        assert_eq!(report.in_use, 0);
    }
}
