//! Dependencies point one way. The arrows of ARCHITECTURE.md, held against what cargo says.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::images::Build;

/// Which of our crates each of our crates may use.
const ALLOWED: [(&str, &[&str]); 17] = [
    ("hearth-contract", &[]),
    ("hearth-api", &["hearth-contract"]),
    ("hearth-wasm-host", &["hearth-contract"]),
    ("hearth-components", &[]),
    ("hearth-footprint", &[]),
    ("hearth-planner", &[]),
    (
        "hearth-engine",
        &["hearth-contract", "hearth-footprint", "hearth-wasm-host"],
    ),
    (
        "hearth-cli",
        &[
            "hearth-api",
            "hearth-components",
            "hearth-contract",
            "hearth-wasm-host",
        ],
    ),
    ("hearth-shim", &["hearth-contract", "hearth-footprint"]),
    (
        "hearth-operator",
        &["hearth-api", "hearth-contract", "hearth-planner"],
    ),
    // The label that says a node is ready, and the name of the runtime class: they must be the same on both sides.
    ("hearth-installer", &["hearth-api"]),
    ("hearth-test-guests", &["hearth-components"]),
    ("hearth-fuzz", &[]),
    ("hearth-example-server", &[]),
    ("hearth-cluster", &[]),
    // The contract: a bench plays the shim of an engine. The planner: a bench plays traces against it. The installer: a case asks
    // containerd through its client which runtimes there are.
    (
        "hearth-e2e",
        &[
            "hearth-api",
            "hearth-cluster",
            "hearth-contract",
            "hearth-installer",
            "hearth-planner",
        ],
    ),
    ("xtask", &["hearth-cluster"]),
];

/// What any crate's tests may use.
const ALLOWED_IN_TESTS: [&str; 2] = ["hearth-fuzz", "hearth-test-guests"];

/// What must not be anywhere below a crate, by the start of its name.
const FORBIDDEN: [(&str, &[&str]); 3] = [
    ("hearth-shim", &["wasmtime", "cranelift"]),
    ("hearth-operator", &["wasmtime", "cranelift"]),
    ("hearth-engine", &["kube", "k8s-openapi", "containerd-shim"]),
];

/// Checks the workspace.
pub(crate) fn check(build: &Build) -> Result<()> {
    let mut command =
        std::process::Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(build.repository());
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("run cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata failed: is Cargo.lock up to date?"
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let wrong = violations(&Graph::read(&metadata));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// An arrow between two packages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Arrow {
    to: String,
    is_only_for_tests: bool,
}

/// Packages by id, with names and arrows.
#[derive(Debug, Default)]
struct Graph {
    names: BTreeMap<String, String>,
    members: BTreeSet<String>,
    arrows: BTreeMap<String, BTreeSet<Arrow>>,
}

impl Graph {
    fn read(metadata: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut graph = Self::default();
        for package in list(&metadata["packages"]) {
            graph
                .names
                .insert(text(&package["id"]), text(&package["name"]));
        }
        graph.members = list(&metadata["workspace_members"])
            .iter()
            .map(text)
            .collect();
        for node in list(&metadata["resolve"]["nodes"]) {
            let arrows = list(&node["deps"]).into_iter().map(|dependency| Arrow {
                to: text(&dependency["pkg"]),
                is_only_for_tests: list(&dependency["dep_kinds"])
                    .iter()
                    .all(|kind| kind["kind"] == "dev"),
            });
            graph.arrows.insert(text(&node["id"]), arrows.collect());
        }
        graph
    }

    fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.names.get(id).map_or(id, String::as_str)
    }

    fn arrows(&self, id: &str) -> impl Iterator<Item = &Arrow> {
        self.arrows.get(id).into_iter().flatten()
    }

    /// Names of everything that a package is built from.
    fn below<'a>(&'a self, id: &'a str) -> BTreeSet<&'a str> {
        let mut seen = BTreeSet::new();
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            for arrow in self.arrows(id).filter(|arrow| !arrow.is_only_for_tests) {
                if seen.insert(arrow.to.as_str()) {
                    open.push(&arrow.to);
                }
            }
        }
        seen.into_iter().map(|id| self.name(id)).collect()
    }
}

/// Every arrow that should not be there, in words.
fn violations(graph: &Graph) -> Vec<String> {
    let mut wrong = Vec::new();
    for id in &graph.members {
        let name = graph.name(id);
        let Some((_, allowed)) = ALLOWED.iter().find(|(crate_name, _)| *crate_name == name) else {
            wrong.push(format!(
                "{name} is not in the table of directions: add it to xtask/src/directions.rs"
            ));
            continue;
        };
        for arrow in graph
            .arrows(id)
            .filter(|arrow| graph.members.contains(&arrow.to))
        {
            let to = graph.name(&arrow.to);
            // A crate whose tests switch on a feature of its own points at itself.
            let is_for_tests =
                arrow.is_only_for_tests && (ALLOWED_IN_TESTS.contains(&to) || to == name);
            let is_fine = allowed.contains(&to) || is_for_tests;
            if !is_fine {
                wrong.push(format!(
                    "{name} must not depend on {to}: see the arrows in ARCHITECTURE.md"
                ));
            }
        }
        for (_, prefixes) in FORBIDDEN
            .iter()
            .filter(|(crate_name, _)| *crate_name == name)
        {
            for below in graph.below(id) {
                if prefixes.iter().any(|prefix| below.starts_with(prefix)) {
                    wrong.push(format!("{name} must not contain {below}, at any depth"));
                }
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A workspace of arrows between names; `dev` arrows are those of tests.
    fn graph(members: &[&str], arrows: &[(&str, &str, Option<&str>)]) -> Graph {
        let mut names: BTreeSet<&str> = members.iter().copied().collect();
        names.extend(arrows.iter().flat_map(|(from, to, _)| [*from, *to]));
        let node = |name: &str| {
            let deps = arrows.iter().filter(|(from, _, _)| *from == name);
            let deps = deps.map(|(_, to, kind)| json!({"pkg": to, "dep_kinds": [{"kind": kind}]}));
            json!({"id": name, "deps": deps.collect::<Vec<_>>()})
        };
        Graph::read(&json!({
            "packages": names.iter().map(|name| json!({"id": name, "name": name})).collect::<Vec<_>>(),
            "workspace_members": members,
            "resolve": {"nodes": names.iter().map(|name| node(name)).collect::<Vec<_>>()},
        }))
    }

    #[test]
    fn allowed_arrows_pass() {
        let members = [
            "hearth-api",
            "hearth-contract",
            "hearth-test-guests",
            "hearth-wasm-host",
        ];
        let graph = graph(
            &members,
            &[
                ("hearth-api", "hearth-contract", None),
                ("hearth-wasm-host", "hearth-test-guests", Some("dev")),
                ("hearth-wasm-host", "wasmtime", None),
            ],
        );
        assert_eq!(violations(&graph), [""; 0]);
    }

    #[test]
    fn arrows_against_the_direction_are_named() {
        let graph = graph(
            &["hearth-contract", "hearth-api", "hearth-test-guests"],
            &[
                ("hearth-contract", "hearth-api", Some("dev")),
                ("hearth-api", "hearth-test-guests", None),
            ],
        );
        let wrong = violations(&graph);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(
            wrong
                .iter()
                .any(|line| line.starts_with("hearth-contract must not depend on hearth-api"))
        );
    }

    #[test]
    fn the_shim_holds_no_wasm_runtime_at_any_depth() {
        let arrows = [
            ("hearth-shim", "innocent", None),
            ("innocent", "cranelift-codegen", None),
        ];
        let wrong = violations(&graph(&["hearth-shim"], &arrows));
        assert_eq!(
            wrong,
            ["hearth-shim must not contain cranelift-codegen, at any depth"]
        );
        // What only the tests of a dependency use is not built.
        let arrows = [
            ("hearth-shim", "innocent", None),
            ("innocent", "wasmtime", Some("dev")),
        ];
        assert_eq!(violations(&graph(&["hearth-shim"], &arrows)), [""; 0]);
    }

    #[test]
    fn a_new_crate_must_take_a_place() {
        assert_eq!(violations(&graph(&["hearth-new"], &[])).len(), 1);
    }
}
