//! Which pool pods are made and which go. Pure.
//!
//! A pod that is made of something else than before is made beside the one that is there, which goes when the new one answers
//! whom it answers: an upgrade or a changed AgentPool fails no call. Where a node has no room for both, one node after the
//! other goes without. A pod that is wanted nowhere any more, because the pool has other nodes now, goes when those answer.

use std::collections::{BTreeMap, BTreeSet};

use crate::fleet::GroupKey;

/// Where a pod of a group may be: one on each node.
pub(crate) type Slot = (GroupKey, String);

/// A pool pod that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct There {
    /// Its name.
    pub(crate) name: String,
    /// Where it is; nothing where it was not made by this operator.
    pub(crate) slot: Option<Slot>,
    /// It was made from what it would be made from now.
    pub(crate) is_current: bool,
    /// Its containers have ended.
    pub(crate) is_ended: bool,
    /// The scheduler finds no place for it.
    pub(crate) is_stuck: bool,
    /// It goes on where it is, although its node gets none.
    pub(crate) stays: bool,
    /// It runs, and had no time yet to connect to this operator.
    pub(crate) is_unknown: bool,
    /// No pod of its group is wanted any more, and callers of a function are still sent to that group.
    pub(crate) is_asked: bool,
    /// Functions whose callers it answers; nothing while it is not connected.
    pub(crate) answers: Option<BTreeSet<String>>,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    /// Names of pods that go.
    pub(crate) delete: Vec<String>,
    /// Slots that get a pod.
    pub(crate) make: Vec<Slot>,
    /// A pod waits for its successor: another look is due.
    pub(crate) is_waiting: bool,
}

/// What is to be done about pods that are not being ended, where these slots should have one.
pub(crate) fn steps<'a>(slots: impl IntoIterator<Item = &'a Slot>, there: &[There]) -> Steps {
    let mut steps = Steps::default();
    let mut by_slot: BTreeMap<&Slot, Vec<&There>> =
        slots.into_iter().map(|slot| (slot, Vec::new())).collect();
    let mut unwanted = Vec::new();
    for pod in there {
        match pod.slot.as_ref().and_then(|slot| by_slot.get_mut(slot)) {
            _ if pod.is_ended => steps.delete.push(pod.name.clone()),
            Some(pods) => pods.push(pod),
            None if pod.stays => {}
            None => unwanted.push(pod),
        }
    }
    let answered: BTreeSet<_> = by_slot
        .values()
        .flatten()
        .filter_map(|pod| pod.answers.as_ref())
        .flatten()
        .collect();
    for pod in unwanted {
        let goes = match (&pod.slot, &pod.answers) {
            // Others may answer already: callers come here until the plan and the endpoints say so too.
            (Some(_), Some(_)) if pod.is_asked => false,
            (Some(_), Some(answers)) => answers.iter().all(|function| answered.contains(function)),
            (Some(_), None) => !pod.is_unknown,
            (None, _) => true,
        };
        match goes {
            true => steps.delete.push(pod.name.clone()),
            false => steps.is_waiting = true,
        }
    }
    let is_without = |pods: &[&There]| pods.iter().all(|pod| pod.answers.is_none());
    // One at a time: a slot that nobody serves is that one.
    let mut may_go_without = !by_slot.values().any(|pods| is_without(pods));
    for (slot, pods) in by_slot {
        let Some(current) = pods.iter().find(|pod| pod.is_current) else {
            steps.make.push(slot.clone());
            steps.is_waiting |= !pods.is_empty();
            continue;
        };
        for pod in pods.iter().filter(|pod| pod.name != current.name) {
            let goes = match (&pod.answers, &current.answers) {
                // It serves nobody, as far as that is known.
                (None, _) => !pod.is_unknown,
                (Some(before), Some(now)) => before.is_subset(now),
                (Some(_), None) => current.is_stuck && std::mem::take(&mut may_go_without),
            };
            match goes {
                true => steps.delete.push(pod.name.clone()),
                false => steps.is_waiting = true,
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot(node: &str) -> Slot {
        let group = GroupKey {
            namespace: "n".to_owned(),
            pool: "default".to_owned(),
            function: None,
        };
        (group, node.to_owned())
    }

    /// `answers`: none while it is not connected.
    fn pod(name: &str, node: &str, is_current: bool, answers: Option<&[&str]>) -> There {
        There {
            name: name.to_owned(),
            slot: Some(slot(node)),
            is_current,
            is_ended: false,
            is_stuck: false,
            stays: false,
            is_unknown: false,
            is_asked: false,
            answers: answers.map(|all| all.iter().map(|one| (*one).to_owned()).collect()),
        }
    }

    fn check(there: &[There], delete: &[&str], make: &[&str], is_waiting: bool) {
        let slots = ["one", "two"].map(slot);
        let steps = steps(&slots, there);
        let made: Vec<_> = steps.make.iter().map(|(_, node)| node.as_str()).collect();
        assert_eq!(
            (&steps.delete[..], &made[..], steps.is_waiting),
            (
                &delete
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect::<Vec<_>>()[..],
                make,
                is_waiting,
            ),
            "{there:?}"
        );
    }

    #[test]
    fn a_pod_goes_when_its_successor_answers_whom_it_answers() {
        let two = pod("b", "two", true, Some(&["f"]));
        let old = pod("old", "one", false, Some(&["f", "g"]));
        check(&[], &[], &["one", "two"], false);
        check(&[old.clone(), two.clone()], &[], &["one"], true);
        for (answers, is_enough) in [
            (None, false),
            (Some(&["f"][..]), false),
            (Some(&["f", "g", "h"]), true),
        ] {
            let new = pod("new", "one", true, answers);
            let delete: &[&str] = if is_enough { &["old"] } else { &[] };
            check(&[old.clone(), new, two.clone()], delete, &[], !is_enough);
        }
        // One that nobody hears of is nobody's loss.
        let silent = pod("old", "one", false, None);
        let new = pod("new", "one", true, None);
        check(
            &[silent.clone(), new.clone(), two.clone()],
            &["old"],
            &[],
            false,
        );
        // Unless it had no time to be heard of.
        let unknown = There {
            is_unknown: true,
            ..silent
        };
        check(&[unknown, new, two.clone()], &[], &[], true);
        let ended = There {
            is_ended: true,
            ..pod("a", "one", true, Some(&["f"]))
        };
        check(&[ended, two], &["a"], &["one"], false);
    }

    #[test]
    fn without_room_for_both_one_node_after_the_other_goes_without() {
        let old = |node: &str| pod(&format!("old-{node}"), node, false, Some(&["f"]));
        let stuck = |node: &str| There {
            is_stuck: true,
            ..pod(&format!("new-{node}"), node, true, None)
        };
        let all = [old("one"), old("two"), stuck("one"), stuck("two")];
        check(&all, &["old-one"], &[], true);
        // The first has gone, and its successor is being started.
        check(
            &[pod("new-one", "one", true, None), old("two"), stuck("two")],
            &[],
            &[],
            true,
        );
        let first = pod("new-one", "one", true, Some(&["f"]));
        check(&[first, old("two"), stuck("two")], &["old-two"], &[], false);
    }

    #[test]
    fn what_is_nowhere_wanted_goes_when_others_answer_unless_it_stays() {
        let both = || {
            [
                pod("a", "one", true, Some(&[])),
                pod("b", "two", true, Some(&["f"])),
            ]
        };
        let lost = pod("c", "three", true, Some(&["f"]));
        // Its functions are answered nowhere else yet, or not all of them.
        let new = [
            pod("a", "one", true, None),
            pod("b", "two", true, Some(&["g"])),
        ];
        check(
            &[&new[..], std::slice::from_ref(&lost)].concat(),
            &[],
            &[],
            true,
        );
        let silent = There {
            answers: None,
            ..lost.clone()
        };
        check(
            &[&new[..], std::slice::from_ref(&silent)].concat(),
            &["c"],
            &[],
            false,
        );
        let unknown = There {
            is_unknown: true,
            ..silent
        };
        check(&[&new[..], &[unknown]].concat(), &[], &[], true);
        let asked = There {
            is_asked: true,
            ..lost.clone()
        };
        check(&[&both()[..], &[asked]].concat(), &[], &[], true);
        let stays = There {
            stays: true,
            ..lost.clone()
        };
        let foreign = There {
            slot: None,
            ..lost.clone()
        };
        check(&[&both()[..], &[lost]].concat(), &["c"], &[], false);
        check(&[&both()[..], &[stays]].concat(), &[], &[], false);
        check(&[&both()[..], &[foreign]].concat(), &["c"], &[], false);
    }

    proptest! {
        #[test]
        fn who_was_served_is_served_on_all_nodes_but_one(
            pods in prop::collection::vec(
                (0usize..4, any::<bool>(), any::<bool>(), any::<bool>(), prop::option::of(prop::collection::btree_set("[a-c]", 0..3))),
                0..10,
            ),
        ) {
            let slots: Vec<_> = (0..4).map(|node| slot(&node.to_string())).collect();
            let mut current = BTreeSet::new();
            let there: Vec<_> = pods.into_iter().enumerate().map(|(index, (node, is_current, is_ended, is_stuck, answers))| There {
                // One name for one template.
                is_current: is_current && current.insert(node),
                is_ended,
                is_stuck,
                answers: answers.filter(|_| !is_ended),
                ..pod(&index.to_string(), &node.to_string(), true, None)
            }).collect();
            let steps = steps(&slots, &there);
            let served = |slot: &Slot, pods: &[There]| {
                let of = pods.iter().filter(|pod| pod.slot.as_ref() == Some(slot));
                of.filter_map(|pod| pod.answers.clone()).flatten().collect::<BTreeSet<_>>()
            };
            let left: Vec<_> = there.iter().filter(|pod| !steps.delete.contains(&pod.name)).cloned().collect();
            let lost = slots.iter().filter(|slot| served(slot, &there) != served(slot, &left)).count();
            prop_assert!(lost <= 1, "{there:?} {steps:?}");
        }
    }
}
