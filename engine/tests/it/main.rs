//! The real engine process, told over its control socket, called over TCP.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests says what it expects as tests do"
)]

mod compiling;
mod conformance;
mod h2c;
mod harness;
mod javascript;
mod limits;
mod loader;
mod p3;
mod running;
mod upstream;
