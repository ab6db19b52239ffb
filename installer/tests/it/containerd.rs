//! A stand-in for containerd: reads its configuration when it starts, offers until it ends the runtimes that it found, and
//! restarts as it was told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result, bail, ensure};
use hearth_installer::cri::proto::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use hearth_installer::cri::proto::{
    RuntimeCondition, RuntimeHandler, RuntimeStatus, StatusRequest, StatusResponse, VersionRequest,
    VersionResponse,
};
use hearth_installer::daemon::Daemon;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use toml_edit::{DocumentMut, Item};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// The runtime that it has of itself.
const DEFAULT_RUNTIME: &str = "runc";
/// The plugin with the runtimes: in version 1, in version 2, and in those after it.
const CRI_OF_VERSION_1: &str = "cri";
const CRI_OF_1_7: &str = "io.containerd.grpc.v1.cri";
const CRI_OF_2: &str = "io.containerd.cri.v1.runtime";
/// Its main file on the host.
pub(crate) const CONFIG: &str = "/etc/containerd/config.toml";
/// Its socket on the host.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

/// Which containerd.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Line {
    /// Merges tables of imported files, and lists its runtimes.
    #[default]
    V2,
    /// Reads version 2 alone, takes a plugin's table whole from the last file that has it, forgets its own runtime where
    /// there is another, and tells what it offers by its configuration.
    V1_7,
}

/// What becomes of a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    /// A new process reads the files and answers.
    Works,
    /// A new process reads the files, and says once that it is not ready.
    Hesitates,
    /// The command fails, and the old process goes on.
    Fails,
    /// The old process ends, and no new one answers.
    Silences,
    /// A new process reads the files, and offers no runtime all the same.
    ListsNothing,
}

/// The containerd of a node.
pub(crate) struct Containerd {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    line: Line,
    refusal: Option<&'static str>,
    next: VecDeque<Restart>,
    restarts: usize,
    process: Option<Process>,
}

struct Process {
    configuration: Configuration,
    server: JoinHandle<()>,
}

impl Containerd {
    /// The containerd of the host whose `/` is `root`. It does not run yet.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            state: Mutex::default(),
        }
    }

    /// Is this containerd from the next start on.
    pub(crate) fn becomes(&self, line: Line) {
        self.state().line = line;
    }

    /// Ends the process, if there is one, and starts another; what somebody else than the installer does.
    pub(crate) async fn run(&self) {
        self.stop().await;
        self.start(Restart::Works).unwrap();
    }

    /// Ends the process.
    pub(crate) async fn stop(&self) {
        let process = self.state().process.take();
        if let Some(Process { server, .. }) = process {
            server.abort();
            // Once the task is gone, so is its listener.
            server.await.unwrap_err();
        }
    }

    /// What becomes of the next restarts; those after them work.
    pub(crate) fn restarts_next(&self, next: impl IntoIterator<Item = Restart>) {
        self.state().next.extend(next);
    }

    /// What it says of every configuration from now on, instead of judging it.
    pub(crate) fn refuses(&self, words: Option<&'static str>) {
        self.state().refusal = words;
    }

    /// How often the installer restarted it since this was asked last.
    pub(crate) fn take_restarts(&self) -> usize {
        std::mem::take(&mut self.state().restarts)
    }

    /// Whether it runs with the files that are there now.
    pub(crate) fn is_current(&self) -> bool {
        let state = self.state();
        let on_disk = Configuration::read(&self.root, state.line).unwrap();
        state
            .process
            .as_ref()
            .is_some_and(|process| process.configuration == on_disk)
    }

    fn start(&self, restart: Restart) -> Result<()> {
        let line = self.state().line;
        let configuration = Configuration::read(&self.root, line)?;
        let runtimes = match restart {
            Restart::ListsNothing => BTreeSet::from([DEFAULT_RUNTIME.to_owned()]),
            _ => configuration.runtimes.clone(),
        };
        ensure!(
            runtimes.contains(DEFAULT_RUNTIME),
            "no corresponding runtime configured in `containerd.runtimes`"
        );
        let socket = self.root.join(SOCKET.trim_start_matches('/'));
        if socket.exists() {
            fs::remove_file(&socket)?;
        }
        let incoming = UnixListenerStream::new(UnixListener::bind(&socket)?);
        let answers = RuntimeServiceServer::new(Answers {
            line,
            runtimes,
            hesitates: AtomicBool::new(restart == Restart::Hesitates),
        });
        let server = Server::builder()
            .add_service(answers)
            .serve_with_incoming(incoming);
        let server = tokio::spawn(async { server.await.unwrap() });
        self.state().process = Some(Process {
            configuration,
            server,
        });
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Daemon for &Containerd {
    async fn validate(&self) -> Result<Option<String>> {
        let state = self.state();
        if let Some(words) = state.refusal {
            bail!(words);
        }
        let configuration = Configuration::read(&self.root, state.line)?;
        Ok(Some(configuration.dump(state.line)))
    }

    async fn restart(&self) -> Result<()> {
        let restart = {
            let mut state = self.state();
            state.restarts += 1;
            state.next.pop_front().unwrap_or(Restart::Works)
        };
        ensure!(restart != Restart::Fails, "the unit has failed");
        self.stop().await;
        match restart {
            Restart::Silences => Ok(()),
            _ => self.start(restart),
        }
    }
}

struct Answers {
    line: Line,
    runtimes: BTreeSet<String>,
    hesitates: AtomicBool,
}

#[tonic::async_trait]
impl RuntimeService for Answers {
    async fn version(
        &self,
        _: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            runtime_name: "containerd".to_owned(),
            runtime_version: match self.line {
                Line::V2 => "v2.1.0".to_owned(),
                Line::V1_7 => "v1.7.35".to_owned(),
            },
        }))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let ready = RuntimeCondition {
            r#type: "RuntimeReady".to_owned(),
            status: !self.hesitates.swap(false, Ordering::Relaxed),
            reason: "Starting".to_owned(),
            message: "plugins are loaded".to_owned(),
        };
        let mut response = StatusResponse {
            status: Some(RuntimeStatus {
                conditions: vec![ready],
            }),
            ..StatusResponse::default()
        };
        let names = self.runtimes.iter().cloned();
        if self.line == Line::V2 {
            response.runtime_handlers = names.map(|name| RuntimeHandler { name }).collect();
        } else if request.into_inner().verbose {
            let runtimes: serde_json::Map<_, _> = names.map(|name| (name, json!({}))).collect();
            let config = json!({"containerd": {"runtimes": runtimes}, "sandboxImage": "pause"});
            response
                .info
                .insert("config".to_owned(), config.to_string());
        }
        Ok(Response::new(response))
    }
}

/// What a containerd finds on disk.
#[derive(Debug, Default, PartialEq, Eq)]
struct Configuration {
    files: BTreeMap<PathBuf, String>,
    runtimes: BTreeSet<String>,
}

impl Configuration {
    /// Reads the main file and what it imports. A node without any file has containerd's defaults.
    fn read(root: &Path, line: Line) -> Result<Self> {
        let mut found = Self {
            runtimes: BTreeSet::from([DEFAULT_RUNTIME.to_owned()]),
            ..Self::default()
        };
        let main = root.join(CONFIG.trim_start_matches('/'));
        if !main.exists() {
            return Ok(found);
        }
        let document = found.add(main, line)?;
        let imports = document.get("imports").and_then(Item::as_array);
        for import in imports.into_iter().flatten() {
            let pattern = import.as_str().context("an import is a text")?;
            for file in imported(root, pattern)? {
                found.add(file, line)?;
            }
        }
        Ok(found)
    }

    fn add(&mut self, file: PathBuf, line: Line) -> Result<DocumentMut> {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let document: DocumentMut = text.parse()?;
        let plugin = match (document.get("version").and_then(Item::as_integer), line) {
            (None, _) => CRI_OF_VERSION_1,
            (Some(2), _) => CRI_OF_1_7,
            (Some(3 | 4), Line::V2) => CRI_OF_2,
            (other, _) => bail!("{} has version {other:?}", file.display()),
        };
        let table = ["plugins", plugin]
            .into_iter()
            .try_fold(document.as_item(), |item, key| item.get(key));
        if let Some(table) = table {
            self.merge(table, line);
        }
        self.files.insert(file, text);
        Ok(document)
    }

    fn merge(&mut self, plugin: &Item, line: Line) {
        let runtimes = ["containerd", "runtimes"]
            .into_iter()
            .try_fold(plugin, |item, key| item.get(key))
            .and_then(Item::as_table_like);
        let names = runtimes.into_iter().flat_map(|table| table.iter());
        let names: Vec<String> = names.map(|(name, _)| name.to_owned()).collect();
        if line == Line::V1_7 {
            self.runtimes.clear();
            if names.is_empty() {
                self.runtimes.insert(DEFAULT_RUNTIME.to_owned());
            }
        }
        self.runtimes.extend(names);
    }

    /// As `containerd config dump` prints it.
    fn dump(&self, line: Line) -> String {
        let (version, plugin) = match line {
            Line::V2 => (4, CRI_OF_2),
            Line::V1_7 => (2, CRI_OF_1_7),
        };
        let mut dump = format!("version = {version}\n");
        for name in &self.runtimes {
            dump.push_str(&format!(
                "[plugins.'{plugin}'.containerd.runtimes.{name}]\n"
            ));
        }
        dump
    }
}

/// A file that is named must be there; a pattern may match nothing.
fn imported(root: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let pattern = root.join(pattern.trim_start_matches('/'));
    let (directory, name) = (pattern.parent(), pattern.file_name());
    let directory = directory.context("an import is in a directory")?;
    let name = name.context("an import has a name")?.to_string_lossy();
    let Some((start, end)) = name.split_once('*') else {
        return Ok(vec![pattern.clone()]);
    };
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let file = entry?.path();
        let matches = file
            .file_name()
            .map(|name| name.to_string_lossy())
            .is_some_and(|name| name.starts_with(start) && name.ends_with(end));
        if matches {
            files.push(file);
        }
    }
    Ok(files)
}
