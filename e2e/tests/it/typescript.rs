//! Agents by the program that their users have, in TypeScript and in Python: from a folder to an answer of the cluster.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE};
use serde_json::Value;

use crate::support::{contains, support_tools};

const QUESTION: &str = r#"{"customer":"c-17","question":"Where is my order 4711?"}"#;
/// What the stand-in of an LLM makes of the order.
const ANSWER: &str = "Your order 4711 is shipped and arrives on Thursday.";

/// Runs `hearth` in a folder, against the case's namespace where `is_cluster` says that it is about one.
fn hearth(cx: &Cx, folder: &Path, is_cluster: bool, words: &[&str]) -> Result<Output> {
    let bundler = cx
        .cluster
        .layout()
        .repository()
        .join("target/guests/hearth-bundle");
    let mut command = cx.cluster.command(1, cx.cluster.binary("hearth"));
    command
        .args(words)
        .current_dir(folder)
        .env("HEARTH_BUNDLE", bundler);
    if is_cluster {
        command.args(["--namespace", &cx.namespace]);
    }
    command.output().context("start hearth")
}

fn text(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stderr), text(&output.stdout))
}

/// The same, of what must succeed; its standard output.
fn done(cx: &Cx, folder: &Path, is_cluster: bool, words: &[&str]) -> Result<String> {
    let output = hearth(cx, folder, is_cluster, words)?;
    ensure!(
        output.status.success(),
        "hearth {}: {}",
        words.join(" "),
        text(&output)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Deploys an example of real packages and asks it. Its code is pulled as an OCI artifact.
async fn example(cx: &Cx, name: &str) -> Result<()> {
    support_tools(cx)?;
    let folder = cx.cluster.layout().repository().join("examples").join(name);
    let image = format!("localhost:5000/examples/{name}:e2e");
    done(cx, &folder, true, &["deploy", "--image", &image])?;
    let path = format!(
        "/api/v1/namespaces/{}/services/support-tools:8000/proxy/calls",
        cx.namespace
    );
    let calls = || -> Result<Vec<String>> {
        let text = cx.cluster.kubectl(&["get", "--raw", &path])?;
        let calls: Value = serde_json::from_str(&text)?;
        Ok(serde_json::from_value(calls["calls"].clone())?)
    };
    let before = calls()?.len();
    let answer = done(
        cx,
        &folder,
        true,
        &["invoke", name, "/", "--data", QUESTION, "--output", "json"],
    )?;
    let answer: Value = serde_json::from_str(&answer)?;
    ensure!(answer["status"] == 200, "{answer}");
    ensure!(answer["body"]["answer"] == ANSWER, "{answer}");
    ensure!(answer["body"]["sources"][0]["id"] == "shipping", "{answer}");
    let made = calls()?.split_off(before);
    let steps = [
        "GET /search?q=Where",
        "POST /v1/chat/completions",
        "GET /orders/4711",
        "POST /v1/chat/completions",
    ];
    let is_so = made.len() == steps.len()
        && made
            .iter()
            .zip(steps)
            .all(|(call, step)| call.starts_with(step));
    ensure!(is_so, "retrieval, LLM, order API, LLM: {made:?}");
    Ok(())
}

pub(crate) async fn langchain_answers_from_its_packages(cx: &Cx) -> Result<()> {
    example(cx, "langchain-ts").await
}

pub(crate) async fn llamaindex_answers_from_its_packages(cx: &Cx) -> Result<()> {
    example(cx, "llamaindex-ts").await
}

pub(crate) async fn a_component_in_python_is_new_built_and_deployed(cx: &Cx) -> Result<()> {
    let repository = cx.cluster.layout().repository();
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let folder = home.join("tool");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&home)?;
    done(cx, &home, false, &["new", "tool", "--template", "python"])?;
    let programs = repository.join("target/tools/python/bin");
    let path = std::env::var("PATH").context("PATH is set")?;
    let made = Command::new("make")
        .current_dir(&folder)
        .env("PATH", format!("{}:{path}", programs.display()))
        .output()
        .context("start make")?;
    ensure!(made.status.success(), "make: {}", text(&made));
    let image = "localhost:5000/examples/tool:e2e";
    done(
        cx,
        &folder,
        true,
        &["deploy", "agent.wasm", "--image", image],
    )?;
    let answer = done(cx, &folder, true, &["invoke", "tool", "/?name=Python"])?;
    ensure!(answer == "Hello, Python!\n", "{answer}");
    Ok(())
}

pub(crate) async fn an_agent_is_new_deployed_and_invoked(cx: &Cx) -> Result<()> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("typescript");
    let folder = home.join("first");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&home)?;
    done(cx, &home, false, &["new", "first"])?;
    done(cx, &folder, true, &["deploy"])?;
    let answer = done(cx, &folder, true, &["invoke", "first", "/?name=cluster"])?;
    ensure!(answer == "Hello, cluster!\n", "{answer}");

    // Code that throws, in the object with its source map, shown to its caller.
    let agent = folder.join("src/agent.ts");
    let source = std::fs::read_to_string(&agent)?;
    let source = source.replace(
        "    return",
        "    if (name === \"nobody\") throw new RangeError(`no ${name as string}`);\n    return",
    );
    std::fs::write(&agent, source)?;
    done(cx, &folder, true, &["deploy", "--debug"])?;
    let output = until("the new code to throw", SETTLE, || async {
        let output = hearth(cx, &folder, true, &["invoke", "first", "/?name=nobody"])?;
        Ok(Seen::when(
            output.status.code() == Some(3),
            output.clone(),
            text(&output),
        ))
    })
    .await?;
    contains(
        "the answer",
        &text(&output),
        "uncaught RangeError: no nobody (src/agent.ts:8:",
    )?;
    contains("what is said of it", &text(&output), "outcome threw")?;
    until("the log to tell the place", SETTLE, || async {
        let log = done(cx, &folder, true, &["logs", "first"])?;
        Ok(Seen::when(log.contains("(src/agent.ts:8:"), (), log))
    })
    .await?;

    let top = done(cx, &folder, true, &["top", "--once", "--output", "json"])?;
    let top: Value = serde_json::from_str(&top)?;
    let row = top
        .as_array()
        .into_iter()
        .flatten()
        .find(|row| row["function"] == "first");
    let row = row.context("a row for the function")?;
    ensure!(row["calls"].as_f64() >= Some(2.0), "{row}");
    let doctor = done(cx, &folder, true, &["doctor"])?;
    contains(
        "what the doctor says",
        &doctor,
        "ok     AgentFunction first",
    )?;

    // Code that cannot be loaded: the command says so, and at which line.
    std::fs::write(
        &agent,
        "const config: any = undefined;\n\nconfig.url;\n\nexport default {};\n",
    )?;
    let output = hearth(cx, &folder, true, &["deploy"])?;
    ensure!(output.status.code() == Some(1), "{}", text(&output));
    contains("why it is not deployed", &text(&output), "LoadFailed")?;
    contains("why it is not deployed", &text(&output), "src/agent.ts:3:")?;
    let output = hearth(cx, &folder, true, &["doctor"])?;
    ensure!(output.status.code() == Some(3), "{}", text(&output));
    contains(
        "what the doctor says",
        &text(&output),
        "WRONG  AgentFunction first: LoadFailed",
    )
}
