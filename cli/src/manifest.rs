//! AgentFunction manifests, read as strictly as the API server reads them.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use hearth_api::v1alpha1::AgentFunction;
use serde_yaml::Value;

/// The kind that can be served.
const KIND: (&str, &str) = ("hearth.dev/v1alpha1", "AgentFunction");

/// Reads a manifest.
///
/// # Errors
/// Names the field that is wrong, or that no AgentFunction has: passed over, it would be missed when the agent runs.
pub(crate) fn read(path: &Path) -> Result<AgentFunction> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "read {}; name a .wasm file or an AgentFunction manifest",
            path.display()
        )
    })?;
    parse(&text).with_context(|| format!("{} is no AgentFunction manifest", path.display()))
}

/// Reads the manifest of a project, which says everything but the bundle: that is made of the project.
///
/// # Errors
/// As [`read`].
pub(crate) fn of_project(path: &Path) -> Result<AgentFunction> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut given: Value = serde_yaml::from_str(&text)
        .with_context(|| format!("{} is no AgentFunction manifest", path.display()))?;
    let spec = given.get_mut("spec").and_then(Value::as_mapping_mut);
    if let Some(spec) = spec.filter(|spec| !spec.contains_key("bundle")) {
        spec.insert("bundle".into(), Value::Mapping(serde_yaml::Mapping::new()));
    }
    parse(&serde_yaml::to_string(&given)?)
        .with_context(|| format!("{} is no AgentFunction manifest", path.display()))
}

fn parse(text: &str) -> Result<AgentFunction> {
    let given: Value = serde_yaml::from_str(text)?;
    let word = |key: &str| given.get(key).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (word("apiVersion"), word("kind"));
    ensure!(
        (version, kind) == KIND,
        "its apiVersion and kind are {version:?} and {kind:?}; those of an AgentFunction are {:?} and {:?}",
        KIND.0,
        KIND.1
    );
    // From the text, not from the value: errors then tell the line.
    let object: AgentFunction = serde_yaml::from_str(text)?;
    if let Some(field) = unknown_field(&given, &serde_yaml::to_value(&object)?) {
        bail!(
            "an AgentFunction has no field {field}; correct or remove it, crds/agentfunctions.yaml lists the fields"
        );
    }
    Ok(object)
}

/// The first field of `given` that is not in `understood`, which is `given` after reading.
fn unknown_field(given: &Value, understood: &Value) -> Option<String> {
    match (given, understood) {
        (Value::Mapping(given), Value::Mapping(understood)) => {
            given.iter().find_map(|(key, value)| {
                let name = key.as_str().unwrap_or("?").to_owned();
                match understood.get(key) {
                    Some(known) => unknown_field(value, known).map(|below| join(&name, &below)),
                    // What says nothing is left out when it is written again.
                    None if is_empty(value) => None,
                    None => Some(name),
                }
            })
        }
        (Value::Sequence(given), Value::Sequence(understood)) => (given.iter().zip(understood))
            .enumerate()
            .find_map(|(index, (given, understood))| {
                Some(join(
                    &format!("[{index}]"),
                    &unknown_field(given, understood)?,
                ))
            }),
        _ => None,
    }
}

fn join(name: &str, below: &str) -> String {
    match below.starts_with('[') {
        true => format!("{name}{below}"),
        false => format!("{name}.{below}"),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(fields) => fields.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: &str) -> String {
        format!(
            "apiVersion: hearth.dev/v1alpha1\nkind: AgentFunction\nmetadata: {{name: a, labels: {{team: x}}}}\nspec: {{bundle: {{image: i}}, {spec}}}\n"
        )
    }

    #[test]
    fn fields_that_say_nothing_are_no_mistake() {
        for spec in [
            "",
            "replicas: 0",
            "replicas: null, env: [], egress: {allow: []}",
            "limits: {queue: {length: 0}}, env: [{name: A}, {name: B, value: ''}]",
        ] {
            parse(&object(spec)).unwrap();
        }
        let stored = object("") + "status: {replicas: 1, conditions: [], selector: a=b}\n";
        parse(&stored).unwrap();
    }

    #[test]
    fn what_is_wrong_is_named() {
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: []}}";
        for (text, word) in [
            (object("replica: 2"), "no field spec.replica;"),
            (
                object("env: [{name: A, value: a}, {name: B, valueFrom: {}, from: x}]"),
                "no field spec.env[1].from;",
            ),
            (
                object("limits: {queue: {len: 1}}"),
                "no field spec.limits.queue.len;",
            ),
            (object("replicas: many"), "spec.replicas"),
            (pod.to_owned(), "\"Pod\""),
            ("just words".to_owned(), "apiVersion"),
            (String::new(), "apiVersion"),
            (
                object("").replace("bundle: {image: i}, ", ""),
                "missing field `bundle`",
            ),
        ] {
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
