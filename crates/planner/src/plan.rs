//! From what is observed to targets per (function, pod).

use std::num::NonZeroU32;

use crate::{share, spread};

/// A pool pod that is connected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Bytes that the linear memories of warm instances may take in it. `None`: not limited by the pod.
    pub memory: Option<u64>,
}

/// A function that wants warm instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Warm instances wanted, over all pods of its group.
    pub wanted: u32,
    /// Its maximum: more than this is never planned.
    pub most: u32,
    /// Its share, relative to other functions, of memory or quota that does not suffice for all.
    pub weight: NonZeroU32,
    /// Linear memory of one instance, in bytes.
    pub instance_bytes: u64,
    /// The targets in effect: index of a pod in its group and number, by pod, each pod at most once. Pods that are gone
    /// are left out.
    pub held: Vec<(usize, u32)>,
    /// Where its instances are needed: index of a pod and a weight above zero, by pod, each pod at most once. Empty:
    /// everywhere alike.
    pub demand: Vec<(usize, u32)>,
}

/// Pods that host the same functions: a pool, or one function of a Dedicated pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Its pods, by UID.
    pub pods: Vec<Pod>,
    /// Its functions, by UID.
    pub functions: Vec<Function>,
}

/// What one namespace holds. Namespaces share nothing, so each is planned by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Warm instances that all its functions may have together. `None`: not limited.
    pub quota: Option<u64>,
    /// Its groups.
    pub groups: Vec<Group>,
}

/// Why a function gets fewer instances than it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Short {
    /// No pod is connected.
    Pods,
    /// No pod has room for one more.
    Memory,
    /// The namespace's quota is used up.
    Quota,
}

/// What one function gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Index of a pod and its target, above zero, by pod. A pod that is not in it has the target zero.
    pub targets: Vec<(usize, u32)>,
    /// Why it is fewer than wanted, if it is.
    pub short: Option<Short>,
}

impl Placement {
    /// Instances over all pods.
    pub fn total(&self) -> u32 {
        self.targets.iter().map(|(_, target)| target).sum()
    }
}

/// What each function of a namespace gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// For each group, for each of its functions.
    pub groups: Vec<Vec<Placement>>,
    /// Instances that go from one pod to another to be where they are needed. While it is above zero, another round may
    /// move more; at zero, planning again from this plan gives this plan.
    pub moves: u32,
}

/// Plans one namespace.
///
/// - A function gets what it wants, up to its maximum, where memory and quota suffice for all.
/// - Where they do not, instances are handed out one by one, each to the function that has the fewest for its weight and
///   still finds room (max-min fairness); who wants no more or finds no room drops out. What stays free then is less than
///   one of its instances in each pod.
/// - An instance stays where it is unless the function gets fewer, its pod has no room for it, or the spread over the pods
///   is off by two or more (by an eighth of the instances where demand differs from pod to pod); then at most a quarter of
///   the function's instances move in one round.
///
/// # Panics
/// When `held` or `demand` names a pod that its group does not have.
pub fn plan(namespace: &Namespace) -> Plan {
    let shares = share::shares(namespace);
    let mut plan = Plan::default();
    for (group, share) in namespace.groups.iter().zip(shares) {
        let (placements, moves) = spread::spread(group, share);
        plan.groups.push(placements);
        plan.moves += moves;
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_function(pods: usize) -> impl Strategy<Value = Function> {
        let spread = move || prop::collection::btree_map(0..pods.max(1), 1u32..9, 0..4);
        let sizes = (0u32..20, 0u32..20, 1u32..4, 0u64..5);
        (sizes, spread(), spread()).prop_map(
            move |((wanted, most, weight, bytes), held, demand)| {
                let within = |map: std::collections::BTreeMap<usize, u32>| {
                    map.into_iter().filter(|(pod, _)| *pod < pods).collect()
                };
                Function {
                    wanted,
                    most,
                    weight: NonZeroU32::new(weight).unwrap(),
                    instance_bytes: bytes,
                    held: within(held),
                    demand: within(demand),
                }
            },
        )
    }

    fn any_group(pods: std::ops::Range<usize>) -> impl Strategy<Value = Group> {
        pods.prop_flat_map(|pods| {
            let memory = prop::option::weighted(0.8, 0u64..60);
            let pods_of = prop::collection::vec(memory.prop_map(|memory| Pod { memory }), pods);
            let functions = prop::collection::vec(any_function(pods), 0..6);
            (pods_of, functions).prop_map(|(pods, functions)| Group { pods, functions })
        })
    }

    fn any_namespace() -> impl Strategy<Value = Namespace> {
        let quota = prop::option::of(0u64..80);
        let groups = prop::collection::vec(any_group(0..5), 0..3);
        (quota, groups).prop_map(|(quota, groups)| Namespace { quota, groups })
    }

    /// Enough of everything, and every pod alike.
    fn any_roomy_group(pods: std::ops::Range<usize>) -> impl Strategy<Value = Group> {
        any_group(pods).prop_map(|mut group| {
            for pod in &mut group.pods {
                pod.memory = None;
            }
            group
        })
    }

    fn wanted(function: &Function) -> u32 {
        function.wanted.min(function.most)
    }

    fn applied(namespace: &Namespace, plan: &Plan) -> Namespace {
        let mut namespace = namespace.clone();
        for (group, placements) in namespace.groups.iter_mut().zip(&plan.groups) {
            for (function, placement) in group.functions.iter_mut().zip(placements) {
                function.held = placement.targets.clone();
            }
        }
        namespace
    }

    /// Plans until nothing moves.
    fn settle(namespace: &Namespace) -> (Namespace, Plan) {
        let mut namespace = namespace.clone();
        for _ in 0..100 {
            let made = plan(&namespace);
            namespace = applied(&namespace, &made);
            if made.moves == 0 {
                return (namespace, made);
            }
        }
        panic!("never settles: {namespace:?}");
    }

    fn used(group: &Group, placements: &[Placement], pod: usize) -> u64 {
        let of = |(function, placement): (&Function, &Placement)| {
            let there = placement.targets.iter().filter(|(at, _)| *at == pod);
            there.map(|(_, count)| u64::from(*count)).sum::<u64>() * function.instance_bytes
        };
        group.functions.iter().zip(placements).map(of).sum()
    }

    fn alone(group: Group) -> Namespace {
        Namespace {
            quota: None,
            groups: vec![group],
        }
    }

    /// One by one, to who has the fewest for its weight: what [`crate::share`] does faster. Memory in one pod only.
    fn dealt(namespace: &Namespace) -> Vec<Vec<u32>> {
        let mut totals: Vec<Vec<u32>> = Vec::new();
        let mut free: Vec<u64> = Vec::new();
        for group in &namespace.groups {
            totals.push(vec![0; group.functions.len()]);
            free.push(
                group
                    .pods
                    .first()
                    .map_or(0, |pod| pod.memory.unwrap_or(u64::MAX)),
            );
        }
        let mut quota = namespace.quota.unwrap_or(u64::MAX);
        let mut out = std::collections::BTreeSet::new();
        loop {
            let all = namespace.groups.iter().enumerate().flat_map(|(g, group)| {
                let functions = group.functions.iter().enumerate();
                functions.map(move |(f, function)| (g, f, function))
            });
            let open = all.filter(|(g, f, function)| {
                totals[*g][*f] < wanted(function)
                    && !namespace.groups[*g].pods.is_empty()
                    && !out.contains(&(*g, *f))
            });
            let next = open.min_by(|(g, f, a), (h, e, b)| {
                let left = u64::from(totals[*g][*f] + 1) * u64::from(b.weight.get());
                let right = u64::from(totals[*h][*e] + 1) * u64::from(a.weight.get());
                left.cmp(&right).then((g, f).cmp(&(h, e)))
            });
            let Some((g, f, function)) = next.filter(|_| quota > 0) else {
                return totals;
            };
            if function.instance_bytes > free[g] {
                out.insert((g, f));
                continue;
            }
            free[g] -= function.instance_bytes;
            quota -= 1;
            totals[g][f] += 1;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn nothing_is_exceeded_and_nothing_is_left_that_somebody_wants(namespace in any_namespace()) {
            let made = plan(&namespace);
            let all: u64 = made.groups.iter().flatten().map(|p| u64::from(p.total())).sum();
            let quota = namespace.quota.unwrap_or(u64::MAX);
            prop_assert!(all <= quota);
            for (group, placements) in namespace.groups.iter().zip(&made.groups) {
                let room = |pod: usize| {
                    let memory = group.pods[pod].memory.unwrap_or(u64::MAX);
                    memory.checked_sub(used(group, placements, pod))
                };
                prop_assert!((0..group.pods.len()).all(|pod| room(pod).is_some()));
                for (function, placement) in group.functions.iter().zip(placements) {
                    prop_assert!(placement.targets.iter().all(|(_, count)| *count > 0));
                    prop_assert!(placement.targets.is_sorted_by(|a, b| a.0 < b.0));
                    prop_assert!(placement.total() <= function.most);
                    // What is free is in fragments: less than one instance in each pod, all pods together.
                    let free: u128 = (0..group.pods.len()).filter_map(room).map(u128::from).sum();
                    let one_each = u128::from(function.instance_bytes) * group.pods.len() as u128;
                    match placement.short {
                        None => prop_assert_eq!(placement.total(), wanted(function)),
                        Some(_) => prop_assert!(placement.total() < wanted(function)),
                    }
                    match placement.short {
                        None => {}
                        Some(Short::Pods) => prop_assert!(group.pods.is_empty()),
                        Some(Short::Quota) => prop_assert_eq!(all, quota),
                        Some(Short::Memory) => prop_assert!(free < one_each),
                    }
                }
            }
        }

        #[test]
        fn a_plan_that_is_applied_changes_nothing_more(namespace in any_namespace()) {
            let first = plan(&namespace);
            prop_assert_eq!(&plan(&namespace), &first);
            let (settled, last) = settle(&namespace);
            prop_assert_eq!(&plan(&settled), &last);
            // Moving changes where, not how many.
            let totals = |plan: &Plan| plan.groups.concat().iter().map(Placement::total).collect::<Vec<_>>();
            prop_assert_eq!(totals(&first), totals(&last));
        }

        #[test]
        fn what_a_function_gets_does_not_depend_on_who_came_first(namespace in any_namespace()) {
            let mut anew = namespace.clone();
            for function in anew.groups.iter_mut().flat_map(|group| &mut group.functions) {
                function.held.clear();
            }
            let totals = |plan: Plan| plan.groups.concat().iter().map(Placement::total).collect::<Vec<_>>();
            prop_assert_eq!(totals(plan(&anew)), totals(plan(&namespace)));
        }

        #[test]
        fn under_pressure_each_gets_its_turn(mut namespace in any_namespace()) {
            for group in &mut namespace.groups {
                group.pods.truncate(1);
                for function in &mut group.functions {
                    function.held.retain(|(pod, _)| *pod == 0);
                    function.demand.clear();
                }
            }
            let made = plan(&namespace);
            let totals: Vec<Vec<u32>> = made
                .groups
                .iter()
                .map(|placements| placements.iter().map(Placement::total).collect())
                .collect();
            prop_assert_eq!(totals, dealt(&namespace));
        }

        #[test]
        fn few_move_in_one_round(group in any_roomy_group(0..5)) {
            let namespace = alone(group);
            let (before, made) = (&namespace.groups[0].functions, plan(&namespace));
            for (function, placement) in before.iter().zip(&made.groups[0]) {
                let held: u32 = function.held.iter().map(|(_, count)| count).sum();
                let lost: u32 = function
                    .held
                    .iter()
                    .map(|(pod, count)| {
                        let now = placement.targets.iter().find(|(at, _)| at == pod);
                        count.saturating_sub(now.map_or(0, |(_, count)| *count))
                    })
                    .sum();
                let fewer = held.saturating_sub(placement.total());
                prop_assert!(lost <= fewer + placement.total().div_ceil(4));
            }
        }

        #[test]
        fn without_demand_pods_differ_by_one_at_most(mut group in any_roomy_group(0..5)) {
            for function in &mut group.functions {
                function.demand.clear();
            }
            let pods = group.pods.len();
            let (_, made) = settle(&alone(group));
            for placement in made.groups[0].iter().filter(|_| pods > 0) {
                let counts = (0..pods).map(|pod| {
                    placement.targets.iter().find(|(at, _)| *at == pod).map_or(0, |(_, count)| *count)
                });
                let (least, most) = (counts.clone().min().unwrap(), counts.max().unwrap());
                prop_assert!(most - least <= 1, "{:?}", placement);
            }
        }

        #[test]
        fn a_lost_pod_moves_only_what_was_there(mut group in any_roomy_group(2..5), lost in 0usize..5) {
            let lost = lost % group.pods.len();
            for function in &mut group.functions {
                function.demand.clear();
            }
            let (settled, before) = settle(&alone(group));
            let mut group = settled.groups[0].clone();
            group.pods.remove(lost);
            let stays = |(pod, count): (usize, u32)| match pod.cmp(&lost) {
                std::cmp::Ordering::Less => Some((pod, count)),
                std::cmp::Ordering::Equal => None,
                std::cmp::Ordering::Greater => Some((pod - 1, count)),
            };
            for function in &mut group.functions {
                function.held = function.held.iter().copied().filter_map(stays).collect();
            }
            let after = plan(&alone(group.clone()));
            for ((function, before), after) in group.functions.iter().zip(&before.groups[0]).zip(&after.groups[0]) {
                prop_assert_eq!(before.total(), after.total());
                for (pod, count) in &function.held {
                    let now = after.targets.iter().find(|(at, _)| at == pod).map_or(0, |(_, count)| *count);
                    prop_assert!(now >= *count);
                }
            }
        }

        #[test]
        fn a_small_change_of_demand_moves_nothing(wanted in 8u32..200, weights in prop::collection::vec(50u32..100, 2..5)) {
            let group = |weights: &[u32], held: Vec<(usize, u32)>| Group {
                pods: vec![Pod::default(); weights.len()],
                functions: vec![Function {
                    wanted,
                    most: u32::MAX,
                    weight: NonZeroU32::MIN,
                    instance_bytes: 1,
                    held,
                    demand: weights.iter().copied().enumerate().collect(),
                }],
            };
            // Freshly placed, it is where it is needed.
            let first = plan(&alone(group(&weights, Vec::new())));
            prop_assert_eq!(first.moves, 0);
            let held = first.groups[0][0].targets.clone();
            let sum: u32 = weights.iter().sum();
            let mut other = weights.clone();
            other[0] += sum / 50;
            let second = plan(&alone(group(&other, held.clone())));
            prop_assert_eq!(&second.groups[0][0].targets, &held);
        }
    }

    fn function(wanted: u32, held: &[(usize, u32)], demand: &[(usize, u32)]) -> Function {
        Function {
            wanted,
            most: u32::MAX,
            weight: NonZeroU32::MIN,
            instance_bytes: 10,
            held: held.to_vec(),
            demand: demand.to_vec(),
        }
    }

    fn check(pods: &[Option<u64>], function: Function, expected: &[(usize, u32)]) {
        let group = Group {
            pods: pods.iter().map(|memory| Pod { memory: *memory }).collect(),
            functions: vec![function.clone()],
        };
        let (_, settled) = settle(&alone(group));
        assert_eq!(settled.groups[0][0].targets, expected, "{function:?}");
    }

    #[test]
    fn instances_go_where_callers_are() {
        let three = [None; 3];
        check(&three, function(3, &[], &[]), &[(0, 1), (1, 1), (2, 1)]);
        // A node joins.
        check(
            &three,
            function(6, &[(0, 3), (1, 3)], &[]),
            &[(0, 2), (1, 2), (2, 2)],
        );
        // Too few for all pods: only where the calls are.
        check(&three, function(2, &[], &[(1, 5)]), &[(1, 2)]);
        // Enough for all: one each, the rest where the calls are.
        check(
            &three,
            function(12, &[], &[(0, 2), (2, 1)]),
            &[(0, 7), (1, 1), (2, 4)],
        );
        // Where they are needed is no room.
        check(
            &[None, Some(30), None],
            function(8, &[], &[(1, 5)]),
            &[(0, 3), (1, 3), (2, 2)],
        );
        // A pod's memory became smaller.
        check(
            &[Some(20), None],
            function(6, &[(0, 3), (1, 3)], &[]),
            &[(0, 2), (1, 4)],
        );
    }

    #[test]
    fn functions_with_one_instance_do_not_crowd_one_pod() {
        let group = Group {
            pods: vec![Pod::default(); 4],
            functions: vec![function(1, &[], &[]); 12],
        };
        let made = plan(&alone(group.clone()));
        for pod in 0..4 {
            assert_eq!(used(&group, &made.groups[0], pod), 30);
        }
    }

    #[test]
    fn a_plan_of_a_thousand_nodes_and_a_hundred_thousand_functions_is_one_when_it_is_applied() {
        let pods = 1000;
        // Sizes and places differ, by a fixed rule.
        let function = |index: usize| Function {
            wanted: (index % 7) as u32,
            most: 100,
            weight: NonZeroU32::new(1 + (index % 3) as u32).unwrap(),
            instance_bytes: 1 << (20 + index % 3),
            held: Vec::new(),
            demand: (0..index % 4)
                .map(|step| ((index * 7 + step * 31) % pods, 1))
                .collect::<std::collections::BTreeMap<_, _>>()
                .into_iter()
                .collect(),
        };
        let functions: Vec<_> = (0..100_000).map(function).collect();
        for memory in [None, Some(4 << 30), Some(256 << 20)] {
            let group = Group {
                pods: vec![Pod { memory }; pods],
                functions: functions.clone(),
            };
            let namespace = alone(group);
            let first = plan(&namespace);
            let namespace = applied(&namespace, &first);
            assert_eq!(plan(&namespace).groups, first.groups);
        }
    }
}
