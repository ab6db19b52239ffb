//! An engine in this process, and one bundle that it runs.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hearth_contract::Function;
use hearth_contract::proto::Placement;
use hearth_wasm_host::capability::folders::View;
use hearth_wasm_host::capability::names::Names;
use hearth_wasm_host::javascript::Module;
use hearth_wasm_host::{
    Artifact, BundleKind, Engine, EngineSettings, Host, HostSettings, Placed, compile,
};

use crate::progress::Waiting;
use crate::registry;

/// The component that runs JavaScript, beside this program.
const ENVIRONMENT: &str = "hearth-javascript.wasm";

/// How long calls may take to end after Ctrl-C.
const DRAIN: Duration = Duration::from_secs(10);

/// What runs.
pub(crate) struct Local {
    engine: Engine,
    pub(crate) host: Host,
    pub(crate) artifact: Arc<Artifact>,
    pub(crate) kind: BundleKind,
    /// What a component loads code into.
    environment: Option<Arc<Artifact>>,
    pub(crate) stdout: Arc<OwnedFd>,
    pub(crate) stderr: Arc<OwnedFd>,
}

/// The component that runs JavaScript: what is named, else the one beside this program.
///
/// # Errors
/// When this program does not know where it is.
pub(crate) fn environment(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(path) => Ok(path.to_owned()),
        None => Ok(std::env::current_exe()?.with_file_name(ENVIRONMENT)),
    }
}

impl Local {
    /// An engine for a component of the user's.
    ///
    /// # Errors
    /// When the component cannot be read or compiled.
    pub(crate) fn component(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| {
            format!(
                "read {}; name the agent's component, a .wasm file",
                path.display()
            )
        })?;
        let engine = engine()?;
        let compiled = compiled(&engine, path, &bytes)?;
        let artifact = Artifact::from_compiled(&engine, &compiled)
            .map_err(|error| anyhow::anyhow!("{error:#}"))?;
        Self::new(engine, artifact, compiled.kind)
    }

    /// An engine for JavaScript.
    ///
    /// # Errors
    /// When the environment is not there.
    pub(crate) fn javascript(path: &Path) -> Result<Self> {
        let engine = engine()?;
        let artifact = environment_artifact(&engine, path)?;
        Self::new(engine, artifact, BundleKind::Http)
    }

    /// The same with JavaScript beside the component, which may load it (`spec.loader`).
    ///
    /// # Errors
    /// When the environment is not there.
    pub(crate) fn loading(self, path: &Path) -> Result<Self> {
        let environment = environment_artifact(&self.engine, path)?;
        Ok(Self {
            environment: Some(Arc::new(environment)),
            ..self
        })
    }

    fn new(engine: Engine, artifact: Artifact, kind: BundleKind) -> Result<Self> {
        let settings = HostSettings {
            names: Names::of_this_machine(),
            ..HostSettings::default()
        };
        let host =
            Host::new(engine.clone(), &settings).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        Ok(Self {
            engine,
            host,
            artifact: Arc::new(artifact),
            kind,
            environment: None,
            stdout: Arc::new(std::io::stdout().as_fd().try_clone_to_owned()?),
            stderr: Arc::new(std::io::stderr().as_fd().try_clone_to_owned()?),
        })
    }

    /// Serves a function, or a new generation of it; with the same socket callers keep their connections.
    ///
    /// # Errors
    /// When it cannot be placed.
    pub(crate) fn place(
        &self,
        function: Function,
        module: Option<Module>,
        listener: TcpListener,
    ) -> Result<()> {
        self.host.place(Placed {
            function,
            digest: String::new(),
            artifact: self.artifact.clone(),
            module,
            environment: self.environment.clone(),
            listener,
            stdout: self.stdout.clone(),
            stderr: self.stderr.clone(),
            prefix_logs: false,
            first: None,
            placement: Placement::default(),
            calls_lost: 0,
            view: View::default(),
            mark: 0,
        })?;
        Ok(())
    }

    /// Lets calls end.
    pub(crate) async fn drain(self) {
        let cut = self.host.drain(DRAIN).await;
        if cut > 0 {
            eprintln!("{cut} calls were cut");
        }
    }
}

/// A socket to listen on.
pub(crate) fn listen(address: IpAddr, port: u16) -> Result<TcpListener> {
    TcpListener::bind((address, port)).with_context(|| {
        format!("listen on {address}:{port}; another program may use the port, try --port 0")
    })
}

fn engine() -> Result<Engine> {
    Engine::new(EngineSettings { instances: 512 }).map_err(|error| anyhow::anyhow!("{error:#}"))
}

fn compiled(engine: &Engine, path: &Path, bytes: &[u8]) -> Result<compile::Compiled> {
    if bytes.len() > 1 << 20 {
        eprintln!("compiling {} ({} MB) …", path.display(), bytes.len() >> 20);
    }
    let _waiting = Waiting::new("compiling");
    compile::compile(engine, bytes).with_context(|| path.display().to_string())
}

/// The component that runs JavaScript, compiled. That is kept in the user's cache folder.
fn environment_artifact(engine: &Engine, path: &Path) -> Result<Artifact> {
    let bytes = std::fs::read(path).with_context(|| {
        format!(
            "read {}; the program that runs JavaScript is missing, name it with --javascript",
            path.display()
        )
    })?;
    let kept = cache_folder().map(|folder| {
        let digest = registry::digest(&bytes);
        let name = format!(
            "{}-{}.cwasm",
            engine.fingerprint(),
            &digest["sha256:".len()..][..16]
        );
        folder.join(name)
    });
    if let Some(artifact) = kept.as_deref().and_then(|kept| reopen(engine, kept)) {
        return Ok(artifact);
    }
    let compiled = compiled(engine, path, &bytes)?;
    if let Some(kept) = &kept
        && let Err(error) = keep(kept, &compiled.artifact)
    {
        eprintln!(
            "hearth: {} is not kept for the next start: {error}",
            kept.display()
        );
    }
    Artifact::from_compiled(engine, &compiled).map_err(|error| anyhow::anyhow!("{error:#}"))
}

/// `$XDG_CACHE_HOME/hearth`, else `~/.cache/hearth`.
fn cache_folder() -> Option<PathBuf> {
    let variable = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    Some(cache?.join("hearth"))
}

/// What was kept, if it is there and nobody but this user can have written it: what is in it is run.
fn reopen(engine: &Engine, path: &Path) -> Option<Artifact> {
    let file = File::open(path).ok()?;
    let is_ours = |metadata: std::fs::Metadata| {
        metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0
    };
    let folder = path.parent()?.metadata().ok()?;
    if !is_ours(file.metadata().ok()?) || !is_ours(folder) {
        eprintln!(
            "hearth: {} is not used: others than you may write it",
            path.display()
        );
        return None;
    }
    let artifact = Artifact::of(file.into());
    // One that is broken is made again.
    artifact.component(engine).is_ok().then_some(artifact)
}

/// Keeps it for this user alone. Readers see the whole of it or nothing.
fn keep(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let draft = path.with_extension(std::process::id().to_string());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(bytes)?;
    std::fs::rename(&draft, path)
}
