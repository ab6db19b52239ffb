//! The cluster objects that the operator writes, as pure functions of what it knows.

use std::collections::BTreeMap;

use hearth_api::v1alpha1::{AgentFunction, AgentPool, TrafficDistribution};
use hearth_api::{
    FUNCTION_LABEL, MANAGER, POOL_LABEL, RUNTIME_CLASS, TEMPLATE_ANNOTATION, convert,
};
use hearth_contract::{METRICS_PORT, STREAM_AUDIENCE, pool_env};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::fleet::{GroupKey, PodInfo};

/// Where the token is mounted in a pool pod.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/hearth.dev/stream";

/// Where pool pods dial, and what they are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolSettings {
    /// Image of pool pods.
    pub(crate) image: String,
    /// `https://ADDRESS:PORT`.
    pub(crate) stream: String,
    /// Name in the stream's certificate.
    pub(crate) stream_name: String,
    /// PEM certificate of the authority.
    pub(crate) ca_pem: String,
    /// Name of their PriorityClass, where they have one.
    pub(crate) priority_class: Option<String>,
}

/// Whether a pod was made by this operator for a pool.
pub(crate) fn is_pool_pod(pod: &Pod, pool: &AgentPool) -> bool {
    pod.labels().contains_key(POOL_LABEL)
        && pod.owner_references().iter().any(|owner| {
            owner.kind == "AgentPool"
                && owner.controller == Some(true)
                && Some(&owner.uid) == pool.metadata.uid.as_ref()
        })
}

/// Whether kubelet says that a pod runs and is Ready, and nobody is ending it.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The node that a pool pod was made for, also before the scheduler has put it there.
pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    let made_for = || {
        let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
        let required = affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()?;
        let fields = required
            .node_selector_terms
            .first()?
            .match_fields
            .as_ref()?;
        fields.first()?.values.as_ref()?.first().map(String::as_str)
    };
    spec.node_name.as_deref().or_else(made_for)
}

/// Whether the scheduler finds no place for a pod.
pub(crate) fn is_unschedulable(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("Unschedulable"))
}

/// Which group a pool pod belongs to.
pub(crate) fn group_of(pod: &Pod) -> Option<GroupKey> {
    Some(GroupKey {
        namespace: pod.namespace()?,
        pool: pod.labels().get(POOL_LABEL)?.clone(),
        function: pod.labels().get(FUNCTION_LABEL).cloned(),
    })
}

/// A function's Service. Its endpoints are written by [`slice`]: it has no selector. What is null is not there.
pub(crate) fn service(function: &AgentFunction) -> Value {
    let distribution = convert::traffic_distribution(&function.spec);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": function.name_any(),
            "namespace": function.namespace(),
            "labels": {"app.kubernetes.io/managed-by": MANAGER, FUNCTION_LABEL: function.name_any()},
            "ownerReferences": [function.controller_owner_ref(&())],
        },
        "spec": {
            "ports": [{"name": "http", "port": convert::service_port(&function.spec), "protocol": "TCP"}],
            "trafficDistribution": distribution.map(TrafficDistribution::as_str),
        },
    })
}

/// The endpoints of a function's Service: the pods that serve it. What is null is not there.
pub(crate) fn slice(
    function: &AgentFunction,
    port: u16,
    pods: &[PodInfo],
    zone_of: impl Fn(&str) -> Option<String>,
) -> Value {
    let distribution = convert::traffic_distribution(&function.spec);
    let ipv6 = pods.iter().any(|pod| pod.address.contains(':'));
    let endpoints: Vec<_> = pods
        .iter()
        .map(|pod| {
            let zone = zone_of(&pod.node);
            json!({
                "addresses": [pod.address],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": pod.node,
                "zone": zone,
                "hints": distribution.and_then(|distribution| hints(distribution, &pod.node, zone.as_deref())),
                "targetRef": {"kind": "Pod", "name": pod.name, "namespace": function.namespace(), "uid": pod.uid},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": function.name_any(),
            "namespace": function.namespace(),
            "labels": {
                "kubernetes.io/service-name": function.name_any(),
                "endpointslice.kubernetes.io/managed-by": MANAGER,
                "app.kubernetes.io/managed-by": MANAGER,
            },
            "ownerReferences": [function.controller_owner_ref(&())],
        },
        "addressType": if ipv6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    })
}

/// Whom an endpoint answers first. kube-proxy reads this, and not the Service, as it would be written by Kubernetes' own
/// controller for the Service's endpoints (`k8s.io/endpointslice/trafficdist`).
fn hints(distribution: TrafficDistribution, node: &str, zone: Option<&str>) -> Option<Value> {
    let zones = zone.map(|zone| json!([{"name": zone}]));
    match distribution {
        TrafficDistribution::PreferSameNode => {
            Some(json!({"forNodes": [{"name": node}], "forZones": zones}))
        }
        // Without all zones no zone is preferred.
        TrafficDistribution::PreferSameZone => Some(json!({"forZones": zones?})),
    }
}

/// Whether what stands in the cluster says everything that `wanted` says, and has nothing where that is null. Fields that
/// others added do not count.
pub(crate) fn says<K: serde::Serialize>(current: &K, wanted: &Value) -> bool {
    serde_json::to_value(current).is_ok_and(|current| covers(&current, wanted))
}

fn covers(current: &Value, wanted: &Value) -> bool {
    match (current, wanted) {
        (Value::Object(current), Value::Object(wanted)) => wanted.iter().all(|(key, value)| {
            key == "apiVersion"
                || key == "kind"
                || covers(current.get(key).unwrap_or(&Value::Null), value)
        }),
        (Value::Array(current), Value::Array(wanted)) => {
            current.len() == wanted.len() && current.iter().zip(wanted).all(|(c, w)| covers(c, w))
        }
        (current, wanted) => current == wanted,
    }
}

/// Whether a Service belonged to a function of this name that is gone.
pub(crate) fn is_left_over(service: &Service, function: &AgentFunction) -> bool {
    service.owner_references().iter().any(|owner| {
        owner.kind == "AgentFunction"
            && owner.controller == Some(true)
            && Some(&owner.uid) != function.metadata.uid.as_ref()
    })
}

/// Whether a Service belongs to a function.
pub(crate) fn is_owned(service: &Service, function: &AgentFunction) -> bool {
    service
        .owner_references()
        .iter()
        .any(|owner| Some(&owner.uid) == function.metadata.uid.as_ref())
}

/// Whether an EndpointSlice says `wanted`.
pub(crate) fn slice_says(current: &EndpointSlice, wanted: &Value) -> bool {
    says(current, wanted)
}

/// A pool pod on one node. Its name follows from pool, function, node and what it is made of, so that making it twice is
/// refused, and one that is made of something else can be beside it.
pub(crate) fn pool_pod(
    pool: &AgentPool,
    group: &GroupKey,
    node: &str,
    settings: &PoolSettings,
) -> Value {
    let spec = pod_spec(pool, node, settings);
    let template = hash(&spec.to_string());
    let mut labels = BTreeMap::from([
        (POOL_LABEL.to_owned(), group.pool.clone()),
        (
            "app.kubernetes.io/managed-by".to_owned(),
            MANAGER.to_owned(),
        ),
        ("app.kubernetes.io/component".to_owned(), "pool".to_owned()),
    ]);
    if let Some(function) = &group.function {
        labels.insert(FUNCTION_LABEL.to_owned(), function.clone());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(group, node, &template),
            "namespace": group.namespace,
            "labels": labels,
            "annotations": {
                TEMPLATE_ANNOTATION: template,
                "prometheus.io/scrape": "true",
                "prometheus.io/port": METRICS_PORT.to_string(),
            },
            "ownerReferences": [pool.controller_owner_ref(&())],
        },
        "spec": spec,
    })
}

/// Whether a pod was made from what it would be made from now.
pub(crate) fn is_current(pod: &Pod, wanted: &Value) -> bool {
    pod.annotations()
        .get(TEMPLATE_ANNOTATION)
        .map(String::as_str)
        == wanted["metadata"]["annotations"][TEMPLATE_ANNOTATION].as_str()
}

fn pod_name(group: &GroupKey, node: &str, template: &str) -> String {
    let of = group.function.as_deref().unwrap_or(&group.pool);
    let short: String = of.chars().take(40).collect();
    let kind = if group.function.is_some() {
        "function"
    } else {
        "pool"
    };
    format!(
        "{kind}-{short}-{}",
        hash(&format!(
            "{}/{:?}/{node}/{template}",
            group.pool, group.function
        ))
    )
}

fn pod_spec(pool: &AgentPool, node: &str, settings: &PoolSettings) -> Value {
    let env = [
        (pool_env::STREAM, settings.stream.as_str()),
        (pool_env::STREAM_NAME, &settings.stream_name),
        (pool_env::STREAM_CA, &settings.ca_pem),
        (pool_env::TOKEN_PATH, &format!("{TOKEN_DIRECTORY}/token")),
    ]
    .map(|(name, value)| json!({"name": name, "value": value}));
    let resources = pool
        .spec
        .resources
        .as_ref()
        .map(|resources| json!(resources))
        .unwrap_or_else(|| json!({}));
    json!({
        "runtimeClassName": RUNTIME_CLASS,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 30,
        "priorityClassName": settings.priority_class,
        "tolerations": pool.spec.tolerations,
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]},
        ]}}},
        "securityContext": {"runAsNonRoot": true, "runAsUser": 64532, "runAsGroup": 64532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "pool",
            "image": settings.image,
            // Nothing runs it; containerd wants a command of every container.
            "command": ["/hearth-pool"],
            "imagePullPolicy": "IfNotPresent",
            "env": env,
            "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
            // An engine that ends is followed by the next within the first of these; this is for one that is there and does
            // nothing. One that stands still for a minute goes on.
            "livenessProbe": {
                "httpGet": {"path": "/healthz", "port": METRICS_PORT},
                "periodSeconds": 10,
                "timeoutSeconds": 5,
                "failureThreshold": 9,
            },
            "resources": resources,
            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "token", "mountPath": TOKEN_DIRECTORY, "readOnly": true}],
        }],
        "volumes": [{"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"audience": STREAM_AUDIENCE, "expirationSeconds": 3600, "path": "token"}},
        ]}}],
    })
}

/// A short name for a text: the same in every process.
fn hash(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{:010x}", hash & 0xff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_added_does_not_count() {
        let wanted = json!({"kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}], "trafficDistribution": null}});
        for (current, covered) in [
            (
                json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"ports": [{"port": 80, "protocol": "TCP"}]}}),
                true,
            ),
            (
                json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 81}]}}),
                false,
            ),
            (
                json!({"metadata": {"name": "a"}, "spec": {"ports": []}}),
                false,
            ),
            (json!({"metadata": {"name": "a"}}), false),
            (
                json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}], "trafficDistribution": "PreferSameNode"}}),
                false,
            ),
        ] {
            assert_eq!(covers(&current, &wanted), covered, "{current}");
        }
    }

    #[test]
    fn endpoints_say_whom_they_answer_first() {
        let pod = |node: &str| PodInfo {
            uid: format!("uid-{node}"),
            name: format!("pod-{node}"),
            node: node.to_owned(),
            address: "10.0.0.1".to_owned(),
            group: GroupKey {
                namespace: "n".to_owned(),
                pool: "default".to_owned(),
                function: None,
            },
        };
        let zone_of = |node: &str| (node != "far").then(|| "z".to_owned());
        let check = |service: Value, expected: [Value; 2]| {
            let made_of = |service: &Value| {
                let spec = json!({"bundle": {"image": "i"}, "service": service});
                let mut function = AgentFunction::new("f", serde_json::from_value(spec).unwrap());
                function.metadata.uid = Some("u".to_owned());
                slice(&function, 8080, &[pod("near"), pod("far")], zone_of)
            };
            let made = made_of(&service);
            let hints = [0, 1].map(|at| made["endpoints"][at]["hints"].clone());
            assert_eq!(hints, expected, "{service}");
            // What it is compared with is read into types.
            let read: EndpointSlice = serde_json::from_value(made.clone()).unwrap();
            assert!(slice_says(&read, &made));
            let plain = made_of(&json!({}));
            assert_eq!(
                covers(&made["endpoints"], &plain["endpoints"]),
                expected[0].is_null()
            );
        };
        let near = json!([{"name": "z"}]);
        check(json!({}), [Value::Null, Value::Null]);
        check(
            json!({"trafficDistribution": "PreferSameNode"}),
            [
                json!({"forNodes": [{"name": "near"}], "forZones": near}),
                json!({"forNodes": [{"name": "far"}], "forZones": null}),
            ],
        );
        check(
            json!({"trafficDistribution": "PreferSameZone"}),
            [json!({"forZones": near}), Value::Null],
        );
    }

    #[test]
    fn a_pool_pod_says_its_node_before_it_is_there() {
        let settings = PoolSettings {
            image: "i".to_owned(),
            stream: "s".to_owned(),
            stream_name: "n".to_owned(),
            ca_pem: "c".to_owned(),
            priority_class: None,
        };
        let mut pool = AgentPool::new("default", Default::default());
        pool.metadata.namespace = Some("n".to_owned());
        pool.metadata.uid = Some("u".to_owned());
        let group = GroupKey {
            namespace: "n".to_owned(),
            pool: "default".to_owned(),
            function: None,
        };
        let made = pool_pod(&pool, &group, "node-1", &settings);
        let pod: Pod = serde_json::from_value(made.clone()).unwrap();
        assert_eq!(node_of(&pod), Some("node-1"));
        assert!(is_current(&pod, &made) && !is_unschedulable(&pod));
        assert_eq!(group_of(&pod), Some(group));
        // One that stands still for a minute is not ended.
        let probe = pod.spec.unwrap().containers.remove(0).liveness_probe;
        let probe = probe.unwrap();
        assert_eq!(probe.http_get.unwrap().path.as_deref(), Some("/healthz"));
        let patience = probe.period_seconds.zip(probe.failure_threshold);
        assert!(patience.is_some_and(|(period, times)| period * (times - 1) > 60));
    }

    #[test]
    fn a_pool_pods_name_follows_from_what_it_is() {
        let group = |function: Option<&str>| GroupKey {
            namespace: "n".to_owned(),
            pool: "default".to_owned(),
            function: function.map(str::to_owned),
        };
        let name = pod_name(&group(None), "node-1", "a");
        assert!(
            name.starts_with("pool-default-") && name.len() <= 63,
            "{name}"
        );
        assert_eq!(name, pod_name(&group(None), "node-1", "a"));
        assert_ne!(name, pod_name(&group(None), "node-2", "a"));
        assert_ne!(name, pod_name(&group(None), "node-1", "b"));
        assert!(pod_name(&group(Some(&"x".repeat(63))), "node", "a").len() <= 63);
    }
}
