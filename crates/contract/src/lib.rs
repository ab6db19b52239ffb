//! What operator, shim and engine say to each other: the only wire types of Hearth.
//!
//! The wire format is protobuf ([`proto`], generated from `proto/`). Decode once, at the edge: [`function`] holds
//! the checked forms that the rest of a process works with. [`channel`] carries engine messages together with file
//! descriptors; the operator's stream is gRPC (feature `stream`).

pub mod channel;
pub mod egress;
pub mod function;
pub mod latency;
pub mod outcome;

/// The generated messages (and, with the feature `stream`, the gRPC client and server).
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated; documented in the .proto files"
)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/hearth.v1.rs"));

    /// Bytes that a message takes on the wire.
    pub fn encoded_len(message: &impl prost::Message) -> usize {
        message.encoded_len()
    }
}

pub use function::{Function, FunctionKey, Invalid, Limits, Loader, Reuse};
pub use outcome::{FailureReason, Outcome, StartKind, brief};

/// Version of the operator's stream. Raised when an older peer would misunderstand a message; added fields do not
/// raise it.
pub const STREAM_PROTOCOL: u32 = 1;

/// Versions that an operator speaks: while a cluster is upgraded, nodes have shims of the version before.
pub const STREAM_PROTOCOLS: std::ops::RangeInclusive<u32> = 1..=STREAM_PROTOCOL;

/// Audience of the projected ServiceAccount token with which a pool pod's shim proves which pod it serves.
pub const STREAM_AUDIENCE: &str = "hearth.dev/stream";

/// Environment variables with which the operator tells the shim that a container is a pool, and where to dial.
pub mod pool_env {
    /// `https://ADDRESS:PORT` of the operator's stream.
    pub const STREAM: &str = "HEARTH_STREAM";
    /// DNS name that the stream's certificate carries.
    pub const STREAM_NAME: &str = "HEARTH_STREAM_NAME";
    /// PEM certificate of the authority that signs the stream's certificate.
    pub const STREAM_CA: &str = "HEARTH_STREAM_CA";
    /// Path, in the container, of the projected token.
    pub const TOKEN_PATH: &str = "HEARTH_TOKEN_PATH";
}

/// What the processes themselves take of a pod's memory, at least, in bytes. An engine with 20 calls at once, its shim and the
/// kernel's part of both were seen to take 25 MB.
const PROCESS_BYTES: u64 = 32 << 20;

/// How much of a pod's memory limit its guests may have as linear memory, in bytes. The rest is for engine, shim and
/// compiled code: the kernel must not end the engine because guests took what they were given.
pub fn guest_bytes(limit: u64) -> u64 {
    let processes = PROCESS_BYTES.max(limit / 8);
    limit.saturating_sub(processes).max(limit / 4)
}

/// Port in a pool pod's network namespace on which the engine answers `/metrics`.
pub const METRICS_PORT: u16 = 9464;

/// Bytes of the file in which an engine notes which functions run (`Start.running`): a page.
pub const RUNNING_BYTES: usize = 4096;

/// Ports of functions in a pool pod: the operator hands out one per function.
pub const FUNCTION_PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processes_of_a_pod_have_their_share_of_its_memory() {
        for (limit, guests) in [
            (1024 << 20, 896 << 20),
            (64 << 20, 32 << 20),
            (16 << 20, 4 << 20),
        ] {
            assert_eq!(guest_bytes(limit), guests, "{limit}");
        }
    }
}
