//! The real engine process, told over its control socket, called over TCP.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests says what it expects as tests do"
)]

mod compiling;
mod harness;
mod running;
