//! A port for each function of a pool.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// A function of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim<'a> {
    /// UID of the function.
    pub uid: &'a str,
    /// The port that it has, once it has one.
    pub port: Option<u16>,
    /// Whether it may get one; else it only keeps what it has.
    pub stays: bool,
}

/// Ports by function. A function that is not in it found none left.
///
/// A port that a function has stays with it; of two that claim one (which only a hand-edited status can cause), the one
/// with the lower UID keeps it.
pub fn assign<'a>(claims: &[Claim<'a>], range: RangeInclusive<u16>) -> BTreeMap<&'a str, u16> {
    let mut sorted: Vec<_> = claims.iter().collect();
    sorted.sort_by_key(|claim| claim.uid);
    let (mut ports, mut taken) = (BTreeMap::new(), BTreeSet::new());
    for claim in &sorted {
        let kept = claim.port.filter(|port| range.contains(port));
        if let Some(port) = kept.filter(|port| taken.insert(*port)) {
            ports.insert(claim.uid, port);
        }
    }
    let mut free = range.filter(|port| !taken.contains(port));
    for claim in sorted.iter().filter(|claim| claim.stays) {
        if !ports.contains_key(claim.uid) {
            let Some(port) = free.next() else { break };
            ports.insert(claim.uid, port);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Claims = BTreeMap<String, (Option<u16>, bool)>;

    fn any_claims() -> impl Strategy<Value = Claims> {
        let claim = (prop::option::of(9u16..22), any::<bool>());
        prop::collection::btree_map("[a-z]{1,6}", claim, 0..10)
    }

    fn claims(map: &Claims) -> Vec<Claim<'_>> {
        map.iter()
            .map(|(uid, (port, stays))| Claim {
                uid,
                port: *port,
                stays: *stays,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn the_laws_of_ports(map in any_claims()) {
            let range = 10..=15;
            let claims = claims(&map);
            let ports = assign(&claims, range.clone());
            let reversed: Vec<_> = claims.iter().rev().cloned().collect();
            prop_assert_eq!(&assign(&reversed, range.clone()), &ports);
            let distinct: BTreeSet<_> = ports.values().collect();
            prop_assert_eq!(distinct.len(), ports.len());
            prop_assert!(ports.values().all(|port| range.contains(port)));
            // Nobody who may have a port goes without while one is free.
            let without = claims.iter().any(|claim| claim.stays && !ports.contains_key(claim.uid));
            prop_assert!(!without || ports.len() == 6);
            // What was assigned stays.
            let kept: Vec<_> = claims
                .iter()
                .map(|claim| Claim { port: ports.get(claim.uid).copied(), ..claim.clone() })
                .collect();
            prop_assert_eq!(&assign(&kept, range), &ports);
        }
    }
}
