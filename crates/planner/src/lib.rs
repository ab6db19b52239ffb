//! How many warm instances of each function each pool pod holds. Pure: no clock, no I/O, no randomness; what is observed
//! comes in as values, and the same values always give the same plan.
//!
//! - [`ports`] gives each function of a pool a port.
//! - [`size`] finds how many instances a function needs, from what its calls do now ([`size::Policy::Reactive`]), did on earlier
//!   days ([`history`]) or are said to do ([`windows`]).
//! - [`plan`] turns wanted numbers of instances into targets per (function, pod).

pub mod history;
mod plan;
pub mod ports;
mod share;
pub mod size;
mod spread;
pub mod windows;

pub use plan::{Function, Group, Namespace, Placement, Plan, Pod, Short, plan};
