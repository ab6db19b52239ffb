//! `hearth new`: a folder to begin with.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::output::Output;
use crate::project::object_name;

/// Begin an agent in a new folder.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth new hello                          TypeScript without packages: hearth deploy hello
  hearth new helper --template support      question, retrieval, LLM, order API, answer
  hearth new helper --template langchain    the same on LangChain.js: npm install in it
  hearth new tool --template c              a component in C: make in it
  hearth new tool --template python         the same in Python

Exit codes: 0 made, 1 not made, 2 wrong options.")]
pub(crate) struct New {
    /// The folder, which must not be there. Its last part becomes the agent's name.
    path: PathBuf,
    /// What to begin with.
    #[arg(long, short, value_enum, default_value_t = Template::Fetch)]
    template: Template,
}

/// What there is to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Template {
    /// A handler in TypeScript.
    Fetch,
    /// A support agent in TypeScript: question, retrieval, LLM, order API, answer.
    Support,
    /// A support agent on LangChain.js.
    Langchain,
    /// A component in C.
    C,
    /// A component in Python.
    Python,
}

/// A file of a template: where, and what is in it.
type File = (&'static str, &'static str);

macro_rules! template {
    ($($path:literal => $file:literal),* $(,)?) => {
        &[$(($path, include_str!($file))),*]
    };
}

/// What components are made against.
const WIT: &[File] = template! {
    "wit/agent.wit" => "../../wit/agent.wit",
    "wit/deps/cli.wit" => "../../wit/deps/cli.wit",
    "wit/deps/clocks.wit" => "../../wit/deps/clocks.wit",
    "wit/deps/filesystem.wit" => "../../wit/deps/filesystem.wit",
    "wit/deps/http.wit" => "../../wit/deps/http.wit",
    "wit/deps/io.wit" => "../../wit/deps/io.wit",
    "wit/deps/loader.wit" => "../../wit/deps/loader.wit",
    "wit/deps/random.wit" => "../../wit/deps/random.wit",
    "wit/deps/sockets.wit" => "../../wit/deps/sockets.wit",
};

/// What every project in TypeScript has.
const TYPESCRIPT: &[File] = template! {
    "tsconfig.json" => "../templates/tsconfig.json",
    ".gitignore" => "../templates/gitignore",
};

impl Template {
    /// Its files; `{{name}}` in them stands for the agent's name.
    fn files(self) -> Vec<File> {
        let (own, shared): (&[File], &[File]) = match self {
            Self::Fetch => (
                template! {
                    "package.json" => "../templates/fetch/package.json",
                    "src/agent.ts" => "../templates/fetch/src/agent.ts",
                    "agentfunction.yaml" => "../templates/fetch/agentfunction.yaml",
                },
                TYPESCRIPT,
            ),
            Self::Support => (
                template! {
                    "package.json" => "../templates/fetch/package.json",
                    "src/agent.ts" => "../templates/support/src/agent.ts",
                    "src/support.js" => "../../examples/support-agent/src/agent.js",
                    "agentfunction.yaml" => "../templates/support/agentfunction.yaml",
                },
                TYPESCRIPT,
            ),
            Self::Langchain => (
                template! {
                    "package.json" => "../../examples/langchain-ts/package.json",
                    "src/agent.ts" => "../../examples/langchain-ts/src/agent.ts",
                    "agentfunction.yaml" => "../templates/support/agentfunction.yaml",
                },
                TYPESCRIPT,
            ),
            Self::C => (
                template! {
                    "hello.c" => "../../examples/hello-c/hello.c",
                    "Makefile" => "../templates/c/Makefile",
                    "agentfunction.yaml" => "../templates/fetch/agentfunction.yaml",
                },
                WIT,
            ),
            Self::Python => (
                template! {
                    "app.py" => "../templates/python/app.py",
                    "Makefile" => "../templates/python/Makefile",
                    "requirements.txt" => "../templates/python/requirements.txt",
                    "agentfunction.yaml" => "../templates/fetch/agentfunction.yaml",
                },
                WIT,
            ),
        };
        [own, shared].concat()
    }

    /// What comes next, in the folder.
    fn next(self, name: &str) -> String {
        match self {
            Self::Fetch => format!(
                "hearth dev              answers on http://127.0.0.1:8080 and follows the files\nhearth deploy           puts it on the cluster\nhearth invoke {name}    calls it there"
            ),
            Self::Support => format!(
                "agentfunction.yaml      names the LLM and the services that it calls: put yours there\nhearth deploy           puts it on the cluster\nhearth invoke {name} /ask --data '{{\"customer\":\"c-17\",\"question\":\"Where is my order 4711?\"}}'"
            ),
            Self::Langchain => "npm install             its packages\nagentfunction.yaml      names the LLM and the services that it calls: put yours there\nhearth deploy --image REGISTRY/REPOSITORY:TAG".to_owned(),
            Self::C | Self::Python => "make                    builds agent.wasm; the Makefile says what that needs\nhearth serve agent.wasm\nhearth deploy agent.wasm --image REGISTRY/REPOSITORY:TAG".to_owned(),
        }
    }
}

impl New {
    pub(crate) fn run(self, output: Output) -> Result<()> {
        let name = self.path.file_name().context("name a folder")?;
        let name = object_name(&name.to_string_lossy());
        ensure!(
            !self.path.exists(),
            "{} is there already; name a folder that is not",
            self.path.display()
        );
        let files = self.template.files();
        for (path, text) in &files {
            write(&self.path.join(path), &text.replace("{{name}}", &name))?;
        }
        match output {
            Output::Json => {
                let files: Vec<_> = files.iter().map(|(path, _)| path).collect();
                println!(
                    "{}",
                    json!({"name": name, "folder": self.path, "files": files})
                );
            }
            Output::Text => println!(
                "{} holds the agent {name}. Next, in it:\n\n{}",
                self.path.display(),
                self.template.next(&name)
            ),
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;
    use crate::project::Project;
    use hearth_components::Resolve;

    #[test]
    fn every_template_is_a_project_with_a_manifest_that_can_be_applied() {
        let folder = tempfile::tempdir().unwrap();
        for template in Template::value_variants() {
            let path = folder.path().join(format!("My_{template:?}"));
            let new = New {
                path: path.clone(),
                template: *template,
            };
            new.run(Output::Json).unwrap();
            let object = manifest::of_project(&path.join("agentfunction.yaml")).unwrap();
            let name = format!("my-{template:?}").to_lowercase();
            assert_eq!(object.metadata.name.as_deref(), Some(name.as_str()));
            if path.join("package.json").is_file() {
                let project = Project::find(&path).unwrap();
                assert!(project.entry.ends_with("src/agent.ts"));
                let expected = if *template == Template::Langchain {
                    "langchain-ts"
                } else {
                    &name
                };
                assert_eq!(project.name, expected);
            }
            if path.join("wit").is_dir() {
                let worlds = Resolve::default().push_dir(path.join("wit"));
                assert!(worlds.is_ok(), "{template:?}: {worlds:?}");
            }
            let again = New {
                path,
                template: *template,
            };
            assert!(again.run(Output::Json).is_err());
        }
    }
}
