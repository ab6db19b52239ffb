//! From a bundle's name to a verified artifact: cache, else pull, else compile.

mod environment;
mod pulls;

use std::io::Cursor;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_contract::proto::{BundleInput, BundleKind, Placement, State};
use hearth_contract::{FailureReason, StartKind};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::artifact::{self, Artifact, Cache};
use crate::bundle::{self, Contents, Failure, Resolved};
use crate::cgroup::Cgroup;
use crate::compile;
use crate::config::Config;
use crate::containerd::Containerd;

use environment::Environment;
use pulls::Pulls;

/// Bundles of one container that are looked for in containerd's store at once; the rest waits for at most as long as these
/// calls' own bounds.
const LOOKS: usize = 8;
/// Bundles of one container that are compiled at once; the rest waits. Compiling uses every core.
const COMPILES: usize = 2;

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The bundle in an image.
    Image(Image),
    /// A module, in the JavaScript environment that is installed beside the shim.
    JavaScript(Arc<str>),
}

/// Which bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The image's name, as its user wrote it.
    pub image: String,
    /// The manifest digest that it is known to stand for.
    pub digest: Option<String>,
    /// Whether an image that is not on the node may be pulled. Kubelet has pulled a plain pod's.
    pub pull: bool,
    /// Whether the JavaScript environment comes with it, for code that it loads.
    pub loads: bool,
}

/// A bundle that can be placed.
#[derive(Debug)]
pub struct Prepared {
    /// The engine that the artifact is for.
    pub fingerprint: String,
    /// Digest of the bundle, or of the module.
    pub digest: String,
    /// What it exports.
    pub kind: BundleKind,
    /// The verified artifact, read-only.
    pub artifact: Arc<OwnedFd>,
    /// A module for it, as a sealed memory file.
    pub module: Option<Arc<OwnedFd>>,
    /// The artifact of the JavaScript environment, for code that a component loads.
    pub environment: Option<Arc<OwnedFd>>,
    /// How it came here.
    pub placement: Placement,
    /// The word for the first call that needed it.
    pub start: StartKind,
}

/// Prepares bundles for one container.
#[derive(Debug)]
pub struct Preparer {
    containerd: Containerd,
    cache: Cache,
    engine: PathBuf,
    javascript: Environment,
    cgroup: Option<Cgroup>,
    deadline: Duration,
    looks: Semaphore,
    pulls: Pulls,
    compiles: Semaphore,
}

impl Preparer {
    /// A preparer whose compile helpers run in `cgroup`.
    pub fn new(containerd: Containerd, config: &Config, cgroup: Option<Cgroup>) -> Self {
        Self {
            containerd,
            cache: Cache::new(&config.state_dir, config.cache_bytes),
            engine: config.engine.clone(),
            javascript: Environment::new(&config.javascript),
            cgroup,
            deadline: Duration::from_millis(config.compile_deadline_ms.into()),
            looks: Semaphore::new(LOOKS),
            pulls: Pulls::default(),
            compiles: Semaphore::new(COMPILES),
        }
    }

    /// Does it; `on_state` hears what is going on.
    pub async fn prepare(
        &self,
        fingerprint: &str,
        source: &Source,
        on_state: impl Fn(State),
    ) -> Result<Prepared, Failure> {
        let source = match source {
            Source::Image(image) => image,
            Source::JavaScript(code) => {
                let code = code.clone();
                let read = move || {
                    let (digest, _) = artifact::hash(&mut Cursor::new(code.as_bytes()))?;
                    Ok((format!("sha256:{digest}"), bundle::sealed(code.as_bytes())?))
                };
                let (digest, module) = blocking(read)
                    .await
                    .map_err(|error| Failure::node("making a memory file", error))?;
                return self.module(fingerprint, digest, module, 0, on_state).await;
            }
        };
        let prepared = self.image(fingerprint, source, &on_state).await?;
        // What a module runs in is what it loads code into.
        if !source.loads || prepared.module.is_some() {
            return Ok(prepared);
        }
        let environment = self.environment(fingerprint, 0, on_state).await?;
        Ok(Prepared {
            environment: Some(environment.artifact),
            ..prepared
        })
    }

    async fn image(
        &self,
        fingerprint: &str,
        source: &Image,
        on_state: impl Fn(State),
    ) -> Result<Prepared, Failure> {
        // The path of an activation on a node that knows the bundle: one file, no containerd.
        if let Some(digest) = &source.digest
            && let Some(artifact) = self.lookup(fingerprint, digest).await?
        {
            return Ok(self.found(fingerprint, digest.clone(), artifact, 0));
        }
        on_state(State::Pulling);
        let (image, resolved, pull_ms) = self.resolve(source).await?;
        if let Some(artifact) = self.lookup(fingerprint, &resolved.digest).await? {
            return Ok(self.found(fingerprint, resolved.digest, artifact, pull_ms));
        }
        let input = match &resolved.contents {
            Contents::Wasm(_) => BundleInput::Wasm,
            Contents::Layers(_) => BundleInput::Layers,
            contents @ Contents::JavaScript(_) => {
                let module = bundle::fetch_module(&self.containerd, &image, contents).await?;
                let digest = resolved.digest;
                return self
                    .module(fingerprint, digest, module, pull_ms, on_state)
                    .await;
            }
        };
        on_state(State::Compiling);
        let fetch = async || bundle::fetch(&self.containerd, &image, &resolved.contents).await;
        let bundle = Bundle {
            name: format!("image {image:?}"),
            digest: resolved.digest.clone(),
            input,
            pull_ms,
        };
        self.compile(fingerprint, bundle, fetch).await
    }

    /// The JavaScript environment, and a module for it that is known by `digest`.
    async fn module(
        &self,
        fingerprint: &str,
        digest: String,
        module: OwnedFd,
        pull_ms: u32,
        on_state: impl Fn(State),
    ) -> Result<Prepared, Failure> {
        let environment = self.environment(fingerprint, pull_ms, on_state).await?;
        Ok(Prepared {
            digest,
            module: Some(Arc::new(module)),
            ..environment
        })
    }

    /// The JavaScript environment, for a bundle whose pull took `pull_ms`.
    async fn environment(
        &self,
        fingerprint: &str,
        pull_ms: u32,
        on_state: impl Fn(State),
    ) -> Result<Prepared, Failure> {
        let environment = self.javascript.clone();
        let opened = blocking(move || environment.open()).await;
        let (file, digest) = opened.map_err(|error| {
            let path = self.javascript.path().display();
            Failure::node(
                &format!("reading the JavaScript environment, which the installer puts at {path}"),
                error,
            )
        })?;
        if let Some(artifact) = self.lookup(fingerprint, &digest).await? {
            return Ok(self.found(fingerprint, digest, artifact, pull_ms));
        }
        on_state(State::Compiling);
        let bundle = Bundle {
            name: "the JavaScript environment".to_owned(),
            digest,
            input: BundleInput::Wasm,
            pull_ms,
        };
        let fetch = async || Ok(vec![file.into()]);
        self.compile(fingerprint, bundle, fetch).await
    }

    fn found(
        &self,
        fingerprint: &str,
        digest: String,
        artifact: Artifact,
        pull_ms: u32,
    ) -> Prepared {
        Prepared {
            fingerprint: fingerprint.to_owned(),
            digest,
            kind: artifact.kind,
            placement: Placement {
                cached: true,
                pull_ms,
                compile_ms: 0,
                artifact_bytes: artifact.bytes,
            },
            artifact: Arc::new(artifact.file.into()),
            module: None,
            environment: None,
            start: match pull_ms {
                0 => StartKind::Instantiate,
                _ => StartKind::Pull,
            },
        }
    }

    /// The image under the name that containerd knows, pulled when it must be, and the milliseconds that its pull took; 0
    /// for none.
    async fn resolve(&self, source: &Image) -> Result<(String, Resolved, u32), Failure> {
        let image = match &source.digest {
            Some(digest) => bundle::with_digest(&source.image, digest),
            None => bundle::normalise(&source.image),
        };
        // A name with `latest` stands for what the registry has now, like kubelet's pull policy.
        let look_first = !source.pull || source.digest.is_some() || !image.ends_with(":latest");
        if look_first {
            match self.look(&image).await {
                Ok(resolved) => return Ok((image, resolved, 0)),
                Err(failure) if source.pull && failure.reason == FailureReason::ImageNotFound => {}
                Err(failure) => return Err(failure),
            }
        }
        let place = self.pulls.place(&image).await?;
        let pulling = Instant::now();
        bundle::pull(&self.containerd, &image).await?;
        drop(place);
        let pull_ms = millis(pulling.elapsed()).max(1);
        Ok((image.clone(), self.look(&image).await?, pull_ms))
    }

    /// What containerd has under a name.
    async fn look(&self, image: &str) -> Result<Resolved, Failure> {
        let _place = place(&self.looks).await?;
        bundle::resolve(&self.containerd, image).await
    }

    async fn compile(
        &self,
        fingerprint: &str,
        bundle: Bundle,
        fetch: impl AsyncFnOnce() -> Result<Vec<OwnedFd>, Failure>,
    ) -> Result<Prepared, Failure> {
        let node = |error: std::io::Error| Failure::node("storing the artifact", error);
        let _place = place(&self.compiles).await?;
        let compiling = Instant::now();
        let Bundle {
            name: bundle,
            digest,
            input,
            pull_ms,
        } = bundle;
        let patience = self.deadline + Duration::from_secs(10);
        let lock = self
            .cache
            .lock(fingerprint, &digest, patience)
            .await
            .map_err(node)?;
        // Another pod may have made it while we waited for the lock.
        if let Some(artifact) = self.lookup(fingerprint, &digest).await? {
            return Ok(self.found(fingerprint, digest, artifact, pull_ms));
        }
        let inputs = fetch().await?;
        let draft = self
            .cache
            .draft(fingerprint, &digest, &lock)
            .map_err(node)?;
        let compiled = compile::run(
            &self.engine,
            self.cgroup.as_ref(),
            input,
            &inputs,
            &draft,
            self.deadline,
        )
        .await
        .map_err(|failure| Failure {
            message: format!("{bundle}: {}", failure.message),
            ..failure
        })?;
        drop(inputs);
        let cache = self.cache.clone();
        let (of, name) = (fingerprint.to_owned(), digest.clone());
        let artifact = blocking(move || cache.store(&of, &name, draft, &compiled))
            .await
            .map_err(node)?;
        drop(lock);
        let bytes = artifact.bytes;
        let compile_ms = millis(compiling.elapsed()).max(1);
        tracing::info!(bundle, digest, compile_ms, bytes, "compiled");
        Ok(Prepared {
            placement: Placement {
                cached: false,
                pull_ms,
                compile_ms,
                artifact_bytes: bytes,
            },
            start: match pull_ms {
                0 => StartKind::Compile,
                _ => StartKind::Pull,
            },
            ..self.found(fingerprint, digest, artifact, pull_ms)
        })
    }

    async fn lookup(&self, fingerprint: &str, digest: &str) -> Result<Option<Artifact>, Failure> {
        let cache = self.cache.clone();
        let (fingerprint, digest) = (fingerprint.to_owned(), digest.to_owned());
        blocking(move || cache.lookup(&fingerprint, &digest))
            .await
            .map_err(|error| Failure::node("reading the artifact cache", error))
    }
}

/// What is compiled.
struct Bundle {
    /// For messages.
    name: String,
    digest: String,
    input: BundleInput,
    pull_ms: u32,
}

async fn place(places: &Semaphore) -> Result<SemaphorePermit<'_>, Failure> {
    places
        .acquire()
        .await
        .map_err(|error| Failure::node("waiting for a place", error))
}

/// Hashing an artifact of tens of megabytes takes longer than a task call may wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
