//! The cluster as a whole: up, and what tests and benches do with it.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use crate::image::{Image, Pack, digest};
use crate::layout::{self, Layout, MAX_NODES, NodeNumber};
use crate::process::{Part, Record, log_path, log_tail, start, write_atomically};
use crate::steps::Steps;
use crate::tools::Containerd;
use crate::wait::{Look, wait_for};
use crate::{control_plane, dns, down, network, node, pki, registry, supervise, tools};

/// What there is, or was begun; written before it is made, and after it is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Number of nodes. Their own numbers have no gaps.
    pub(crate) nodes: u32,
    /// Digest of all programs and settings; each node's follow from its number.
    pub(crate) inputs: String,
    /// Directories of the machine that were made to mount on.
    pub(crate) mount_points: Vec<PathBuf>,
    /// Whether it ever became ready.
    pub(crate) is_complete: bool,
    /// What its nodes run containers with.
    #[serde(default)]
    pub(crate) containerd: Containerd,
}

impl State {
    pub(crate) fn read(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.state_file();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is damaged: delete that directory", path.display()))
                .map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    fn write(&self, layout: &Layout) -> Result<()> {
        write_atomically(&layout.state_file(), &serde_json::to_vec_pretty(self)?)
    }
}

/// What `up` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of nodes, from 1.
    pub nodes: u32,
    /// A program whose `supervise` command calls [`supervise::run`].
    pub supervisor: PathBuf,
    /// What the nodes run containers with.
    pub containerd: Containerd,
}

/// A cluster that is up.
#[derive(Debug, Clone)]
pub struct Cluster {
    layout: Layout,
    programs: PathBuf,
    supervisor: Option<PathBuf>,
}

impl Cluster {
    /// The cluster that `cargo xtask up` started.
    pub fn open() -> Result<Self> {
        Self::at(Layout::find()?)
    }

    /// The cluster of a directory.
    pub fn at(layout: Layout) -> Result<Self> {
        match State::read(&layout)? {
            Some(state) if state.is_complete => Ok(Self::new(layout)),
            _ => Err(anyhow!(
                "no cluster in {}: start it with `cargo xtask up`",
                layout.root().display()
            )),
        }
    }

    fn new(layout: Layout) -> Self {
        let path = |variable| std::env::var_os(variable).map(PathBuf::from);
        let programs = path(layout::PROGRAMS_VARIABLE);
        let programs = programs.unwrap_or_else(|| layout.repository().join("target/debug"));
        Self {
            layout,
            programs,
            supervisor: path(layout::SUPERVISOR_VARIABLE),
        }
    }

    /// Starts a cluster, or completes the one that is there. One that was left half made, or was made with other settings, is
    /// removed first.
    ///
    /// A running cluster grows to the nodes that are asked for, and does not shrink: `up` is also how changes are installed, and
    /// whoever does that, without a thought of nodes, must not lose those that pods run on. `down` makes room for a smaller one.
    pub fn up(layout: &Layout, options: &Options, steps: &Steps) -> Result<Self> {
        ensure!(
            (1..=MAX_NODES).contains(&options.nodes),
            "{} nodes: choose 1 to {MAX_NODES}",
            options.nodes
        );
        let cluster = Self {
            supervisor: Some(options.supervisor.clone()),
            ..Self::new(layout.clone())
        };
        let inputs = inputs(layout, options.containerd)?;
        let is_usable = |state: &State| {
            state.is_complete
                && state.inputs == inputs
                && state.containerd == options.containerd
                && cluster.is_node_there(1)
        };
        match State::read(layout)?.filter(is_usable) {
            Some(state) => cluster.complete(state, options.nodes, steps)?,
            None => {
                down::down(layout, steps)?;
                cluster.create(options, inputs, steps)?;
            }
        }
        cluster.wait_for_nodes()?;
        Ok(cluster)
    }

    /// Whether a node was made whole and its mounts are held. Single parts of it may have ended.
    fn is_node_there(&self, node: NodeNumber) -> bool {
        let record = |part| Record::read(&self.layout, part).ok().flatten();
        network::exists(&layout::netns(node))
            && Part::of_node(node)
                .iter()
                .all(|part| record(*part).is_some())
            && record(Part::Supervisor(node)).is_some_and(|record| record.is_alive())
    }

    /// Starts what ended, and makes the nodes that are missing or were left half made.
    fn complete(&self, state: State, wanted: u32, steps: &Steps) -> Result<()> {
        if wanted < state.nodes {
            steps.step(format!(
                "{} nodes run and are kept; for {wanted} run `cargo xtask down` first",
                state.nodes
            ));
        }
        let nodes = state.nodes.max(wanted);
        State { nodes, ..state }.write(&self.layout)?;
        let (there, missing): (Vec<_>, Vec<_>) =
            (1..=nodes).partition(|node| self.is_node_there(*node));
        let is_there = |part: &Part| part.node().is_none_or(|node| there.contains(&node));
        for part in Part::all(nodes).into_iter().filter(is_there) {
            if !self.is_running(part)? {
                steps.step(format!("start {part} again"));
                self.start(part)?;
            }
        }
        self.wait_for_api_server()?;
        for node in missing {
            steps.step(format!("add {}", layout::node_name(node)));
            self.make_node(node)?;
        }
        Ok(())
    }

    /// Adds a node, the next by number, and waits until it is Ready.
    ///
    /// # Errors
    /// When it does not come up. It counts as a node then, half made: [`Cluster::remove_node`] removes it, and [`Cluster::up`]
    /// makes it anew.
    pub fn add_node(&self) -> Result<NodeNumber> {
        let state = self.state()?;
        let nodes = state.nodes + 1;
        ensure!(nodes <= MAX_NODES, "there are {MAX_NODES} nodes already");
        State { nodes, ..state }.write(&self.layout)?;
        self.make_node(nodes)?;
        self.wait_for_nodes()?;
        Ok(nodes)
    }

    /// Takes the last node away, as its owner would: its pods are evicted first.
    ///
    /// # Errors
    /// When the node is not the last, or when its pods did not go. In the latter case it is removed nevertheless.
    pub fn remove_node(&self, node: NodeNumber) -> Result<()> {
        let state = self.state()?;
        ensure!(
            node > 1 && node == state.nodes,
            "node {node} cannot be removed: numbers have no gaps, so the last one goes first, and node 1 only with the cluster"
        );
        let drained = self.drain(node);
        self.discard(node)?;
        let nodes = node - 1;
        State { nodes, ..state }.write(&self.layout)?;
        drained
    }

    fn drain(&self, node: NodeNumber) -> Result<()> {
        let name = layout::node_name(node);
        let known = self.kubectl(&["get", "node", &name, "--ignore-not-found", "--output=name"])?;
        if known.trim().is_empty() {
            return Ok(());
        }
        let drain = [
            "drain",
            &name,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--force",
            "--timeout=120s",
        ];
        self.kubectl(&drain).map(drop)
    }

    /// Makes a node of a cluster whose API server runs.
    fn make_node(&self, node: NodeNumber) -> Result<()> {
        // What an attempt that was cut short left behind.
        self.discard(node)?;
        pki::write_kubelet(&self.layout, node)?;
        network::add_node(node)?;
        node::start_node(&self.layout, node, self.supervisor()?)
    }

    fn supervisor(&self) -> Result<&Path> {
        let variable = layout::SUPERVISOR_VARIABLE;
        let supervisor = self.supervisor.as_deref();
        supervisor.with_context(|| format!("{variable} is not set; `cargo xtask` sets it"))
    }

    /// Removes whatever there is of a node, with the pods that only its kubelet could have ended.
    fn discard(&self, node: NodeNumber) -> Result<()> {
        // Processes first: a kubelet that is still starting would register the node once more.
        down::remove_node(&self.layout, node)?;
        let name = layout::node_name(node);
        self.kubectl(&["delete", "node", &name, "--ignore-not-found"])?;
        let delete = [
            "delete",
            "pods",
            "--all-namespaces",
            &format!("--field-selector=spec.nodeName={name}"),
            "--grace-period=0",
            "--force",
        ];
        self.kubectl(&delete).map(drop)
    }

    fn create(&self, options: &Options, inputs: String, steps: &Steps) -> Result<()> {
        let layout = &self.layout;
        let nodes = options.nodes;
        let missing = supervise::mount_points().filter(|path| !path.exists());
        let mut state = State {
            nodes,
            inputs,
            mount_points: missing.map(Path::to_owned).collect(),
            is_complete: false,
            containerd: options.containerd,
        };
        state.write(layout)?;
        for mount_point in supervise::mount_points() {
            fs::create_dir_all(mount_point)
                .with_context(|| format!("create {}", mount_point.display()))?;
        }
        steps.step("certificates and network");
        pki::write(layout)?;
        network::create_fabric()?;
        for number in 1..=nodes {
            pki::write_kubelet(layout, number)?;
            network::add_node(number)?;
        }
        steps.step("start etcd, registry, API server");
        control_plane::write_configuration(layout)?;
        self.start_control_plane(&[Part::Etcd, Part::Registry, Part::ApiServer])?;
        for number in 1..=nodes {
            steps.step(format!(
                "start {}: containerd, kubelet, kube-proxy",
                layout::node_name(number)
            ));
            node::start_node(layout, number, self.supervisor()?)?;
        }
        self.wait_for_registry()?;
        self.push_base_images()?;
        steps.step("wait for the API server");
        self.wait_for_api_server()?;
        steps.step("start controllers, scheduler, DNS");
        // Not before: the controller manager gives up where the API server is not ready.
        self.start_control_plane(&[Part::ControllerManager, Part::Scheduler])?;
        self.apply(&dns::manifests())?;
        dns::start_dns(layout)?;
        steps.step("wait for the nodes");
        self.wait_for_nodes()?;
        state.is_complete = true;
        state.write(layout)
    }

    fn start_control_plane(&self, parts: &[Part]) -> Result<()> {
        for (part, launch) in control_plane::launches(&self.layout) {
            if parts.contains(&part) {
                start(&self.layout, part, launch)?;
            }
        }
        Ok(())
    }

    fn push_base_images(&self) -> Result<()> {
        let busybox = busybox_image()?;
        self.push_image("localhost:5000/busybox:1", &busybox)?;
        self.push_image(layout::PAUSE_IMAGE, &pause_image()?)?;
        Ok(())
    }

    fn wait_for_registry(&self) -> Result<()> {
        wait_for(
            "the registry",
            Duration::from_secs(30),
            Duration::from_millis(50),
            || match self.enter_netns(1, || registry::tagged(layout::PAUSE_IMAGE)) {
                Ok(_) => Ok(Look::Done(())),
                Err(error) => Ok(Look::NotYet(format!(
                    "{error:#}\n{}",
                    log_tail(&self.layout, Part::Registry)
                ))),
            },
        )
    }

    fn wait_for_api_server(&self) -> Result<()> {
        wait_for(
            "the API server",
            Duration::from_secs(120),
            Duration::from_millis(200),
            || match self.kubectl(&["get", "--raw", "/readyz"]) {
                Ok(_) => Ok(Look::Done(())),
                Err(error) => {
                    let tail = log_tail(&self.layout, Part::ApiServer);
                    Ok(Look::NotYet(format!("{error:#}\n{tail}")))
                }
            },
        )
    }

    fn wait_for_nodes(&self) -> Result<()> {
        let nodes = self.nodes()?;
        let jsonpath = "jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type==\"Ready\")].status} {end}";
        wait_for(
            "the nodes to be Ready",
            Duration::from_secs(120),
            Duration::from_millis(300),
            || {
                let states = self.kubectl(&["get", "nodes", "--output", jsonpath])?;
                let is_ready = |node: &NodeNumber| {
                    let ready = format!("{}=True", layout::node_name(*node));
                    states.split_whitespace().any(|state| state == ready)
                };
                Ok(match (1..=nodes).find(|node| !is_ready(node)) {
                    None => Look::Done(()),
                    Some(node) => Look::NotYet(format!(
                        "{} is not; kubelet's log ends with:\n{}",
                        layout::node_name(node),
                        log_tail(&self.layout, Part::Kubelet(node))
                    )),
                })
            },
        )
    }

    /// Directories, names and addresses.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Number of nodes; theirs are 1 to this.
    pub fn nodes(&self) -> Result<u32> {
        Ok(self.state()?.nodes)
    }

    /// What the nodes run containers with.
    pub fn containerd(&self) -> Result<Containerd> {
        Ok(self.state()?.containerd)
    }

    fn state(&self) -> Result<State> {
        State::read(&self.layout)?.context("the cluster is down")
    }

    /// The administrator's kubeconfig. It works from inside any node's network namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig("admin")
    }

    /// A node's address.
    pub fn node_ip(&self, node: NodeNumber) -> Ipv4Addr {
        layout::node_ip(node)
    }

    /// A node's directory on this machine; its own processes see it as [`layout::NODE_DIRECTORY`].
    pub fn node_directory(&self, node: NodeNumber) -> PathBuf {
        self.layout.node(node)
    }

    /// Runs a closure on a thread inside a node's network namespace.
    pub fn enter_netns<T: Send>(
        &self,
        node: NodeNumber,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        network::inside(&layout::netns(node), work)
    }

    /// A command that will run in a node's network namespace with `KUBECONFIG` and the cluster's programs on `PATH`.
    pub fn command(&self, node: NodeNumber, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let path =
            std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        command
            .arg(format!(
                "--net={}",
                layout::netns_path(&layout::netns(node)).display()
            ))
            .arg("--")
            .arg(program)
            .env("PATH", format!("{}:{path}", self.layout.tools().display()))
            .env("KUBECONFIG", self.kubeconfig())
            .env(layout::DIRECTORY_VARIABLE, self.layout.root());
        command
    }

    /// A command that will run in a node's network and mount namespaces, as an administrator on that machine.
    pub fn command_on_node(
        &self,
        node: NodeNumber,
        program: impl AsRef<std::ffi::OsStr>,
    ) -> Result<Command> {
        let supervisor = Record::read(&self.layout, Part::Supervisor(node))?
            .with_context(|| format!("there is no node {node}"))?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!(
                "--net={}",
                layout::netns_path(&layout::netns(node)).display()
            ))
            .arg(format!("--mount=/proc/{}/ns/mnt", supervisor.pid))
            .arg("--")
            .arg(program);
        Ok(command)
    }

    /// Runs kubectl and returns what it prints.
    ///
    /// # Errors
    /// When it fails, with what it says.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_stdin(arguments, "")
    }

    /// Runs kubectl with standard input.
    pub fn kubectl_stdin(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.kubectl_output(arguments, input)?;
        ensure!(
            output.status.success(),
            "kubectl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs kubectl and returns everything, for tests of refusals.
    pub fn kubectl_output(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut child = self
            .command(1, self.layout.tool("kubectl"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input.as_bytes()) {
                // It may end without reading; its status tells why.
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    return Err(error).context("write to kubectl");
                }
                _ => drop(stdin),
            }
        }
        child.wait_with_output().context("wait for kubectl")
    }

    /// `kubectl apply` of YAML, server-side.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.kubectl_stdin(&["apply", "--server-side", "--filename", "-"], yaml)
    }

    /// Pushes an image under `<repository>:<tag>` and returns its whole name, `localhost:5000/<repository>:<tag>`.
    pub fn push_image(&self, name: &str, image: &impl Pack) -> Result<String> {
        let (reference, packed) = (registry::reference(name), image.pack()?);
        self.enter_netns(1, || registry::push(&reference, &packed))?;
        Ok(reference)
    }

    /// A program of ours, as the tests were built with it.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A built guest or example.
    pub fn guest(&self, name: &str) -> PathBuf {
        self.layout
            .repository()
            .join("target/guests")
            .join(format!("{name}.wasm"))
    }

    /// Whether a part runs.
    pub fn is_running(&self, part: Part) -> Result<bool> {
        Ok(Record::read(&self.layout, part)?.is_some_and(|record| record.is_alive()))
    }

    /// The process id of a part that runs.
    pub fn pid(&self, part: Part) -> Result<u32> {
        let record = Record::read(&self.layout, part)?.filter(Record::is_alive);
        Ok(record.with_context(|| format!("{part} does not run"))?.pid)
    }

    /// Ends a part and leaves it ended.
    pub fn stop(&self, part: Part) -> Result<()> {
        if let Part::Containerd(node) = part {
            supervise::hold(&self.layout, node)?;
        }
        self.record(part)?.terminate(Duration::from_secs(20))
    }

    /// Kills a part with SIGKILL. A containerd is started again by its supervisor; others stay ended until [`Cluster::start`].
    pub fn kill9(&self, part: Part) -> Result<()> {
        self.record(part)?.kill()
    }

    /// Starts a part again, the way it was started first. Nothing happens where it runs.
    pub fn start(&self, part: Part) -> Result<()> {
        if let Part::Containerd(node) = part {
            supervise::release(&self.layout, node)?;
            return node::wait_for_containerd(&self.layout, node);
        }
        let record = self.record(part)?;
        if !record.is_alive() {
            start(&self.layout, part, record.launch)?;
        }
        Ok(())
    }

    /// Replaces the containerd of every node by the newest there is, as a package manager would: stopped, and started again from
    /// another program with the configuration and state that are there. The next `up` makes the cluster anew.
    pub fn upgrade_containerd(&self) -> Result<()> {
        let state = self.state()?;
        for node in 1..=state.nodes {
            self.stop(Part::Containerd(node))?;
        }
        let containerd = Containerd::default();
        let nodes = state.nodes;
        State {
            containerd,
            ..state
        }
        .write(&self.layout)?;
        (1..=nodes).try_for_each(|node| self.start(Part::Containerd(node)))
    }

    /// The file that a part logs to.
    pub fn log_path(&self, part: Part) -> PathBuf {
        log_path(&self.layout, part)
    }

    fn record(&self, part: Part) -> Result<Record> {
        Record::read(&self.layout, part)?
            .with_context(|| format!("{part} was never started in this cluster"))
    }
}

/// What must be the same for a running cluster to be used as it is.
fn inputs(layout: &Layout, containerd: Containerd) -> Result<String> {
    let mut text = tools::fingerprint(layout, containerd)?;
    text += &format!("{:?} {}", control_plane::launches(layout), dns::manifests());
    // Node 1 speaks for all: nodes differ in nothing but what follows from their numbers.
    text += &format!("{:?}", node::configuration(layout, 1, containerd)?);
    text += &format!("{:?}", node::command_lines(layout, 1));
    Ok(digest(text.as_bytes()))
}

/// The path of Debian's static busybox.
const BUSYBOX: &str = "/bin/busybox";

/// busybox with all its names: a shell and tools for test pods. Debian's static one cannot look names up in `wget`
/// (it ends with a segmentation fault): test pods use `nc`, and `nslookup` for names.
fn busybox_image() -> Result<Image> {
    let output = Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .context("run busybox: is the package busybox-static installed?")?;
    let mut image = Image::new()
        .program("/bin/busybox", Path::new(BUSYBOX))?
        .directory("/tmp")
        .directory("/etc")
        .command(["sh"]);
    for name in String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|name| *name != "busybox")
    {
        image = image.link(&format!("/bin/{name}"), "busybox");
    }
    Ok(image)
}

/// What a pod sandbox runs: it sleeps.
fn pause_image() -> Result<Image> {
    Ok(Image::new()
        .program("/bin/busybox", Path::new(BUSYBOX))?
        .entrypoint(["/bin/busybox", "sleep", "2147483647"]))
}
