//! From what a user wrote to what a node is told. The defaults are `hearth_contract::Limits::default`.

use std::num::{NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;
use std::time::Duration;

use hearth_contract::function::Capabilities;
use hearth_contract::{Function, FunctionKey, Limits, Loader, Reuse};

use crate::v1alpha1::{
    self, AgentFunction, AgentFunctionSpec, ConfigMapKey, FunctionLimits, TrafficDistribution,
};

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
        problem: String,
    },
    /// Nothing to run, or two things.
    #[error(
        "spec.bundle has either an image or source, and source either javascript or a configMap"
    )]
    Bundle,
    /// An egress rule cannot be read.
    #[error("spec.egress.allow: {0}")]
    Egress(#[from] hearth_contract::egress::InvalidRule),
}

/// What a function runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bundle<'a> {
    /// Reference of an image.
    Image(&'a str),
    /// One ES module.
    JavaScript(&'a str),
    /// One ES module that stands in a ConfigMap.
    ConfigMap(&'a ConfigMapKey),
}

/// Key of a module in a ConfigMap that names none.
pub const MODULE_KEY: &str = "agent.js";

/// What a spec names to run.
///
/// # Errors
/// When it names nothing, or more than one thing.
pub fn bundle(spec: &AgentFunctionSpec) -> Result<Bundle<'_>, InvalidSpec> {
    match (&spec.bundle.image, &spec.bundle.source) {
        (Some(image), None) => Ok(Bundle::Image(image)),
        (None, Some(source)) => match (&source.javascript, &source.config_map) {
            (Some(code), None) => Ok(Bundle::JavaScript(code)),
            (None, Some(key)) => Ok(Bundle::ConfigMap(key)),
            _ => Err(InvalidSpec::Bundle),
        },
        _ => Err(InvalidSpec::Bundle),
    }
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

/// Which pods answer a caller first.
pub fn traffic_distribution(spec: &AgentFunctionSpec) -> Option<TrafficDistribution> {
    spec.service.as_ref()?.traffic_distribution
}

/// The function as a node sees it, with `target` warm instances.
///
/// # Errors
/// Names the field that cannot be used.
pub fn function(object: &AgentFunction, target: u32) -> Result<Function, InvalidSpec> {
    bundle(&object.spec)?;
    let metadata = &object.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let limits = limits(object.spec.limits.as_ref())?;
    let egress = object.spec.egress.iter().flat_map(|egress| &egress.allow);
    Ok(Function {
        key: FunctionKey {
            uid: text(&metadata.uid),
            namespace: text(&metadata.namespace),
            name: text(&metadata.name),
        },
        generation: metadata.generation.unwrap_or_default(),
        limits,
        capabilities: Capabilities {
            egress: egress.map(|rule| rule.parse()).collect::<Result<_, _>>()?,
            env: object
                .spec
                .env
                .iter()
                .map(|var| (var.name.clone(), var.value.clone()))
                .collect(),
            args: Vec::new(),
            debug: object.spec.debug.unwrap_or(false),
            loader: loader(object.spec.loader.as_ref(), &limits)?,
        },
        target,
        reuse: object.spec.reuse.as_ref().map(reuse).transpose()?,
    })
}

fn limits(spec: Option<&FunctionLimits>) -> Result<Limits, InvalidSpec> {
    let mut limits = Limits::default();
    let Some(spec) = spec else { return Ok(limits) };
    if let Some(memory) = &spec.memory {
        let bytes = bytes("limits.memory", memory, "1Mi", "4Gi")?;
        limits.memory_bytes = NonZeroU64::new(bytes).expect("its bounds begin above 0");
    }
    if let Some(millis) = spec.deadline_milliseconds {
        limits.deadline = milliseconds("limits.deadlineMilliseconds", millis, 1..=3_600_000)?;
    }
    limits.cpu = match spec.cpu_milliseconds {
        Some(millis) => milliseconds("limits.cpuMilliseconds", millis, 1..=3_600_000)?,
        None => limits.deadline,
    };
    if let Some(calls) = spec.concurrency {
        limits.concurrency = positive("limits.concurrency", calls, 10_000)?;
    }
    if let Some(queue) = &spec.queue {
        if let Some(length) = queue.length {
            limits.queue_length = number("limits.queue.length", length, 0..=10_000)?;
        }
        if let Some(millis) = queue.wait_milliseconds {
            limits.queue_wait = milliseconds("limits.queue.waitMilliseconds", millis, 0..=600_000)?;
        }
    }
    if let Some(body) = &spec.request_body {
        limits.request_body_bytes = bytes("limits.requestBody", body, "0", "1Gi")?;
    }
    if let Some(head) = &spec.request_head {
        let bytes = bytes("limits.requestHead", head, "1Ki", "256Ki")?;
        limits.request_head_bytes = u32::try_from(bytes).expect("its bounds end below 4Gi");
    }
    if let Some(body) = &spec.response_body {
        limits.response_body_bytes = bytes("limits.responseBody", body, "0", "1Gi")?;
    }
    if let Some(calls) = spec.outbound_calls {
        limits.outbound_calls = number("limits.outboundCalls", calls, 0..=10_000)?;
    }
    if let Some(rate) = &spec.log_bytes_per_second {
        limits.log_bytes_per_second = bytes("limits.logBytesPerSecond", rate, "0", "10Mi")?;
    }
    Ok(limits)
}

fn loader(spec: Option<&v1alpha1::Loader>, limits: &Limits) -> Result<Option<Loader>, InvalidSpec> {
    let Some(spec) = spec else { return Ok(None) };
    let mut loader = Loader {
        memory_bytes: limits.memory_bytes,
        deadline: limits.deadline,
        cpu: limits.cpu,
        outbound_calls: limits.outbound_calls,
        ..Loader::default()
    };
    if let Some(own) = &spec.limits {
        if let Some(memory) = &own.memory {
            let bytes = bytes("loader.limits.memory", memory, "1Mi", "4Gi")?;
            let bytes = NonZeroU64::new(bytes).expect("its bounds begin above 0");
            loader.memory_bytes = bytes.min(limits.memory_bytes);
        }
        if let Some(millis) = own.deadline_milliseconds {
            let field = "loader.limits.deadlineMilliseconds";
            loader.deadline = milliseconds(field, millis, 1..=3_600_000)?.min(limits.deadline);
        }
        if let Some(millis) = own.cpu_milliseconds {
            let field = "loader.limits.cpuMilliseconds";
            loader.cpu = milliseconds(field, millis, 1..=3_600_000)?.min(limits.cpu);
        }
        if let Some(calls) = own.outbound_calls {
            let calls = number("loader.limits.outboundCalls", calls, 0..=10_000)?;
            loader.outbound_calls = calls.min(limits.outbound_calls);
        }
    }
    if let Some(calls) = spec.concurrency {
        loader.concurrency = positive("loader.concurrency", calls, 3_000)?;
    }
    if let Some(cache) = &spec.cache {
        if let Some(memory) = &cache.memory {
            loader.cache_bytes = bytes("loader.cache.memory", memory, "0", "4Gi")?;
        }
        if let Some(seconds) = cache.seconds {
            let seconds = number("loader.cache.seconds", seconds, 1..=86_400)?;
            loader.idle = Duration::from_secs(seconds.into());
        }
        if let Some(warm) = cache.warm {
            loader.warm = number("loader.cache.warm", warm, 0..=1_000)?;
        }
    }
    let endpoint = spec.endpoint.iter();
    let digests = endpoint.flat_map(|endpoint| &endpoint.token_digests);
    loader.tokens = digests.map(|text| digest(text)).collect::<Result<_, _>>()?;
    Ok(Some(loader))
}

/// The bytes of `sha256:` and 64 hexadecimal digits.
fn digest(text: &str) -> Result<[u8; 32], InvalidSpec> {
    let wrong = || InvalidSpec::Field {
        field: "loader.endpoint.tokenDigests",
        value: text.to_owned(),
        problem: "no sha256: with 64 hexadecimal digits".to_owned(),
    };
    let digits = text.strip_prefix("sha256:").ok_or_else(wrong)?;
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

fn reuse(spec: &v1alpha1::Reuse) -> Result<Reuse, InvalidSpec> {
    let age = match spec.seconds {
        Some(seconds) => Duration::from_secs(number("reuse.seconds", seconds, 1..=86_400)?.into()),
        None => Reuse::AGE,
    };
    Ok(Reuse {
        calls: positive("reuse.calls", spec.calls, 1_000_000)?,
        age,
    })
}

/// A whole number within the bounds that the schema has, too.
fn number(
    field: &'static str,
    value: i32,
    bounds: RangeInclusive<u32>,
) -> Result<u32, InvalidSpec> {
    u32::try_from(value)
        .ok()
        .filter(|number| bounds.contains(number))
        .ok_or_else(|| InvalidSpec::Field {
            field,
            value: value.to_string(),
            problem: format!("not from {} to {}", bounds.start(), bounds.end()),
        })
}

/// A number of which there is at least one.
fn positive(field: &'static str, value: i32, most: u32) -> Result<NonZeroU32, InvalidSpec> {
    let number = number(field, value, 1..=most)?;
    Ok(NonZeroU32::new(number).expect("its bounds begin above 0"))
}

fn milliseconds(
    field: &'static str,
    value: i32,
    bounds: RangeInclusive<u32>,
) -> Result<Duration, InvalidSpec> {
    Ok(Duration::from_millis(number(field, value, bounds)?.into()))
}

/// Bytes of a quantity within the bounds that the schema has, too.
fn bytes(field: &'static str, value: &str, least: &str, most: &str) -> Result<u64, InvalidSpec> {
    let bytes = quantity(field, value)?;
    let bounds = quantity(field, least)?..=quantity(field, most)?;
    match bounds.contains(&bytes) {
        true => Ok(bytes),
        false => Err(InvalidSpec::Field {
            field,
            value: value.to_owned(),
            problem: format!("not from {least} to {most}"),
        }),
    }
}

/// A quantity as a whole number, rounded up; `None` for one that is written with an exponent, or is none.
pub fn whole_quantity(value: &str) -> Option<u64> {
    quantity("", value).ok()
}

/// Bytes of a Kubernetes quantity, rounded up. Exponents (`1e6`) and negative values are refused.
fn quantity(field: &'static str, value: &str) -> Result<u64, InvalidSpec> {
    let wrong = |problem: &str| InvalidSpec::Field {
        field,
        value: value.to_owned(),
        problem: problem.to_owned(),
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
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        _ => {
            let problem = "no quantity with a unit of k, M, G, T, Ki, Mi, Gi or Ti";
            return Err(wrong(problem));
        }
    };
    // An f64 is exact up to 8 Pi.
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
    fn a_bundle_is_one_thing() {
        let spec = |bundle: &str| -> AgentFunctionSpec {
            serde_yaml::from_str(&format!("bundle: {bundle}")).unwrap()
        };
        let image = spec("{image: a}");
        assert_eq!(bundle(&image), Ok(Bundle::Image("a")));
        let source = spec("{source: {javascript: b}}");
        assert_eq!(bundle(&source), Ok(Bundle::JavaScript("b")));
        let named = spec("{source: {configMap: {name: c}}}");
        let key = ConfigMapKey {
            name: "c".to_owned(),
            key: None,
        };
        assert_eq!(bundle(&named), Ok(Bundle::ConfigMap(&key)));
        for wrong in [
            "{}",
            "{image: a, source: {javascript: b}}",
            "{source: {}}",
            "{source: {javascript: b, configMap: {name: c}}}",
        ] {
            assert_eq!(bundle(&spec(wrong)), Err(InvalidSpec::Bundle));
        }
    }

    #[test]
    fn fuzz_quantity() {
        let examples = ["64Mi", "1Gi", "1073741824", "0", "4Ki"];
        hearth_fuzz::text("fuzz_quantity", &examples, |input| {
            if let Ok(bytes) = bytes("limits.memory", input, "1Mi", "4Gi") {
                assert!((1 << 20..=4 << 30).contains(&bytes), "{input:?} is {bytes}");
            }
        });
    }

    /// A manifest, in the file of `hearth serve` or from the API server.
    #[test]
    fn fuzz_function() {
        let examples = [
            r#"{"apiVersion":"hearth.dev/v1alpha1","kind":"AgentFunction","metadata":{"name":"f","namespace":"n","uid":"u","generation":3},"spec":{"bundle":{"image":"a"},"replicas":2,"limits":{"memory":"64Mi","deadlineMilliseconds":5,"queue":{"length":1},"requestHead":"2Ki"},"egress":{"allow":["https://a.b"]},"env":[{"name":"A","value":"b"}],"reuse":{"calls":2}}}"#,
        ];
        hearth_fuzz::text("fuzz_function", &examples, |input| {
            let Ok(object) = serde_yaml::from_str::<AgentFunction>(input) else {
                return;
            };
            replicas(&object.spec);
            service_port(&object.spec);
            if let Ok(function) = function(&object, 1) {
                let key = &function.key;
                if [&key.uid, &key.namespace, &key.name]
                    .iter()
                    .any(|part| part.is_empty())
                {
                    return;
                }
                // What the node is told can be told.
                let wire = hearth_contract::proto::Function::from(function.clone());
                assert_eq!(Function::try_from(wire), Ok(function));
            }
        });
    }

    #[test]
    fn unset_fields_have_the_contracts_defaults() {
        let function = function(&object(""), 1).unwrap();
        assert_eq!(function.limits, Limits::default());
        assert_eq!(function.capabilities, Capabilities::default());
        assert_eq!(function.reuse, None);
        assert_eq!(
            (function.key.to_string().as_str(), function.generation),
            ("n/f", 3)
        );
    }

    #[test]
    fn set_fields_arrive() {
        let spec = "debug: true, limits: {memory: 1.5Mi, deadlineMilliseconds: 7, concurrency: 2, queue: {length: 0, waitMilliseconds: 9}, requestBody: 1k}, env: [{name: A, value: b}], egress: {allow: ['x.y:1']}";
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
        assert!(function.capabilities.debug);
    }

    #[test]
    fn what_a_call_may_use_arrives() {
        let spec = "limits: {cpuMilliseconds: 5, requestHead: 8Ki, responseBody: '0', outboundCalls: 0, logBytesPerSecond: 1Mi}";
        let limits = function(&object(spec), 0).unwrap().limits;
        assert_eq!(
            limits,
            Limits {
                cpu: Duration::from_millis(5),
                request_head_bytes: 8192,
                response_body_bytes: 0,
                outbound_calls: 0,
                log_bytes_per_second: 1 << 20,
                ..Limits::default()
            }
        );
    }

    #[test]
    fn processor_time_is_as_much_as_the_deadline() {
        for (spec, deadline, cpu) in [
            ("limits: {deadlineMilliseconds: 70000}", 70_000, 70_000),
            ("limits: {cpuMilliseconds: 50}", 30_000, 50),
            (
                "limits: {deadlineMilliseconds: 7, cpuMilliseconds: 9}",
                7,
                9,
            ),
        ] {
            let limits = function(&object(spec), 0).unwrap().limits;
            let millis = |time: Duration| time.as_millis();
            assert_eq!(
                (millis(limits.deadline), millis(limits.cpu)),
                (deadline, cpu),
                "{spec}"
            );
        }
    }

    #[test]
    fn reuse_arrives() {
        for (spec, age) in [
            ("reuse: {calls: 1000}", Reuse::AGE),
            ("reuse: {calls: 1000, seconds: 60}", Duration::from_secs(60)),
        ] {
            let calls = NonZeroU32::new(1000).unwrap();
            let expected = Some(Reuse { calls, age });
            assert_eq!(
                function(&object(spec), 0).unwrap().reuse,
                expected,
                "{spec}"
            );
        }
    }

    #[test]
    fn a_loader_is_granted_by_its_field_and_never_more_than_the_function_has() {
        assert_eq!(function(&object(""), 0).unwrap().capabilities.loader, None);
        let of = |spec: &str| {
            let function = function(&object(spec), 0).unwrap();
            function.capabilities.loader.unwrap()
        };
        assert_eq!(of("loader: {}"), Loader::default());
        let digest = format!("sha256:{}", "0a".repeat(32));
        let set = of(&format!(
            "limits: {{memory: 32Mi, cpuMilliseconds: 50}}, loader: {{limits: {{memory: 64Mi, cpuMilliseconds: 9, deadlineMilliseconds: 70000, outboundCalls: 3}}, concurrency: 7, cache: {{memory: 1Mi, seconds: 2, warm: 0}}, endpoint: {{tokenDigests: ['{digest}']}}}}"
        ));
        let expected = Loader {
            memory_bytes: NonZeroU64::new(32 << 20).unwrap(),
            deadline: Duration::from_secs(30),
            cpu: Duration::from_millis(9),
            outbound_calls: 3,
            concurrency: 7.try_into().unwrap(),
            cache_bytes: 1 << 20,
            idle: Duration::from_secs(2),
            warm: 0,
            tokens: vec![[10; 32]],
        };
        assert_eq!(set, expected);
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
            ("limits: {cpuMilliseconds: 0}", "limits.cpuMilliseconds"),
            ("limits: {requestHead: '1023'}", "limits.requestHead"),
            ("limits: {requestHead: '1e4'}", "limits.requestHead"),
            ("limits: {responseBody: 2Gi}", "limits.responseBody"),
            ("limits: {outboundCalls: -1}", "limits.outboundCalls"),
            (
                "limits: {logBytesPerSecond: '-1'}",
                "limits.logBytesPerSecond",
            ),
            ("reuse: {calls: 0}", "reuse.calls"),
            ("reuse: {calls: 1, seconds: 0}", "reuse.seconds"),
            ("egress: {allow: ['ftp://x']}", "egress"),
            ("loader: {limits: {memory: 1Ki}}", "loader.limits.memory"),
            ("loader: {concurrency: 0}", "loader.concurrency"),
            ("loader: {cache: {warm: -1}}", "loader.cache.warm"),
            (
                "loader: {endpoint: {tokenDigests: [secret]}}",
                "loader.endpoint.tokenDigests",
            ),
        ] {
            let error = function(&object(spec), 0).unwrap_err().to_string();
            assert!(error.contains(word), "{spec}: {error}");
        }
    }
}
