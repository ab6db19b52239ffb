//! How results are written.

use clap::ValueEnum;

/// The form of what goes to standard output. Progress and problems go to standard error, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs: one JSON document.
    Json,
}
