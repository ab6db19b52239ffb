//! How many instances each function gets when memory or quota may not suffice for all.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap};

use crate::plan::{Function, Group, Namespace, Short};

/// What the functions of one group get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    /// Instances of each function.
    pub(crate) totals: Vec<u32>,
    /// Why a function gets fewer than it wants.
    pub(crate) short: Vec<Option<Short>>,
    /// One way to fit all of them into the pods' memory: function, pod, number. `None` where any order fits.
    pub(crate) packing: Option<Vec<(usize, usize, u32)>>,
}

/// Instances that a function may get at all.
fn wanted(function: &Function) -> u32 {
    function.wanted.min(function.most)
}

/// Shares of all groups of a namespace. They do not depend on what is held: what a function gets is no matter of who came
/// first.
pub(crate) fn shares(namespace: &Namespace) -> Vec<Share> {
    let all: u64 = namespace
        .groups
        .iter()
        .filter(|group| !group.pods.is_empty())
        .flat_map(|group| &group.functions)
        .map(|function| u64::from(wanted(function)))
        .sum();
    let is_within_quota = namespace.quota.is_none_or(|quota| all <= quota);
    let groups: Vec<_> = namespace.groups.iter().map(Room::new).collect();
    if is_within_quota && groups.iter().all(|room| room.suffices) {
        return namespace.groups.iter().map(everything).collect();
    }
    Dealing::new(namespace, groups).deal()
}

/// Everybody gets everything, as far as there are pods.
fn everything(group: &Group) -> Share {
    let is_empty = group.pods.is_empty();
    let share = group
        .functions
        .iter()
        .map(|function| match wanted(function) {
            0 => (0, None),
            _ if is_empty => (0, Some(Short::Pods)),
            wanted => (wanted, None),
        });
    let (totals, short) = share.unzip();
    Share {
        totals,
        short,
        packing: None,
    }
}

/// Memory of a group's pods, as it is handed out.
struct Room {
    /// Any order of placing finds a pod for every instance.
    suffices: bool,
    /// What is placed without looking for fragments, in bytes: less than the memory by the largest instance in each pod.
    safe: u128,
    /// Free bytes and index of each pod.
    free: BTreeSet<(u64, usize)>,
    packed: Vec<(usize, usize, u32)>,
}

impl Room {
    fn new(group: &Group) -> Self {
        let largest = group
            .functions
            .iter()
            .filter(|function| wanted(function) > 0);
        let largest = largest
            .map(|function| function.instance_bytes)
            .max()
            .unwrap_or(0);
        let memory = |pod: &crate::Pod| pod.memory.unwrap_or(u64::MAX);
        let safe = group
            .pods
            .iter()
            .map(|pod| u128::from((memory(pod)).saturating_add(1).saturating_sub(largest)))
            .sum();
        Self {
            suffices: group.pods.is_empty() || bytes_at(group, u32::MAX) <= safe,
            safe,
            free: group
                .pods
                .iter()
                .enumerate()
                .map(|(index, pod)| (memory(pod), index))
                .collect(),
            packed: Vec::new(),
        }
    }

    /// Puts one instance into the pod with the most free memory. False when it does not fit there, and so nowhere.
    fn put(&mut self, function: usize, bytes: u64) -> bool {
        let Some(&(free, pod)) = self.free.last().filter(|(free, _)| *free >= bytes) else {
            return false;
        };
        self.free.pop_last();
        self.free.insert((free - bytes, pod));
        match self.packed.last_mut() {
            Some((last, place, count)) if (*last, *place) == (function, pod) => *count += 1,
            _ => self.packed.push((function, pod, 1)),
        }
        true
    }

    /// Puts what is known to fit, one pod after the other.
    fn put_safely(&mut self, counts: &[u32], functions: &[Function]) {
        let mut pods: Vec<_> = std::mem::take(&mut self.free).into_iter().rev().collect();
        let mut at = 0;
        for (index, (function, count)) in functions.iter().zip(counts).enumerate() {
            let mut left = *count;
            while left > 0 {
                let (free, pod) = &mut pods[at];
                let fit = free
                    .checked_div(function.instance_bytes)
                    .map_or(left, |fit| left.min(u32::try_from(fit).unwrap_or(u32::MAX)));
                if fit > 0 {
                    self.packed.push((index, *pod, fit));
                    *free -= u64::from(fit) * function.instance_bytes;
                    left -= fit;
                }
                if left > 0 {
                    at += 1;
                }
            }
        }
        self.free = pods.into_iter().collect();
    }
}

/// Instances of a function when each may have `level` for its weight.
fn at_level(function: &Function, level: u32) -> u32 {
    wanted(function).min(level.saturating_mul(function.weight.get()))
}

fn bytes_at(group: &Group, level: u32) -> u128 {
    let bytes = |function: &Function| {
        u128::from(at_level(function, level)) * u128::from(function.instance_bytes)
    };
    group.functions.iter().map(bytes).sum()
}

fn instances_at(namespace: &Namespace, level: u32) -> u128 {
    let functions = namespace.groups.iter().flat_map(|group| &group.functions);
    functions
        .map(|function| u128::from(at_level(function, level)))
        .sum()
}

/// The highest level at which `is_fine` holds; it holds at zero, and above the first level where it does not, nowhere.
fn highest_level(is_fine: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (0, u32::MAX);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if is_fine(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

/// Who gets the next instance: the function with the fewest for its weight, counting the one it would get.
#[derive(Debug, PartialEq, Eq)]
struct Turn {
    /// With this one.
    granted: u32,
    weight: u32,
    group: usize,
    function: usize,
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        let level = |turn: &Self, of: &Self| u64::from(turn.granted) * u64::from(of.weight);
        level(self, other)
            .cmp(&level(other, self))
            .then_with(|| (self.group, self.function).cmp(&(other.group, other.function)))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Handing out one by one. What everybody gets for certain is handed out at once, so that the number of turns does not
/// grow with the number of instances.
struct Dealing<'a> {
    namespace: &'a Namespace,
    rooms: Vec<Room>,
    shares: Vec<Share>,
    quota: u64,
    turns: BinaryHeap<Reverse<Turn>>,
}

impl<'a> Dealing<'a> {
    fn new(namespace: &'a Namespace, rooms: Vec<Room>) -> Self {
        let mut dealing = Self {
            namespace,
            rooms,
            shares: Vec::new(),
            quota: namespace.quota.unwrap_or(u64::MAX),
            turns: BinaryHeap::new(),
        };
        let quota = u128::from(dealing.quota);
        let quota_level = highest_level(|level| instances_at(namespace, level) <= quota);
        for (index, group) in namespace.groups.iter().enumerate() {
            dealing.begin(index, group, quota_level);
        }
        dealing
    }

    fn begin(&mut self, index: usize, group: &Group, quota_level: u32) {
        let mut share = everything(group);
        if !group.pods.is_empty() {
            let room = &mut self.rooms[index];
            let level = highest_level(|level| bytes_at(group, level) <= room.safe);
            let level = level.min(quota_level);
            let certain = group
                .functions
                .iter()
                .map(|function| at_level(function, level));
            share.totals = certain.collect();
            room.put_safely(&share.totals, &group.functions);
            self.quota -= share
                .totals
                .iter()
                .map(|total| u64::from(*total))
                .sum::<u64>();
        }
        let functions = group.functions.iter().zip(&share.totals).enumerate();
        for (function, (of, granted)) in functions {
            if *granted < wanted(of) && !group.pods.is_empty() {
                self.turns.push(Reverse(Turn {
                    granted: granted + 1,
                    weight: of.weight.get(),
                    group: index,
                    function,
                }));
            }
        }
        self.shares.push(share);
    }

    fn deal(mut self) -> Vec<Share> {
        while let Some(Reverse(turn)) = self.turns.pop() {
            let function = &self.namespace.groups[turn.group].functions[turn.function];
            let share = &mut self.shares[turn.group];
            if self.quota == 0 {
                share.short[turn.function] = Some(Short::Quota);
                continue;
            }
            if !self.rooms[turn.group].put(turn.function, function.instance_bytes) {
                share.short[turn.function] = Some(Short::Memory);
                continue;
            }
            self.quota -= 1;
            share.totals[turn.function] = turn.granted;
            if turn.granted < wanted(function) {
                self.turns.push(Reverse(Turn {
                    granted: turn.granted + 1,
                    ..turn
                }));
            }
        }
        for (share, room) in self.shares.iter_mut().zip(self.rooms) {
            share.packing = (!room.suffices).then_some(room.packed);
        }
        self.shares
    }
}
