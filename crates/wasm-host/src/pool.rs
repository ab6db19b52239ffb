//! The counts of one pool of warm instances. Pure: who makes instances and where they are kept is `function.rs`.

/// How many there are and how many there should be.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) target: u32,
    /// Waiting for a call.
    pub(crate) warm: u32,
    /// Being made.
    pub(crate) making: u32,
    /// In a call from which they may come back.
    pub(crate) lent: u32,
}

impl Counts {
    /// Whether one more is to be made.
    pub(crate) fn is_short(&self) -> bool {
        self.warm + self.making + self.lent < self.target
    }

    /// Whether one more is to be made; then it counts as being made.
    pub(crate) fn start_one(&mut self) -> bool {
        let wanted = self.is_short();
        self.making += u32::from(wanted);
        wanted
    }

    /// One was made. Whether it is kept; a target that fell meanwhile says no.
    pub(crate) fn made(&mut self) -> bool {
        self.making -= 1;
        let kept = self.warm < self.target;
        self.warm += u32::from(kept);
        kept
    }

    /// One could not be made.
    pub(crate) fn failed(&mut self) {
        self.making -= 1;
    }

    /// A call takes one, if there is one.
    pub(crate) fn take(&mut self) -> bool {
        let there = self.warm > 0;
        self.warm -= u32::from(there);
        there
    }

    /// A call takes one that may come back, if there is one.
    pub(crate) fn lend(&mut self) -> bool {
        let there = self.take();
        self.lent += u32::from(there);
        there
    }

    /// One that was lent came back. Whether it is kept; a target that fell meanwhile says no.
    pub(crate) fn returned(&mut self) -> bool {
        self.lost();
        let kept = self.warm < self.target;
        self.warm += u32::from(kept);
        kept
    }

    /// One that was lent does not come back.
    pub(crate) fn lost(&mut self) {
        self.lent -= 1;
    }

    /// A new target. How many warm ones are too many; they no longer count.
    pub(crate) fn set_target(&mut self, target: u32) -> u32 {
        self.target = target;
        let surplus = self.warm.saturating_sub(target);
        self.warm -= surplus;
        surplus
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Start,
        Made,
        Failed,
        Take,
        Lend,
        Returned,
        Lost,
        Target(u32),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Start),
            Just(Step::Made),
            Just(Step::Failed),
            Just(Step::Take),
            Just(Step::Lend),
            Just(Step::Returned),
            Just(Step::Lost),
            (0u32..20).prop_map(Step::Target),
        ]
    }

    proptest! {
        #[test]
        fn the_counts_hold_after_any_steps(steps in prop::collection::vec(any_step(), 0..200)) {
            let mut counts = Counts::default();
            // The instances themselves, beside the counts.
            let (mut kept, mut making, mut lent) = (0_u32, 0_u32, 0_u32);
            for step in steps {
                match step {
                    Step::Start => making += u32::from(counts.start_one()),
                    Step::Made if making > 0 => {
                        making -= 1;
                        kept += u32::from(counts.made());
                    }
                    Step::Failed if making > 0 => {
                        making -= 1;
                        counts.failed();
                    }
                    Step::Take => kept -= u32::from(counts.take()),
                    Step::Lend => {
                        let there = u32::from(counts.lend());
                        kept -= there;
                        lent += there;
                    }
                    Step::Returned if lent > 0 => {
                        lent -= 1;
                        kept += u32::from(counts.returned());
                    }
                    Step::Lost if lent > 0 => {
                        lent -= 1;
                        counts.lost();
                    }
                    Step::Target(target) => kept -= counts.set_target(target),
                    Step::Made | Step::Failed | Step::Returned | Step::Lost => {}
                }
                prop_assert_eq!((counts.warm, counts.making, counts.lent), (kept, making, lent));
                prop_assert!(counts.warm <= counts.target);
            }
            // Left alone, the pool reaches its target and stops there.
            while counts.start_one() {}
            while counts.making > 0 {
                counts.made();
            }
            while counts.lent > 0 {
                counts.returned();
            }
            prop_assert_eq!(counts.warm, counts.target);
            prop_assert!(!counts.start_one());
        }
    }
}
