//! Edits of containerd's configuration, text to text. The owner's comments, order and formatting stay.
//!
//! In a main file of version 3 or 4 the runtime goes into a drop-in file, and the main file gets one entry in `imports` unless
//! one covers the drop-in already. That entry is a pattern, not a file: containerd does not start when an imported file is
//! missing, and does when a pattern matches nothing.
//!
//! A main file of version 2 may be read by containerd 1.7, which replaces a plugin's whole table by an imported one. There the
//! runtime is written [in place](in_place), whichever containerd reads it: so it may be upgraded, and back.

mod in_place;

use std::path::{Path, PathBuf};

use hearth_api::RUNTIME_CLASS;
use toml_edit::{Array, DocumentMut, Item, RawString, TableLike, Value, value};

/// Name of the shim's program, which follows from the runtime type.
pub const SHIM: &str = "containerd-shim-hearth-v1";
const RUNTIME_TYPE: &str = "io.containerd.hearth.v1";
const DROP_IN_DIRECTORY: &str = "conf.d";
const DROP_IN_FILE: &str = "hearth.toml";
/// Matches the drop-in and nobody else's.
const DROP_IN_PATTERN: &str = "hearth*.toml";
/// Follows an `imports` that the owner does not have, so that the way back knows it from an owner's empty list.
const OUR_IMPORTS: &str = " # added by Hearth's installer";
/// For a node without any configuration file. Every containerd from 1.7 on reads it.
const DEFAULT_VERSION: i64 = 2;

/// Why a configuration cannot be edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file is no TOML.
    #[error("containerd's configuration is no TOML, so it was left alone: {0}")]
    Syntax(String),
    /// The file has a version whose plugin names we do not know.
    #[error(
        "containerd's configuration has version {0}, and Hearth knows 2, 3 and 4; \
         `containerd config migrate` prints it in a newer version"
    )]
    Version(String),
    /// `imports` is not a list of texts.
    #[error("`imports` in containerd's configuration is no list of texts, so it was left alone")]
    Imports,
    /// A runtime of our name is there, and it is not as we would write it.
    #[error(
        "containerd's configuration has a runtime `{RUNTIME_CLASS}` of plugin `{plugin}` that Hearth's installer did not write, \
         so it was left alone: remove that table, or keep it as you want it and set node.restart=manual",
        plugin = plugin(2)
    )]
    Owners,
    /// The owner's text lets no table be added to the runtimes.
    #[error(
        "the runtime cannot be added to containerd's configuration, maybe because its runtimes are written in braces; write \
         them as tables, [plugins.'{plugin}'.containerd.runtimes.NAME], or add the runtime yourself and set \
         node.restart=manual: {0}",
        plugin = plugin(2)
    )]
    Closed(String),
}

/// What containerd's files are to be. A file that is not to be there is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The main file.
    pub main: Option<String>,
    /// The drop-in.
    pub drop_in: Option<String>,
}

/// The files with the runtime, from the main file that is there.
pub fn installed(main: Option<&str>, config: &Path, bin_dir: &Path) -> Result<Files, ConfigError> {
    let own = main.and_then(in_place::without_table);
    let own = own.as_deref();
    Ok(match version(own)? {
        2 => {
            let own = own.map(|own| without_import(own, config)).transpose()?;
            Files {
                main: Some(in_place::with_table(own.as_deref(), bin_dir)?),
                drop_in: None,
            }
        }
        version => Files {
            main: Some(with_import(own.unwrap_or_default(), config)?),
            drop_in: Some(table(version, bin_dir)),
        },
    })
}

/// The main file without the runtime.
pub fn uninstalled(main: &str, config: &Path) -> Result<Option<String>, ConfigError> {
    let own = in_place::without_table(main);
    own.map(|own| without_import(&own, config)).transpose()
}

/// Whether a configuration offers the runtime: containerd's own print of it, whatever its version. `None` where it is no TOML.
pub fn offers_runtime(merged: &str) -> Option<bool> {
    let document = parse(merged).ok()?;
    let offers = [2, 3]
        .into_iter()
        .filter_map(|version| runtimes(&document, version))
        .any(|runtimes| runtimes.contains_key(RUNTIME_CLASS));
    Some(offers)
}

/// Where the drop-in goes.
pub fn drop_in_path(config: &Path) -> PathBuf {
    directory(config).join(DROP_IN_DIRECTORY).join(DROP_IN_FILE)
}

/// The runtime's table, as a file of its own, in a version of containerd's configuration.
pub fn table(version: i64, bin_dir: &Path) -> String {
    format!(
        "# Written by Hearth's installer; a change here is overwritten.\nversion = {version}\n\n{}",
        runtime_table(version, bin_dir)
    )
}

fn runtime_table(version: i64, bin_dir: &Path) -> String {
    let plugin = plugin(version);
    let shim = Value::from(bin_dir.join(SHIM).to_string_lossy().into_owned());
    format!(
        "[plugins.'{plugin}'.containerd.runtimes.{RUNTIME_CLASS}]\n\
         runtime_type = \"{RUNTIME_TYPE}\"\n\
         runtime_path = {shim}\n\
         pod_annotations = [\"hearth.dev/*\"]\n\
         container_annotations = [\"hearth.dev/*\"]\n"
    )
}

fn plugin(version: i64) -> &'static str {
    match version {
        2 => "io.containerd.grpc.v1.cri",
        _ => "io.containerd.cri.v1.runtime",
    }
}

fn runtimes(document: &DocumentMut, version: i64) -> Option<&dyn TableLike> {
    ["plugins", plugin(version), "containerd", "runtimes"]
        .into_iter()
        .try_fold(document.as_item(), |item, key| item.get(key))
        .and_then(Item::as_table_like)
}

/// The version of a main file; the default where there is none, or nothing in it.
fn version(main: Option<&str>) -> Result<i64, ConfigError> {
    let document = parse(main.unwrap_or_default())?;
    match document.get("version") {
        None if document.iter().all(|(key, _)| key == "imports") => Ok(DEFAULT_VERSION),
        // containerd reads a file without a version as version 1.
        None => Err(ConfigError::Version("1 (none is written)".to_owned())),
        Some(item) => match item.as_integer() {
            Some(version @ 2..=4) => Ok(version),
            _ => Err(ConfigError::Version(item.to_string().trim().to_owned())),
        },
    }
}

/// The main file's text with the drop-in imported.
fn with_import(main: &str, config: &Path) -> Result<String, ConfigError> {
    let mut document = parse(main)?;
    let target = drop_in_path(config);
    if imports(&document)?
        .iter()
        .any(|pattern| covers(pattern, config, &target))
    {
        return Ok(main.to_owned());
    }
    let pattern = import_pattern(config);
    match document.get_mut("imports").and_then(Item::as_array_mut) {
        Some(list) => list.push(pattern),
        None => {
            let mut imports = Value::from(Array::from_iter([pattern]));
            imports.decor_mut().set_suffix(OUR_IMPORTS);
            document.insert("imports", value(imports));
        }
    }
    Ok(document.to_string())
}

/// The main file's text without our import.
fn without_import(main: &str, config: &Path) -> Result<String, ConfigError> {
    let mut document = parse(main)?;
    imports(&document)?;
    let pattern = import_pattern(config);
    let Some(list) = document.get_mut("imports").and_then(Item::as_array_mut) else {
        return Ok(main.to_owned());
    };
    let before = list.len();
    list.retain(|entry| entry.as_str() != Some(&pattern));
    if list.len() == before {
        return Ok(main.to_owned());
    }
    let suffix = list.decor().suffix().and_then(RawString::as_str);
    if list.is_empty() && suffix == Some(OUR_IMPORTS) {
        document.remove("imports");
    }
    Ok(document.to_string())
}

fn parse(text: &str) -> Result<DocumentMut, ConfigError> {
    text.parse()
        .map_err(|error: toml_edit::TomlError| ConfigError::Syntax(error.to_string()))
}

fn imports(document: &DocumentMut) -> Result<Vec<String>, ConfigError> {
    let Some(item) = document.get("imports") else {
        return Ok(Vec::new());
    };
    let list = item.as_array().ok_or(ConfigError::Imports)?;
    list.iter()
        .map(|entry| {
            entry
                .as_str()
                .map(str::to_owned)
                .ok_or(ConfigError::Imports)
        })
        .collect()
}

fn directory(config: &Path) -> &Path {
    config.parent().unwrap_or(Path::new("/"))
}

fn import_pattern(config: &Path) -> String {
    directory(config)
        .join(DROP_IN_DIRECTORY)
        .join(DROP_IN_PATTERN)
        .to_string_lossy()
        .into_owned()
}

/// As containerd resolves imports: relative to the file that has them; `*` stays within a path's part.
fn covers(pattern: &str, config: &Path, target: &Path) -> bool {
    let pattern: PathBuf = directory(config).join(pattern).components().collect();
    let (mut patterns, mut parts) = (pattern.components(), target.components());
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) => {
                let (pattern, part) = (
                    pattern.as_os_str().as_encoded_bytes(),
                    part.as_os_str().as_encoded_bytes(),
                );
                if !matches(pattern, part) {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

/// `*` and `?`. Bracket classes are not read: such a pattern covers nothing, and one import too many does no harm.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skipped| matches(rest, &text[skipped..])),
        Some((b'?', rest)) => !text.is_empty() && matches(rest, &text[1..]),
        Some((byte, rest)) => text.first() == Some(byte) && matches(rest, &text[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "/etc/containerd/config.toml";
    const BIN: &str = "/opt/hearth/bin";
    const OURS: &str = "/etc/containerd/conf.d/hearth*.toml";

    /// A text that stays as it is is expected as `None`.
    fn check_import(main: &str, expected: Result<Option<&str>, ConfigError>) {
        let files = installed(Some(main), Path::new(CONFIG), Path::new(BIN));
        let found = files.map(|files| files.main.unwrap());
        let expected = expected.map(|text| text.unwrap_or(main).to_owned());
        assert_eq!(found, expected, "{main:?}");
        if let Ok(edited) = found {
            // Twice changes nothing, and the way back ends where it began.
            assert_eq!(main_of(&edited), edited);
            let back = uninstalled(&edited, Path::new(CONFIG)).unwrap();
            assert_eq!(back.as_deref(), Some(main));
        }
    }

    fn main_of(main: &str) -> String {
        let files = installed(Some(main), Path::new(CONFIG), Path::new(BIN)).unwrap();
        files.main.unwrap()
    }

    #[test]
    fn the_owners_text_stays() {
        check_import(
            "# ours\nversion = 3 # since 2.0\n\n[plugins.'x']\n  a = 1 # why\n",
            Ok(Some(
                "# ours\nversion = 3 # since 2.0\nimports = [\"/etc/containerd/conf.d/hearth*.toml\"] # added by Hearth's installer\n\n[plugins.'x']\n  a = 1 # why\n",
            )),
        );
        check_import(
            "version = 4\nimports = [\"/etc/other.toml\"] # keep\n",
            Ok(Some(
                "version = 4\nimports = [\"/etc/other.toml\", \"/etc/containerd/conf.d/hearth*.toml\"] # keep\n",
            )),
        );
        check_import(
            "version = 3\nimports = []\n",
            Ok(Some(
                "version = 3\nimports = [\"/etc/containerd/conf.d/hearth*.toml\"]\n",
            )),
        );
    }

    #[test]
    fn an_import_that_covers_the_drop_in_is_enough() {
        for pattern in [
            "/etc/containerd/conf.d/*.toml",
            "conf.d/*.toml",
            "./conf.d/hearth.toml",
            "/etc/*/conf.d/h?arth.toml",
        ] {
            check_import(
                &format!("version = 3\nimports = [\"{pattern}\"]\n"),
                Ok(None),
            );
        }
        let ours = format!("version = 3\nimports = [\"{OURS}\"]\n");
        assert_eq!(main_of(&ours), ours);
        for pattern in [
            "/etc/containerd/*.toml",
            "/etc/*",
            "/etc/containerd/conf.d/*.conf",
            "conf.d/[h]earth.toml",
        ] {
            let main = format!("version = 3\nimports = [\"{pattern}\"]\n");
            let expected = format!("version = 3\nimports = [\"{pattern}\", \"{OURS}\"]\n");
            check_import(&main, Ok(Some(&expected)));
        }
    }

    #[test]
    fn what_containerd_1_7_may_read_is_written_in_place() {
        let check = |main: Option<&str>| {
            let files = installed(main, Path::new(CONFIG), Path::new(BIN)).unwrap();
            let text = files.main.unwrap();
            assert_eq!(files.drop_in, None, "{main:?}");
            assert!(!text.contains("conf.d"), "{text}");
            assert_eq!(offers_runtime(&text), Some(true), "{text}");
            assert_eq!(main_of(&text), text);
            assert_eq!(
                uninstalled(&text, Path::new(CONFIG)).unwrap().as_deref(),
                main
            );
        };
        check(None);
        check(Some(""));
        check(Some("version = 2\n[grpc]\n  gid = 0\n"));
        check(Some("imports = ['/etc/x/*.toml']\n"));
    }

    #[test]
    fn a_version_that_changes_moves_the_runtime() {
        let two = main_of("version = 2\n");
        let three = main_of(&two.replace("version = 2", "version = 3"));
        assert_eq!(three, main_of("version = 3\n"));
        assert_eq!(main_of(&three.replace("version = 3", "version = 2")), two);
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        check_import("version = 3\nimports = \"x\"\n", Err(ConfigError::Imports));
        check_import("version = 3\nimports = [1]\n", Err(ConfigError::Imports));
        check_import("version = 9\n", Err(ConfigError::Version("9".to_owned())));
        check_import(
            "root = \"/x\"\n",
            Err(ConfigError::Version("1 (none is written)".to_owned())),
        );
        assert!(matches!(
            installed(Some("a = ["), Path::new(CONFIG), Path::new(BIN)),
            Err(ConfigError::Syntax(_))
        ));
    }

    #[test]
    fn only_our_import_is_taken_out() {
        let check = |main: &str, expected: &str| {
            let found = uninstalled(main, Path::new(CONFIG)).unwrap();
            assert_eq!(found.as_deref(), Some(expected), "{main}");
        };
        let covered = "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n";
        for untouched in ["version = 3\n", covered] {
            check(untouched, untouched);
        }
        check(
            &format!("version = 3\nimports = [\"{OURS}\", \"/etc/later.toml\"]\n"),
            "version = 3\nimports = [ \"/etc/later.toml\"]\n",
        );
        check(
            &format!("imports = [\"{OURS}\", \"/etc/later.toml\"]{OUR_IMPORTS}\n"),
            &format!("imports = [ \"/etc/later.toml\"]{OUR_IMPORTS}\n"),
        );
    }

    #[test]
    fn the_plugins_name_follows_the_version() {
        let check = |version: i64, plugin: &str| {
            let text = table(version, Path::new(BIN));
            let document = parse(&text).unwrap();
            assert_eq!(document["version"].as_integer(), Some(version));
            let runtime = &document["plugins"][plugin]["containerd"]["runtimes"]["hearth"];
            assert_eq!(
                runtime["runtime_type"].as_str(),
                Some("io.containerd.hearth.v1")
            );
            assert_eq!(
                runtime["runtime_path"].as_str(),
                Some("/opt/hearth/bin/containerd-shim-hearth-v1")
            );
            assert_eq!(runtime["pod_annotations"][0].as_str(), Some("hearth.dev/*"));
            assert_eq!(offers_runtime(&text), Some(true));
        };
        check(2, "io.containerd.grpc.v1.cri");
        check(3, "io.containerd.cri.v1.runtime");
        check(4, "io.containerd.cri.v1.runtime");
        assert_eq!(offers_runtime("version = 2\n"), Some(false));
        assert_eq!(offers_runtime("no = ["), None);
    }
}
