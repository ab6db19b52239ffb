//! Which pods hold a function's instances.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use crate::plan::{Function, Group, Placement};
use crate::share::Share;

/// Places the instances of a group's functions. Also returns how many went from one pod to another.
pub(crate) fn spread(group: &Group, share: Share) -> (Vec<Placement>, u32) {
    let mut board = Board::new(group);
    let mut spreads: Vec<_> = group
        .functions
        .iter()
        .zip(&share.totals)
        .map(|(function, total)| Spread::kept(function, *total, group.pods.len()))
        .collect();
    for spread in &spreads {
        board.take_all(spread);
    }
    board.shed(&mut spreads);
    let mut is_placed = true;
    for spread in &mut spreads {
        is_placed &= spread.fill(&mut board);
    }
    let mut moves = 0;
    // The room that is left is in fragments: the order in which everything fits is known.
    if let (false, Some(packing)) = (is_placed, &share.packing) {
        moves += repack(&mut spreads, packing);
        board = Board::new(group);
        for spread in &spreads {
            board.take_all(spread);
        }
    }
    for spread in &mut spreads {
        moves += spread.even_out(&mut board);
    }
    let placements = spreads.into_iter().zip(share.short);
    let placements = placements.map(|(spread, short)| Placement {
        targets: spread.places,
        short,
    });
    (placements.collect(), moves)
}

/// Puts the spreads as the packing has them. Returns how many instances move.
fn repack(spreads: &mut [Spread<'_>], packing: &[(usize, usize, u32)]) -> u32 {
    for spread in &mut *spreads {
        spread.places.clear();
    }
    for (function, pod, count) in packing {
        spreads[*function].add(*pod, *count);
    }
    let moved = |spread: &Spread<'_>| {
        let held = |pod: usize| count_at(&spread.function.held, pod);
        let gained = spread
            .places
            .iter()
            .map(|(pod, count)| count.saturating_sub(held(*pod)));
        let lost = spread.function.held.iter();
        let lost = lost.map(|(pod, count)| count.saturating_sub(count_at(&spread.places, *pod)));
        gained.sum::<u32>().min(lost.sum())
    };
    spreads.iter().map(moved).sum()
}

fn count_at(places: &[(usize, u32)], pod: usize) -> u32 {
    let found = places.binary_search_by_key(&pod, |(pod, _)| *pod);
    found.map_or(0, |index| places[index].1)
}

/// The pods' memory, and which of them holds least.
struct Board {
    memory: Vec<u64>,
    /// Bytes of all instances; above the memory only until [`Board::shed`].
    used: Vec<u128>,
    /// By what they hold.
    order: BTreeSet<(u128, usize)>,
}

impl Board {
    fn new(group: &Group) -> Self {
        let memory: Vec<_> = group
            .pods
            .iter()
            .map(|pod| pod.memory.unwrap_or(u64::MAX))
            .collect();
        Self {
            used: vec![0; memory.len()],
            order: (0..memory.len()).map(|pod| (0, pod)).collect(),
            memory,
        }
    }

    fn change(&mut self, pod: usize, change: impl FnOnce(u128) -> u128) {
        self.order.remove(&(self.used[pod], pod));
        self.used[pod] = change(self.used[pod]);
        self.order.insert((self.used[pod], pod));
    }

    fn take(&mut self, pod: usize, bytes: u128) {
        self.change(pod, |used| used + bytes);
    }

    fn take_all(&mut self, spread: &Spread<'_>) {
        for (pod, count) in &spread.places {
            self.take(*pod, u128::from(*count) * spread.bytes());
        }
    }

    fn give(&mut self, pod: usize, bytes: u128) {
        self.change(pod, |used| used - bytes);
    }

    fn has_room(&self, pod: usize, bytes: u128) -> bool {
        self.used[pod] + bytes <= u128::from(self.memory[pod])
    }

    /// Takes instances from pods that hold more than their memory, one by one from the function that has the most there.
    fn shed(&mut self, spreads: &mut [Spread<'_>]) {
        let is_over = |board: &Self, pod: usize| !board.has_room(pod, 0);
        let over: Vec<_> = (0..self.memory.len())
            .filter(|pod| is_over(self, *pod))
            .collect();
        for pod in over {
            let there = spreads.iter().enumerate();
            let mut there: BinaryHeap<_> = there
                .map(|(index, spread)| (count_at(&spread.places, pod), Reverse(index)))
                .filter(|(count, _)| *count > 0)
                .collect();
            while is_over(self, pod)
                && let Some((count, Reverse(index))) = there.pop()
            {
                spreads[index].remove(pod);
                self.give(pod, spreads[index].bytes());
                if count > 1 {
                    there.push((count - 1, Reverse(index)));
                }
            }
        }
    }
}

/// One function on its way to its places.
struct Spread<'a> {
    function: &'a Function,
    total: u32,
    pods: usize,
    ideal: Ideal<'a>,
    /// Pod and number, above zero, by pod.
    places: Vec<(usize, u32)>,
}

/// How many instances each pod should hold, as fractions: one instance is `unit`.
struct Ideal<'a> {
    unit: i128,
    /// What each pod has first.
    base: i128,
    /// What is shared out by weight.
    rest: i128,
    /// Empty: all alike.
    demand: &'a [(usize, u32)],
    /// A spread that is off by less is left alone.
    slack: i128,
}

impl<'a> Ideal<'a> {
    fn new(total: u32, pods: usize, demand: &'a [(usize, u32)]) -> Self {
        let (total, pods) = (i128::from(total), pods as i128);
        if demand.is_empty() {
            return Self {
                unit: pods,
                base: 0,
                rest: total,
                demand,
                slack: 2,
            };
        }
        // Where there are enough, each pod has one: the next call there finds it warm.
        let base = i128::from(total >= pods);
        Self {
            unit: demand.iter().map(|(_, weight)| i128::from(*weight)).sum(),
            base,
            rest: total - base * pods,
            demand,
            slack: (total / 8).max(2),
        }
    }

    /// How far a pod with `count` instances is above what it should hold.
    fn surplus(&self, pod: usize, count: u32) -> i128 {
        let weight = match self.demand {
            [] => 1,
            demand => i128::from(count_at(demand, pod)),
        };
        (i128::from(count) - self.base) * self.unit - self.rest * weight
    }

    /// [`Ideal::surplus`] of a pod that has no instance and no demand of its own.
    fn outside(&self) -> i128 {
        let weight = i128::from(self.demand.is_empty());
        -self.base * self.unit - self.rest * weight
    }
}

impl<'a> Spread<'a> {
    /// What is held, less what is above the total.
    fn kept(function: &'a Function, total: u32, pods: usize) -> Self {
        let mut spread = Self {
            function,
            total,
            pods,
            ideal: Ideal::new(total, pods, &function.demand),
            places: function.held.clone(),
        };
        spread.places.retain(|(_, count)| *count > 0);
        spread.places.sort_unstable();
        spread.trim();
        spread
    }

    fn bytes(&self) -> u128 {
        u128::from(self.function.instance_bytes)
    }

    fn placed(&self) -> u32 {
        self.places.iter().map(|(_, count)| count).sum()
    }

    fn add(&mut self, pod: usize, count: u32) {
        match self.places.binary_search_by_key(&pod, |(pod, _)| *pod) {
            Ok(index) => self.places[index].1 += count,
            Err(index) => self.places.insert(index, (pod, count)),
        }
    }

    fn remove(&mut self, pod: usize) {
        if let Ok(index) = self.places.binary_search_by_key(&pod, |(pod, _)| *pod) {
            self.places[index].1 -= 1;
            if self.places[index].1 == 0 {
                self.places.remove(index);
            }
        }
    }

    /// Takes what is too many from where most are too many.
    fn trim(&mut self) {
        let mut surplus = self.placed().saturating_sub(self.total);
        if surplus == 0 {
            return;
        }
        if self.total == 0 {
            self.places.clear();
            return;
        }
        let ideal = &self.ideal;
        let places = self.places.iter().enumerate();
        let mut heap: BinaryHeap<_> = places
            .map(|(index, (pod, count))| (ideal.surplus(*pod, *count), index))
            .collect();
        while surplus > 0
            && let Some((above, index)) = heap.pop()
        {
            self.places[index].1 -= 1;
            surplus -= 1;
            if self.places[index].1 > 0 {
                heap.push((above - ideal.unit, index));
            }
        }
        self.places.retain(|(_, count)| *count > 0);
    }

    /// Pods that may hold instances without being the emptiest: those that hold some or have demand; all of them, where
    /// there is an instance for each.
    fn known(&self) -> Vec<usize> {
        if self.total as usize >= self.pods {
            return (0..self.pods).collect();
        }
        let held = self.places.iter().map(|(pod, _)| *pod);
        let asked = self.function.demand.iter().map(|(pod, _)| *pod);
        let all: BTreeSet<_> = held.chain(asked).collect();
        all.into_iter().collect()
    }

    /// The emptiest pods with room, without those that are known.
    fn outsiders<'b>(
        &self,
        known: &'b [usize],
        board: &'b Board,
    ) -> impl Iterator<Item = usize> + use<'b> {
        let bytes = self.bytes();
        let pods = board.order.iter().map(|(_, pod)| *pod);
        pods.filter(move |pod| known.binary_search(pod).is_err() && board.has_room(*pod, bytes))
    }

    /// Adds what is missing where most is missing. False when some of it finds no room.
    fn fill(&mut self, board: &mut Board) -> bool {
        let missing = self.total - self.placed();
        if missing == 0 {
            return true;
        }
        let (known, bytes, outside) = (self.known(), self.bytes(), self.ideal.outside());
        let outsiders = self.outsiders(&known, board).take(missing as usize);
        let mut outsiders = outsiders.collect::<Vec<_>>().into_iter().peekable();
        let entry = |spread: &Self, board: &Board, pod: usize| {
            let count = count_at(&spread.places, pod);
            Reverse((spread.ideal.surplus(pod, count), board.used[pod], pod))
        };
        let mut heap: BinaryHeap<_> = known.iter().map(|pod| entry(self, board, *pod)).collect();
        for _ in 0..missing {
            let pod = loop {
                let best = heap.peek().map(|Reverse((surplus, _, _))| *surplus);
                if let Some(pod) = outsiders.next_if(|_| best.is_none_or(|best| outside <= best)) {
                    break pod;
                }
                match heap.pop() {
                    Some(Reverse((_, _, pod))) if board.has_room(pod, bytes) => break pod,
                    Some(_) => {}
                    None => return false,
                }
            };
            self.add(pod, 1);
            board.take(pod, bytes);
            heap.push(entry(self, board, pod));
        }
        true
    }

    /// Moves instances from where most are too many to where most are missing, a quarter of them at most. Returns how many.
    fn even_out(&mut self, board: &mut Board) -> u32 {
        let mut moved = 0;
        while moved < self.total.div_ceil(4)
            && let Some((from, to)) = self.next_move(board)
        {
            self.remove(from);
            self.add(to, 1);
            board.give(from, self.bytes());
            board.take(to, self.bytes());
            moved += 1;
        }
        moved
    }

    /// From where to where, while the spread is off by more than is left alone.
    fn next_move(&self, board: &Board) -> Option<(usize, usize)> {
        let surplus = |pod: usize| self.ideal.surplus(pod, count_at(&self.places, pod));
        let from = self.places.iter().map(|(pod, _)| *pod);
        let from = from.max_by_key(|pod| (surplus(*pod), Reverse(*pod)))?;
        let is_worth_it = |to: i128| surplus(from) - to >= self.ideal.slack * self.ideal.unit;
        let known = self.known();
        let least = known.iter().map(|pod| surplus(*pod)).min();
        let outside = (known.len() < self.pods).then(|| self.ideal.outside());
        // Before the look for room, which takes longer.
        is_worth_it(least.into_iter().chain(outside).min()?).then_some(())?;
        let bytes = self.bytes();
        let known_with_room = known
            .iter()
            .copied()
            .filter(|pod| *pod != from && board.has_room(*pod, bytes));
        let to = self.outsiders(&known, board).take(1).chain(known_with_room);
        let to = to.min_by_key(|pod| (surplus(*pod), board.used[*pod], *pod))?;
        is_worth_it(surplus(to)).then_some((from, to))
    }
}
