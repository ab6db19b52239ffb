//! `hearth serve PATH`: a .wasm file, a JavaScript module, or an AgentFunction manifest together with its bundle.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use hearth_api::convert::{self, Bundle, MODULE_KEY};
use hearth_contract::egress::EgressRule;
use hearth_contract::function::Capabilities;
use hearth_contract::{Function, FunctionKey, Limits};
use hearth_wasm_host::BundleKind;
use hearth_wasm_host::capability::folders::View;
use hearth_wasm_host::javascript::Module;

use crate::local::{self, Local};
use crate::{build, bundler, manifest};

/// Answer HTTP calls with an agent, here and now.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  hearth serve hello.wasm\n  hearth serve agent.js\n  hearth serve agentfunction.yaml --bundle agent.wasm\n  hearth serve agentfunction.yaml --egress http://localhost:9000"
)]
pub(crate) struct Serve {
    /// A component (.wasm), a JavaScript module (.js or .mjs), or an AgentFunction manifest (.yaml): with its code in it, or with
    /// --bundle.
    path: PathBuf,
    /// The component or the module in place of the manifest's bundle: an image is not pulled here.
    #[arg(long)]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    here: Here,
}

/// How an agent runs on this machine.
#[derive(Debug, Args)]
pub(crate) struct Here {
    /// The component that runs JavaScript. Unset: hearth-javascript.wasm beside this program.
    #[arg(long, env = "HEARTH_JAVASCRIPT", value_name = "FILE")]
    pub(crate) javascript: Option<PathBuf>,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) address: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
    /// A variable of the agent's environment, NAME=VALUE; it replaces one of the manifest.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// A host that the agent may call, besides those of the manifest: [http://|https://]host[:port].
    #[arg(long = "egress", value_name = "RULE")]
    egress: Vec<EgressRule>,
}

impl Here {
    /// Adds the variables, which replace the manifest's, and the hosts.
    pub(crate) fn grant(&self, capabilities: &mut Capabilities) {
        for (name, value) in &self.env {
            capabilities.env.retain(|(known, _)| known != name);
            capabilities.env.push((name.clone(), value.clone()));
        }
        capabilities.egress.extend(self.egress.iter().cloned());
    }
}

pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Serve {
    pub(crate) fn run(self) -> Result<()> {
        let started = Instant::now();
        let (function, code) = self.function()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let loads = function.capabilities.loader.is_some();
            let environment = local::environment(self.here.javascript.as_deref())?;
            let (local, module) = match code {
                Code::Module(module) => (Local::javascript(&environment)?, Some(module)),
                Code::Component(path) if loads => {
                    (Local::component(&path)?.loading(&environment)?, None)
                }
                Code::Component(path) => (Local::component(&path)?, None),
            };
            if local.kind == BundleKind::Command {
                let view = View::default();
                let run = (local.host).run_command(
                    &function,
                    &local.artifact,
                    &local.stdout,
                    &local.stderr,
                    &view,
                );
                let ended = run.await?;
                match (ended.code, ended.problem.as_str()) {
                    (0, _) => return Ok(()),
                    (code, "") => bail!("the command ended with exit code {code}"),
                    (_, problem) => bail!("the command was stopped: {problem}"),
                }
            }
            let listener = local::listen(self.here.address, self.here.port)?;
            let address = listener.local_addr()?;
            local.place(function, module, listener)?;
            eprintln!(
                "http://{address} answers ({} ms after the start); Ctrl-C ends",
                started.elapsed().as_millis()
            );
            tokio::signal::ctrl_c().await?;
            local.drain().await;
            Ok(())
        })
    }

    /// What to run, and its code.
    fn function(&self) -> Result<(Function, Code)> {
        let is_manifest = self
            .path
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        let (mut function, code) = if is_manifest {
            self.manifest()?
        } else {
            (plain(&self.path), Code::read(&self.path)?)
        };
        self.here.grant(&mut function.capabilities);
        Ok((function, code))
    }

    fn manifest(&self) -> Result<(Function, Code)> {
        let path = self.path.display();
        let object = manifest::read(&self.path)?;
        let function = convert::function(&object, convert::replicas(&object.spec))
            .with_context(|| path.to_string())?;
        let code = match (&self.bundle, convert::bundle(&object.spec)?) {
            (Some(bundle), _) => Code::read(bundle)?,
            (None, Bundle::JavaScript(source)) => {
                // Its positions are those of the module and not of the manifest, as on a cluster.
                let module = Module::new(MODULE_KEY, source.as_bytes().to_vec());
                Code::Module(module.map_err(anyhow::Error::msg)?)
            }
            (None, Bundle::Image(image)) => bail!(
                "{path} names the image {image}, which is not pulled here; give its component or module with --bundle FILE",
            ),
            (None, Bundle::ConfigMap(key)) => bail!(
                "{path} has its code in the ConfigMap {}, which is the cluster's; give the module with --bundle FILE",
                key.name
            ),
        };
        Ok((function, code))
    }
}

/// What runs.
#[derive(Debug)]
enum Code {
    /// A file of WebAssembly.
    Component(PathBuf),
    /// JavaScript.
    Module(Module),
}

impl Code {
    fn read(path: &Path) -> Result<Self> {
        Ok(match is_javascript(path) {
            true => Self::Module(read_module(path)?),
            false => Self::Component(path.to_owned()),
        })
    }
}

/// Whether a bundle is a module, by the end of its name.
fn is_javascript(bundle: &Path) -> bool {
    bundle
        .extension()
        .is_some_and(|end| end == "js" || end == "mjs")
}

/// A module, under the name of its file.
fn read_module(path: &Path) -> Result<Module> {
    let text = match build::read(path)? {
        (code, Some(map)) => bundler::with_map(&code, &map),
        (code, None) => code,
    };
    let name = path.file_name().unwrap_or(path.as_os_str());
    Module::new(&name.to_string_lossy(), text.into_bytes()).map_err(anyhow::Error::msg)
}

/// A function of that name, with the default limits and no rights.
pub(crate) fn plain(path: &Path) -> Function {
    let name = path.file_stem().map_or_else(
        || "agent".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    );
    Function {
        key: FunctionKey {
            uid: name.clone(),
            namespace: "local".to_owned(),
            name: name.clone(),
        },
        generation: 1,
        limits: Limits::default(),
        capabilities: hearth_contract::function::Capabilities {
            args: vec![name],
            ..Default::default()
        },
        target: 2,
        reuse: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn serve(path: &str, bundle: Option<&str>) -> Serve {
        Serve {
            path: path.into(),
            bundle: bundle.map(Into::into),
            here: Here {
                javascript: None,
                address: [127, 0, 0, 1].into(),
                port: 0,
                env: vec![("GREETING".to_owned(), "Moin".to_owned())],
                egress: vec!["localhost:9000".parse().unwrap()],
            },
        }
    }

    #[test]
    fn a_manifest_needs_its_bundle_and_options_come_on_top() {
        let manifest = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../examples/hello-c/agentfunction.yaml"
        );
        let error = serve(manifest, None).function().unwrap_err().to_string();
        assert!(error.contains("--bundle"), "{error}");
        let (function, code) = serve(manifest, Some("hello.wasm")).function().unwrap();
        assert!(matches!(code, Code::Component(path) if path == Path::new("hello.wasm")));
        assert_eq!(
            function.capabilities.env,
            [("GREETING".to_owned(), "Moin".to_owned())]
        );
        assert_eq!(function.capabilities.egress.len(), 1);
        assert_eq!(function.limits.deadline, Duration::from_secs(2));
    }

    #[test]
    fn a_manifest_may_hold_its_code() {
        let example = |name: &str| {
            let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
            format!("{examples}/{name}")
        };
        let manifest = example("code-runner/agentfunction.yaml");
        let (function, code) = serve(&manifest, None).function().unwrap();
        let agent = std::fs::read_to_string(example("code-runner/agent.js")).unwrap();
        let Code::Module(module) = code else {
            panic!("{code:?}");
        };
        // The manifest's copy is the file.
        assert_eq!((module.name.as_str(), module.source), ("agent.js", agent));
        assert!(function.capabilities.loader.is_some());
        for name in ["events-js", "hello-js"] {
            let held = serve(&example(&format!("{name}/agentfunction.yaml")), None);
            let file = serve(&example(&format!("{name}/agent.js")), None);
            let of = |serve: Serve| match serve.function().unwrap().1 {
                Code::Module(module) => module.source,
                Code::Component(path) => panic!("{}", path.display()),
            };
            assert_eq!(of(held), of(file), "{name}");
        }
    }

    #[test]
    fn a_module_has_the_name_of_its_file_and_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.js");
        std::fs::write(&path, "export default {};").unwrap();
        assert!(is_javascript(&path) && !is_javascript(Path::new("agent.wasm")));
        let module = read_module(&path).unwrap();
        assert_eq!(
            (module.name.as_str(), module.source.as_str()),
            ("agent.js", "export default {};")
        );
    }

    #[test]
    fn a_variable_has_a_name_and_a_value() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(variable("A").is_err());
    }
}
