//! Damaged examples for whatever parses outside bytes, on stable Rust.
//!
//! A target is a unit test beside its parser, so that it reaches what is private: `fn fuzz_NAME` in the parser's `tests`, which
//! hands [`bytes`] or [`text`] some good examples and a check. The check holds for all input, and a panic in it is a
//! finding, which proptest shrinks to the least change that makes it. Nothing guides the search but the examples: they should use every
//! part of the format.
//!
//! A target runs for a quarter of a second, or for as many seconds as `HEARTH_FUZZ_SECONDS` says: `cargo xtask fuzz` sets it.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

/// The variable with the seconds of each target.
const SECONDS: &str = "HEARTH_FUZZ_SECONDS";
/// Time of a target where the variable is not set.
const BRIEF: Duration = Duration::from_millis(250);
/// Inputs between two looks at the clock, at first; doubled while they take less than [`LOOK`].
const BATCH: u32 = 8;
/// Time between two looks at the clock, about.
const LOOK: Duration = Duration::from_millis(50);
/// Most changes to an example.
const EDITS: usize = 8;
/// Attempts at a smaller input that fails too.
const SHRINKS: u32 = 10_000;
/// Longest input that is no changed example, in bytes.
const RANDOM_BYTES: usize = 256;

/// Runs `check` on changed `examples`, and on bytes of no kind.
///
/// # Panics
/// When `check` panics: with the least input that makes it.
pub fn bytes(target: &str, examples: &[&[u8]], check: impl Fn(&[u8])) {
    let time = std::env::var(SECONDS).map_or(BRIEF, |seconds| {
        Duration::from_secs(
            seconds
                .parse()
                .expect("HEARTH_FUZZ_SECONDS is a whole number"),
        )
    });
    let inputs = inputs(examples);
    let started = Instant::now();
    let (mut executions, mut batch) = (0_u64, BATCH);
    while started.elapsed() < time {
        let began = Instant::now();
        let config = Config {
            cases: batch,
            failure_persistence: None,
            max_shrink_iters: SHRINKS,
            ..Config::default()
        };
        let ran = TestRunner::new(config).run(&inputs, |Input(input)| {
            check(&input);
            Ok(())
        });
        if let Err(error) = ran {
            panic!("{target}, after {executions} executions: {error}");
        }
        executions += u64::from(batch);
        if began.elapsed() < LOOK {
            batch *= 2;
        }
    }
    println!(
        "{target}: {executions} executions in {:.1} s",
        started.elapsed().as_secs_f64()
    );
}

/// The same for text; what is no UTF-8 is replaced.
///
/// # Panics
/// As [`bytes`] does.
pub fn text(target: &str, examples: &[&str], check: impl Fn(&str)) {
    let examples: Vec<_> = examples.iter().map(|example| example.as_bytes()).collect();
    bytes(target, &examples, |input| {
        check(&String::from_utf8_lossy(input))
    });
}

/// Shown as people read it.
#[derive(Clone)]
struct Input(Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

fn inputs(examples: &[&[u8]]) -> impl Strategy<Value = Input> {
    let examples: Vec<Vec<u8>> = examples.iter().map(|example| example.to_vec()).collect();
    let changed = (select(examples), vec(edit(), 0..=EDITS)).prop_map(|(example, edits)| {
        edits
            .into_iter()
            .fold(example, |input, edit| edit.applied(input))
    });
    prop_oneof![7 => changed, 1 => vec(any::<u8>(), 0..RANDOM_BYTES)].prop_map(Input)
}

/// A change to an input.
#[derive(Debug, Clone)]
enum Edit {
    Replace(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// So many bytes from the first place are put into the second.
    Copy(Index, usize, Index),
    Cut(Index),
}

/// Bytes at which numbers and strings end or change their length.
const BORDERS: [u8; 16] = *b"\x00\x01\x7f\x80\xff0-.:/@\"\n \\{";

fn edit() -> impl Strategy<Value = Edit> {
    let byte = || prop_oneof![any::<u8>(), select(&BORDERS[..])];
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), byte()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
        2 => (at(), vec(byte(), 1..8)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        2 => (at(), 1..16_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        2 => (at(), 1..64_usize, at()).prop_map(|(from, length, to)| Edit::Copy(from, length, to)),
        1 => at().prop_map(Edit::Cut),
    ]
}

impl Edit {
    fn applied(self, mut input: Vec<u8>) -> Vec<u8> {
        // One place more than there are bytes: the end.
        let place = |at: Index| at.index(input.len() + 1);
        match self {
            Self::Replace(at, byte) => {
                let at = place(at);
                input.get_mut(at).into_iter().for_each(|old| *old = byte);
            }
            Self::Insert(at, bytes) => {
                let at = place(at);
                input.splice(at..at, bytes);
            }
            Self::Remove(at, length) => {
                let at = place(at);
                let end = input.len().min(at + length);
                input.drain(at..end);
            }
            Self::Copy(from, length, to) => {
                let (from, to) = (place(from), place(to));
                let end = input.len().min(from + length);
                let piece = input[from..end].to_vec();
                input.splice(to..to, piece);
            }
            Self::Cut(at) => {
                let at = place(at);
                input.truncate(at);
            }
        }
        input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "minimal failing input: b\"abc\"")]
    fn a_finding_is_shrunk() {
        // Every input is a finding, so that no step of the shrinking is refused
        // and the least is the example without a change, whatever came first.
        text("letters", &["abc"], |_| panic!("a finding"));
    }

    #[test]
    fn every_example_is_tried_as_it_is() {
        let seen = std::cell::Cell::new(0);
        text("examples", &["first", "second"], |input| match input {
            "first" => seen.set(seen.get() | 1),
            "second" => seen.set(seen.get() | 2),
            _ => {}
        });
        assert_eq!(seen.get(), 3);
    }
}
