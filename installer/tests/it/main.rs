//! The real installer on a node in a directory: files below a root of its own, a containerd that reads them, a shim that is a
//! script. Nothing here is privileged, and nothing is left to chance: what becomes of a restart is told beforehand.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests says what it expects as tests do"
)]

mod containerd;
mod harness;

mod containerd_1_7;
mod installing;
mod rolling_back;
mod running;
mod uninstalling;
