//! `crds/` is generated; a change of the types without `cargo xtask codegen` fails here.

use hearth_api::v1alpha1::{AgentFunction, AgentPool};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

fn check(crd: &CustomResourceDefinition, committed: &str) {
    let generated = serde_yaml::to_string(crd).unwrap();
    let name = &crd.spec.names.plural;
    // Not assert_eq: two whole definitions side by side help nobody.
    assert!(
        generated == committed,
        "crds/{name}.yaml is out of date: run `cargo xtask codegen`"
    );
}

#[test]
fn the_committed_definitions_are_those_of_the_types() {
    check(
        &AgentFunction::crd(),
        include_str!("../../../../crds/agentfunctions.yaml"),
    );
    check(
        &AgentPool::crd(),
        include_str!("../../../../crds/agentpools.yaml"),
    );
}

/// Strings, lists and maps that users fill have bounds: the API server's estimate of what the rules cost, and the
/// size of an object in etcd, depend on them.
#[test]
fn everything_in_a_spec_is_bounded() {
    fn unbounded(path: &str, schema: &serde_json::Value, found: &mut Vec<String>) {
        let missing = |key: &str| schema.get(key).is_none();
        match schema["type"].as_str() {
            Some("string") if missing("maxLength") && missing("enum") => {
                found.push(path.to_owned())
            }
            Some("array") if missing("maxItems") => found.push(path.to_owned()),
            Some("integer") if missing("maximum") => found.push(path.to_owned()),
            _ => {}
        }
        if schema.get("additionalProperties").is_some() && missing("maxProperties") {
            found.push(path.to_owned());
        }
        if let Some(items) = schema.get("items") {
            unbounded(&format!("{path}[]"), items, found);
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            unbounded(&format!("{path}.{name}"), property, found);
        }
    }
    for crd in [AgentFunction::crd(), AgentPool::crd()] {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let mut found = Vec::new();
        unbounded(
            "spec",
            &schema["openAPIV3Schema"]["properties"]["spec"],
            &mut found,
        );
        assert!(found.is_empty(), "without a bound: {found:?}");
    }
}
