//! Prints both CustomResourceDefinitions as YAML, one document each: what `crds/` and the chart hold.

use hearth_api::v1alpha1::{AgentFunction, AgentPool};
use kube::CustomResourceExt;

fn main() -> Result<(), serde_yaml::Error> {
    for crd in [AgentFunction::crd(), AgentPool::crd()] {
        print!("---\n{}", serde_yaml::to_string(&crd)?);
    }
    Ok(())
}
