//! What several groups use: the example bundles, and what is printed when a case fails.

use anyhow::{Context, Result};
use hearth_e2e::Cx;

/// The C example, pushed by `cargo xtask up`.
pub(crate) const HELLO: &str = "localhost:5000/examples/hello-c:dev";

/// Image of the component of many behaviours, chosen by path, pushed when the registry lacks it.
pub(crate) fn mischief(cx: &Cx) -> Result<String> {
    guest(cx, "mischief")
}

/// Image of a test guest, as a wasm artifact.
pub(crate) fn guest(cx: &Cx, name: &str) -> Result<String> {
    let path = cx.cluster.guest(name);
    let wasm = std::fs::read(&path)
        .with_context(|| format!("read {}; `cargo xtask e2e` builds it", path.display()))?;
    cx.push_artifact(name, &wasm)
}

/// Prints what an engineer would ask for first.
pub(crate) async fn report(cx: &Cx, error: &anyhow::Error) {
    eprintln!("--- failed: {error:#}");
    for args in [
        &[
            "get",
            "agentfunctions,agentpools,pods,services,endpointslices",
            "-o",
            "wide",
        ][..],
        &["get", "events", "--sort-by=.lastTimestamp"][..],
        &["describe", "agentfunctions"][..],
    ] {
        match cx.kubectl(args) {
            Ok(text) => eprintln!("--- kubectl {}\n{text}", args.join(" ")),
            Err(error) => eprintln!("--- kubectl {}: {error:#}", args.join(" ")),
        }
    }
    if let Ok(text) = cx.cluster.kubectl(&[
        "--namespace",
        "hearth-system",
        "logs",
        "deployment/hearth-operator",
        "--tail=40",
    ]) {
        eprintln!("--- operator\n{text}");
    }
}

/// Checks that a text contains a part, and shows both when it does not.
pub(crate) fn contains(what: &str, text: &str, part: &str) -> Result<()> {
    anyhow::ensure!(text.contains(part), "{what} lacks {part:?}: {text:?}");
    Ok(())
}
