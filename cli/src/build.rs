//! `hearth build`: TypeScript, JavaScript and npm packages become one ES module and its source map.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use hearth_wasm_host::javascript::MAX_SOURCE_BYTES;
use serde_json::json;

use crate::bundler::{Bundle, Bundler, Import, described};
use crate::output::Output;
use crate::project::Project;

/// Name of a built module, and the end of that of its source map.
const MODULE: &str = "agent.js";
const MAP: &str = ".map";
/// Packages that the report names, the largest ones.
const PACKAGES: usize = 8;

/// Bundle an agent in TypeScript or JavaScript, with its packages from npm, into one file.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth build                         the project in this folder, to dist/agent.js and dist/agent.js.map
  hearth build src/agent.ts --minify   shorter names, no white space
  hearth build --stub fs               load code that imports node:fs; it throws where it uses it

The field \"hearth\" of package.json sets the same for each build:
  {\"entry\": \"src/agent.ts\", \"minify\": true, \"stub\": [\"fs\"], \"alias\": {\"package\": \"./src/instead.ts\"}}

Exit codes: 0 built, 1 not built, 2 wrong options.")]
pub(crate) struct Build {
    /// The project's folder, or the file that its code begins in.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Folder to write to. Unset: dist in the project's folder.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Shorten names and leave out white space.
    #[arg(long)]
    minify: bool,
    /// A built-in module of Node that may be imported although it is not there; using it throws.
    #[arg(long, value_name = "MODULE")]
    stub: Vec<String>,
}

impl Build {
    pub(crate) fn run(self, output: Output) -> Result<()> {
        let mut project = Project::find(&self.path)?;
        let stubs = self
            .stub
            .iter()
            .map(|name| name.trim_start_matches("node:"));
        project.settings.stub.extend(stubs.map(str::to_owned));
        let bundle = Bundler::start()?.build(&project, self.minify)?;
        eprint!("{}", described("warning", &bundle.warnings));
        if !bundle.errors.is_empty() {
            if output == Output::Json {
                println!(
                    "{}",
                    json!({"errors": bundle.errors, "warnings": bundle.warnings})
                );
            }
            eprint!("{}", described("error", &bundle.errors));
            bail!("{} cannot be bundled", project.entry.display());
        }
        let folder = self.out.unwrap_or_else(|| project.root.join("dist"));
        let path = write(&folder, &bundle)?;
        match output {
            Output::Json => println!("{}", report(&path, &bundle)),
            Output::Text => print!("{}", told(&path, &bundle)),
        }
        let bytes = bundle.code.len();
        ensure!(
            bytes <= MAX_SOURCE_BYTES,
            "the bundle has {bytes} bytes, and a function at most {MAX_SOURCE_BYTES}; --minify makes it smaller, and the report above says what is large"
        );
        Ok(())
    }
}

/// Writes a bundle and its source map, and returns where the bundle is.
fn write(folder: &Path, bundle: &Bundle) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join(MODULE);
    let put = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    put(&format!("{MODULE}{MAP}"), bundle.map.clone())?;
    let code = &bundle.code;
    put(
        MODULE,
        format!("{code}//# sourceMappingURL={MODULE}{MAP}\n"),
    )?;
    Ok(path)
}

/// A built module, with its source map where there is one beside it.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read(path: &Path) -> Result<(String, Option<String>)> {
    let code = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let named = code.trim_end().rsplit('\n').next();
    let named = named.and_then(|line| line.strip_prefix("//# sourceMappingURL="));
    let map = match named.filter(|name| !name.starts_with("data:")) {
        Some(name) => std::fs::read_to_string(path.with_file_name(name)).ok(),
        None => None,
    };
    Ok((code, map))
}

/// Bytes of each package, the largest first; the project's own files are `src`.
fn packages(bundle: &Bundle) -> Vec<(String, usize)> {
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    for input in &bundle.inputs {
        *sizes.entry(package(&input.path)).or_default() += input.bytes;
    }
    let mut sizes: Vec<_> = sizes.into_iter().collect();
    sizes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    sizes
}

/// The package that a file is of.
fn package(path: &str) -> String {
    let Some((_, inner)) = path.rsplit_once("node_modules/") else {
        return match path.split_once(':') {
            Some((_, module)) => format!("node:{module}"),
            None => "the project's own".to_owned(),
        };
    };
    let parts = if inner.starts_with('@') { 2 } else { 1 };
    let names: Vec<&str> = inner.split('/').take(parts).collect();
    names.join("/")
}

fn report(path: &Path, bundle: &Bundle) -> serde_json::Value {
    let packages: Vec<_> = (packages(bundle).into_iter())
        .map(|(name, bytes)| json!({"name": name, "bytes": bytes}))
        .collect();
    json!({
        "bundle": {"path": path, "bytes": bundle.code.len(), "mapBytes": bundle.map.len(), "files": bundle.inputs.len()},
        "packages": packages,
        "provided": bundle.provided,
        "absent": bundle.absent,
        "warnings": bundle.warnings,
    })
}

fn told(path: &Path, bundle: &Bundle) -> String {
    let kilobytes = |bytes: usize| format!("{:.1} KB", bytes as f64 / 1024.0);
    let mut text = format!(
        "{}: {} of {} files, and its source map of {}\n",
        path.display(),
        kilobytes(bundle.code.len()),
        bundle.inputs.len(),
        kilobytes(bundle.map.len())
    );
    let sizes = packages(bundle);
    for (name, bytes) in sizes.iter().take(PACKAGES) {
        text += &format!("  {:>12}  {name}\n", kilobytes(*bytes));
    }
    if sizes.len() > PACKAGES {
        let rest = sizes[PACKAGES..].iter().map(|(_, bytes)| bytes).sum();
        let count = sizes.len() - PACKAGES;
        text += &format!("  {:>12}  {count} more\n", kilobytes(rest));
    }
    let listed = |title: &str, imports: &[Import]| {
        let lines: String = imports
            .iter()
            .map(|import| {
                format!(
                    "  {}: imported by {}\n",
                    import.name,
                    import.importers.join(", ")
                )
            })
            .collect();
        match lines.is_empty() {
            true => lines,
            false => format!("{title}\n{lines}"),
        }
    };
    text += &listed("Modules of Node that are provided:", &bundle.provided);
    text += &listed(
        "Modules that are not there; code that asks for them while it runs gets an exception:",
        &bundle.absent,
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_its_package() {
        for (path, name) in [
            ("src/agent.ts", "the project's own"),
            ("node_modules/zod/v4/core.js", "zod"),
            ("node_modules/a/node_modules/@b/c/d.js", "@b/c"),
            ("hearth-node:buffer", "node:buffer"),
        ] {
            assert_eq!(package(path), name);
        }
    }

    #[test]
    fn a_module_is_read_with_its_map() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(MODULE);
        std::fs::write(&path, "code").unwrap();
        assert_eq!(read(&path).unwrap(), ("code".to_owned(), None));
        std::fs::write(&path, "code\n//# sourceMappingURL=agent.js.map\n").unwrap();
        std::fs::write(folder.path().join("agent.js.map"), "{}").unwrap();
        assert_eq!(read(&path).unwrap().1.as_deref(), Some("{}"));
    }
}
