//! Agents on real packages of npm, as `hearth build` bundles them, and how soon `hearth dev` answers with what was saved.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hearth_cluster::Layout;
use hearth_contract::Function;
use hearth_e2e::call;
use hearth_e2e::figure::{Aim, Figure, quantile};
use hearth_e2e::process::Process;
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::workerd::Workerd;

use super::figure;
use crate::engine::control::{Artifact, Engine, function};

/// Folders of examples, and whose packages they use.
const AGENTS: [(&str, &str); 2] = [
    ("langchain-ts", "LangChain.js"),
    ("llamaindex-ts", "LlamaIndex.TS"),
];
const QUESTION: &str = r#"{"customer":"c-17","question":"Where is my order 4711?"}"#;
/// What the stand-in of an LLM makes of it, when it was asked twice and the order was looked up.
const ANSWER: &str = "Your order 4711 is shipped";
/// Instances that are warm: a question finds one, and meanwhile the next is made.
const WARM: u32 = 2;
const QUESTIONS: usize = 40;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(300);
const MEMORY: u64 = 128 << 20;
/// How often what `hearth dev` follows is saved.
const SAVES: usize = 20;
/// Longer than a start takes.
const START: Duration = Duration::from_secs(30);

/// How long the loop of each agent takes: question, retrieval, LLM, order API, LLM, answer, with servers that answer at once.
pub(super) async fn loops(
    engine: &mut Engine,
    artifact: &Artifact,
    layout: &Layout,
    programs: &Path,
) -> Result<Vec<Figure>> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let _servers = Process::from(
        Command::new(programs.join("hearth-example-server"))
            .env("LISTEN", &address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("start hearth-example-server")?,
    );
    let url = format!("http://{address}");
    let variables = ["LLM_URL", "KNOWLEDGE_URL", "ORDERS_URL"].map(|name| (name, url.as_str()));
    let mut figures = Vec::new();
    for (name, packages) in AGENTS {
        let bundle = built(layout, programs, name)?;
        let workerd = Workerd::start(layout.repository(), name, &bundle, &variables).await?;
        let ours = engine
            .serve_javascript(agent(name, &url)?, artifact, &bundle)
            .await?;
        let [ours, theirs] = [p50(&ours).await?, p50(&workerd.address).await?];
        figures.push(figure(
            format!("{packages}: question, retrieval, LLM, API call, answer, p50"),
            ours,
            "ms",
            Some(theirs),
            Aim::AtMost(20.0),
        ));
    }
    Ok(figures)
}

fn agent(name: &str, url: &str) -> Result<Function> {
    let mut agent = function(name, WARM);
    agent.limits.memory_bytes = MEMORY.try_into()?;
    agent.capabilities.egress = vec![url.parse().context("an address is a rule")?];
    agent.capabilities.env = ["LLM_URL", "KNOWLEDGE_URL", "ORDERS_URL"]
        .map(|name| (name.to_owned(), url.to_owned()))
        .into();
    Ok(agent)
}

/// The bundle of an example.
fn built(layout: &Layout, programs: &Path, name: &str) -> Result<String> {
    let folder = layout.repository().join("examples").join(name);
    let output = hearth(layout, programs)
        .arg("build")
        .current_dir(&folder)
        .output()
        .context("start hearth build")?;
    ensure!(
        output.status.success(),
        "hearth build in {}: {}",
        folder.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let bundle = folder.join("dist/agent.js");
    std::fs::read_to_string(&bundle).with_context(|| format!("read {}", bundle.display()))
}

fn hearth(layout: &Layout, programs: &Path) -> Command {
    let guests = layout.repository().join("target/guests");
    let mut command = Command::new(programs.join("hearth"));
    command
        .env("HEARTH_BUNDLE", guests.join("hearth-bundle"))
        .env("HEARTH_JAVASCRIPT", guests.join("hearth-javascript.wasm"))
        .stdin(Stdio::null());
    command
}

/// Milliseconds from a question to its answer.
async fn p50(address: &str) -> Result<f64> {
    let mut millis = Vec::new();
    let mut every = tokio::time::interval(PAUSE);
    for _ in 0..QUESTIONS {
        every.tick().await;
        let asked = Instant::now();
        let answer = call::post(address, "/", QUESTION).await?;
        millis.push(asked.elapsed().as_secs_f64() * 1e3);
        ensure!(
            answer.status == 200 && answer.body.contains(ANSWER),
            "{address}: {answer:?}"
        );
    }
    Ok(quantile(&millis, 0.5))
}

/// From the moment at which a file is saved to the first answer of the new code.
pub(super) async fn reload(layout: &Layout, programs: &Path) -> Result<Vec<Figure>> {
    let folder = layout.repository().join("target/bench/dev");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    let made = hearth(layout, programs)
        .arg("new")
        .arg(&folder)
        .stderr(Stdio::null())
        .status();
    ensure!(made?.success(), "hearth new failed");
    let mut dev = hearth(layout, programs);
    dev.args(["dev", "--port", "0"]).current_dir(&folder);
    let mut dev = Process::from(
        dev.stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start hearth dev")?,
    );
    let said = dev.stderr.take().context("standard error is a pipe")?;
    let (told, address) = tokio::sync::oneshot::channel();
    // It reads to the end: who writes to a full pipe stands still.
    std::thread::spawn(move || {
        let mut told = Some(told);
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            let address = line
                .split_once("http://")
                .and_then(|(_, rest)| rest.split_whitespace().next());
            if let (Some(address), Some(told)) = (address, told.take_if(|_| address.is_some())) {
                let _ = told.send(address.to_owned());
            }
        }
    });
    let Ok(address) = tokio::time::timeout(START, address).await else {
        bail!("hearth dev does not say where it answers");
    };
    let address = address.context("hearth dev ended")?;
    let mut millis = Vec::new();
    for number in 0..SAVES {
        let word = format!("saved {number} times");
        let source = format!(
            "export default {{ async fetch(): Promise<Response> {{ return new Response({word:?}); }} }};\n"
        );
        let saved = Instant::now();
        std::fs::write(folder.join("src/agent.ts"), source)?;
        until("the new code to answer", START, || async {
            let answer = call::get(&address, "/").await?;
            Ok(Seen::when(answer.body == word, (), answer.body))
        })
        .await?;
        millis.push(saved.elapsed().as_secs_f64() * 1e3);
    }
    let row = |what: &str, share, aim| {
        figure(
            format!("hearth dev, a file saved to the new code's answer, {what}"),
            quantile(&millis, share),
            "ms",
            None,
            aim,
        )
    };
    Ok(vec![
        row("p50", 0.5, Aim::AtMost(200.0)),
        row("the slowest of 20", 1.0, Aim::None),
    ])
}
