//! The folder of a JavaScript or TypeScript agent: where its code begins, what it is called, how it is bundled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// Where an agent's code may begin, the first that is there.
const ENTRIES: [&str; 8] = [
    "src/agent.ts",
    "src/agent.js",
    "src/index.ts",
    "src/index.js",
    "agent.ts",
    "agent.js",
    "index.ts",
    "index.js",
];

/// Ends of names of files that can be bundled.
const EXTENSIONS: [&str; 7] = ["js", "mjs", "jsx", "ts", "mts", "tsx", "cjs"];

/// What `package.json` says that matters here.
#[derive(Debug, Default, Deserialize)]
struct Package {
    name: Option<String>,
    #[serde(default)]
    hearth: Settings,
}

/// The field `hearth` of `package.json`.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Where the code begins. Unset: the first of the usual names.
    entry: Option<PathBuf>,
    /// Modules that are taken in place of others.
    pub(crate) alias: BTreeMap<String, String>,
    /// Built-in modules of Node that may be imported and throw when they are used.
    pub(crate) stub: Vec<String>,
    /// As the option of `hearth build`.
    pub(crate) minify: bool,
}

/// An agent's code.
#[derive(Debug)]
pub(crate) struct Project {
    /// The folder of its `package.json`, else that of its entry.
    pub(crate) root: PathBuf,
    /// The module whose default export has `fetch`.
    pub(crate) entry: PathBuf,
    /// A name that objects of Kubernetes may have.
    pub(crate) name: String,
    /// How it is bundled.
    pub(crate) settings: Settings,
}

impl Project {
    /// Finds it from a folder, or from the file that its code begins in.
    ///
    /// # Errors
    /// When there is nothing to begin with, or `package.json` cannot be read.
    pub(crate) fn find(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)?;
        let is_folder = path.is_dir();
        let folder = match is_folder {
            true => path.as_path(),
            false => path.parent().unwrap_or(&path),
        };
        let found = folder
            .ancestors()
            .take(if is_folder { 1 } else { usize::MAX })
            .find(|folder| folder.join("package.json").is_file());
        let root = found.unwrap_or(folder).to_owned();
        let package = match found {
            Some(folder) => package(&folder.join("package.json"))?,
            None => Package::default(),
        };
        let entry = match (is_folder, &package.hearth.entry) {
            (false, _) => path.clone(),
            (true, Some(entry)) => root.join(entry),
            (true, None) => {
                let entries = ENTRIES.map(|name| root.join(name));
                let Some(entry) = entries.into_iter().find(|entry| entry.is_file()) else {
                    bail!(
                        "{} has none of {}; name the file, or set \"hearth\": {{\"entry\": …}} in package.json",
                        root.display(),
                        ENTRIES.join(", ")
                    );
                };
                entry
            }
        };
        if !entry.is_file() {
            bail!("there is no file {}", entry.display());
        }
        if !is_code(&entry) {
            bail!(
                "{} is no JavaScript or TypeScript: its name ends with none of {}",
                entry.display(),
                EXTENSIONS.join(", ")
            );
        }
        let named = package
            .name
            .as_deref()
            .and_then(|name| name.rsplit('/').next());
        let fallback = match found.is_some() || is_folder {
            true => root.file_name(),
            false => entry.file_stem(),
        };
        let fallback = fallback.unwrap_or_default().to_string_lossy();
        Ok(Self {
            name: object_name(named.unwrap_or(&fallback)),
            root,
            entry,
            settings: package.hearth,
        })
    }
}

/// Whether a file is code that is bundled, by the end of its name.
pub(crate) fn is_code(path: &Path) -> bool {
    let end = path.extension().and_then(|end| end.to_str());
    end.is_some_and(|end| EXTENSIONS.contains(&end))
}

fn package(path: &Path) -> Result<Package> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{}: it, or its field \"hearth\", is wrong", path.display()))
}

/// A name as a Service may have it: at most 63 lower-case letters, digits and dashes, a letter first.
pub(crate) fn object_name(text: &str) -> String {
    let mut name = String::new();
    for character in text.to_lowercase().chars() {
        match character {
            'a'..='z' => name.push(character),
            '0'..='9' if !name.is_empty() => name.push(character),
            _ if !name.is_empty() && !name.ends_with('-') => name.push('-'),
            _ => {}
        }
    }
    name.truncate(63);
    match name.trim_end_matches('-') {
        "" => "agent".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_found_from_its_folder_and_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("src/lib")).unwrap();
        for file in ["src/agent.ts", "src/lib/other.ts", "src/notes.txt"] {
            std::fs::write(root.join(file), "").unwrap();
        }
        let found = Project::find(root).unwrap();
        assert_eq!(found.entry, root.join("src/agent.ts"));
        let package =
            r#"{"name":"@shop/Support_Agent","hearth":{"entry":"src/lib/other.ts","stub":["fs"]}}"#;
        std::fs::write(root.join("package.json"), package).unwrap();
        let found = Project::find(root).unwrap();
        assert_eq!(
            (found.name.as_str(), found.settings.stub.as_slice()),
            ("support-agent", &["fs".to_owned()][..])
        );
        assert_eq!(found.entry, root.join("src/lib/other.ts"));
        let found = Project::find(&root.join("src/agent.ts")).unwrap();
        assert_eq!(
            (found.entry, found.root.as_path()),
            (root.join("src/agent.ts"), root)
        );
        let wrong = |path: &Path| format!("{:#}", Project::find(path).unwrap_err());
        assert!(wrong(&root.join("src/lib")).contains("src/agent.ts"));
        assert!(wrong(&root.join("src/notes.txt")).contains("no JavaScript"));
        std::fs::write(root.join("package.json"), r#"{"hearth":{"stubs":[]}}"#).unwrap();
        assert!(wrong(root).contains("stubs"), "{}", wrong(root));
    }

    #[test]
    fn a_name_is_one_of_a_service() {
        for (text, name) in [
            ("Support_Agent", "support-agent"),
            ("1st agent!", "st-agent"),
            ("", "agent"),
            ("--", "agent"),
        ] {
            assert_eq!(object_name(text), name);
        }
        assert_eq!(object_name(&"x".repeat(80)).len(), 63);
    }
}
