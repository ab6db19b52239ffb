//! `cargo xtask bench [NAME] [--json]`: figures from the running cluster, each beside a peer in the same run.
//!
//! It runs inside node 1's network namespace, so that its load goes to pods and Services and to nothing else.

mod apply;
mod call;
mod pod;

use anyhow::{Result, bail};
use clap::Parser;
use hearth_e2e::figure::Figure;
use hearth_e2e::{Cx, namespaces_ended};

/// Measures Hearth beside its peers.
#[derive(Debug, Parser)]
struct Arguments {
    /// One bench: apply, pod or call. All when it is left out.
    name: Option<String>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

const NAMES: [&str; 3] = ["apply", "pod", "call"];

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let chosen: Vec<&str> = match arguments.name.as_deref() {
        None => NAMES.to_vec(),
        Some(name) if NAMES.contains(&name) => vec![name],
        Some(name) => bail!(
            "no bench is called {name:?}; there are {}",
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
            _ => call::run(&cx).await,
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
