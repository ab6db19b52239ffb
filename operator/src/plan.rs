//! Deciding which pool pod holds which function, on which port and with how many warm instances. Pure: no clock, no
//! I/O, no randomness.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// A function of one pool, as planning sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FunctionView {
    /// UID of the object.
    pub(crate) uid: String,
    /// Whether it is to be held; else it only keeps its port.
    pub(crate) stays: bool,
    /// Its port, once it has one.
    pub(crate) port: Option<u16>,
    /// Warm instances wanted, over all pods.
    pub(crate) replicas: u32,
}

/// One function in one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// Port in the pod's network namespace.
    pub(crate) port: u16,
    /// Warm instances to hold there.
    pub(crate) target: u32,
}

/// Which pod holds what, and which functions found no port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Pod UID to function UID to assignment.
    pub(crate) pods: BTreeMap<String, BTreeMap<String, Assignment>>,
    /// Port of each function that has one.
    pub(crate) ports: BTreeMap<String, u16>,
    /// Functions for which the range had no port left.
    pub(crate) without_port: BTreeSet<String>,
}

/// Plans one pool: every connected pod holds every function; a function's warm instances are spread evenly, what
/// remains going to the pods that are first by UID.
pub(crate) fn plan(
    functions: &[FunctionView],
    pods: &BTreeSet<String>,
    range: RangeInclusive<u16>,
) -> Plan {
    let mut functions: Vec<_> = functions.iter().collect();
    functions.sort_by(|a, b| a.uid.cmp(&b.uid));
    let mut plan = Plan::default();
    let mut taken = BTreeSet::new();
    // A port that a function has stays with it; of two that claim one (which only a hand-edited status can cause), the
    // first keeps it.
    for function in &functions {
        if let Some(port) = function
            .port
            .filter(|port| range.contains(port) && taken.insert(*port))
        {
            plan.ports.insert(function.uid.clone(), port);
        }
    }
    let mut free = range.filter(|port| !taken.contains(port));
    for function in functions.iter().filter(|function| function.stays) {
        if plan.ports.contains_key(&function.uid) {
            continue;
        }
        match free.next() {
            Some(port) => drop(plan.ports.insert(function.uid.clone(), port)),
            None => drop(plan.without_port.insert(function.uid.clone())),
        }
    }
    let count = u32::try_from(pods.len()).unwrap_or(u32::MAX);
    for (index, pod) in (0_u32..).zip(pods) {
        let held = functions.iter().filter(|function| function.stays);
        let held = held.filter_map(|function| {
            let port = *plan.ports.get(&function.uid)?;
            let target = function.replicas / count + u32::from(index < function.replicas % count);
            Some((function.uid.clone(), Assignment { port, target }))
        });
        let held = held.collect();
        plan.pods.insert(pod.clone(), held);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_functions() -> impl Strategy<Value = Vec<FunctionView>> {
        let any_function = (prop::option::of(9u16..22), 0u32..50, any::<bool>());
        prop::collection::btree_map("[a-z]{1,6}", any_function, 0..8).prop_map(|map| {
            map.into_iter()
                .map(|(uid, (port, replicas, stays))| FunctionView {
                    uid,
                    stays,
                    port,
                    replicas,
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn the_laws_of_a_plan(functions in any_functions(), pods in prop::collection::btree_set("[a-z]{1,4}", 0..5)) {
            let made = plan(&functions, &pods, 10..=15);
            // Deterministic, whatever the order.
            let reversed: Vec<_> = functions.iter().rev().cloned().collect();
            prop_assert_eq!(&plan(&reversed, &pods, 10..=15), &made);
            // Every port is in range and given once; who has none is named.
            let distinct: BTreeSet<_> = made.ports.values().collect();
            prop_assert_eq!(distinct.len(), made.ports.len());
            prop_assert!(made.ports.values().all(|port| (10..=15).contains(port)));
            let staying = functions.iter().filter(|function| function.stays).count();
            prop_assert!(made.ports.len() + made.without_port.len() >= staying);
            // Who leaves is held nowhere, and nobody gets its port.
            for function in functions.iter().filter(|function| !function.stays) {
                prop_assert!(made.pods.values().all(|held| !held.contains_key(&function.uid)));
            }
            // The targets sum up to what is wanted, and differ by one at most.
            for function in functions.iter().filter(|f| f.stays && made.ports.contains_key(&f.uid)) {
                let targets: Vec<u32> = made.pods.values().map(|held| held[&function.uid].target).collect();
                if let (Some(least), Some(most)) = (targets.iter().min(), targets.iter().max()) {
                    prop_assert_eq!(targets.iter().sum::<u32>(), function.replicas);
                    prop_assert!(most - least <= 1);
                }
            }
            // A plan applied yields the same plan.
            let applied: Vec<_> = functions.iter().map(|function| FunctionView {
                port: made.ports.get(&function.uid).copied(),
                ..function.clone()
            }).collect();
            prop_assert_eq!(&plan(&applied, &pods, 10..=15), &made);
        }
    }
}
