//! Code that did not exist when its function was applied.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{METRICS, contains, guest};

/// The example's function.
const RUNNER: &str = "code-runner";

/// The example that runs the code which it is sent, and says how that ended.
fn runner(cx: &Cx) -> Result<String> {
    let repository = cx.cluster.layout().repository();
    let manifest = repository.join("examples/code-runner/agentfunction.yaml");
    std::fs::read_to_string(&manifest).with_context(|| format!("read {}", manifest.display()))
}

/// What the runner says of code.
async fn run(address: &str, code: &str) -> Result<Value> {
    let answer = call::post(address, "/", code.to_owned()).await?;
    ensure!(answer.status == 200, "{code}: {answer:?}");
    Ok(serde_json::from_str(&answer.body)?)
}

pub(crate) async fn generated_code_runs_in_a_sandbox_of_its_own(cx: &Cx) -> Result<()> {
    cx.apply(&runner(cx)?)?;
    cx.condition(RUNNER, "Ready", "True").await?;
    let address = cx.route(RUNNER).await?;
    let answers = "export default { async fetch(request, env) { console.log('seen'); return new Response(String(await env.twice(21))); } };";
    let said = run(&address, answers).await?;
    ensure!(said["body"] == "42", "{said}");
    ensure!(said["report"]["start"] == "compile", "{said}");
    ensure!(said["report"]["log"][0]["text"] == "seen", "{said}");
    let known = run(&address, answers).await?;
    ensure!(known["report"]["start"] != "compile", "{known}");
    for (body, outcome) in [
        ("for (;;) {}", "cpu_exceeded"),
        (
            "for (const all = [];;) all.push(new Uint8Array(1 << 20).fill(1));",
            "out_of_memory",
        ),
        ("return fetch('http://kubernetes.default/');", "threw"),
        ("return env.LOADER.load({});", "threw"),
        ("syntax(", "load_failed"),
    ] {
        let code = format!("export default {{ async fetch(request, env) {{ {body} }} }};");
        let said = run(&address, &code).await?;
        ensure!(said["report"]["outcome"] == outcome, "{body}: {said}");
    }
    let pod = &cx.pool_pod().await?;
    let counted = |outcome: &'static str| async move {
        let labels = [
            &format!("outcome=\"{outcome}\"")[..],
            &format!("function=\"{RUNNER}\""),
        ];
        cx.metric(pod, METRICS, "hearth_loader_calls_total", &labels)
            .await
    };
    ensure!(counted("answered").await? == 2.0, "answered calls");
    ensure!(counted("cpu_exceeded").await? == 1.0, "calls that were cut");
    // Nothing is granted without the field.
    let without = r#"[{"op":"remove","path":"/spec/loader"}]"#;
    cx.kubectl(&["patch", "agf", RUNNER, "--type=json", "--patch", without])?;
    until("the loader to be gone", SETTLE, || async {
        let answer = call::post(&address, "/", answers).await?;
        Ok(Seen::when(answer.status == 403, (), answer.body))
    })
    .await
}

pub(crate) async fn a_component_in_c_loads_code(cx: &Cx) -> Result<()> {
    let image = guest(cx, "loading")?;
    cx.ready_function("loading", &image, "  loader: {}").await?;
    let answer = call::get(&cx.route("loading").await?, "/").await?;
    contains("the answer", &answer.body, "loaded by C: [\"a\",1]")
}

pub(crate) async fn autogen_and_langchain_run_code_with_a_token(cx: &Cx) -> Result<()> {
    let token = "a token of this test, which is no secret";
    let digest: String = Sha256::digest(token)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // Below the example's `loader`, which stands last.
    let endpoint = format!("    endpoint:\n      tokenDigests: [\"sha256:{digest}\"]\n");
    cx.apply(&format!("{}{endpoint}", runner(cx)?))?;
    cx.condition(RUNNER, "Ready", "True").await?;
    let address = cx.route(RUNNER).await?;
    let code = json!({ "mainModule": "a", "modules": { "a": "" } }).to_string();
    let refused = call::post(&address, "/.hearth/loader", code).await?;
    ensure!(refused.status == 401, "without a token: {refused:?}");
    let repository = cx.cluster.layout().repository();
    let python = repository.join("target/tools/python/bin/python");
    let client = repository.join("clients/python");
    let output = Command::new(&python)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"])
        .current_dir(&client)
        .env("PYTHONPATH", client.join("src"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("HEARTH_LOADER_URL", format!("http://{address}"))
        .env("HEARTH_LOADER_TOKEN", token)
        .output()
        .with_context(|| format!("start {}; `cargo xtask e2e` makes it", python.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "pytest: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    contains("pytest", &said, " passed")
}
