//! From what a user wrote to what a node is told. The defaults are `hearth_contract::Limits::default`.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use hearth_contract::function::Capabilities;
use hearth_contract::{Function, FunctionKey, Limits};

use crate::v1alpha1::{AgentFunction, AgentFunctionSpec, FunctionLimits};

/// Why a manifest cannot be run. The API server refuses most of these first; a manifest that is run without a cluster
/// meets them here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    /// A field is out of its bounds.
    #[error("spec.{field}: {value:?} is {problem}")]
    Field {
        /// Path below `spec`.
        field: &'static str,
        /// What stands there.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An egress rule cannot be read.
    #[error("spec.egress.allow: {0}")]
    Egress(#[from] hearth_contract::egress::InvalidRule),
}

/// Warm instances that a spec asks for.
pub fn replicas(spec: &AgentFunctionSpec) -> u32 {
    u32::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0)
}

/// Port of a function's Service.
pub fn service_port(spec: &AgentFunctionSpec) -> i32 {
    spec.service
        .as_ref()
        .and_then(|service| service.port)
        .unwrap_or(80)
}

/// The function as a node sees it, with `target` warm instances.
///
/// # Errors
/// Names the field that cannot be used.
pub fn function(object: &AgentFunction, target: u32) -> Result<Function, InvalidSpec> {
    let metadata = &object.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let egress = object.spec.egress.iter().flat_map(|egress| &egress.allow);
    Ok(Function {
        key: FunctionKey {
            uid: text(&metadata.uid),
            namespace: text(&metadata.namespace),
            name: text(&metadata.name),
        },
        generation: metadata.generation.unwrap_or_default(),
        limits: limits(object.spec.limits.as_ref())?,
        capabilities: Capabilities {
            egress: egress.map(|rule| rule.parse()).collect::<Result<_, _>>()?,
            env: object
                .spec
                .env
                .iter()
                .map(|var| (var.name.clone(), var.value.clone()))
                .collect(),
            args: Vec::new(),
        },
        target,
    })
}

fn limits(spec: Option<&FunctionLimits>) -> Result<Limits, InvalidSpec> {
    let mut limits = Limits::default();
    let Some(spec) = spec else { return Ok(limits) };
    let positive = |field, value: i32| {
        u32::try_from(value)
            .ok()
            .and_then(NonZeroU32::new)
            .ok_or(InvalidSpec::Field {
                field,
                value: value.to_string(),
                problem: "not greater than 0",
            })
    };
    let not_negative = |field, value: i32| {
        u32::try_from(value).map_err(|_| InvalidSpec::Field {
            field,
            value: value.to_string(),
            problem: "below 0",
        })
    };
    if let Some(memory) = &spec.memory {
        let bytes = quantity("limits.memory", memory)?;
        limits.memory_bytes = NonZeroU64::new(bytes).ok_or_else(|| InvalidSpec::Field {
            field: "limits.memory",
            value: memory.clone(),
            problem: "not greater than 0",
        })?;
    }
    if let Some(millis) = spec.deadline_milliseconds {
        limits.deadline = Duration::from_millis(
            positive("limits.deadlineMilliseconds", millis)?
                .get()
                .into(),
        );
    }
    if let Some(calls) = spec.concurrency {
        limits.concurrency = positive("limits.concurrency", calls)?;
    }
    if let Some(queue) = &spec.queue {
        if let Some(length) = queue.length {
            limits.queue_length = not_negative("limits.queue.length", length)?;
        }
        if let Some(millis) = queue.wait_milliseconds {
            limits.queue_wait = Duration::from_millis(
                not_negative("limits.queue.waitMilliseconds", millis)?.into(),
            );
        }
    }
    if let Some(body) = &spec.request_body {
        limits.request_body_bytes = quantity("limits.requestBody", body)?;
    }
    Ok(limits)
}

/// Bytes of a Kubernetes quantity, rounded up. Exponents (`1e6`) and negative values are refused.
fn quantity(field: &'static str, value: &str) -> Result<u64, InvalidSpec> {
    let wrong = |problem| InvalidSpec::Field {
        field,
        value: value.to_owned(),
        problem,
    };
    let digits = value
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(value.len());
    let (number, suffix) = value.split_at(digits);
    let number: f64 = number
        .parse()
        .map_err(|_| wrong("no quantity; write for example 64Mi"))?;
    let unit = match suffix {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        _ => return Err(wrong("no quantity with a unit of k, M, G, Ki, Mi or Gi")),
    };
    // The schema bounds quantities at 4Gi, far below where an f64 is no longer exact.
    Ok((number * unit).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: &str) -> AgentFunction {
        let text = format!(
            "apiVersion: hearth.dev/v1alpha1\nkind: AgentFunction\nmetadata: {{name: f, namespace: n, uid: u, generation: 3}}\nspec: {{bundle: {{image: a}}, {spec}}}"
        );
        serde_yaml::from_str(&text).unwrap()
    }

    #[test]
    fn unset_fields_have_the_contracts_defaults() {
        let function = function(&object(""), 1).unwrap();
        assert_eq!(function.limits, Limits::default());
        assert_eq!(function.capabilities, Capabilities::default());
        assert_eq!(
            (function.key.to_string().as_str(), function.generation),
            ("n/f", 3)
        );
    }

    #[test]
    fn set_fields_arrive() {
        let spec = "limits: {memory: 1.5Mi, deadlineMilliseconds: 7, concurrency: 2, queue: {length: 0, waitMilliseconds: 9}, requestBody: 1k}, env: [{name: A, value: b}], egress: {allow: ['x.y:1']}";
        let function = function(&object(spec), 4).unwrap();
        assert_eq!(function.limits.memory_bytes.get(), 1_572_864);
        assert_eq!(function.limits.deadline, Duration::from_millis(7));
        assert_eq!(
            (
                function.limits.concurrency.get(),
                function.limits.queue_length
            ),
            (2, 0)
        );
        assert_eq!(
            (
                function.limits.queue_wait,
                function.limits.request_body_bytes
            ),
            (Duration::from_millis(9), 1000)
        );
        assert_eq!(
            function.capabilities.env,
            [("A".to_owned(), "b".to_owned())]
        );
        assert_eq!(function.capabilities.egress[0].to_string(), "x.y:1");
        assert_eq!(function.target, 4);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (spec, word) in [
            ("limits: {memory: lots}", "limits.memory"),
            ("limits: {memory: 1Xi}", "limits.memory"),
            ("limits: {memory: '0'}", "limits.memory"),
            ("limits: {concurrency: 0}", "limits.concurrency"),
            (
                "limits: {deadlineMilliseconds: -1}",
                "limits.deadlineMilliseconds",
            ),
            ("limits: {queue: {length: -1}}", "limits.queue.length"),
            ("egress: {allow: ['ftp://x']}", "egress"),
        ] {
            let error = function(&object(spec), 0).unwrap_err().to_string();
            assert!(error.contains(word), "{spec}: {error}");
        }
    }
}
