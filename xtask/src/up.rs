//! `cargo xtask up`: from a machine with Rust and Go to an agent's answer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use hearth_cluster::cluster::Options;
use hearth_cluster::image::digest;
use hearth_cluster::tools::Containerd;
use hearth_cluster::wait::{Look, wait_for};
use hearth_cluster::{Cluster, Layout, Steps, host, node, tools};

use crate::images::{self, Build, Named, REPOSITORY, TAG};
use crate::{bundles, codegen};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Number of nodes, each a network namespace on one bridge; a running cluster grows to it, and keeps what it has more
    #[arg(long, default_value_t = 1)]
    nodes: u32,
    /// Build our programs with optimisation, as benches need them
    #[arg(long)]
    release: bool,
    /// Stop after the chart is installed
    #[arg(long)]
    no_example: bool,
    /// Only Kubernetes: neither images nor chart
    #[arg(long)]
    bare: bool,
    /// What the nodes run containers with: 2, 2.3, 2.2 or 1.7; a cluster with another one is removed first
    #[arg(long, default_value_t)]
    containerd: Containerd,
}

/// The namespace of our own pods.
const NAMESPACE: &str = "hearth-system";

/// Runs it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let steps = Steps::default();
    let build = match arguments.bare {
        true => None,
        false => Some(Build::new(Layout::find()?.repository(), arguments.release)?),
    };
    let cluster = up(
        arguments.nodes,
        arguments.containerd,
        build.as_ref(),
        &steps,
    )?;
    if arguments.bare || arguments.no_example {
        print_next_steps(&steps, &[]);
        return Ok(());
    }
    let called = EXAMPLES
        .iter()
        .map(|example| call_example(&cluster, example, &steps))
        .collect::<Result<Vec<_>>>()?;
    print_next_steps(&steps, &called);
    Ok(())
}

/// Everything before the examples: a cluster, and in it what is built, if anything is.
pub(crate) fn up(
    nodes: u32,
    containerd: Containerd,
    build: Option<&Build>,
    steps: &Steps,
) -> Result<Cluster> {
    let layout = Layout::find()?;
    prepare(steps)?;
    build_programs(&layout, containerd, build, steps)?;
    let options = Options {
        nodes,
        supervisor: std::env::current_exe().context("find this program's own path")?,
        containerd,
    };
    let cluster = Cluster::up(&layout, &options, steps)?;
    if let Some(build) = build {
        install(&cluster, build, steps)?;
    }
    Ok(cluster)
}

/// What the machine must have: checked, and Debian packages installed where they are missing.
pub(crate) fn prepare(steps: &Steps) -> Result<()> {
    host::check()?;
    let missing = host::missing_packages()?;
    if !missing.is_empty() {
        steps.step(format!("install Debian packages: {}", missing.join(" ")));
        host::install(&missing)?;
    }
    Ok(())
}

/// Builds the cluster's programs and ours at the same time: where one of them links, it leaves processors to the other.
fn build_programs(
    layout: &Layout,
    containerd: Containerd,
    build: Option<&Build>,
    steps: &Steps,
) -> Result<()> {
    let Some(build) = build else {
        return tools::build(layout, containerd, steps);
    };
    std::thread::scope(|scope| {
        let tools = scope.spawn(|| tools::build(layout, containerd, steps));
        steps.step("build operator, installer, shim and engine");
        let ours = build.programs();
        let tools = tools
            .join()
            .unwrap_or_else(|_| bail!("building the cluster's programs panicked"));
        tools.and(ours)
    })
}

fn install(cluster: &Cluster, build: &Build, steps: &Steps) -> Result<()> {
    steps.step("build the guests");
    bundles::build(build)?;
    let images = images::pack(build)?;
    steps.step("push images");
    for named in &images {
        cluster.push_image(&named.name(), &named.image)?;
    }
    bundles::push(cluster, build)?;
    install_chart(cluster, &images, steps)
}

fn install_chart(cluster: &Cluster, images: &[Named], steps: &Steps) -> Result<()> {
    let chart = cluster.layout().repository().join("charts/hearth");
    let values = chart_values();
    // A chart and images that are installed as they are need no second installation.
    let installed = cluster.layout().installed_file();
    let inputs = chart_fingerprint(&chart, &values, images)?;
    if std::fs::read_to_string(&installed).is_ok_and(|text| text == inputs) && is_installed(cluster)
    {
        steps.step("the chart is installed and unchanged");
        // A node that was added gets Hearth all the same.
        return wait_for_pods(cluster);
    }
    // Until it is there: what a failure leaves is not what was installed before.
    match std::fs::remove_file(&installed) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("forget what was installed");
        }
        _ => {}
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
    wait_for_pods(cluster)
}

fn wait_for_pods(cluster: &Cluster) -> Result<()> {
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

/// An agent that is applied and called.
struct Example {
    name: &'static str,
    /// Files of its folder in `examples/`.
    manifests: &'static [&'static str],
    path: &'static str,
    /// JSON that is posted; none: a GET.
    body: Option<&'static str>,
}

const EXAMPLES: [Example; 2] = [
    Example {
        name: "hello-c",
        manifests: &["agentfunction.yaml"],
        path: "/",
        body: None,
    },
    Example {
        name: "support-agent",
        manifests: &["server.yaml", "agentfunction.yaml"],
        path: "/ask",
        body: Some(r#"{"customer":"c-17","question":"Where is my order 4711?"}"#),
    },
];

/// What calling an example showed.
struct Called {
    /// A command to copy.
    command: String,
    name: &'static str,
    answer: String,
    ready: Duration,
    call: Duration,
}

fn call_example(cluster: &Cluster, example: &Example, steps: &Steps) -> Result<Called> {
    let name = example.name;
    steps.step(format!("apply examples/{name} and wait until it is Ready"));
    let start = Instant::now();
    let folder = cluster.layout().repository().join("examples").join(name);
    for manifest in example.manifests {
        let manifest = folder.join(manifest);
        cluster.kubectl(&["apply", "--filename", &manifest.to_string_lossy()])?;
    }
    let object = format!("agentfunction/{name}");
    let wait = ["wait", &object, "--for=condition=Ready", "--timeout=90s"];
    if let Err(error) = cluster.kubectl(&wait) {
        let state = cluster.kubectl(&["describe", &object]).unwrap_or_default();
        return Err(error).context(format!("the example did not become Ready:\n{state}"));
    }
    let ready = start.elapsed();
    let jsonpath = "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}";
    let service = format!("service/{name}");
    let address = cluster.kubectl(&["get", &service, "--output", jsonpath])?;
    let url = format!("http://{address}{}", example.path);
    steps.step(format!("call {url}"));
    let (answer, call) = wait_for(
        "the example's answer",
        Duration::from_secs(60),
        Duration::from_millis(100),
        || call(cluster, &url, example.body),
    )?;
    let data = example.body.map(|body| format!(" --data '{body}'"));
    Ok(Called {
        command: format!("cargo xtask curl {url}{}", data.unwrap_or_default()),
        name,
        answer,
        ready,
        call,
    })
}

/// One call; what it calls may still be starting.
fn call(cluster: &Cluster, url: &str, body: Option<&str>) -> Result<Look<(String, Duration)>> {
    let start = Instant::now();
    let mut curl = cluster.command(1, "curl");
    curl.args(["--silent", "--show-error", "--fail-with-body"]);
    curl.args(["--max-time", "20"]);
    if let Some(body) = body {
        curl.args(["--data", body]);
    }
    let output = curl.arg(url).output().context("run curl")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (said, problem) = (text(&output.stdout), text(&output.stderr));
    Ok(match output.status.success() {
        true => Look::Done((said, start.elapsed())),
        false => Look::NotYet(format!("{problem} {said}")),
    })
}

fn print_next_steps(steps: &Steps, called: &[Called]) {
    let seconds = steps.elapsed().as_secs_f64();
    println!("\nThe cluster is up after {seconds:.0} s.");
    for called in called {
        println!(
            "\nThe agent {} answered (Ready {:.1} s after kubectl apply, curl took {:.0} ms):\n  {}",
            called.name,
            called.ready.as_secs_f64(),
            called.call.as_secs_f64() * 1e3,
            called.answer,
        );
    }
    println!("\nTry next:");
    println!("  cargo xtask kubectl get pods --all-namespaces");
    if !called.is_empty() {
        println!("  cargo xtask kubectl get agentfunctions");
        for called in called {
            println!("  {}", called.command);
        }
        println!("  cargo xtask kubectl scale agentfunction/hello-c --replicas=8");
    }
    println!("  cargo xtask logs kubelet");
    println!("  cargo xtask down");
}
