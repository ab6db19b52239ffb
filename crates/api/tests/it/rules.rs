//! The CEL rules: each says no to what it is for, with a sentence that helps, and yes to what is fine. A run without a
//! cluster, which has no rules, bounds the same.

use hearth_api::convert;
use hearth_api::v1alpha1::{AgentFunction, AgentPool};
use kube::CustomResourceExt;
use kube::core::cel::validate_cel;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The message the API server would answer with, if it refuses.
fn refusal<T>(kind: &str, name: &str, spec: &str) -> Option<String>
where
    T: DeserializeOwned + Serialize + CustomResourceExt,
{
    let object: T = object(kind, name, spec);
    validate_cel(&object).err().map(|errors| errors.to_string())
}

fn object<T: DeserializeOwned>(kind: &str, name: &str, spec: &str) -> T {
    let text = format!(
        "{{apiVersion: hearth.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}"
    );
    serde_yaml::from_str(&text).unwrap()
}

/// Whether a function of this spec can be run without a cluster.
fn converts(spec: &str) -> bool {
    convert::function(&object::<AgentFunction>("AgentFunction", "f", spec), 0).is_ok()
}

fn check(got: Option<String>, expected: Option<&str>, input: &str) {
    match (got, expected) {
        (None, None) => {}
        (Some(got), Some(word)) if got.contains(word) => {}
        (got, _) => panic!("{input}: expected {expected:?}, got {got:?}"),
    }
}

#[test]
fn names() {
    let long = "a".repeat(64);
    for (name, expected) in [
        ("agent", None),
        ("a-1", None),
        ("a.b", Some("name of a Service")),
        ("1a", Some("name of a Service")),
        (long.as_str(), Some("name of a Service")),
    ] {
        let got = refusal::<AgentFunction>(
            "AgentFunction",
            &format!("'{name}'"),
            "{bundle: {image: a}}",
        );
        check(got, expected, name);
    }
    let got = refusal::<AgentPool>("AgentPool", &long, "{}");
    check(got, Some("label value"), &long);
}

#[test]
fn bundles() {
    let problem = Some("either an image or source");
    for (bundle, expected) in [
        ("{image: a}", None),
        ("{source: {javascript: 'export default {}'}}", None),
        ("{source: {configMap: {name: code}}}", None),
        (
            "{source: {javascript: a, configMap: {name: code}}}",
            Some("either javascript or a configMap"),
        ),
        ("{source: {}}", Some("either javascript or a configMap")),
        ("{}", problem),
        ("{image: a, source: {javascript: b}}", problem),
    ] {
        let spec = format!("{{bundle: {bundle}}}");
        let got = refusal::<AgentFunction>("AgentFunction", "a", &spec);
        check(got, expected, bundle);
    }
}

#[test]
fn limits() {
    for (limits, expected) in [
        ("{}", None),
        ("{memory: 64Mi, requestBody: '0'}", None),
        ("{memory: 4Gi, requestBody: 1Gi}", None),
        ("{memory: '1048576'}", None),
        ("{memory: 1Ki}", Some("1Mi to 4Gi")),
        ("{memory: 5Gi}", Some("1Mi to 4Gi")),
        ("{memory: lots}", Some("1Mi to 4Gi")),
        ("{requestBody: 2Gi}", Some("0 to 1Gi")),
        ("{requestBody: '-1'}", Some("0 to 1Gi")),
        ("{requestHead: 1Ki}", None),
        ("{requestHead: 256Ki}", None),
        ("{requestHead: '1023'}", Some("requestHead is a quantity")),
        ("{requestHead: 257Ki}", Some("from 1Ki to 256Ki")),
        ("{responseBody: '0'}", None),
        ("{responseBody: 1Gi}", None),
        ("{responseBody: 2Gi}", Some("responseBody is a quantity")),
        ("{responseBody: '-1'}", Some("from 0 to 1Gi")),
        ("{logBytesPerSecond: '0'}", None),
        ("{logBytesPerSecond: 10Mi}", None),
        (
            "{logBytesPerSecond: 11Mi}",
            Some("logBytesPerSecond is a quantity"),
        ),
        ("{logBytesPerSecond: much}", Some("from 0 to 10Mi")),
    ] {
        let spec = format!("{{bundle: {{image: a}}, limits: {limits}}}");
        let got = refusal::<AgentFunction>("AgentFunction", "f", &spec);
        check(got, expected, limits);
        assert_eq!(converts(&spec), expected.is_none(), "{limits}");
    }
}

#[test]
fn scaling() {
    let window = |replicas: i32| {
        format!("{{name: w, start: '0 8 * * 1-5', minutes: 60, replicas: {replicas}}}")
    };
    for (spec, expected) in [
        ("scaling: {maxReplicas: 4}".to_owned(), None),
        ("replicas: 4, scaling: {maxReplicas: 4}".to_owned(), None),
        (
            "replicas: 5, scaling: {maxReplicas: 4}".to_owned(),
            Some("replicas is above scaling.maxReplicas"),
        ),
        (
            format!("scaling: {{maxReplicas: 4, windows: [{}]}}", window(4)),
            None,
        ),
        (
            format!("scaling: {{maxReplicas: 4, windows: [{}]}}", window(5)),
            Some("above maxReplicas"),
        ),
    ] {
        let object = format!("{{bundle: {{image: a}}, {spec}}}");
        let got = refusal::<AgentFunction>("AgentFunction", "f", &object);
        check(got, expected, &spec);
    }
}

/// Whole numbers below `path` in a schema: where, from, to.
fn numbers<'a>(path: &[&'a str], schema: &'a Value, found: &mut Vec<(Vec<&'a str>, [i64; 2])>) {
    if schema["type"] == "integer" {
        let bound = |key: &str| schema[key].as_f64().unwrap() as i64;
        found.push((path.to_vec(), [bound("minimum"), bound("maximum")]));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        numbers(&[path, &[name.as_str()]].concat(), property, found);
    }
}

#[test]
fn a_run_without_a_cluster_has_the_bounds_of_the_schema() {
    let schema = serde_json::to_value(&AgentFunction::crd().spec.versions[0].schema).unwrap();
    let spec = &schema["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let mut found = Vec::new();
    numbers(&["limits"], &spec["limits"], &mut found);
    numbers(&["reuse"], &spec["reuse"], &mut found);
    assert!(found.iter().any(|(path, _)| *path == ["reuse", "calls"]));
    for (path, [least, most]) in found {
        let cases = [
            (least - 1, false),
            (least, true),
            (most, true),
            (most + 1, false),
        ];
        for (number, expected) in cases {
            let mut spec = json!({"bundle": {"image": "a"}, "reuse": {"calls": 1}});
            *path.iter().fold(&mut spec, |below, name| &mut below[*name]) = number.into();
            assert_eq!(converts(&spec.to_string()), expected, "{spec}");
        }
    }
}

#[test]
fn egress() {
    for (rule, expected) in [
        ("api.example.com", None),
        ("https://api.example.com:8443", None),
        ("http://*.example.com", None),
        ("10.0.0.1:80", None),
        ("[::1]:443", None),
        ("llm.default.svc.cluster.local", None),
        ("api.example.com/path", Some("egress rule")),
        ("ftp://a.b", Some("egress rule")),
        ("*", Some("egress rule")),
        ("a.b:0", Some("egress rule")),
        ("a b", Some("egress rule")),
        ("user@a.b", Some("egress rule")),
    ] {
        let spec = format!("{{bundle: {{image: a}}, egress: {{allow: ['{rule}']}}}}");
        let got = refusal::<AgentFunction>("AgentFunction", "f", &spec);
        check(got, expected, rule);
        // What the schema lets through, the node can read.
        if expected.is_none() {
            rule.parse::<hearth_contract::egress::EgressRule>().unwrap();
        }
    }
}

#[test]
fn tolerations() {
    for (toleration, expected) in [
        ("{key: a}", None),
        ("{operator: Exists}", None),
        (
            "{key: a, operator: Equal, value: b, effect: NoExecute}",
            None,
        ),
        ("{operator: Equal}", Some("operator: Exists")),
        ("{}", Some("operator: Exists")),
    ] {
        let spec = format!("{{tolerations: [{toleration}]}}");
        check(
            refusal::<AgentPool>("AgentPool", "p", &spec),
            expected,
            toleration,
        );
    }
}
