//! What to do next for one function: desired and current in, a step out. Pure.

use hearth_contract::Function;

use crate::prepare::Source;

/// One function as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Who, how much, what it may touch, how many warm.
    pub function: Function,
    /// Which bundle.
    pub source: Source,
    /// Port in the pod's network.
    pub port: u16,
}

/// What the engine holds of one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// As it was placed; its target is the last that was sent.
    pub function: Function,
    /// The bundle.
    pub digest: String,
    /// The port.
    pub port: u16,
    /// Removal was asked for and is not finished.
    pub leaving: bool,
    /// Placing it again may help.
    pub stale: bool,
}

/// What is known about one function.
#[derive(Debug, Clone, Default)]
pub struct Situation<'a> {
    /// As it shall be; `None`: not at all.
    pub wanted: Option<&'a Wanted>,
    /// Fingerprint of the engine that runs; `None` while none does.
    pub engine: Option<&'a str>,
    /// Whether functions may be placed yet.
    pub started: bool,
    /// Digest and fingerprint of the artifact that is ready for `wanted`.
    pub prepared: Option<(&'a str, &'a str)>,
    /// A preparation runs.
    pub preparing: bool,
    /// It failed, and the time to try again has not come.
    pub failed: bool,
    /// What the engine holds.
    pub placed: Option<&'a Placed>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing, or wait for what runs.
    Nothing,
    /// Find, pull, compile.
    Prepare,
    /// Give it to the engine, in the place of what the engine holds of it.
    Place,
    /// Tell the engine how many.
    SetTarget(u32),
    /// Take it from the engine.
    Remove,
    /// Nothing is left of it.
    Forget,
}

/// Decides the next step. Calling it after each step until it says [`Step::Nothing`] brings a function to where it
/// shall be, or as far as it can get now.
pub fn next(at: &Situation<'_>) -> Step {
    let Some(wanted) = at.wanted else {
        return match at.placed {
            Some(placed) if placed.leaving => Step::Nothing,
            Some(_) if at.engine.is_some() => Step::Remove,
            _ => Step::Forget,
        };
    };
    let Some(engine) = at.engine else {
        return Step::Nothing;
    };
    let ready = at
        .prepared
        .filter(|(_, fingerprint)| *fingerprint == engine)
        .map(|(digest, _)| digest);
    let Some(digest) = ready else {
        return match (at.preparing, at.failed) {
            (false, false) => Step::Prepare,
            _ => Step::Nothing,
        };
    };
    if at.failed || !at.started {
        return Step::Nothing;
    }
    match at.placed {
        None => Step::Place,
        Some(placed) if placed.leaving => Step::Nothing,
        // The engine puts it in the place of what it holds, and callers keep their connections.
        Some(placed) if placed.stale || differs(placed, wanted, digest) => Step::Place,
        Some(placed) if placed.function.target != wanted.function.target => {
            Step::SetTarget(wanted.function.target)
        }
        Some(_) => Step::Nothing,
    }
}

/// Whether the engine must be given the function anew. The generation alone changes nothing there.
pub(super) fn differs(placed: &Placed, wanted: &Wanted, digest: &str) -> bool {
    let (old, new) = (&placed.function, &wanted.function);
    placed.digest != digest
        || placed.port != wanted.port
        || old.limits != new.limits
        || old.capabilities != new.capabilities
        || old.reuse != new.reuse
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepare::Image;
    use hearth_contract::function::Capabilities;
    use hearth_contract::{FunctionKey, Limits, Reuse};
    use proptest::prelude::*;

    fn wanted(target: u32) -> Wanted {
        Wanted {
            function: Function {
                key: FunctionKey {
                    uid: "u".into(),
                    namespace: "n".into(),
                    name: "f".into(),
                },
                generation: 1,
                limits: Limits::default(),
                capabilities: Capabilities::default(),
                target,
                reuse: None,
            },
            source: Source::Image(Image {
                image: "i".into(),
                digest: None,
                pull: true,
                loads: false,
            }),
            port: 20_000,
        }
    }

    fn placed(target: u32) -> Placed {
        Placed {
            function: wanted(target).function,
            digest: "d1".into(),
            port: 20_000,
            leaving: false,
            stale: false,
        }
    }

    /// What the engine takes only with a function that is placed anew.
    fn changes() -> [fn(&mut Function); 3] {
        [
            |function| function.limits.outbound_calls = 0,
            |function| function.capabilities.args.push("x".into()),
            |function| {
                function.reuse = Some(Reuse {
                    calls: std::num::NonZeroU32::MIN,
                    age: Reuse::AGE,
                });
            },
        ]
    }

    #[test]
    fn each_situation_has_one_step() {
        let wanted = wanted(2);
        let (same, more) = (placed(2), placed(1));
        let leaving = Placed {
            leaving: true,
            ..placed(2)
        };
        let base = Situation {
            wanted: Some(&wanted),
            engine: Some("e"),
            started: true,
            ..Situation::default()
        };
        let ready = Situation {
            prepared: Some(("d1", "e")),
            ..base.clone()
        };
        let check = |situation: Situation<'_>, expected| assert_eq!(next(&situation), expected);
        check(base.clone(), Step::Prepare);
        check(
            Situation {
                preparing: true,
                ..base.clone()
            },
            Step::Nothing,
        );
        check(
            Situation {
                failed: true,
                ..base.clone()
            },
            Step::Nothing,
        );
        check(
            Situation {
                engine: None,
                ..base.clone()
            },
            Step::Nothing,
        );
        check(ready.clone(), Step::Place);
        check(
            Situation {
                started: false,
                ..ready.clone()
            },
            Step::Nothing,
        );
        check(
            Situation {
                placed: Some(&same),
                ..ready.clone()
            },
            Step::Nothing,
        );
        check(
            Situation {
                placed: Some(&more),
                ..ready.clone()
            },
            Step::SetTarget(2),
        );
        check(
            Situation {
                placed: Some(&leaving),
                ..ready.clone()
            },
            Step::Nothing,
        );
        // A new bundle is prepared while the old one serves, then takes its place.
        check(
            Situation {
                placed: Some(&same),
                ..base.clone()
            },
            Step::Prepare,
        );
        for change in changes() {
            let mut changed = placed(2);
            change(&mut changed.function);
            check(
                Situation {
                    placed: Some(&changed),
                    ..ready.clone()
                },
                Step::Place,
            );
        }
        let other = Some(("d2", "e"));
        check(
            Situation {
                prepared: other,
                placed: Some(&same),
                ..base.clone()
            },
            Step::Place,
        );
        // An artifact for an engine of before an upgrade is made again.
        check(
            Situation {
                prepared: Some(("d1", "old")),
                ..base.clone()
            },
            Step::Prepare,
        );
        // What nobody wants goes.
        let gone = Situation {
            wanted: None,
            ..base
        };
        check(gone.clone(), Step::Forget);
        check(
            Situation {
                placed: Some(&same),
                ..gone.clone()
            },
            Step::Remove,
        );
        check(
            Situation {
                placed: Some(&leaving),
                ..gone.clone()
            },
            Step::Nothing,
        );
        check(
            Situation {
                placed: Some(&same),
                engine: None,
                ..gone
            },
            Step::Forget,
        );
    }

    proptest! {
        /// From anywhere, doing what `next` says ends, and ends where `wanted` says.
        #[test]
        fn steps_lead_to_what_is_wanted(
            target: u32,
            held in prop::option::of((any::<u32>(), any::<bool>(), any::<bool>(), any::<bool>())),
        ) {
            let wanted = wanted(target);
            let mut prepared = None;
            let mut held = held.map(|(target, leaving, stale, other)| Placed {
                leaving,
                stale,
                digest: if other { "d0".into() } else { "d1".into() },
                ..placed(target)
            });
            for _ in 0..8 {
                let step = next(&Situation {
                    wanted: Some(&wanted),
                    engine: Some("e"),
                    started: true,
                    prepared,
                    placed: held.as_ref(),
                    ..Situation::default()
                });
                match step {
                    Step::Prepare => prepared = Some(("d1", "e")),
                    Step::Place => held = Some(Placed { function: wanted.function.clone(), ..placed(0) }),
                    Step::SetTarget(target) => held.as_mut().unwrap().function.target = target,
                    // The engine finishes a removal by itself.
                    Step::Nothing if held.as_ref().is_some_and(|placed| placed.leaving) => held = None,
                    Step::Nothing => break,
                    Step::Remove | Step::Forget => prop_assert!(false, "it is wanted"),
                }
            }
            let held = held.unwrap();
            prop_assert_eq!(held.function.target, target);
            prop_assert_eq!(held.digest, "d1");
        }
    }
}
