//! `hearth deploy`: from a folder to an agent that answers.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use hearth_api::SOURCE_LABEL;
use hearth_api::convert::MODULE_KEY;
use hearth_api::v1alpha1::{
    AgentFunction, AgentFunctionSpec, ConfigMapKey, Egress, EnvVar, Source,
};
use hearth_contract::egress::EgressRule;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::bundler::{Bundler, described, with_map};
use crate::cluster::{Access, Cluster, block_on};
use crate::output::Output;
use crate::progress::Waiting;
use crate::project::{Project, object_name};
use crate::registry::Reference;
use crate::{manifest, push};

/// Bytes of a module that may stand in the object.
const INLINE_BYTES: usize = 262_144;
/// Bytes that a ConfigMap may hold, a little less than the API server takes.
const CONFIG_MAP_BYTES: usize = 1_000_000;
/// Who owns the fields that are applied.
const MANAGER: &str = "hearth";
/// Pause between two looks at an object.
const LOOK: Duration = Duration::from_millis(250);
/// A project's manifest: what is in it stays, but for its bundle.
const MANIFEST: &str = "agentfunction.yaml";

/// Bundle an agent, apply it to a cluster, and wait until it answers.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth deploy                                          the project in this folder, its code in the object
  hearth deploy --image registry.example.com/agents/a:1  its code in a registry, which large bundles need
  hearth deploy --write agent.yaml                       only write the manifest
  hearth deploy hello.wasm --image localhost:5000/hello:dev

The project's agentfunction.yaml, where there is one, says everything but the bundle.

Exit codes: 0 ready, 1 not applied or not ready, 2 wrong options.")]
pub(crate) struct Deploy {
    /// The project's folder, the file that its code begins in, or a component (.wasm).
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Name of the AgentFunction. Unset: that of the manifest, else of the project.
    #[arg(long)]
    name: Option<String>,
    /// Push the bundle to this place and name it there. Unset: the code stands in the object, or in a ConfigMap
    /// where it has more than 256 KiB.
    #[arg(long, value_name = "REFERENCE")]
    image: Option<Reference>,
    /// Reach the registry without TLS.
    #[arg(long)]
    plain_http: bool,
    /// Warm instances.
    #[arg(long)]
    replicas: Option<i32>,
    /// A variable of the agent's environment, NAME=VALUE; it replaces one of the manifest.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = crate::serve::variable)]
    env: Vec<(String, String)>,
    /// A host that the agent may call, besides those of the manifest: [http://|https://]host[:port].
    #[arg(long = "egress", value_name = "RULE")]
    egress: Vec<EgressRule>,
    /// Callers read what the code threw, with file, line and column.
    #[arg(long)]
    debug: bool,
    /// Write the manifest to this file, `-` for standard output, and apply nothing.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// How long to wait until it is Ready, in seconds; 0 waits for nothing.
    #[arg(long, default_value_t = 90, value_name = "SECONDS")]
    wait: u64,
    #[command(flatten)]
    access: Access,
}

/// What there is to deploy.
enum Code {
    Component(PathBuf),
    Project(Project),
}

impl Deploy {
    pub(crate) fn run(self, output: Output) -> Result<()> {
        let code = match self.path.extension() {
            Some(end) if end == "wasm" => Code::Component(self.path.clone()),
            _ => Code::Project(Project::find(&self.path)?),
        };
        let mut object = self.object(&code)?;
        block_on(async {
            let name = object.name_any();
            let map = self.bundle(&code, &name, &mut object.spec).await?;
            let manifest = applied(&object)?;
            if let Some(path) = &self.write {
                let mut text = serde_yaml::to_string(&manifest)?;
                if let Some(map) = &map {
                    text += &format!("---\n{}", serde_yaml::to_string(map)?);
                }
                if path.as_os_str() == "-" {
                    print!("{text}");
                    return Ok(());
                }
                return std::fs::write(path, text)
                    .with_context(|| format!("write {}", path.display()));
            }
            let cluster = self.access.connect().await?;
            if let Some(map) = &map {
                let maps: Api<ConfigMap> =
                    Api::namespaced(cluster.client.clone(), &cluster.namespace);
                let parameters = PatchParams::apply(MANAGER).force();
                maps.patch(&name, &parameters, &Patch::Apply(map))
                    .await
                    .with_context(|| format!("apply ConfigMap {name}"))?;
            }
            let ready = self.apply(&cluster, &object.name_any(), &manifest).await?;
            let url = ready
                .status
                .and_then(|status| status.url)
                .unwrap_or_default();
            match output {
                Output::Json => println!(
                    "{}",
                    json!({"name": object.name_any(), "namespace": cluster.namespace, "ready": self.wait > 0, "url": url})
                ),
                Output::Text if self.wait > 0 => println!(
                    "{} is ready: {url} in the cluster, `hearth invoke {}` from here",
                    object.name_any(),
                    object.name_any()
                ),
                Output::Text => println!("{} is applied", object.name_any()),
            }
            Ok(())
        })
    }

    /// The object without its bundle.
    fn object(&self, code: &Code) -> Result<AgentFunction> {
        let (folder, name) = match code {
            Code::Project(project) => (project.root.clone(), project.name.clone()),
            Code::Component(path) => {
                let folder = path.parent().unwrap_or(path).to_owned();
                let name = path.file_stem().unwrap_or_default().to_string_lossy();
                (folder, object_name(&name))
            }
        };
        let path = folder.join(MANIFEST);
        let mut object = match path.is_file() {
            true => manifest::of_project(&path)?,
            false => AgentFunction::new(&name, serde_json::from_value(json!({"bundle": {}}))?),
        };
        if let Some(name) = &self.name {
            object.metadata.name = Some(name.clone());
        }
        let spec = &mut object.spec;
        spec.replicas = self.replicas.or(spec.replicas);
        for (name, value) in &self.env {
            spec.env.retain(|variable| variable.name != *name);
            spec.env.push(EnvVar {
                name: name.clone(),
                value: value.clone(),
            });
        }
        if !self.egress.is_empty() {
            let rules = &mut spec.egress.get_or_insert_with(Egress::default).allow;
            for rule in self.egress.iter().map(ToString::to_string) {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
        if self.debug {
            spec.debug = Some(true);
        }
        Ok(object)
    }

    /// Puts the bundle into the object, or into a registry and its name into the object.
    /// Returns the ConfigMap that holds it, where there is one.
    async fn bundle(
        &self,
        code: &Code,
        name: &str,
        spec: &mut AgentFunctionSpec,
    ) -> Result<Option<Value>> {
        let artifact = match code {
            Code::Component(path) => push::artifact(path)?,
            Code::Project(project) => {
                let bundle = Bundler::start()?.build(project, false)?;
                eprint!("{}", described("warning", &bundle.warnings));
                if !bundle.errors.is_empty() {
                    eprint!("{}", described("error", &bundle.errors));
                    bail!("{} cannot be bundled", project.entry.display());
                }
                if self.image.is_none() {
                    let (source, map) = stored(&bundle.code, &bundle.map, name)?;
                    spec.bundle.image = None;
                    spec.bundle.source = Some(source);
                    return Ok(map);
                }
                push::bundle(bundle)
            }
        };
        let reference = self.image.as_ref().context(
            "a component does not fit into an object: name where to push it with --image REFERENCE",
        )?;
        let digest = push::pushed(reference, &artifact, self.plain_http).await?;
        spec.bundle.source = None;
        spec.bundle.image = Some(format!("{reference}@{digest}"));
        Ok(None)
    }

    async fn apply(
        &self,
        cluster: &Cluster,
        name: &str,
        manifest: &Value,
    ) -> Result<AgentFunction> {
        let functions = cluster.functions();
        let parameters = PatchParams::apply(MANAGER).force();
        let applied = functions
            .patch(name, &parameters, &Patch::Apply(manifest))
            .await
            .with_context(|| {
                format!(
                    "apply AgentFunction {name} to namespace {}",
                    cluster.namespace
                )
            })?;
        if self.wait == 0 {
            return Ok(applied);
        }
        let generation = applied.metadata.generation;
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        let waiting = Waiting::new(&format!("{name} is applied"));
        loop {
            let function = functions.get(name).await?;
            let state = State::of(&function, generation);
            match state {
                State::Ready => return Ok(function),
                State::Failed(why) if is_final(&why) => {
                    bail!("{name} is applied and cannot run: {why}")
                }
                state => {
                    let why = match state {
                        State::Failed(why) => why,
                        _ => "the operator has not looked at it".to_owned(),
                    };
                    waiting.say(&format!("{name}: {why}"));
                    ensure!(
                        Instant::now() < deadline,
                        "{name} is applied and not ready after {} s: {why}; `hearth doctor` looks for what is wrong",
                        self.wait
                    );
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// What the operator says of a generation.
enum State {
    Unseen,
    Failed(String),
    Ready,
}

impl State {
    fn of(function: &AgentFunction, generation: Option<i64>) -> Self {
        let status = function.status.clone().unwrap_or_default();
        let ready = status
            .conditions
            .into_iter()
            .find(|condition| condition.type_ == "Ready");
        match ready {
            Some(ready) if ready.observed_generation >= generation => match ready.status.as_str() {
                "True" => Self::Ready,
                _ => Self::Failed(format!("{}, {}", ready.reason, ready.message)),
            },
            _ => Self::Unseen,
        }
    }
}

/// Whether waiting cannot help: the code itself is wrong.
fn is_final(why: &str) -> bool {
    [
        "LoadFailed",
        "InvalidSpec",
        "InvalidBundle",
        "NotABundle",
        "NoEntryPoint",
    ]
    .iter()
    .any(|reason| why.starts_with(reason))
}

/// The code in the object, or where it is too large for that in a ConfigMap, with its source map where that has room.
fn stored(code: &str, map: &str, name: &str) -> Result<(Source, Option<Value>)> {
    let whole = with_map(code, map);
    let text = match whole.len() <= INLINE_BYTES {
        true => Some(whole),
        false => Some(code.to_owned()).filter(|code| code.len() <= INLINE_BYTES),
    };
    if text.is_some() {
        let source = Source {
            javascript: text,
            config_map: None,
        };
        return Ok((source, None));
    }
    ensure!(
        code.len() <= CONFIG_MAP_BYTES,
        "the bundle has {} bytes, and a ConfigMap holds at most {CONFIG_MAP_BYTES}: name where to push it with --image REFERENCE, or make it smaller with \"hearth\": {{\"minify\": true}} in package.json",
        code.len()
    );
    let mut data = json!({MODULE_KEY: code});
    if code.len() + map.len() <= CONFIG_MAP_BYTES {
        data[format!("{MODULE_KEY}.map")] = json!(map);
    }
    let config_map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {SOURCE_LABEL: "javascript"}},
        "data": data,
    });
    let source = Source {
        javascript: None,
        config_map: Some(ConfigMapKey {
            name: name.to_owned(),
            key: None,
        }),
    };
    Ok((source, Some(config_map)))
}

/// What is applied: the fields that are set, and no status.
fn applied(object: &AgentFunction) -> Result<Value> {
    let mut value = serde_json::to_value(object)?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_where_it_has_room() {
        let (source, map) = stored("code", "{}", "a").unwrap();
        assert!(
            source
                .javascript
                .unwrap()
                .contains("sourceMappingURL=data:")
                && map.is_none()
        );
        let code = "x".repeat(INLINE_BYTES - 10);
        let (source, map) = stored(&code, "{}", "a").unwrap();
        assert!(source.javascript == Some(code) && map.is_none());
        let code = "x".repeat(INLINE_BYTES + 1);
        let (source, map) = stored(&code, "{}", "a").unwrap();
        assert!(source.javascript.is_none() && source.config_map.unwrap().name == "a");
        let map = map.unwrap();
        assert_eq!(map["metadata"]["labels"][SOURCE_LABEL], "javascript");
        assert!(map["data"]["agent.js"] == code && map["data"]["agent.js.map"] == "{}");
        let error = stored(&"x".repeat(CONFIG_MAP_BYTES + 1), "{}", "a").unwrap_err();
        assert!(error.to_string().contains("--image"), "{error}");
    }
}
