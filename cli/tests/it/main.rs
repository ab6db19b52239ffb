//! The program as its users start it: bundling, and following files.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests says what it expects as tests do"
)]

mod harness;

mod building;
mod developing;
