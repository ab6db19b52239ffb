//! `hearth invoke`: one call of an agent in a cluster, by way of the API server: no port is forwarded, and what the kubeconfig's
//! user may reach is what is reached.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use hearth_api::convert;
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::json;

use crate::cluster::{Access, block_on};
use crate::output::Output;

/// Exit code for an answer that says that something went wrong.
const REFUSED: u8 = 3;

/// Call an agent of a cluster.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth invoke hello
  hearth invoke support-agent /ask --data '{\"customer\":\"c-17\",\"question\":\"Where is my order 4711?\"}'
  hearth invoke support-agent /ask --data-file question.json --header 'x-trace: 1'

Needs the right to get (and create, for calls with a body) services/proxy.

Exit codes: 0 answered, 1 not reached, 2 wrong options, 3 answered with a status from 400 on.")]
pub(crate) struct Invoke {
    /// Name of the AgentFunction.
    name: String,
    /// Path and query.
    #[arg(default_value = "/")]
    path: String,
    /// The body; the call is then a POST.
    #[arg(long, short, value_name = "TEXT")]
    data: Option<String>,
    /// A file with the body.
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    data_file: Option<PathBuf>,
    /// Method. Unset: POST with a body, else GET.
    #[arg(long, short = 'X')]
    method: Option<Method>,
    /// A header, NAME: VALUE.
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    #[command(flatten)]
    access: Access,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl Invoke {
    pub(crate) fn run(self, output: Output) -> Result<ExitCode> {
        let body = match &self.data_file {
            Some(path) => {
                Some(std::fs::read(path).with_context(|| format!("read {}", path.display()))?)
            }
            None => self.data.clone().map(String::into_bytes),
        };
        block_on(async {
            let cluster = self.access.connect().await?;
            let function = cluster.function(&self.name).await?;
            let port = convert::service_port(&function.spec);
            let path = self.path.trim_start_matches('/');
            let uri = format!(
                "/api/v1/namespaces/{}/services/{}:{port}/proxy/{path}",
                cluster.namespace, self.name
            );
            let usual = if body.is_some() {
                Method::POST
            } else {
                Method::GET
            };
            let mut request = Request::builder()
                .method(self.method.clone().unwrap_or(usual))
                .uri(uri);
            let is_typed = self
                .headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
            if body.is_some() && !is_typed {
                request = request.header("content-type", "application/json");
            }
            for (name, value) in &self.headers {
                request = request.header(name, value);
            }
            let request = request.body(Body::from(body.unwrap_or_default()))?;
            let started = Instant::now();
            let response = cluster.client.send(request).await;
            let response = response.with_context(|| format!("call {}", self.name))?;
            let (head, mut body) = response.into_parts();
            let outcome = head.headers.get("hearth-outcome");
            let outcome = outcome
                .and_then(|word| word.to_str().ok())
                .map(str::to_owned);
            let mut out = std::io::stdout().lock();
            let mut whole = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.with_context(|| format!("read the answer of {}", self.name))?;
                let Ok(piece) = frame.into_data() else {
                    continue;
                };
                match output {
                    // As it comes: an agent's answer may take a while.
                    Output::Text => {
                        out.write_all(&piece)?;
                        out.flush()?;
                    }
                    Output::Json => whole.extend_from_slice(&piece),
                }
            }
            let milliseconds = started.elapsed().as_millis();
            if output == Output::Json {
                let text = String::from_utf8_lossy(&whole);
                let body = serde_json::from_str(&text).unwrap_or_else(|_| json!(text));
                let status = head.status.as_u16();
                writeln!(
                    out,
                    "{}",
                    json!({"status": status, "outcome": outcome, "milliseconds": milliseconds as u64, "body": body})
                )?;
            }
            if !head.status.is_client_error() && !head.status.is_server_error() {
                return Ok(ExitCode::SUCCESS);
            }
            let outcome = outcome
                .map(|word| format!(", outcome {word}"))
                .unwrap_or_default();
            eprintln!("hearth: {} answered {}{outcome}", self.name, head.status);
            Ok(ExitCode::from(REFUSED))
        })
    }
}
