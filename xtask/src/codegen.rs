//! Files that are generated from the types and committed: the CRDs and the chart's copy of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::images::Build;

/// Folders that hold exactly the generated files; the chart's copy is what `helm upgrade` applies.
const FOLDERS: [&str; 2] = ["crds", "charts/hearth/files/crds"];

/// Writes them, or checks them.
pub(crate) fn run(repository: &Path, check: bool) -> Result<()> {
    let build = Build::new(repository, false)?;
    let example = build.executable(
        &[
            "build",
            "--workspace",
            "--exclude",
            "xtask",
            "--example",
            "crds",
        ],
        "crds",
    )?;
    let output = std::process::Command::new(example)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("run hearth-api's example `crds`")?;
    ensure!(
        output.status.success(),
        "hearth-api's example `crds` failed: see above"
    );
    let files = split(&String::from_utf8_lossy(&output.stdout))?;
    for folder in FOLDERS {
        apply(&repository.join(folder), &files, check)?;
    }
    Ok(())
}

/// A file for each document, named after the resource.
fn split(documents: &str) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for document in documents
        .split("\n---\n")
        .map(|part| part.trim_start_matches("---\n").trim())
    {
        if document.is_empty() {
            continue;
        }
        let plural = document
            .lines()
            .find_map(|line| line.trim().strip_prefix("plural: "));
        let plural = plural.context("a document names no plural: is it a CRD?")?;
        files.insert(format!("{plural}.yaml"), format!("{document}\n"));
    }
    ensure!(!files.is_empty(), "no CRD was printed");
    Ok(files)
}

fn apply(folder: &Path, files: &BTreeMap<String, String>, check: bool) -> Result<()> {
    let mut wrong = Vec::new();
    for (name, text) in files {
        let path = folder.join(name);
        if fs::read_to_string(&path).is_ok_and(|found| found == *text) {
            continue;
        }
        if check {
            wrong.push(format!("{} is not what the types say", path.display()));
        } else {
            fs::create_dir_all(folder)?;
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            println!("wrote {}", path.display());
        }
    }
    for path in files_below(folder)? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.ends_with(".yaml") && !files.contains_key(&name) {
            wrong.push(format!("{} comes from no type: delete it", path.display()));
        }
    }
    if !wrong.is_empty() {
        bail!(
            "{}\nrun `cargo xtask codegen` and commit the result",
            wrong.join("\n")
        );
    }
    Ok(())
}

/// All files of a folder and its folders, sorted; none where there is no folder.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if folder.is_dir() {
        for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                files.extend(files_below(&path)?);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_become_files_named_after_the_resource() {
        let files = split(
            "---\nkind: A\nnames:\n  plural: agents\n---\nkind: B\nnames:\n  plural: pools\n",
        )
        .unwrap();
        assert_eq!(
            files.keys().collect::<Vec<_>>(),
            ["agents.yaml", "pools.yaml"]
        );
        assert_eq!(files["agents.yaml"], "kind: A\nnames:\n  plural: agents\n");
        assert!(split("kind: C\n").is_err());
    }
}
