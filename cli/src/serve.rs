//! `hearth serve PATH`: a .wasm file, a JavaScript module, or an AgentFunction manifest together with its bundle.

use std::net::{IpAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use hearth_api::convert::{self, Bundle};
use hearth_contract::egress::EgressRule;
use hearth_contract::proto::Placement;
use hearth_contract::{Function, FunctionKey, Limits};
use hearth_wasm_host::capability::folders::View;
use hearth_wasm_host::capability::names::Names;
use hearth_wasm_host::javascript::{MAX_SOURCE_BYTES, Module};
use hearth_wasm_host::{
    Artifact, BundleKind, Engine, EngineSettings, Host, HostSettings, Placed, compile,
};

use crate::manifest;

/// The component that runs JavaScript, beside this program.
const ENVIRONMENT: &str = "hearth-javascript.wasm";

/// How long calls may take to end after Ctrl-C.
const DRAIN: Duration = Duration::from_secs(10);

/// Answer HTTP calls with an agent, here and now.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  hearth serve hello.wasm\n  hearth serve agent.js\n  hearth serve agentfunction.yaml --bundle agent.wasm --egress http://localhost:9000"
)]
pub(crate) struct Serve {
    /// A component (.wasm), a JavaScript module (.js or .mjs), or an AgentFunction manifest (.yaml), whose bundle --bundle
    /// names.
    path: PathBuf,
    /// The component or the module of the manifest's bundle: an image is not pulled here.
    #[arg(long)]
    bundle: Option<PathBuf>,
    /// The component that runs JavaScript. Unset: hearth-javascript.wasm beside this program.
    #[arg(long, env = "HEARTH_JAVASCRIPT", value_name = "FILE")]
    javascript: Option<PathBuf>,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// A variable of the agent's environment, NAME=VALUE; it replaces one of the manifest.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// A host that the agent may call, besides those of the manifest: [http://|https://]host[:port].
    #[arg(long = "egress", value_name = "RULE")]
    egress: Vec<EgressRule>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Serve {
    pub(crate) fn run(self) -> Result<()> {
        let started = Instant::now();
        let (function, bundle) = self.function()?;
        let (component, module) = match is_javascript(&bundle) {
            true => (self.environment()?, Some(read_module(&bundle)?)),
            false => (bundle, None),
        };
        let bytes = std::fs::read(&component).with_context(|| match module {
            Some(_) => format!(
                "read {}; the program that runs JavaScript is missing, name it with --javascript",
                component.display()
            ),
            None => format!(
                "read {}; name the agent's component, a .wasm file",
                component.display()
            ),
        })?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let engine = Engine::new(EngineSettings { instances: 512 })
                .map_err(|error| anyhow::anyhow!("{error:#}"))?;
            if bytes.len() > 1 << 20 {
                eprintln!(
                    "compiling {} ({} MB) …",
                    component.display(),
                    bytes.len() >> 20
                );
            }
            let compiled = compile::compile(&engine, &bytes)
                .with_context(|| component.display().to_string())?;
            let artifact = Artifact::from_compiled(&engine, &compiled)
                .map_err(|error| anyhow::anyhow!("{error:#}"))?;
            let artifact = Arc::new(artifact);
            let settings = HostSettings {
                names: Names::of_this_machine(),
                ..HostSettings::default()
            };
            let host =
                Host::new(engine, &settings).map_err(|error| anyhow::anyhow!("{error:#}"))?;
            let stdout = Arc::new(std::io::stdout().as_fd().try_clone_to_owned()?);
            let stderr = Arc::new(std::io::stderr().as_fd().try_clone_to_owned()?);
            if compiled.kind == BundleKind::Command {
                let ended = host
                    .run_command(&function, &artifact, &stdout, &stderr, &View::default())
                    .await?;
                match (ended.code, ended.problem.as_str()) {
                    (0, _) => return Ok(()),
                    (code, "") => bail!("the command ended with exit code {code}"),
                    (_, problem) => bail!("the command was stopped: {problem}"),
                }
            }
            let listener = TcpListener::bind((self.address, self.port)).with_context(|| {
                format!(
                    "listen on {}:{}; another program may use the port, try --port 0",
                    self.address, self.port
                )
            })?;
            let address = listener.local_addr()?;
            let digest = String::new();
            let placed = Placed {
                function,
                digest,
                artifact,
                module,
                listener,
                stdout,
                stderr,
                prefix_logs: false,
                first: None,
                placement: Placement::default(),
                calls_lost: 0,
                view: View::default(),
            };
            host.place(placed)?;
            eprintln!(
                "http://{address} answers ({} ms after the start); Ctrl-C ends",
                started.elapsed().as_millis()
            );
            tokio::signal::ctrl_c().await?;
            let cut = host.drain(DRAIN).await;
            if cut > 0 {
                eprintln!("{cut} calls were cut");
            }
            Ok(())
        })
    }

    /// What to run, and the file that holds it.
    fn function(&self) -> Result<(Function, PathBuf)> {
        let is_manifest = self
            .path
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        let (mut function, bundle) = if is_manifest {
            self.manifest()?
        } else {
            (plain(&self.path), self.path.clone())
        };
        for (name, value) in &self.env {
            function.capabilities.env.retain(|(known, _)| known != name);
            function
                .capabilities
                .env
                .push((name.clone(), value.clone()));
        }
        function
            .capabilities
            .egress
            .extend(self.egress.iter().cloned());
        Ok((function, bundle))
    }

    /// The component that runs JavaScript.
    fn environment(&self) -> Result<PathBuf> {
        match &self.javascript {
            Some(path) => Ok(path.clone()),
            None => Ok(std::env::current_exe()?.with_file_name(ENVIRONMENT)),
        }
    }

    fn manifest(&self) -> Result<(Function, PathBuf)> {
        let path = self.path.display();
        let object = manifest::read(&self.path)?;
        let function = convert::function(&object, convert::replicas(&object.spec))
            .with_context(|| path.to_string())?;
        match (&self.bundle, convert::bundle(&object.spec)?) {
            (Some(bundle), Bundle::Image(_)) => Ok((function, bundle.clone())),
            (None, Bundle::Image(image)) => bail!(
                "{path} names the image {image}, which is not pulled here; give its component or module with --bundle FILE",
            ),
            (_, Bundle::JavaScript(_)) => bail!(
                "{path} has its code in itself, which runs on a cluster only: kubectl apply it there",
            ),
        }
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
    let source =
        std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    if source.len() > MAX_SOURCE_BYTES {
        bail!(
            "{} has {} bytes; a module has at most {MAX_SOURCE_BYTES}",
            path.display(),
            source.len()
        );
    }
    let name = path.file_name().unwrap_or(path.as_os_str());
    Ok(Module {
        name: name.to_string_lossy().into_owned(),
        source,
    })
}

fn plain(path: &Path) -> Function {
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

    fn serve(path: &str, bundle: Option<&str>) -> Serve {
        Serve {
            path: path.into(),
            bundle: bundle.map(Into::into),
            javascript: None,
            address: [127, 0, 0, 1].into(),
            port: 0,
            env: vec![("GREETING".to_owned(), "Moin".to_owned())],
            egress: vec!["localhost:9000".parse().unwrap()],
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
        let (function, bundle) = serve(manifest, Some("hello.wasm")).function().unwrap();
        assert_eq!(bundle, Path::new("hello.wasm"));
        assert_eq!(
            function.capabilities.env,
            [("GREETING".to_owned(), "Moin".to_owned())]
        );
        assert_eq!(function.capabilities.egress.len(), 1);
        assert_eq!(function.limits.deadline, Duration::from_secs(2));
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
        std::fs::write(&path, " ".repeat(MAX_SOURCE_BYTES + 1)).unwrap();
        let error = read_module(&path).unwrap_err().to_string();
        assert!(error.contains("at most"), "{error}");
    }

    #[test]
    fn a_variable_has_a_name_and_a_value() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(variable("A").is_err());
    }
}
