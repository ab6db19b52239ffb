//! The short-lived actions that containerd executes: `start`, `delete` and `-info`.

use std::io::{self, IsTerminal, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::Context;
use containerd_shim::{Config, DeleteResponse, Error, Flags, StartOpts};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use serde_json::json;

use crate::container::{KILL, signal_code};
use crate::events::timestamp;
use crate::last_words::LastWords;
use crate::logs;
use crate::pod::{bundle_folder, cgroup_of};
use crate::process;
use crate::serve;
use crate::spec::{Spec, annotation};
use crate::state_file::StateFile;
use crate::task::TaskService;

/// File with the address of a bundle's shim.
const ADDRESS: &str = "address";
/// What is spoken there.
const PROTOCOL: &str = "ttrpc";
/// Name of the action that starts a pod's shim.
pub const ACTION: &str = "start";
/// As much of standard input is read. It has addresses and the runtime's options.
const MAX_INPUT: u64 = 10 << 20;
/// The reason of a container whose shim was killed.
const SHIM_DIED: &str = "the pod's shim ended before its containers, and everything of the pod was ended; maybe it was killed, or \
     the node's memory ran out";

/// What `containerd_shim::run` drives. It never serves, because the crate's server offers one version of one service; and
/// [`answer`] starts, because the crate answers version 3 to each containerd, and 1.7 refuses that.
#[derive(Debug)]
pub struct Actions {
    flags: Flags,
}

#[async_trait::async_trait]
impl containerd_shim::Shim for Actions {
    type T = TaskService;

    async fn new(_: &str, flags: &Flags, config: &mut Config) -> Self {
        config.no_setup_logger = true;
        config.no_reaper = true;
        config.no_sub_reaper = true;
        Self {
            flags: Flags {
                id: flags.id.clone(),
                bundle: flags.bundle.clone(),
                ..Flags::default()
            },
        }
    }

    async fn start_shim(&mut self, _: StartOpts) -> Result<String, Error> {
        unreachable!("the action {ACTION} does not come here")
    }

    async fn delete_shim(&mut self) -> Result<DeleteResponse, Error> {
        let bundle = bundle_folder(&self.flags.bundle)
            .map_err(|error| Error::Other(format!("finding the bundle: {error}")))?;
        Ok(delete(&bundle).await)
    }

    async fn wait(&mut self) {}

    async fn create_task_service(&self, _: containerd_shim::publisher::RemotePublisher) -> Self::T {
        unreachable!(
            "only the action {} serves, and it does not come here",
            serve::ACTION
        )
    }

    fn runtime_info(runtime_id: &str, _: Option<&Any>) -> Result<RuntimeInfo, Error> {
        Ok(RuntimeInfo {
            name: runtime_id.to_owned(),
            version: MessageField::some(RuntimeVersion {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        })
    }
}

/// Starts the pod's shim, or finds it, and returns what containerd reads of it.
pub fn answer(flags: &Flags) -> anyhow::Result<Vec<u8>> {
    let mut input = Vec::new();
    if !io::stdin().is_terminal() {
        let stdin = io::stdin().lock();
        stdin
            .take(MAX_INPUT)
            .read_to_end(&mut input)
            .context("reading standard input")?;
    }
    let starting = "starting the shim";
    match bootstrap(&input, flags) {
        Some(params) => {
            let mut opts = StartOpts::from(params);
            opts.debug |= flags.debug;
            let address = start(&opts).context(starting)?;
            Ok(bootstrap_result(address).write_to_bytes()?)
        }
        None => {
            let address = start(&legacy(flags)?).context(starting)?;
            Ok(legacy_result(&address).to_string().into_bytes())
        }
    }
}

/// What containerd 2.3 and newer pass. Before it, there are the runtime's options, or nothing.
fn bootstrap(input: &[u8], flags: &Flags) -> Option<BootstrapParams> {
    let params = BootstrapParams::parse_from_bytes(input).ok()?;
    (params.instance_id == flags.id && params.namespace == flags.namespace).then_some(params)
}

fn bootstrap_result(address: String) -> BootstrapResult {
    BootstrapResult {
        version: 3,
        address,
        protocol: PROTOCOL.to_owned(),
        ..BootstrapResult::default()
    }
}

/// What an older containerd passes.
fn legacy(flags: &Flags) -> anyhow::Result<StartOpts> {
    Ok(StartOpts {
        id: flags.id.clone(),
        publish_binary: flags.publish_binary.clone(),
        address: flags.address.clone(),
        ttrpc_address: std::env::var(serve::TTRPC_ADDRESS).context("no address for events")?,
        namespace: flags.namespace.clone(),
        debug: flags.debug,
        ..StartOpts::default()
    })
}

/// An older containerd does not say which it is: all of them take version 2, and 1.7 takes no other.
fn legacy_result(address: &str) -> serde_json::Value {
    json!({"version": 2, "address": address, "protocol": PROTOCOL})
}

/// The address of the pod's shim, started if there is none.
fn start(opts: &StartOpts) -> io::Result<String> {
    let bundle = std::env::current_dir()?;
    let spec = Spec::read(&bundle).map_err(io::Error::other)?;
    let group = spec.annotation(annotation::SANDBOX_ID).unwrap_or(&opts.id);
    let address = opts.socket_address(group);
    if let Some(listener) = bind(Path::new(serve::socket_path(&address)))? {
        spawn(opts, &bundle, &address, listener.into())?;
    }
    // containerd 1.7 reads it after its own restart, and delete when the shim has died.
    std::fs::write(bundle.join(ADDRESS), &address)?;
    Ok(address)
}

/// Binds the socket; `None` when a shim serves it already.
fn bind(path: &Path) -> io::Result<Option<UnixListener>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Two starts may race, and a shim that was killed leaves its socket: look, clear, try again.
    for _ in 0..3 {
        match UnixListener::bind(path) {
            Ok(listener) => return Ok(Some(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
        if !clear(path)? {
            return Ok(None);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("socket {} is neither served nor free", path.display()),
    ))
}

/// Removes a socket that nobody serves. False when somebody does.
fn clear(path: &Path) -> io::Result<bool> {
    if UnixStream::connect(path).is_ok() {
        return Ok(false);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(true),
    }
}

fn spawn(opts: &StartOpts, bundle: &Path, address: &str, listener: OwnedFd) -> io::Result<()> {
    let log = match logs::open_fifo(&bundle.join("log")) {
        Ok(fifo) => Stdio::from(fifo),
        Err(_) => Stdio::null(),
    };
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["-namespace", &opts.namespace, "-id", &opts.id])
        .args(["-address", &opts.address, "-socket", address])
        .env_clear()
        .env(serve::TTRPC_ADDRESS, &opts.ttrpc_address)
        .current_dir("/")
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0);
    if opts.debug {
        command.arg("-debug");
    }
    command.arg(serve::ACTION).spawn().map(drop)
}

/// Cleans up after a container whose shim is gone. containerd also calls this after each ordinary delete, when
/// nothing is left to do. It has five seconds for that.
async fn delete(bundle: &Path) -> DeleteResponse {
    let spec = Spec::read(bundle).unwrap_or_default();
    let engine = StateFile::in_bundle(bundle).noted();
    if let Some(engine) = engine
        && let Err(error) = process::end(engine.pid, || engine.is_there())
    {
        eprintln!("engine {} was not ended: {error}", engine.pid);
    }
    let is_app = spec.annotation(annotation::CONTAINER_TYPE) != Some("sandbox");
    if let (true, Ok(Some(cgroup))) = (is_app, cgroup_of(&spec)) {
        // A compile helper, which nobody noted.
        cgroup.kill();
        if let Err(error) = cgroup.remove().await {
            eprintln!("cgroup is left behind: {error}");
        }
    }
    if engine.is_some() {
        LastWords::of(&spec).say(SHIM_DIED);
    }
    if let Ok(address) = std::fs::read_to_string(bundle.join(ADDRESS))
        && let Err(error) = clear(Path::new(serve::socket_path(&address)))
    {
        eprintln!("socket {address} is left behind: {error}");
    }
    let pid = engine.map_or(0, |engine| engine.pid);
    DeleteResponse {
        pid,
        exit_status: signal_code(KILL).into(),
        exited_at: MessageField::some(timestamp(SystemTime::now())),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_bound_once_and_a_dead_one_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s/socket");
        let first = bind(&path).unwrap().unwrap();
        assert!(bind(&path).unwrap().is_none(), "it is served");
        drop(first);
        // A child that another test starts meanwhile holds the socket until it becomes its program.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while bind(&path).unwrap().is_none() {
            assert!(std::time::Instant::now() < until, "nobody serves it");
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_older_containerd_is_known_by_what_it_does_not_pass() {
        let flags = Flags {
            id: "pause".to_owned(),
            namespace: "k8s.io".to_owned(),
            ..Flags::default()
        };
        let params = |id: &str| BootstrapParams {
            instance_id: id.to_owned(),
            namespace: "k8s.io".to_owned(),
            ..BootstrapParams::default()
        };
        let bytes = |params: BootstrapParams| params.write_to_bytes().unwrap();
        assert_eq!(
            bootstrap(&bytes(params("pause")), &flags),
            Some(params("pause"))
        );
        // Options of a runtime, and nothing.
        let options = Any {
            type_url: "runtimeoptions.v1.Options".to_owned(),
            value: vec![10, 1, 120],
            ..Any::default()
        };
        for input in [
            options.write_to_bytes().unwrap(),
            bytes(params("other")),
            Vec::new(),
        ] {
            assert_eq!(bootstrap(&input, &flags), None);
        }
        assert_eq!(
            legacy_result("unix:///run/containerd/s/1").to_string(),
            r#"{"address":"unix:///run/containerd/s/1","protocol":"ttrpc","version":2}"#
        );
    }

    #[tokio::test]
    async fn delete_ends_what_was_noted() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        StateFile::in_bundle(dir.path()).write(child.id());
        let waiter = std::thread::spawn(move || child.wait().unwrap());
        let response = delete(dir.path()).await;
        assert_eq!(response.exit_status, 137);
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(waiter.join().unwrap().signal(), Some(9));
    }
}
