//! The parts of `containerd-shim-hearth-v1`.
//!
//! Deciding is separate from doing: [`container`] (states), [`host::plan`] (what to do for a function), [`spec`]
//! (kinds of container), [`plain`] and [`cgroup`]'s paths and limits are functions from values to values. [`task`]
//! translates containerd's calls, [`pod`] carries them out, [`workload`] is what an app container does,
//! [`host`] keeps functions in an [`engine`], [`prepare`] turns an image's name into a verified artifact.

pub mod artifact;
pub mod bundle;
pub mod cgroup;
pub mod compile;
pub mod config;
pub mod container;
pub mod containerd;
pub mod engine;
pub mod error;
pub mod events;
pub mod folders;
pub mod host;
pub mod last_words;
pub mod logs;
pub mod plain;
pub mod pod;
mod pod_file;
pub mod pool;
pub mod prepare;
pub mod process;
pub mod protection;
pub mod resolver;
mod running;
pub mod serve;
pub mod spec;
pub mod start;
pub mod state_file;
mod sysctl;
pub mod task;
mod view;
pub mod workload;
