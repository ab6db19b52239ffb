//! AgentFunction: a bundle, its limits, its capabilities, how many instances stay warm.

#![allow(
    unreachable_pub,
    reason = "KubeSchema copies each struct, `pub` included, into a function to derive from"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An agent: a WebAssembly bundle that answers HTTP calls, and how it is run.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "hearth.dev",
    version = "v1alpha1",
    kind = "AgentFunction",
    plural = "agentfunctions",
    shortname = "agf",
    category = "hearth",
    namespaced,
    status = "AgentFunctionStatus",
    doc = "An agent: a WebAssembly bundle that answers HTTP calls, and how it is run.",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Wanted", type_ = "integer", json_path = ".status.wanted"),
    printcolumn(name = "Warm", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.pods"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.bundle.image", priority = 1),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.bundle.digest", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    // The Service has the function's name, and a Service's name is a DNS label.
    validation = Rule::new("self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name becomes the name of a Service: at most 63 lower-case letters, digits and dashes, a letter first"),
    validation = Rule::new("!has(self.spec.scaling) || !has(self.spec.replicas) || self.spec.replicas <= self.spec.scaling.maxReplicas")
        .message("replicas is above scaling.maxReplicas")
)]
#[serde(rename_all = "camelCase")]
pub struct AgentFunctionSpec {
    /// What runs.
    pub bundle: Bundle,
    /// The pool whose pods host the function. Unset: the namespace's pool `default`, made when it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolRef>,
    /// Warm instances to keep, over all pool pods. 0 keeps none: the first call makes one. Unset: 1. An autoscaler owns
    /// this field when there is one. With `scaling`, more may be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub replicas: Option<i32>,
    /// Keeps more instances warm than `replicas` when calls need them, and where they need them. Unset: exactly `replicas`,
    /// spread evenly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// Bounds of each call and instance. Unset: the defaults of each field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<FunctionLimits>,
    /// Instances that answer several calls, one after the other. That is faster, but what a call leaves in an instance's
    /// memory is seen by the next one, whoever calls: it is for agents that keep nothing of a caller. Unset: a fresh
    /// instance for each call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse: Option<Reuse>,
    /// Environment of the guest. Unset: empty; nothing of the node or the pod is inherited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// Calls out. Unset: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// Whether callers read what JavaScript threw, with file, line and frames, in the body of the answer. The log has it
    /// always. For development: it shows code to whoever calls. Unset: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug: Option<bool>,
    /// Lets the function run code that comes at run time, each call of it in a sandbox of its own. An empty object grants it
    /// with the defaults of each field. Unset: no such code can be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loader: Option<Loader>,
    /// The Service in front. Unset: port 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceSpec>,
}

/// What runs: an image, or source.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.image) != has(self.source)")
    .message("a bundle has either an image or source"))]
pub struct Bundle {
    /// Reference of an OCI image that holds one .wasm file, or of a wasm OCI artifact. A tag is resolved to a digest once,
    /// when this field changes; all pods then run that digest. As with a pod's image, a node that has the tag already takes
    /// what it has, and the registry is asked otherwise; for the tag `latest` it is always asked. Unset: see `source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(
            pattern = r"^[a-zA-Z0-9][a-zA-Z0-9._\-]*(:[0-9]+)?(/[a-zA-Z0-9._\-]+)*(:[a-zA-Z0-9._\-]+)?(@sha256:[a-f0-9]{64})?$"
        )
    )]
    pub image: Option<String>,
    /// Code that stands in the object itself. Unset: see `image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// Code that is evaluated by an environment that all functions of its language share.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.javascript) != has(self.configMap)")
    .message("source has either javascript or a configMap"))]
pub struct Source {
    /// One ES module whose default export has a function `fetch(request, env, ctx)`, at most 256 KiB. Unset: see `configMap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 262_144))]
    pub javascript: Option<String>,
    /// Such a module in a ConfigMap, whose changes are followed. Unset: see `javascript`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapKey>,
}

/// A module in a ConfigMap.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKey {
    /// Name of a ConfigMap of the function's namespace that has the label `hearth.dev/source`, whatever its value.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key that holds the module. A source map may stand under the same key with `.map` behind it. Unset: agent.js.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: Option<String>,
}

/// Names an AgentPool of the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PoolRef {
    /// Name of the pool.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// Bounds of each call and instance.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FunctionLimits {
    /// Linear memory of one instance, a quantity from 1Mi to 4Gi. Unset: 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('1Mi')) >= 0 && quantity(self).compareTo(quantity('4Gi')) <= 0")
        .message("memory is a quantity from 1Mi to 4Gi, for example 64Mi"))]
    pub memory: Option<String>,
    /// Wall-clock time of one call, in milliseconds, to the last byte of its answer. Unset: 30000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_600_000))]
    pub deadline_milliseconds: Option<i32>,
    /// Processor time of one call, in milliseconds. Unset: as much as the deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_600_000))]
    pub cpu_milliseconds: Option<i32>,
    /// Calls that run at once in one pool pod. Unset: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub concurrency: Option<i32>,
    /// Calls that wait for one of those places. Unset: the defaults of each field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueLimits>,
    /// Bytes of a request's line and headers together, a quantity from 1Ki to 256Ki. Unset: 64Ki.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('1Ki')) >= 0 && quantity(self).compareTo(quantity('256Ki')) <= 0")
        .message("requestHead is a quantity from 1Ki to 256Ki, for example 64Ki"))]
    pub request_head: Option<String>,
    /// Bytes of one request body, a quantity up to 1Gi. Unset: 10Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('0')) >= 0 && quantity(self).compareTo(quantity('1Gi')) <= 0")
        .message("requestBody is a quantity from 0 to 1Gi, for example 10Mi"))]
    pub request_body: Option<String>,
    /// Bytes of one answer's body, a quantity up to 1Gi. Unset: 100Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('0')) >= 0 && quantity(self).compareTo(quantity('1Gi')) <= 0")
        .message("responseBody is a quantity from 0 to 1Gi, for example 100Mi"))]
    pub response_body: Option<String>,
    /// Calls out that one call may make; the next one is refused. Unset: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub outbound_calls: Option<i32>,
    /// Bytes of log lines in one second, in one pool pod, a quantity up to 10Mi; more is dropped and counted. Unset: 64Ki.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('0')) >= 0 && quantity(self).compareTo(quantity('10Mi')) <= 0")
        .message("logBytesPerSecond is a quantity from 0 to 10Mi, for example 64Ki"))]
    pub log_bytes_per_second: Option<String>,
}

/// How the number of warm instances follows calls.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.windows) || self.windows.all(window, window.replicas <= self.maxReplicas)")
    .message("a window's replicas are above maxReplicas"))]
pub struct Scaling {
    /// Warm instances to keep at most, over all pool pods.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_replicas: i32,
    /// How the number is found. Unset: Predictive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<ScalingPolicy>,
    /// How long fewer must be needed before instances go, in seconds. Unset: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_600))]
    pub scale_down_seconds: Option<i32>,
    /// Share of the pool pods' memory and of the namespace's quota where these do not suffice for all functions, relative to
    /// others. Unset: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub weight: Option<i32>,
    /// Times at which at least so many instances are kept warm. Unset: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub windows: Vec<ScalingWindow>,
}

/// How a number of warm instances is found. `replicas` and windows are its lower bound, whatever the policy.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalingPolicy {
    /// `replicas` and windows alone.
    Fixed,
    /// As many as calls of late needed.
    Reactive,
    /// As Reactive, and what was needed at this time on both days before.
    Predictive,
}

/// A time at which more instances are kept warm.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ScalingWindow {
    /// What the window is called.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// When it opens: a cron pattern of minute, hour, day, month and weekday, for example `0 8 * * MON-FRI`.
    #[schemars(
        length(min = 9, max = 100),
        regex(pattern = r"^[0-9A-Za-z*/,#?-]+( [0-9A-Za-z*/,#?-]+){4}$")
    )]
    pub start: String,
    /// How long it is open, in minutes.
    #[schemars(range(min = 1, max = 44_640))]
    pub minutes: i32,
    /// The clock that `start` is read on, a name of the time zone database. Unset: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[A-Za-z][A-Za-z0-9_+/-]*$")
    )]
    pub time_zone: Option<String>,
    /// Warm instances to keep at least while it is open.
    #[schemars(range(min = 1, max = 100_000))]
    pub replicas: i32,
}

/// Calls that wait.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct QueueLimits {
    /// How many wait; the next one is answered 503 at once. Unset: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub length: Option<i32>,
    /// How long one waits before it is answered 503, in milliseconds. Unset: 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 600_000))]
    pub wait_milliseconds: Option<i32>,
}

/// How long an instance answers calls. The bound that is met first ends it.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Reuse {
    /// Calls that one instance answers, one after the other.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub calls: i32,
    /// Age at which an instance is replaced, in seconds. Unset: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub seconds: Option<i32>,
}

/// One variable of the guest's environment.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Name.
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^[A-Za-z_][A-Za-z0-9_.\-]*$")
    )]
    pub name: String,
    /// Value. Unset: empty.
    #[serde(default)]
    #[schemars(length(max = 32_768))]
    pub value: String,
}

/// Calls out.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Egress {
    /// Hosts that may be called: `[http://|https://]host[:port]`; the host is a DNS name, an IP address or `*.suffix`.
    /// An unset port means the scheme's own. Unset: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 300)), extend("x-kubernetes-list-type" = "set"))]
    #[x_kube(validation = Rule::new(r"self.all(rule, rule.matches('^(https?://)?((\\*\\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|\\[[0-9a-fA-F:.]+\\])(:[1-9][0-9]{0,4})?$'))")
        .message("an egress rule is [http://|https://]host[:port] without a path, for example api.example.com:443 or *.example.com"))]
    pub allow: Vec<String>,
}

/// What code that comes at run time may use. None of it is more than the function itself may: of two bounds the lower holds.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Loader {
    /// Bounds of one call of such code. Unset: those of the function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LoaderLimits>,
    /// Calls of such code that run at once in one pool pod; the next one is refused. Unset: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_000))]
    pub concurrency: Option<i32>,
    /// Code that is kept for its next call. Unset: the defaults of each field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<LoaderCache>,
    /// Opens the loader to callers of the function. Unset: only the function's own code can use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<LoaderEndpoint>,
}

/// Bounds of one call of code that comes at run time.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LoaderLimits {
    /// Linear memory, a quantity from 1Mi to 4Gi. Unset: as limits.memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('1Mi')) >= 0 && quantity(self).compareTo(quantity('4Gi')) <= 0")
        .message("memory is a quantity from 1Mi to 4Gi, for example 64Mi"))]
    pub memory: Option<String>,
    /// Wall-clock time, in milliseconds. Unset: as limits.deadlineMilliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_600_000))]
    pub deadline_milliseconds: Option<i32>,
    /// Processor time, in milliseconds. Unset: as limits.cpuMilliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_600_000))]
    pub cpu_milliseconds: Option<i32>,
    /// Calls out, and calls back of the function that loaded the code. Unset: as limits.outboundCalls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub outbound_calls: Option<i32>,
}

/// Code that is kept, in each pool pod, known by its content.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LoaderCache {
    /// Memory of code that is kept, a quantity from 0 to 4Gi. What was called longest ago goes first. Unset: 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('0')) >= 0 && quantity(self).compareTo(quantity('4Gi')) <= 0")
        .message("memory is a quantity from 0 to 4Gi, for example 64Mi"))]
    pub memory: Option<String>,
    /// Code that was not called for so long is forgotten, in seconds. Unset: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub seconds: Option<i32>,
    /// Instances kept warm, one each of the code that was called again last. Unset: 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000))]
    pub warm: Option<i32>,
}

/// The loader for callers: `POST /.hearth/loader` with a token.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LoaderEndpoint {
    /// Digests of the tokens that open it, `sha256:` and 64 hexadecimal digits each; a token itself stands nowhere.
    #[schemars(length(min = 1, max = 8), inner(length(min = 71, max = 71)), extend("x-kubernetes-list-type" = "set"))]
    #[x_kube(validation = Rule::new("self.all(digest, digest.matches('^sha256:[0-9a-f]{64}$'))")
        .message("a token's digest is sha256: and 64 hexadecimal digits, as of: printf %s TOKEN | sha256sum"))]
    pub token_digests: Vec<String>,
}

/// The Service in front of the function.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Port of the Service. Unset: 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// Which pool pods answer a caller first, as a Service's field of this name says. Needs Kubernetes 1.34. Unset: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<TrafficDistribution>,
}

/// Which pool pods answer a caller, where one of them is there. Others answer otherwise. The words are a Service's (KEP-3015).
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficDistribution {
    /// Those of the caller's zone.
    PreferSameZone,
    /// The one of the caller's node; where there is none, those of its zone.
    PreferSameNode,
}

impl TrafficDistribution {
    /// The word of the Service's field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PreferSameZone => "PreferSameZone",
            Self::PreferSameNode => "PreferSameNode",
        }
    }
}

/// What is true of the function.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AgentFunctionStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready (the summary), Placed, BundleResolved, Warm, ServiceReady.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Instances that are warm or in a call, at most as many as are wanted.
    #[serde(default)]
    pub replicas: i32,
    /// Warm instances that are wanted: `spec.replicas`, or what `spec.scaling` found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<i32>,
    /// What decided that number: Replicas, Window, Calls, Forecast or Maximum. Unset without `spec.scaling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_by: Option<String>,
    /// What that number was found from, as it was when it was found. Unset without `spec.scaling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingDecision>,
    /// Label selector for autoscalers; it matches the function's own pods where it has some, and is never empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The bundle that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleStatus>,
    /// Port in the pool pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// Where the function is called inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Pool pods that serve the function.
    #[serde(default)]
    pub pods: i32,
}

/// What `wanted` was found from. It stands as long as `wanted` and `wantedBy` do, so its numbers are of that time.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ScalingDecision {
    /// When the number, or what decided it, became another.
    pub time: Time,
    /// The number that stood in `wanted` before. Unset: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<i32>,
    /// `spec.replicas`.
    pub replicas: i32,
    /// What the open window of the schedule asks for, the highest of several. Unset: none is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<OpenWindow>,
    /// What calls of late need, all pool pods together, by the need of each over `scaleDownSeconds`.
    pub calls: i32,
    /// What was needed at this time on both days before. 0 without the policy Predictive.
    pub forecast: i32,
    /// `spec.scaling.maxReplicas`.
    pub maximum: i32,
    /// Calls that came within the second before.
    pub calls_per_second: i32,
    /// Time to make an instance, in microseconds. 0: none was made yet.
    pub start_microseconds: i64,
}

/// A window of the schedule that is open.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OpenWindow {
    /// Its name in `spec.scaling.windows`.
    pub name: String,
    /// Warm instances that it asks for.
    pub replicas: i32,
}

/// The bundle that runs.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BundleStatus {
    /// Generation of the spec for which the image was resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// The image that was resolved. Unset for source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Digest of the image's manifest, or of the source: `sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}
