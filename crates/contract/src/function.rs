//! A function as the processes of a node see it: checked once, when a message is decoded.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use crate::egress::{EgressRule, InvalidRule};
use crate::proto;

/// Which function: a UID for machines, a name for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionKey {
    /// UID of the Kubernetes object.
    pub uid: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
}

impl std::fmt::Display for FunctionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Bounds of one function in one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of one instance, all its memories together, in bytes.
    pub memory_bytes: NonZeroU64,
    /// Wall-clock time of one call, to the last byte of its answer.
    pub deadline: Duration,
    /// Calls that run at once.
    pub concurrency: NonZeroU32,
    /// Calls that may wait for a place; the next one is refused.
    pub queue_length: u32,
    /// How long a call waits before it is refused.
    pub queue_wait: Duration,
    /// Bytes of one request body; a larger one is refused.
    pub request_body_bytes: u64,
    /// Processor time of one call.
    pub cpu: Duration,
    /// Bytes of one answer's body; a larger one ends the call.
    pub response_body_bytes: u64,
    /// Bytes of one request's line and headers together; a larger head is refused.
    pub request_head_bytes: u32,
    /// Calls out that one call may make; the next one is refused.
    pub outbound_calls: u32,
    /// Bytes of log lines a second; more is dropped and counted.
    pub log_bytes_per_second: u64,
}

impl Default for Limits {
    /// What a manifest without `limits` gets.
    fn default() -> Self {
        let deadline = Duration::from_secs(30);
        Self {
            memory_bytes: NonZeroU64::new(64 << 20).expect("not zero"),
            deadline,
            concurrency: NonZeroU32::new(100).expect("not zero"),
            queue_length: 100,
            queue_wait: Duration::from_secs(1),
            request_body_bytes: 10 << 20,
            cpu: deadline,
            response_body_bytes: 100 << 20,
            request_head_bytes: 64 << 10,
            outbound_calls: 50,
            log_bytes_per_second: 64 << 10,
        }
    }
}

/// How long an instance answers calls, one after the other. The bound that is met first ends it.
///
/// What a call leaves in the instance's memory is there for the next one, whoever calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reuse {
    /// Calls of one instance.
    pub calls: NonZeroU32,
    /// Age at which an instance is replaced.
    pub age: Duration,
}

impl Reuse {
    /// Age of instances whose function names none.
    pub const AGE: Duration = Duration::from_secs(300);
}

/// What the function may touch. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Hosts that may be called.
    pub egress: Vec<EgressRule>,
    /// Environment, in order; the names are unique.
    pub env: Vec<(String, String)>,
    /// Arguments of a command.
    pub args: Vec<String>,
    /// Callers read what the code threw.
    pub debug: bool,
    /// Code that comes at run time. `None`: none may be run.
    pub loader: Option<Loader>,
}

/// What code that comes at run time may use, each call of it in an instance of its own. A bound that is above the
/// function's own means that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loader {
    /// Linear memory of one instance, in bytes.
    pub memory_bytes: NonZeroU64,
    /// Wall-clock time of one call.
    pub deadline: Duration,
    /// Processor time of one call.
    pub cpu: Duration,
    /// Calls out that one call may make.
    pub outbound_calls: u32,
    /// Calls that run at once; the next one is refused.
    pub concurrency: NonZeroU32,
    /// Memory of code that is kept for the next call, in bytes. The code that was called longest ago goes first.
    pub cache_bytes: u64,
    /// Code that was not called for so long is forgotten.
    pub idle: Duration,
    /// Instances kept warm, one each of the code that was called again last.
    pub warm: u32,
    /// SHA-256 of each token that opens the function's loader to its callers. None: it is closed.
    pub tokens: Vec<[u8; 32]>,
}

impl Default for Loader {
    /// What a manifest with an empty `loader` gets.
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            memory_bytes: limits.memory_bytes,
            deadline: limits.deadline,
            cpu: limits.cpu,
            outbound_calls: limits.outbound_calls,
            concurrency: limits.concurrency,
            cache_bytes: 64 << 20,
            idle: Duration::from_secs(300),
            warm: 16,
            tokens: Vec::new(),
        }
    }
}

/// One function: who, how much, what it may touch, how many warm, for how many calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Who.
    pub key: FunctionKey,
    /// `metadata.generation` of the object; reports carry it back.
    pub generation: i64,
    /// How much.
    pub limits: Limits,
    /// What it may touch.
    pub capabilities: Capabilities,
    /// Warm instances to hold.
    pub target: u32,
    /// How long one instance answers calls; `None`: each call gets a fresh one.
    pub reuse: Option<Reuse>,
}

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A field that must be there is not.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A bound is zero, which would mean "never".
    #[error("limit {0} is zero")]
    Zero(&'static str),
    /// The digest of a token has another length.
    #[error("the digest of a token of the loader has no 32 bytes")]
    Token,
    /// An egress rule cannot be read.
    #[error(transparent)]
    Egress(#[from] InvalidRule),
}

impl TryFrom<proto::FunctionRef> for FunctionKey {
    type Error = Invalid;

    fn try_from(wire: proto::FunctionRef) -> Result<Self, Invalid> {
        if wire.uid.is_empty() {
            return Err(Invalid::Missing("ref.uid"));
        }
        Ok(Self {
            uid: wire.uid,
            namespace: wire.namespace,
            name: wire.name,
        })
    }
}

impl From<FunctionKey> for proto::FunctionRef {
    fn from(key: FunctionKey) -> Self {
        Self {
            namespace: key.namespace,
            name: key.name,
            uid: key.uid,
        }
    }
}

impl TryFrom<proto::Limits> for Limits {
    type Error = Invalid;

    fn try_from(wire: proto::Limits) -> Result<Self, Invalid> {
        if wire.deadline_ms == 0 {
            return Err(Invalid::Zero("deadline_ms"));
        }
        let deadline = Duration::from_millis(wire.deadline_ms.into());
        let default = Self::default();
        Ok(Self {
            memory_bytes: NonZeroU64::new(wire.memory_bytes)
                .ok_or(Invalid::Zero("memory_bytes"))?,
            deadline,
            concurrency: NonZeroU32::new(wire.concurrency).ok_or(Invalid::Zero("concurrency"))?,
            queue_length: wire.queue_length,
            queue_wait: Duration::from_millis(wire.queue_wait_ms.into()),
            request_body_bytes: wire.request_body_bytes,
            cpu: match wire.cpu_ms {
                0 => deadline,
                millis => Duration::from_millis(millis.into()),
            },
            response_body_bytes: wire
                .response_body_bytes
                .unwrap_or(default.response_body_bytes),
            request_head_bytes: match wire.request_head_bytes {
                0 => default.request_head_bytes,
                bytes => bytes,
            },
            outbound_calls: wire.outbound_calls.unwrap_or(default.outbound_calls),
            log_bytes_per_second: wire
                .log_bytes_per_second
                .unwrap_or(default.log_bytes_per_second),
        })
    }
}

/// As the wire holds it, which is far more than the API accepts.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl From<Limits> for proto::Limits {
    fn from(limits: Limits) -> Self {
        Self {
            memory_bytes: limits.memory_bytes.get(),
            deadline_ms: millis(limits.deadline),
            concurrency: limits.concurrency.get(),
            queue_length: limits.queue_length,
            queue_wait_ms: millis(limits.queue_wait),
            request_body_bytes: limits.request_body_bytes,
            cpu_ms: millis(limits.cpu),
            response_body_bytes: Some(limits.response_body_bytes),
            request_head_bytes: limits.request_head_bytes,
            outbound_calls: Some(limits.outbound_calls),
            log_bytes_per_second: Some(limits.log_bytes_per_second),
        }
    }
}

impl TryFrom<proto::Reuse> for Reuse {
    type Error = Invalid;

    fn try_from(wire: proto::Reuse) -> Result<Self, Invalid> {
        Ok(Self {
            calls: NonZeroU32::new(wire.calls).ok_or(Invalid::Zero("reuse.calls"))?,
            age: match wire.age_ms {
                0 => Self::AGE,
                millis => Duration::from_millis(millis.into()),
            },
        })
    }
}

impl From<Reuse> for proto::Reuse {
    fn from(reuse: Reuse) -> Self {
        Self {
            calls: reuse.calls.get(),
            age_ms: millis(reuse.age),
        }
    }
}

impl TryFrom<proto::Capabilities> for Capabilities {
    type Error = Invalid;

    fn try_from(wire: proto::Capabilities) -> Result<Self, Invalid> {
        Ok(Self {
            egress: wire
                .egress
                .iter()
                .map(|rule| rule.parse())
                .collect::<Result<_, _>>()?,
            env: wire
                .env
                .into_iter()
                .map(|var| (var.name, var.value))
                .collect(),
            args: wire.args,
            debug: wire.debug,
            loader: wire.loader.map(Loader::try_from).transpose()?,
        })
    }
}

impl TryFrom<proto::Loader> for Loader {
    type Error = Invalid;

    fn try_from(wire: proto::Loader) -> Result<Self, Invalid> {
        let millis = |millis: u32| Duration::from_millis(millis.into());
        if wire.deadline_ms == 0 {
            return Err(Invalid::Zero("loader.deadline_ms"));
        }
        let tokens = wire.tokens.iter();
        Ok(Self {
            memory_bytes: NonZeroU64::new(wire.memory_bytes)
                .ok_or(Invalid::Zero("loader.memory_bytes"))?,
            deadline: millis(wire.deadline_ms),
            cpu: millis(wire.cpu_ms),
            outbound_calls: wire.outbound_calls,
            concurrency: NonZeroU32::new(wire.concurrency)
                .ok_or(Invalid::Zero("loader.concurrency"))?,
            cache_bytes: wire.cache_bytes,
            idle: millis(wire.idle_ms),
            warm: wire.warm,
            tokens: tokens
                .map(|token| token.as_slice().try_into().map_err(|_| Invalid::Token))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<Loader> for proto::Loader {
    fn from(loader: Loader) -> Self {
        Self {
            memory_bytes: loader.memory_bytes.get(),
            deadline_ms: millis(loader.deadline),
            cpu_ms: millis(loader.cpu),
            outbound_calls: loader.outbound_calls,
            concurrency: loader.concurrency.get(),
            cache_bytes: loader.cache_bytes,
            idle_ms: millis(loader.idle),
            warm: loader.warm,
            tokens: loader.tokens.iter().map(|token| token.to_vec()).collect(),
        }
    }
}

impl From<Capabilities> for proto::Capabilities {
    fn from(capabilities: Capabilities) -> Self {
        Self {
            egress: capabilities
                .egress
                .iter()
                .map(ToString::to_string)
                .collect(),
            env: capabilities
                .env
                .into_iter()
                .map(|(name, value)| proto::EnvVar { name, value })
                .collect(),
            args: capabilities.args,
            debug: capabilities.debug,
            loader: capabilities.loader.map(Into::into),
        }
    }
}

impl TryFrom<proto::Function> for Function {
    type Error = Invalid;

    fn try_from(wire: proto::Function) -> Result<Self, Invalid> {
        Ok(Self {
            key: wire.r#ref.ok_or(Invalid::Missing("ref"))?.try_into()?,
            generation: wire.generation,
            limits: wire.limits.ok_or(Invalid::Missing("limits"))?.try_into()?,
            capabilities: wire.capabilities.unwrap_or_default().try_into()?,
            target: wire.target,
            reuse: wire.reuse.map(Reuse::try_from).transpose()?,
        })
    }
}

impl From<Function> for proto::Function {
    fn from(function: Function) -> Self {
        Self {
            r#ref: Some(function.key.into()),
            generation: function.generation,
            limits: Some(function.limits.into()),
            capabilities: Some(function.capabilities.into()),
            target: function.target,
            reuse: function.reuse.map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_function() -> impl Strategy<Value = Function> {
        let limits = (
            1u64..,
            1u32..,
            1u32..,
            any::<u32>(),
            any::<u32>(),
            any::<u64>(),
        )
            .prop_map(
                |(memory, deadline, concurrency, queue, wait, body)| Limits {
                    memory_bytes: NonZeroU64::new(memory).unwrap(),
                    deadline: Duration::from_millis(deadline.into()),
                    concurrency: NonZeroU32::new(concurrency).unwrap(),
                    queue_length: queue,
                    queue_wait: Duration::from_millis(wait.into()),
                    request_body_bytes: body,
                    ..Limits::default()
                },
            );
        let limits = (
            limits,
            1u32..,
            any::<u64>(),
            1u32..,
            any::<u32>(),
            any::<u64>(),
        )
            .prop_map(|(limits, cpu, answer, head, calls, logs)| Limits {
                cpu: Duration::from_millis(cpu.into()),
                response_body_bytes: answer,
                request_head_bytes: head,
                outbound_calls: calls,
                log_bytes_per_second: logs,
                ..limits
            });
        let loader =
            prop::option::of(
                (1u64.., any::<[u8; 32]>()).prop_map(|(memory, token)| Loader {
                    memory_bytes: NonZeroU64::new(memory).unwrap(),
                    tokens: vec![token],
                    ..Loader::default()
                }),
            );
        let reuse = prop::option::of((1u32.., 1u32..).prop_map(|(calls, age)| Reuse {
            calls: NonZeroU32::new(calls).unwrap(),
            age: Duration::from_millis(age.into()),
        }));
        let env = prop::collection::vec(("[A-Z]{1,8}", ".{0,16}"), 0..4);
        let egress = prop::collection::vec("[a-z]{1,8}(\\.[a-z]{2,3})?:[1-9][0-9]{0,3}", 0..4);
        (
            "[a-z0-9-]{1,36}",
            "[a-z]{1,8}",
            "[a-z]{1,8}",
            any::<i64>(),
            limits,
            env,
            egress,
            any::<u32>(),
            reuse,
            loader,
        )
            .prop_map(
                |(uid, namespace, name, generation, limits, env, egress, target, reuse, loader)| {
                    Function {
                        key: FunctionKey {
                            uid,
                            namespace,
                            name,
                        },
                        generation,
                        limits,
                        capabilities: Capabilities {
                            egress: egress.iter().map(|rule| rule.parse().unwrap()).collect(),
                            env,
                            args: Vec::new(),
                            debug: target % 2 == 1,
                            loader,
                        },
                        target,
                        reuse,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn encoding_and_decoding_agree(function in any_function()) {
            let bytes = prost::Message::encode_to_vec(&proto::Function::from(function.clone()));
            let wire: proto::Function = prost::Message::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(Function::try_from(wire).unwrap(), function);
        }
    }

    #[test]
    fn fuzz_messages() {
        use prost::Message;
        let function = Function {
            key: FunctionKey {
                uid: "uid".to_owned(),
                namespace: "default".to_owned(),
                name: "hello".to_owned(),
            },
            generation: 3,
            limits: Limits::default(),
            capabilities: Capabilities {
                egress: vec!["https://*.example.com".parse().unwrap()],
                env: vec![("NAME".to_owned(), "value".to_owned())],
                args: vec!["word".to_owned()],
                debug: true,
                loader: Some(Loader::default()),
            },
            target: 2,
            reuse: Some(Reuse {
                calls: NonZeroU32::MIN,
                age: Reuse::AGE,
            }),
        };
        let function = proto::Function::from(function);
        let place = proto::Place {
            function: Some(function.clone()),
            digest: "sha256:00".to_owned(),
            ..proto::Place::default()
        };
        let place = proto::ToEngine {
            message: Some(proto::to_engine::Message::Place(place)),
        };
        let report = proto::FunctionReport {
            r#ref: function.r#ref.clone(),
            ..proto::FunctionReport::default()
        };
        let reports = proto::Reports {
            functions: vec![report],
        };
        let reports = proto::FromEngine {
            message: Some(proto::from_engine::Message::Reports(reports)),
        };
        let examples = [
            function.encode_to_vec(),
            place.encode_to_vec(),
            reports.encode_to_vec(),
        ];
        let examples: Vec<_> = examples.iter().map(Vec::as_slice).collect();
        hearth_fuzz::bytes("fuzz_messages", &examples, |input| {
            // Each end reads whatever comes over its socket.
            let _ = proto::ToEngine::decode(input);
            let _ = proto::FromEngine::decode(input);
            let _ = proto::CompileRequest::decode(input);
            let _ = proto::CompileResult::decode(input);
            let Ok(wire) = proto::Function::decode(input) else {
                return;
            };
            if let Ok(function) = Function::try_from(wire) {
                let again = proto::Function::from(function.clone());
                assert_eq!(Function::try_from(again), Ok(function));
            }
        });
    }

    #[test]
    fn what_an_older_peer_does_not_send_has_its_default() {
        let wire = proto::Limits {
            memory_bytes: 1,
            deadline_ms: 70_000,
            concurrency: 1,
            ..proto::Limits::default()
        };
        let limits = Limits::try_from(wire).unwrap();
        let default = Limits::default();
        assert_eq!(limits.cpu, Duration::from_secs(70));
        assert_eq!(
            limits,
            Limits {
                response_body_bytes: default.response_body_bytes,
                request_head_bytes: default.request_head_bytes,
                outbound_calls: default.outbound_calls,
                log_bytes_per_second: default.log_bytes_per_second,
                ..limits
            }
        );
        let reuse = proto::Reuse {
            calls: 1,
            age_ms: 0,
        };
        assert_eq!(Reuse::try_from(reuse).unwrap().age, Reuse::AGE);
    }

    #[test]
    fn none_at_all_is_not_the_default() {
        let nothing = Limits {
            response_body_bytes: 0,
            outbound_calls: 0,
            log_bytes_per_second: 0,
            ..Limits::default()
        };
        let bytes = prost::Message::encode_to_vec(&proto::Limits::from(nothing));
        let wire: proto::Limits = prost::Message::decode(bytes.as_slice()).unwrap();
        assert_eq!(Limits::try_from(wire), Ok(nothing));
    }

    #[test]
    fn zero_and_missing_are_named() {
        let limits = proto::Limits::default();
        assert_eq!(Limits::try_from(limits), Err(Invalid::Zero("deadline_ms")));
        assert_eq!(
            Function::try_from(proto::Function::default()),
            Err(Invalid::Missing("ref"))
        );
        assert_eq!(
            Reuse::try_from(proto::Reuse::default()),
            Err(Invalid::Zero("reuse.calls"))
        );
    }
}
