//! Functions whose code stands in their object.

use anyhow::{Context, Result, ensure};
use hearth_api::v1alpha1::AgentFunction;
use hearth_e2e::load::connect;
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::workerd::Workerd;
use hearth_e2e::{Cx, SETTLE, call};
use http_body_util::{BodyExt, Empty};
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use crate::support::{HELLO, contains};

/// Applies a function whose code is `code`, with lines of `spec` that follow its bundle.
fn apply(cx: &Cx, name: &str, code: &str, spec: &str) -> Result<()> {
    let lines: String = code
        .lines()
        .map(|line| format!("        {line}\n"))
        .collect();
    cx.apply(&format!(
        "apiVersion: hearth.dev/v1alpha1\nkind: AgentFunction\nmetadata:\n  name: {name}\nspec:\n  bundle:\n    source:\n      javascript: |\n{lines}{spec}\n"
    ))?;
    Ok(())
}

/// The same, and waits until it is Ready.
async fn ready(cx: &Cx, name: &str, code: &str, spec: &str) -> Result<AgentFunction> {
    apply(cx, name, code, spec)?;
    cx.condition(name, "Ready", "True").await
}

/// A module that answers with a text.
fn says(text: &str) -> String {
    format!("export default {{\n  fetch() {{ return new Response('{text}'); }},\n}};")
}

pub(crate) async fn the_hello_example_runs_as_it_stands(cx: &Cx) -> Result<()> {
    let repository = cx.cluster.layout().repository();
    let manifest = repository.join("examples/hello-js/agentfunction.yaml");
    cx.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    cx.condition("hello-js", "Ready", "True").await?;
    let answer = call::get(&cx.route("hello-js").await?, "/?name=Hearth").await?;
    contains("the answer", &answer.body, "Moin, Hearth!")
}

pub(crate) async fn an_answer_comes_while_it_is_written(cx: &Cx) -> Result<()> {
    let repository = cx.cluster.layout().repository();
    let manifest = repository.join("examples/events-js/agentfunction.yaml");
    cx.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    cx.condition("events-js", "Ready", "True").await?;
    let address = cx.route("events-js").await?;
    // So long between two words that all of them would be past the deadline of a call: the first is here before.
    let mut connection = connect(&address).await?;
    let request = http::Request::get("/?pause=60000")
        .header(http::header::HOST, &address)
        .body(Empty::new())?;
    let answer = connection.send_request(request).await?;
    let kind = answer.headers().get(http::header::CONTENT_TYPE);
    ensure!(
        kind.is_some_and(|kind| kind == "text/event-stream"),
        "{answer:?}"
    );
    let mut body = answer.into_body();
    let first = tokio::time::timeout(SETTLE, body.frame()).await;
    let first = first
        .context("nothing came")?
        .context("an empty answer")??;
    let first = first.into_data().unwrap_or_default();
    let first = String::from_utf8_lossy(&first);
    ensure!(
        first == "id: 0\nevent: word\ndata: {\"word\":\"The\"}\n\n",
        "{first:?}"
    );
    drop((body, connection));
    let all = call::get(&address, "/?pause=0").await?.body;
    ensure!(all.matches("event: word\n").count() == 9, "{all}");
    ensure!(all.ends_with("event: end\ndata: {}\n\n"), "{all}");
    Ok(())
}

pub(crate) async fn changed_code_replaces_the_old_one_without_a_failed_call(cx: &Cx) -> Result<()> {
    let digest = |function: &AgentFunction| -> Result<String> {
        let status = function.status.clone().context("a status")?;
        status
            .bundle
            .and_then(|bundle| bundle.digest)
            .context("a digest")
    };
    let function = ready(cx, "talker", &says("one"), "  replicas: 2").await?;
    let sum: String = Sha256::digest(format!("{}\n", says("one")))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    ensure!(
        digest(&function)? == format!("sha256:{sum}"),
        "the digest is that of the code: {function:?}"
    );
    let address = cx.route("talker").await?;
    let calls = hearth_e2e::load::Ongoing::start(&address, "/");
    apply(cx, "talker", &says("two"), "  replicas: 2")?;
    until("the new code to answer", SETTLE, || async {
        let answer = call::get(&address, "/").await?;
        Ok(Seen::when(answer.body == "two", (), answer.body))
    })
    .await?;
    calls.end().await?.none_failed()?;
    until("the new digest", SETTLE, || async {
        let now = digest(&cx.functions().get("talker").await?)?;
        Ok(Seen::when(now != format!("sha256:{sum}"), (), now))
    })
    .await
}

pub(crate) async fn what_is_wrong_with_the_code_is_said_with_its_position(cx: &Cx) -> Result<()> {
    cx.ready_function("neighbour", HELLO, "  replicas: 1")
        .await?;
    for (name, code, words) in [
        (
            "syntax",
            "export default {\n  fetch() { return new Response(; },\n};",
            &["cannot be compiled", "SyntaxError", "agent.js:2:"][..],
        ),
        (
            "throws",
            "const config = undefined;\nconfig.url;\nexport default { fetch() {} };",
            &["threw", "TypeError", "agent.js:2:"],
        ),
        ("handler", "export default {};", &["no handler"]),
    ] {
        apply(cx, name, code, "  replicas: 1")?;
        let message = until("the condition to tell", SETTLE, || async {
            let status = cx.functions().get(name).await?.status;
            let conditions = status.map(|status| status.conditions).unwrap_or_default();
            let ready = conditions.iter().find(|found| found.type_ == "Ready");
            Ok(match ready {
                Some(ready) if ready.reason == "LoadFailed" => Seen::Yes(ready.message.clone()),
                ready => Seen::NotYet(format!("{ready:?}")),
            })
        })
        .await
        .with_context(|| name.to_owned())?;
        for word in words {
            contains(name, &message, word)?;
        }
    }
    let answer = call::get(&cx.route("neighbour").await?, "/").await?;
    ensure!(answer.status == 200, "the neighbour: {answer:?}");
    Ok(())
}

pub(crate) async fn faults_of_a_call_are_outcomes(cx: &Cx) -> Result<()> {
    let code = "export default {
  async fetch(request) {
    switch (new URL(request.url).pathname) {
      case '/throw': throw new RangeError('too far');
      case '/spin': for (;;) {}
      case '/hoard': for (const all = [];;) all.push(new Uint8Array(1 << 20).fill(1));
      case '/away': return fetch('http://example.com/');
    }
    return new Response('fine');
  },
};";
    let spec = "  replicas: 2\n  limits:\n    memory: 32Mi\n    deadlineMilliseconds: 1000";
    ready(cx, "faulty", code, spec).await?;
    let address = cx.route("faulty").await?;
    for (path, status, outcome) in [
        ("/throw", 500, "threw"),
        ("/spin", 504, "deadline_exceeded"),
        ("/hoard", 500, "out_of_memory"),
        // No rule allows it, which is an exception in the code.
        ("/away", 500, "threw"),
    ] {
        let answer = call::get(&address, path).await?;
        ensure!(
            (answer.status, answer.outcome.as_deref()) == (status, Some(outcome)),
            "{path}: {answer:?}"
        );
        let next = call::get(&address, "/").await?;
        ensure!(next.body == "fine", "after {path}: {next:?}");
    }
    let pod = cx.pool_pod().await?.name_any();
    until("the log to tell where it threw", SETTLE, || async {
        let log = cx.logs(&pod).await?;
        let mut lines = log.lines().filter(|line| line.starts_with("faulty: "));
        let told = lines.any(|line| line.contains("agent.js:4:"));
        Ok(Seen::when(
            told && log.contains("RangeError: too far"),
            (),
            log.clone(),
        ))
    })
    .await
}

pub(crate) async fn code_of_a_config_map_is_followed(cx: &Cx) -> Result<()> {
    let map = |text: &str| {
        let code = says(text).replace('\n', " ");
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: code\n  labels:\n    hearth.dev/source: javascript\ndata:\n  agent.js: \"{code}\"\n"
        )
    };
    cx.apply("apiVersion: hearth.dev/v1alpha1\nkind: AgentFunction\nmetadata:\n  name: follows\nspec:\n  bundle:\n    source:\n      configMap:\n        name: code\n")?;
    let function = cx.condition("follows", "Ready", "False").await?;
    let status = function.status.unwrap_or_default();
    let told = status.conditions.iter().any(|condition| {
        condition.reason == "InvalidSpec" && condition.message.contains("no ConfigMap code")
    });
    ensure!(told, "what is missing is named: {:?}", status.conditions);
    cx.apply(&map("one"))?;
    cx.condition("follows", "Ready", "True").await?;
    let address = cx.route("follows").await?;
    let answers = |text: &'static str| {
        let address = address.clone();
        until("the code of the ConfigMap to answer", SETTLE, move || {
            let address = address.clone();
            async move {
                let answer = call::get(&address, "/").await?;
                Ok(Seen::when(answer.body == text, (), answer.body))
            }
        })
    };
    answers("one").await?;
    cx.apply(&map("two"))?;
    answers("two").await
}

pub(crate) async fn the_same_file_runs_under_workerd(cx: &Cx) -> Result<()> {
    let repository = cx.cluster.layout().repository();
    let example = std::fs::read_to_string(repository.join("examples/hello-js/agent.js"))?;
    let worker = std::fs::read_to_string(repository.join("e2e/src/bin/bench/js/worker.js"))?;
    for (name, code, paths) in [
        (
            "example",
            &example,
            &["/", "/?name=you", "/a/b?name=%C3%A4"][..],
        ),
        (
            "worker",
            &worker,
            &[
                "/",
                "/echo?a=1&b=%20&a=2",
                "/json",
                "/tokens",
                "/vectors",
                "/load?code=same",
            ],
        ),
    ] {
        let spec = "  replicas: 1\n  loader: {}\n  env: [{name: GREETING, value: Moin}]";
        ready(cx, name, code, spec).await?;
        let ours = cx.route(name).await?;
        let theirs = Workerd::start(repository, name, code, &[("GREETING", "Moin")]).await?;
        for path in paths {
            let (ours, theirs) = (
                call::post(&ours, path, "body").await?,
                call::post(&theirs.address, path, "body").await?,
            );
            ensure!(
                (ours.status, &ours.body) == (theirs.status, &theirs.body),
                "{name}{path}: {ours:?}, and of workerd {theirs:?}"
            );
        }
    }
    Ok(())
}
