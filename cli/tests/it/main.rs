//! The program as its users start it: bundling, following files, and serving.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests says what it expects as tests do"
)]

mod harness;

mod building;
mod developing;
mod serving;
