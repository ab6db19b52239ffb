//! The CEL rules: each says no to what it is for, with a sentence that helps, and yes to what is fine.

use hearth_api::v1alpha1::{AgentFunction, AgentPool};
use kube::core::cel::validate_cel;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The message the API server would answer with, if it refuses.
fn refusal<T>(kind: &str, name: &str, spec: &str) -> Option<String>
where
    T: DeserializeOwned + Serialize + kube::CustomResourceExt,
{
    let text = format!(
        "{{apiVersion: hearth.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}"
    );
    let object: T = serde_yaml::from_str(&text).unwrap();
    validate_cel(&object).err().map(|errors| errors.to_string())
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
    ] {
        let spec = format!("{{bundle: {{image: a}}, limits: {limits}}}");
        let got = refusal::<AgentFunction>("AgentFunction", "f", &spec);
        check(got, expected, limits);
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
