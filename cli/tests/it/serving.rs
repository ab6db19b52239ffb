//! `hearth serve`.

use hearth_test_guests::Guest;

use crate::harness::{Running, project};

#[test]
fn a_component_of_a_manifest_loads_javascript() {
    let manifest = "apiVersion: hearth.dev/v1alpha1\nkind: AgentFunction\nmetadata:\n  name: loading\nspec:\n  bundle:\n    image: example.com/loading\n  loader: {}\n";
    let project = project(&[("agentfunction.yaml", manifest)]);
    let component = project.path().join("loading.wasm");
    std::fs::write(component, Guest::Loading.wasm().unwrap()).unwrap();
    let words = ["serve", "agentfunction.yaml", "--bundle", "loading.wasm"];
    let answer = Running::start(project.path(), &words).get("/");
    assert!(answer.contains("loaded by C: [\"a\",1]"), "{answer}");
}
