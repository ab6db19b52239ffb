//! What the cluster tests and benches share: a namespace per case, calls, waits, load, figures.

pub mod call;
pub mod cx;
pub mod figure;
pub mod load;
pub mod process;
pub mod served;
pub mod wait;
pub mod workerd;

pub use cx::{Cx, SETTLE, manifest, namespaces_ended};
