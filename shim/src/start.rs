//! The short-lived actions that containerd executes: `start`, `delete` and `-info`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use containerd_shim::{Config, DeleteResponse, Error, Flags, StartOpts};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::container::{KILL, signal_code};
use crate::events::timestamp;
use crate::logs;
use crate::pod::{bundle_folder, cgroup_of};
use crate::serve;
use crate::spec::{Spec, annotation};
use crate::state_file::StateFile;
use crate::task::TaskService;

/// What `containerd_shim::run` drives. It never serves: `start` leaves a process of our own behind, because the
/// crate's server offers one version of one service.
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

    async fn start_shim(&mut self, opts: StartOpts) -> Result<String, Error> {
        start(&opts).map_err(|error| Error::Other(format!("starting the shim: {error}")))
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

/// The address of the pod's shim, started if there is none.
fn start(opts: &StartOpts) -> io::Result<String> {
    let bundle = std::env::current_dir()?;
    let spec = Spec::read(&bundle).map_err(io::Error::other)?;
    let group = spec.annotation(annotation::SANDBOX_ID).unwrap_or(&opts.id);
    let address = opts.socket_address(group);
    if let Some(listener) = bind(Path::new(serve::socket_path(&address)))? {
        spawn(opts, &bundle, &address, listener.into())?;
    }
    // containerd 1.7 reads it after its own restart.
    std::fs::write(bundle.join("address"), &address)?;
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
        if UnixStream::connect(path).is_ok() {
            return Ok(None);
        }
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("socket {} is neither served nor free", path.display()),
    ))
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
/// nothing is left to do.
async fn delete(bundle: &Path) -> DeleteResponse {
    let state_file = StateFile::in_bundle(bundle);
    let mut pid = 0;
    if let Some(recorded) = state_file.running() {
        pid = recorded.pid;
        if let Err(error) = end(pid, || state_file.running() == Some(recorded)) {
            eprintln!("engine {pid} was not ended: {error}");
        }
    }
    if let Ok(spec) = Spec::read(bundle) {
        let is_app = spec.annotation(annotation::CONTAINER_TYPE) != Some("sandbox");
        if let (true, Ok(Some(cgroup))) = (is_app, cgroup_of(&spec))
            && let Err(error) = cgroup.remove().await
        {
            eprintln!("cgroup is left behind: {error}");
        }
    }
    DeleteResponse {
        pid,
        exit_status: signal_code(KILL).into(),
        exited_at: MessageField::some(timestamp(SystemTime::now())),
        ..Default::default()
    }
}

/// Kills a process that is not our child and waits for its end.
fn end(pid: u32, still_it: impl Fn() -> bool) -> io::Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    let process = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // Now the descriptor names one process for good; look whether it is the one that was noted.
    if !still_it() {
        return Ok(());
    }
    rustix::process::pidfd_send_signal(&process, Signal::KILL)?;
    let until = std::time::Instant::now() + Duration::from_secs(2);
    while still_it() && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
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
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while bind(&path).unwrap().is_none() {
            assert!(std::time::Instant::now() < until, "nobody serves it");
            std::thread::yield_now();
        }
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
