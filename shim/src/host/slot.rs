//! Everything that is known about one function in a container, and the report made of it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hearth_contract::proto::{self, FunctionReport, State};
use hearth_contract::{FailureReason, Outcome, StartKind};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::plan::{self, Placed, Situation, Wanted};
use super::quarantine::Record;
use crate::bundle::Failure;
use crate::prepare::{Prepared, Source};

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
    /// Callers of the socket are answered, now or after they waited in the accept queue. Survives the engine and a
    /// change of the function.
    pub(super) answers: bool,
    /// The engine's last word.
    pub(super) said: Option<FunctionReport>,
    /// That was another engine's, which answers calls until the one that runs does.
    pub(super) is_bridged: bool,
    /// Calls that were in engines that ended.
    pub(super) lost: u64,
    /// Its number in what engines say of what they run; 0: it has none.
    pub(super) mark: u64,
    /// Engines that crashed in its code.
    pub(super) record: Record,
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
        let same_source = match (old, new) {
            (Some(old), Some(new)) => self.is_same_source(&old.source, &new.source),
            (old, new) => old.is_none() && new.is_none(),
        };
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
            self.record = Record::default();
        }
        let port = wanted.as_ref().map(|wanted| wanted.port);
        if self.listener.as_ref().map(|(port, _)| *port) != port {
            self.listener = None;
            self.answers = false;
        }
        self.wanted = wanted;
    }

    /// Whether both name one bundle. The digest that the operator pins is the one that was found here.
    fn is_same_source(&self, old: &Source, new: &Source) -> bool {
        let (Source::Image(before), Source::Image(after)) = (old, new) else {
            return old == new;
        };
        let found = self.prepared.as_ref().map(|prepared| &prepared.digest);
        before == after
            || (before.image == after.image
                && before.pull == after.pull
                && before.loads == after.loads
                && after.digest.is_some()
                && after.digest.as_ref() == found)
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
        if let Some(said) = self.said.take_if(|_| !self.is_bridged) {
            self.lost += u64::from(said.in_use) + u64::from(said.queued);
        }
        self.placed = None;
    }

    /// Keeps it away from engines for a while, after one more ended in its code as `end` says. Nobody waits for it meanwhile.
    pub(super) fn quarantine(&mut self, end: &str, now: Instant) {
        let strikes = self.record.strikes();
        let pause = self.record.keep_away(now);
        let message = format!(
            "{strikes} engines ended in a row while they ran this function ({end}); it is tried again after {} s, and at once when it is changed. The pool's other functions run on",
            pause.as_secs()
        );
        self.failed = Some(Failed {
            failure: Failure::new(FailureReason::Quarantined, message),
            retry_at: Some(now + pause),
        });
        self.answers = false;
        self.listener = None;
    }

    /// Another engine has come, which holds nothing yet, and the one before it goes on meanwhile.
    pub(super) fn engine_follows(&mut self) {
        self.placed = None;
        self.is_bridged = self.said.is_some();
        if let Some(failed) = &mut self.failed {
            // It may be no failure there.
            failed.retry_at = Some(Instant::now());
        }
    }

    /// The engine said how it is.
    pub(super) fn heard(&mut self, report: FunctionReport) {
        let current = |placed: &Placed| {
            !placed.leaving
                && report.generation == placed.function.generation
                && report.digest == placed.digest
        };
        // What was said of an earlier placement and crossed ours is not true any more.
        if !self.placed.as_ref().is_some_and(current) {
            return;
        }
        match report.state() {
            State::Failed if self.failed.is_none() => {
                let wire = report.failure.clone().unwrap_or_default();
                let reason =
                    FailureReason::from_word(&wire.reason).unwrap_or(FailureReason::NodeFault);
                self.fail(Failure::new(reason, wire.message));
                self.answers = false;
                // The engine goes on trying that itself, and what else it holds of the function stays.
                if let (FailureReason::StartFailed, Some(failed)) = (reason, &mut self.failed) {
                    failed.retry_at = None;
                }
            }
            State::Serving => {
                // An old generation that still serves mends nothing of the new one.
                if self.holds_what_is_wanted() {
                    self.failed = None;
                    self.failures = 0;
                }
                self.answers = true;
            }
            _ => {}
        }
        self.said = Some(report);
        self.is_bridged = false;
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
            .is_some_and(|said| said.state() == State::Serving && !self.is_bridged);
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
            report.target = wanted.function.target;
        }
        if let Some(prepared) = &self.prepared {
            report.placement = Some(prepared.placement);
        }
        let prepared = self.prepared.as_ref();
        report.digest = prepared.map_or_else(String::new, |prepared| prepared.digest.clone());
        report.answers = self.answers;
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
            None if self.is_bridged => {}
            None if !engine_is_up => {
                report.set_state(State::Failed);
                report.failure = Some(
                    Failure::new(
                        FailureReason::NodeFault,
                        "the engine is being started; calls wait",
                    )
                    .into(),
                );
            }
            None if self.job.is_some() => report.set_state(self.job_state),
            None if self.said.is_none() || !self.holds_what_is_wanted() => {
                report.set_state(State::Compiling);
            }
            None => {}
        }
        report
    }

    /// Whether what the engine last spoke of is what is wanted, and not what went before.
    fn holds_what_is_wanted(&self) -> bool {
        match (&self.placed, &self.wanted, &self.prepared) {
            (Some(placed), Some(wanted), Some(prepared)) => {
                !placed.leaving && !plan::differs(placed, wanted, &prepared.digest)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepare::Image;

    #[test]
    fn pauses_grow_and_end_where_trying_cannot_help() {
        let mut slot = Slot::default();
        for expected in [500, 1_000, 2_000] {
            let before = Instant::now();
            slot.fail(Failure::new(FailureReason::PullFailed, "x"));
            let after = Instant::now();
            let pause = Duration::from_millis(expected);
            let retry_at = slot.failed.as_ref().unwrap().retry_at.unwrap();
            assert!((before + pause..=after + pause).contains(&retry_at));
            assert!(!slot.retry(before));
            assert!(slot.retry(retry_at));
        }
        slot.fail(Failure::new(FailureReason::NotABundle, "x"));
        assert_eq!(slot.failed.as_ref().unwrap().retry_at, None);
        assert!(!slot.retry(Instant::now() + Duration::from_secs(1 << 20)));
    }

    fn wanted(image: &str, digest: Option<&str>, generation: i64) -> Wanted {
        Wanted {
            function: hearth_contract::Function {
                key: hearth_contract::FunctionKey {
                    uid: "u".to_owned(),
                    namespace: "n".to_owned(),
                    name: "f".to_owned(),
                },
                generation,
                limits: hearth_contract::Limits::default(),
                capabilities: hearth_contract::function::Capabilities::default(),
                target: 1,
                reuse: None,
            },
            source: Source::Image(Image {
                image: image.to_owned(),
                digest: digest.map(str::to_owned),
                pull: true,
                loads: false,
            }),
            port: 20_000,
        }
    }

    #[test]
    fn other_code_is_another_bundle() {
        let wanted = |code: &str| Wanted {
            source: Source::JavaScript(code.into()),
            ..wanted("one", None, 1)
        };
        let mut slot = serving();
        slot.want(Some(wanted("a")));
        assert!(slot.prepared.is_none(), "from an image to code");
        slot.prepared = serving().prepared.take();
        slot.want(Some(wanted("a")));
        assert!(slot.prepared.is_some(), "the same code");
        slot.want(Some(wanted("b")));
        assert!(slot.prepared.is_none(), "other code");
    }

    /// A function that serves the bundle `sha256:1` of the image `one`.
    fn serving() -> Slot {
        let null = || Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let mut slot = Slot::default();
        slot.want(Some(wanted("one", None, 1)));
        slot.listener = Some((20_000, null()));
        slot.prepared = Some(Arc::new(Prepared {
            fingerprint: "e".to_owned(),
            digest: "sha256:1".to_owned(),
            kind: proto::BundleKind::Http,
            artifact: null(),
            module: None,
            environment: None,
            placement: proto::Placement::default(),
            start: StartKind::Compile,
        }));
        slot.placed = Some(Placed {
            function: wanted("one", None, 1).function,
            digest: "sha256:1".to_owned(),
            port: 20_000,
            leaving: false,
            stale: false,
        });
        slot.heard(heard(State::Serving, 1));
        slot
    }

    fn heard(state: State, generation: i64) -> FunctionReport {
        FunctionReport {
            state: state.into(),
            generation,
            digest: "sha256:1".to_owned(),
            warm: 1,
            ..FunctionReport::default()
        }
    }

    fn said(slot: &Slot) -> (State, bool, i64, String) {
        let report = slot.report(true);
        (
            report.state(),
            report.answers,
            report.generation,
            report.digest,
        )
    }

    #[test]
    fn a_new_bundle_is_no_word_about_the_old_one_which_answers_meanwhile() {
        let mut slot = serving();
        assert_eq!(
            said(&slot),
            (State::Serving, true, 1, "sha256:1".to_owned())
        );
        slot.want(Some(wanted("two", None, 2)));
        assert_eq!(said(&slot), (State::Compiling, true, 2, String::new()));
        slot.fail(Failure::new(FailureReason::ImageNotFound, "x"));
        assert_eq!(said(&slot), (State::Failed, true, 2, String::new()));
        // Calls to the old bundle do not hide that.
        slot.heard(heard(State::Serving, 1));
        assert_eq!(said(&slot), (State::Failed, true, 2, String::new()));
        assert!(slot.failed.is_some());
    }

    #[test]
    fn the_digest_that_was_found_here_is_no_new_bundle() {
        let mut slot = serving();
        slot.want(Some(wanted("one", Some("sha256:1"), 1)));
        assert!(slot.prepared.is_some());
        slot.want(Some(wanted("one", Some("sha256:2"), 1)));
        assert!(slot.prepared.is_none());
    }

    #[test]
    fn callers_wait_for_a_new_engine_and_not_for_a_broken_guest() {
        let mut slot = serving();
        slot.engine_lost();
        assert!(slot.report(false).answers);
        let mut slot = serving();
        slot.heard(heard(State::Failed, 1));
        assert!(!slot.report(true).answers);
    }

    #[test]
    fn a_function_in_quarantine_takes_no_calls_and_is_placed_again_when_it_is_over() {
        let mut slot = serving();
        let now = Instant::now();
        slot.engine_lost();
        slot.record.strike(now);
        slot.quarantine("signal 11", now);
        let report = slot.report(true);
        let failure = report.failure.unwrap();
        assert_eq!(
            (failure.reason.as_str(), report.answers),
            ("Quarantined", false)
        );
        assert!(failure.message.contains("signal 11") && slot.listener.is_none());
        let step = |slot: &Slot| plan::next(&slot.situation(Some("e"), true));
        assert_eq!(step(&slot), plan::Step::Nothing);
        assert!(!slot.retry(now + Duration::from_secs(9)));
        assert!(slot.retry(now + Duration::from_secs(10)));
        assert_eq!(step(&slot), plan::Step::Place);
        // Whoever mends it does not wait.
        slot.quarantine("signal 11", now);
        slot.want(Some(wanted("one", None, 2)));
        assert_eq!(
            (slot.failed.is_none(), slot.record),
            (true, Record::default())
        );
    }

    #[test]
    fn a_word_about_an_earlier_placement_is_not_heard() {
        let mut slot = serving();
        slot.said = None;
        slot.placed.as_mut().unwrap().function.generation = 2;
        slot.heard(heard(State::Serving, 1));
        assert_eq!(slot.said, None);
        slot.heard(heard(State::Serving, 2));
        assert!(slot.said.is_some());
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
