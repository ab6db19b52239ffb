//! Ranks by Zipf's law: the rank `r`, counted from 1, is drawn with a weight of `1/r`.

/// A law over a number of ranks.
#[derive(Debug)]
pub(crate) struct Zipf {
    /// Sums of the weights up to each rank.
    sums: Vec<f64>,
}

impl Zipf {
    /// The law over so many ranks, at least one.
    pub(crate) fn new(ranks: usize) -> Self {
        let mut sum = 0.0;
        let weights = (1..=ranks).map(|rank| 1.0 / rank as f64);
        let sums = weights.map(|weight| {
            sum += weight;
            sum
        });
        Self {
            sums: sums.collect(),
        }
    }

    /// Draws a rank, counted from 0: the lower, the commoner.
    pub(crate) fn rank(&self, random: &mut Random) -> usize {
        let all = self.sums.last().copied().unwrap_or_default();
        let drawn = random.unit() * all;
        self.sums.partition_point(|sum| *sum <= drawn)
    }
}

/// A generator of random numbers that draws the same from the same seed: SplitMix64.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below 1: as many bits as a fraction holds.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 200_000;

    fn draws(ranks: usize, seed: u64) -> Vec<usize> {
        let (zipf, mut random) = (Zipf::new(ranks), Random::new(seed));
        (0..DRAWS).map(|_| zipf.rank(&mut random)).collect()
    }

    /// The sum of `1/r` for the first ranks.
    fn harmonic(ranks: usize) -> f64 {
        (1..=ranks).map(|rank| 1.0 / rank as f64).sum()
    }

    #[test]
    fn ranks_are_drawn_as_often_as_the_law_says() {
        let drawn = draws(10_000, 7);
        let check = |what: &str, is_counted: &dyn Fn(usize) -> bool, expected: f64| {
            let count = drawn.iter().filter(|rank| is_counted(**rank)).count();
            let share = count as f64 / DRAWS as f64;
            assert!(
                (share / expected - 1.0).abs() < 0.05,
                "{what}: {share}, expected {expected}"
            );
        };
        let all = harmonic(10_000);
        check("the commonest", &|rank| rank == 0, 1.0 / all);
        check("the second", &|rank| rank == 1, 0.5 / all);
        check("the tenth", &|rank| rank == 9, 0.1 / all);
        check("the first 500", &|rank| rank < 500, harmonic(500) / all);
        check(
            "the rarer half",
            &|rank| (5_000..10_000).contains(&rank),
            (all - harmonic(5_000)) / all,
        );
    }

    #[test]
    fn every_rank_is_drawn_and_no_other() {
        let mut drawn = draws(8, 1);
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        assert_eq!(draws(100, 3), draws(100, 3));
        assert_ne!(draws(100, 3), draws(100, 4));
    }
}
