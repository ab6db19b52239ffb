//! `cargo xtask bench [NAME] [--json]`: figures, each beside a peer in the same run.
//!
//! Those from the running cluster are measured inside node 1's network namespace, so that the load goes to pods and Services
//! and to nothing else. `engine` and `js` need no cluster: they run in a network namespace that holds nothing but its loopback. Nor
//! does `planner`, which plays traces. `scale` needs a cluster, and is run only where it is named: it takes minutes, and other
//! figures would not be those of an idle cluster.

mod apply;
mod call;
mod engine;
mod js;
mod lost;
mod planner;
mod pod;
mod scale;
mod serve;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use hearth_e2e::figure::Figure;
use hearth_e2e::{Cx, namespaces_ended};

/// Measures Hearth beside its peers.
#[derive(Debug, Parser)]
struct Arguments {
    /// One bench: apply, pod, call, serve, lost, scale, engine, js or planner. All that need the cluster, but scale, when it is left
    /// out.
    name: Option<String>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Where the benches `engine` and `js` draw their calls, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// A recorded trace for the bench `planner`: a CSV file of each of three days, the first one first.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    trace: Vec<PathBuf>,
}

/// Those that need the cluster.
const NAMES: [&str; 5] = ["apply", "pod", "call", "serve", "lost"];
/// The one of them that others do not stand beside.
const SCALE: &str = "scale";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let chosen: Vec<&str> = match arguments.name.as_deref() {
        None => NAMES.to_vec(),
        Some("engine") => {
            let say = |figure: &Figure| print(figure, arguments.json);
            return engine::run(arguments.plot.as_deref(), say).await;
        }
        Some("js") => {
            let say = |figure: &Figure| print(figure, arguments.json);
            return js::run(arguments.plot.as_deref(), say).await;
        }
        Some("planner") => {
            return planner::run(&arguments.trace, |figure| print(figure, arguments.json));
        }
        Some(name) if NAMES.contains(&name) || name == SCALE => vec![name],
        Some(name) => bail!(
            "no bench is called {name:?}; there are {}, {SCALE}, engine, js, planner",
            NAMES.join(", ")
        ),
    };
    for name in chosen {
        eprintln!("bench {name} …");
        let cx = Cx::new(&format!("bench-{name}")).await?;
        let client = cx.client.clone();
        let figures = match name {
            "apply" => apply::run(&cx).await,
            "pod" => pod::run(&cx).await,
            "call" => call::run(&cx).await,
            "lost" => lost::run(&cx).await,
            SCALE => {
                let say = |figure: &Figure| print(figure, arguments.json);
                scale::run(&cx, say).await.map(|()| Vec::new())
            }
            _ => serve::run(&cx).await,
        };
        cx.close().await?;
        namespaces_ended(&client).await?;
        for figure in figures? {
            print(&figure, arguments.json);
        }
    }
    Ok(())
}

fn print(figure: &Figure, json: bool) {
    println!("{}", if json { figure.json() } else { figure.text() });
}
