//! The shim with the real engine, and containerd's side played by the test. Needs root, as the shim does: engines are processes
//! of another user.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests says what it expects as tests do"
)]

mod containerd;
mod engine_loss;
mod loading;
mod lockdown;
mod node;
mod pods;
mod registry;
mod shim_loss;
mod task_api;
