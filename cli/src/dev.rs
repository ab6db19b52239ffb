//! `hearth dev`: an agent that follows its sources. What is wrong stands in the terminal and in the answers, with positions of
//! the sources.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use clap::Args;
use hearth_api::convert;
use hearth_contract::Function;
use hearth_wasm_host::javascript::Module;

use crate::bundler::{Bundle, Bundler, described};
use crate::local::{self, Local};
use crate::manifest;
use crate::project::{Project, is_code};
use crate::serve::{self, Here};

/// Pause between two looks at the files: a fraction of the 200 ms that a change may take.
const LOOK: Duration = Duration::from_millis(25);
/// Most files that are looked at where the bundler cannot say which matter.
const FILES: usize = 5_000;
/// A project's manifest.
const MANIFEST: &str = "agentfunction.yaml";

/// Answer HTTP calls with an agent in TypeScript or JavaScript, and follow its files.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth dev                                    the project in this folder
  hearth dev src/agent.ts --env NAME=you --egress http://localhost:9000

Limits, variables and egress are those of agentfunction.yaml, where the project has one, and of the options. It is followed too.

Exit codes: 0 ended by Ctrl-C, 1 could not start, 2 wrong options.")]
pub(crate) struct Dev {
    /// The project's folder, or the file that its code begins in.
    #[arg(default_value = ".")]
    path: PathBuf,
    #[command(flatten)]
    here: Here,
}

/// Files, and when each was changed last.
type Files = BTreeMap<PathBuf, Option<SystemTime>>;

impl Dev {
    pub(crate) fn run(self) -> Result<()> {
        let started = Instant::now();
        let project = Project::find(&self.path)?;
        let function = self.function(&project)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let local = Local::javascript(&local::environment(self.here.javascript.as_deref())?)?;
            let listener = local::listen(self.here.address, self.here.port)?;
            let address = listener.local_addr()?;
            let mut session = Session {
                dev: &self,
                bundler: Bundler::start()?,
                local: &local,
                project: &project,
                function,
                listener,
                files: Files::new(),
                is_broken: false,
            };
            if session.reload() {
                eprintln!(
                    "http://{address} answers ({} ms after the start) and follows {}; Ctrl-C ends",
                    started.elapsed().as_millis(),
                    project.root.display()
                );
            } else {
                eprintln!("http://{address} will answer when this is mended; Ctrl-C ends");
            }
            let mut looks = tokio::time::interval(LOOK);
            let ended = tokio::signal::ctrl_c();
            tokio::pin!(ended);
            loop {
                tokio::select! {
                    signal = &mut ended => {
                        signal?;
                        break;
                    }
                    _ = looks.tick() => {}
                }
                if session.has_changed() {
                    let begun = Instant::now();
                    if session.reload() {
                        eprintln!("reloaded in {} ms", begun.elapsed().as_millis());
                    }
                }
            }
            drop(session);
            local.drain().await;
            Ok(())
        })
    }

    /// The project's function: of its manifest, and of the options.
    fn function(&self, project: &Project) -> Result<Function> {
        let path = project.root.join(MANIFEST);
        let mut function = match path.is_file() {
            true => {
                let mut object = manifest::of_project(&path)?;
                // What the manifest runs does not matter here.
                object.spec.bundle.image = Some("local".to_owned());
                object.spec.bundle.source = None;
                convert::function(&object, convert::replicas(&object.spec))?
            }
            false => serve::plain(Path::new(&project.name)),
        };
        self.here.grant(&mut function.capabilities);
        function.capabilities.debug = true;
        Ok(function)
    }
}

/// An agent and the files that it is made of.
struct Session<'a> {
    dev: &'a Dev,
    bundler: Bundler,
    local: &'a Local,
    project: &'a Project,
    function: Function,
    listener: TcpListener,
    /// Those that are looked at.
    files: Files,
    /// Whether nothing could be bundled of them.
    is_broken: bool,
}

impl Session<'_> {
    /// Bundles and serves what is there now. What is wrong is told, and what was served before goes on.
    fn reload(&mut self) -> bool {
        let generation = self.function.generation + 1;
        let function = self.dev.function(self.project);
        let bundle = match self.bundler.build(self.project, false) {
            Ok(bundle) => bundle,
            Err(error) => {
                eprintln!("hearth: {error:#}");
                return false;
            }
        };
        self.look(&bundle);
        eprint!("{}", described("warning", &bundle.warnings));
        eprint!("{}", described("error", &bundle.errors));
        if !bundle.errors.is_empty() {
            return false;
        }
        match function {
            Ok(function) => self.function = function,
            Err(error) => {
                eprintln!("hearth: {error:#}");
                return false;
            }
        }
        self.function.generation = generation;
        let placed = Module::new("agent.js", bundle.module().into_bytes())
            .map_err(anyhow::Error::msg)
            .and_then(|module| {
                let listener = self.listener.try_clone()?;
                self.local
                    .place(self.function.clone(), Some(module), listener)
            });
        if let Err(error) = &placed {
            eprintln!("hearth: {error:#}");
        }
        placed.is_ok()
    }

    /// Notes which files matter: what went in, and where nothing could go in, all of the project. Packages do not change.
    fn look(&mut self, bundle: &Bundle) {
        self.is_broken = !bundle.errors.is_empty();
        self.files = match self.is_broken {
            true => self.all(),
            false => {
                let inputs = bundle.inputs.iter();
                let inputs = inputs.map(|input| bundle.root.join(&input.path));
                let own = inputs.filter(|path| !is_of_package(path));
                seen(own.chain(self.settings()))
            }
        };
    }

    /// What is no code.
    fn settings(&self) -> [PathBuf; 2] {
        ["package.json", MANIFEST].map(|name| self.project.root.join(name))
    }

    fn all(&self) -> Files {
        let mut files = vec![self.project.entry.clone()];
        files.extend(self.settings());
        below(&self.project.root, &mut files);
        seen(files.into_iter())
    }

    fn has_changed(&self) -> bool {
        match self.is_broken {
            // A file that is missing may come.
            true => self.all() != self.files,
            false => self
                .files
                .iter()
                .any(|(file, known)| changed(file) != *known),
        }
    }
}

fn seen(files: impl Iterator<Item = PathBuf>) -> Files {
    files.map(|file| (file.clone(), changed(&file))).collect()
}

fn is_of_package(path: &Path) -> bool {
    path.components()
        .any(|part| part.as_os_str() == "node_modules")
}

fn changed(file: &Path) -> Option<SystemTime> {
    file.metadata()
        .and_then(|metadata| metadata.modified())
        .ok()
}

/// Code below a folder, but for packages and hidden folders.
fn below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if files.len() >= FILES
            || name == "node_modules"
            || name.as_encoded_bytes().starts_with(b".")
        {
            continue;
        }
        match path.is_dir() {
            true => below(&path, files),
            false if is_code(&path) => files.push(path),
            false => {}
        }
    }
}
