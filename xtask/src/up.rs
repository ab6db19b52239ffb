//! `cargo xtask up`: from a machine with Rust and Go to an agent's answer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hearth_cluster::cluster::Options;
use hearth_cluster::image::digest;
use hearth_cluster::wait::{Look, wait_for};
use hearth_cluster::{Cluster, Layout, Steps, host, node, tools};

use crate::images::{self, Build, Named, REPOSITORY, TAG};
use crate::{bundles, codegen};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Number of nodes, each a network namespace on one bridge
    #[arg(long, default_value_t = 1)]
    pub(crate) nodes: u32,
    /// Build our programs with optimisation, as benches need them
    #[arg(long)]
    pub(crate) release: bool,
    /// Stop after the chart is installed
    #[arg(long)]
    pub(crate) no_example: bool,
    /// Only Kubernetes: neither images nor chart
    #[arg(long)]
    pub(crate) bare: bool,
}

/// The namespace of our own pods.
const NAMESPACE: &str = "hearth-system";

/// Runs it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let steps = Steps::default();
    let cluster = up(arguments, &steps)?;
    if arguments.bare || arguments.no_example {
        print_next_steps(&steps, None);
        return Ok(());
    }
    let called = call_example(&cluster, &steps)?;
    print_next_steps(&steps, Some(&called));
    Ok(())
}

/// Everything before the example.
pub(crate) fn up(arguments: &Arguments, steps: &Steps) -> Result<Cluster> {
    let layout = Layout::find()?;
    let cluster = start(&layout, arguments.nodes, steps)?;
    if !arguments.bare {
        let build = Build::new(layout.repository(), arguments.release)?;
        install(&cluster, &build, steps)?;
    }
    Ok(cluster)
}

fn start(layout: &Layout, nodes: u32, steps: &Steps) -> Result<Cluster> {
    host::check()?;
    let missing = host::missing_packages()?;
    if !missing.is_empty() {
        steps.step(format!("install Debian packages: {}", missing.join(" ")));
        host::install(&missing)?;
    }
    tools::build(layout, steps)?;
    let supervisor = std::env::current_exe().context("find this program's own path")?;
    Cluster::up(layout, &Options { nodes, supervisor }, steps)
}

fn install(cluster: &Cluster, build: &Build, steps: &Steps) -> Result<()> {
    steps.step("build operator, installer, shim and engine");
    let images = images::build(build)?;
    steps.step("build the guests");
    bundles::build(build)?;
    steps.step("push images");
    for named in &images {
        cluster.push_image(&named.name(), &named.image)?;
    }
    bundles::push(cluster)?;
    install_chart(cluster, &images, steps)
}

fn install_chart(cluster: &Cluster, images: &[Named], steps: &Steps) -> Result<()> {
    let chart = cluster.layout().repository().join("charts/hearth");
    let values = chart_values();
    // A chart and images that are installed as they are need no second installation.
    let installed = cluster.layout().root().join("installed");
    let inputs = chart_fingerprint(&chart, &values, images)?;
    if std::fs::read_to_string(&installed).is_ok_and(|text| text == inputs) && is_installed(cluster)
    {
        steps.step("the chart is installed and unchanged");
        return Ok(());
    }
    steps.step("helm upgrade --install hearth");
    let is_upgrade = is_installed(cluster);
    let mut helm = cluster.command(1, cluster.layout().tool("helm"));
    helm.args(["upgrade", "--install", "hearth"]).arg(&chart);
    helm.args(["--namespace", NAMESPACE, "--create-namespace"]);
    // On an upgrade the pods that matter are those restarted below.
    if !is_upgrade {
        helm.args(["--wait", "--timeout", "180s"]);
    }
    for (name, value) in &values {
        helm.args(["--set".to_owned(), format!("{name}={value}")]);
    }
    let output = helm.output().context("run helm")?;
    if !output.status.success() {
        let pods = cluster
            .kubectl(&["describe", "pods", "--namespace", NAMESPACE])
            .unwrap_or_default();
        eprintln!("{pods}");
    }
    ensure!(
        output.status.success(),
        "helm: {}; the pods of {NAMESPACE} are described above",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    if is_upgrade {
        restart_pods(cluster, steps)?;
    }
    std::fs::write(&installed, inputs).context("note what was installed")
}

/// The tag stays `dev`, so pods are told that it means new images.
fn restart_pods(cluster: &Cluster, steps: &Steps) -> Result<()> {
    steps.step("restart operator and installer");
    for kind in ["daemonset", "deployment"] {
        cluster.kubectl(&["rollout", "restart", kind, "--namespace", NAMESPACE])?;
    }
    for kind in ["daemonset", "deployment"] {
        let wait = [
            "rollout",
            "status",
            kind,
            "--namespace",
            NAMESPACE,
            "--timeout=120s",
        ];
        cluster.kubectl(&wait)?;
    }
    Ok(())
}

fn is_installed(cluster: &Cluster) -> bool {
    let look = [
        "get",
        "deployments",
        "--namespace",
        NAMESPACE,
        "--output",
        "name",
    ];
    cluster
        .kubectl(&look)
        .is_ok_and(|names| !names.trim().is_empty())
}

fn chart_values() -> Vec<(&'static str, String)> {
    vec![
        ("image.registry", REPOSITORY.to_owned()),
        ("image.tag", TAG.to_owned()),
        ("image.pullPolicy", "Always".to_owned()),
        ("node.containerdConfig", node::CONTAINERD_CONFIG.to_owned()),
        ("node.containerdSocket", node::CONTAINERD_SOCKET.to_owned()),
        ("node.restart", "supervised".to_owned()),
        ("node.binDir", node::BIN_DIRECTORY.to_owned()),
        ("node.stateDir", node::STATE_DIRECTORY.to_owned()),
    ]
}

fn chart_fingerprint(
    chart: &std::path::Path,
    values: &[(&str, String)],
    images: &[Named],
) -> Result<String> {
    let mut text = format!("{values:?}");
    for path in codegen::files_below(chart)? {
        text += &format!("{} {}\n", path.display(), digest(&std::fs::read(&path)?));
    }
    for named in images {
        text += named.image.digest();
    }
    Ok(digest(text.as_bytes()))
}

/// What calling the example showed.
struct Called {
    address: String,
    answer: String,
    ready: Duration,
    call: Duration,
}

fn call_example(cluster: &Cluster, steps: &Steps) -> Result<Called> {
    let manifest = cluster
        .layout()
        .repository()
        .join("examples/hello-c/agentfunction.yaml");
    steps.step("apply examples/hello-c and wait until it is Ready");
    let start = Instant::now();
    cluster.kubectl(&["apply", "--filename", &manifest.to_string_lossy()])?;
    let wait = [
        "wait",
        "agentfunction/hello-c",
        "--for=condition=Ready",
        "--timeout=90s",
    ];
    if let Err(error) = cluster.kubectl(&wait) {
        let state = cluster
            .kubectl(&["describe", "agentfunction/hello-c"])
            .unwrap_or_default();
        return Err(error).context(format!("the example did not become Ready:\n{state}"));
    }
    let ready = start.elapsed();
    let jsonpath = "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}";
    let address = cluster.kubectl(&["get", "service/hello-c", "--output", jsonpath])?;
    steps.step("call it");
    let (answer, call) = wait_for(
        "the example's answer",
        Duration::from_secs(20),
        Duration::from_millis(100),
        || {
            let start = Instant::now();
            let arguments = ["--silent", "--show-error", "--fail", "--max-time", "5"];
            let mut curl = cluster.command(1, "curl");
            let output = curl
                .args(arguments)
                .arg(format!("http://{address}/"))
                .output()?;
            Ok(match output.status.success() {
                true => Look::Done((
                    String::from_utf8_lossy(&output.stdout).trim().to_owned(),
                    start.elapsed(),
                )),
                false => Look::NotYet(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            })
        },
    )?;
    Ok(Called {
        address,
        answer,
        ready,
        call,
    })
}

fn print_next_steps(steps: &Steps, called: Option<&Called>) {
    let seconds = steps.elapsed().as_secs_f64();
    println!("\nThe cluster is up after {seconds:.0} s.");
    if let Some(called) = called {
        println!(
            "The agent answered {:?} (Ready {:.1} s after kubectl apply, curl took {:.0} ms).",
            called.answer,
            called.ready.as_secs_f64(),
            called.call.as_secs_f64() * 1e3
        );
    }
    println!("\nTry next:");
    println!("  cargo xtask kubectl get pods --all-namespaces");
    if let Some(called) = called {
        println!("  cargo xtask curl http://{}/", called.address);
        println!("  cargo xtask kubectl get agentfunctions");
        println!("  cargo xtask kubectl scale agentfunction/hello-c --replicas=8");
    }
    println!("  cargo xtask logs kubelet");
    println!("  cargo xtask down");
}
