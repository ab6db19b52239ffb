//! Runs functions: the only wasmtime configuration, loading of artifacts, limits, pools of warm instances, calls and
//! their outcomes. Knows no Kubernetes, no containerd and no OCI registry.
//!
//! The engine process and `hearth serve` are thin rims around [`Host`]: they place functions and read reports.

pub mod artifact;
pub mod bundle;
pub mod call;
pub mod capability;
#[cfg(feature = "compile")]
pub mod compile;
pub mod engine;
pub mod function;
pub mod host;
mod instance;
pub mod javascript;
mod lanes;
mod limits;
pub mod logs;
mod meters;
pub mod metrics;
mod pool;
pub mod positions;
#[cfg(feature = "compile")]
mod preview1;
pub mod running;
pub mod serve;

pub use artifact::Artifact;
pub use bundle::{BundleError, BundleKind};
pub use engine::{Engine, EngineSettings, Probe};
pub use function::HostedFunction;
pub use host::{CommandEnd, Host, HostSettings, PlaceError, Placed};
pub use instance::State;
pub use running::Running;
