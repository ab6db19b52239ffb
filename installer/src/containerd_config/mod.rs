//! Edits of containerd's configuration, text to text. The owner's comments, order and formatting stay.
//!
//! The runtime goes into a drop-in file, and the main file gets one entry in `imports` unless one covers the drop-in already.
//! That entry is a pattern, not a file: containerd does not start when an imported file is missing, and does when a pattern
//! matches nothing. Works from containerd 2.0, which merges imported tables; 1.x replaces a plugin's whole table by the imported
//! one, so it is refused.

use std::path::{Path, PathBuf};

use hearth_api::RUNTIME_CLASS;
use toml_edit::{Array, DocumentMut, Item, RawString, Value, value};

/// Name of the shim's program, which follows from the runtime type.
pub const SHIM: &str = "containerd-shim-hearth-v1";
const RUNTIME_TYPE: &str = "io.containerd.hearth.v1";
const DROP_IN_DIRECTORY: &str = "conf.d";
const DROP_IN_FILE: &str = "hearth.toml";
/// Matches the drop-in and nobody else's.
const DROP_IN_PATTERN: &str = "hearth*.toml";
/// Follows an `imports` that the owner does not have, so that the way back knows it from an owner's empty list.
const OUR_IMPORTS: &str = " # added by Hearth's installer";
/// For a node without any configuration file.
const DEFAULT_VERSION: i64 = 3;

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
}

/// Where the drop-in goes.
pub fn drop_in_path(config: &Path) -> PathBuf {
    directory(config).join(DROP_IN_DIRECTORY).join(DROP_IN_FILE)
}

/// The drop-in's text for a main file of this version.
pub fn drop_in(version: i64, bin_dir: &Path) -> String {
    let plugin = match version {
        2 => "io.containerd.grpc.v1.cri",
        _ => "io.containerd.cri.v1.runtime",
    };
    let shim = Value::from(bin_dir.join(SHIM).to_string_lossy().into_owned());
    format!(
        "# Written by Hearth's installer; a change here is overwritten.\n\
         version = {version}\n\n\
         [plugins.'{plugin}'.containerd.runtimes.{RUNTIME_CLASS}]\n\
         runtime_type = \"{RUNTIME_TYPE}\"\n\
         runtime_path = {shim}\n\
         pod_annotations = [\"hearth.dev/*\"]\n\
         container_annotations = [\"hearth.dev/*\"]\n"
    )
}

/// The version of a main file; the default where there is none, or nothing in it.
pub fn version(main: Option<&str>) -> Result<i64, ConfigError> {
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

/// The main file's text with the drop-in imported; `None` where it is already.
pub fn with_import(main: Option<&str>, config: &Path) -> Result<Option<String>, ConfigError> {
    let mut document = parse(main.unwrap_or_default())?;
    let target = drop_in_path(config);
    if imports(&document)?
        .iter()
        .any(|pattern| covers(pattern, config, &target))
    {
        return Ok(None);
    }
    let version = version(main)?;
    if document.get("version").is_none() {
        document.insert("version", value(version));
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
    Ok(Some(document.to_string()))
}

/// The main file's text without our import; `None` where it has none.
pub fn without_import(main: &str, config: &Path) -> Result<Option<String>, ConfigError> {
    let mut document = parse(main)?;
    imports(&document)?;
    let pattern = import_pattern(config);
    let Some(list) = document.get_mut("imports").and_then(Item::as_array_mut) else {
        return Ok(None);
    };
    let before = list.len();
    list.retain(|entry| entry.as_str() != Some(&pattern));
    if list.len() == before {
        return Ok(None);
    }
    let suffix = list.decor().suffix().and_then(RawString::as_str);
    if list.is_empty() && suffix == Some(OUR_IMPORTS) {
        document.remove("imports");
    }
    Ok(Some(document.to_string()))
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
    const OURS: &str = "/etc/containerd/conf.d/hearth*.toml";

    fn check_import(main: Option<&str>, expected: Result<Option<&str>, ConfigError>) {
        let found = with_import(main, Path::new(CONFIG));
        assert_eq!(
            found.as_ref().map(Option::as_deref),
            expected.as_ref().map(|text| *text),
            "{main:?}"
        );
        if let (Some(main), Ok(Some(edited))) = (main, found) {
            // Twice changes nothing, and the way back ends where it began.
            assert_eq!(with_import(Some(&edited), Path::new(CONFIG)), Ok(None));
            let back = without_import(&edited, Path::new(CONFIG)).unwrap().unwrap();
            assert_eq!(back.trim(), main.trim());
        }
    }

    #[test]
    fn the_owners_text_stays() {
        check_import(
            Some("# ours\nversion = 3 # since 2.0\n\n[plugins.'x']\n  a = 1 # why\n"),
            Ok(Some(
                "# ours\nversion = 3 # since 2.0\nimports = [\"/etc/containerd/conf.d/hearth*.toml\"] # added by Hearth's installer\n\n[plugins.'x']\n  a = 1 # why\n",
            )),
        );
        check_import(
            Some("version = 2\nimports = [\"/etc/other.toml\"] # keep\n"),
            Ok(Some(
                "version = 2\nimports = [\"/etc/other.toml\", \"/etc/containerd/conf.d/hearth*.toml\"] # keep\n",
            )),
        );
        check_import(
            Some("version = 3\nimports = []\n"),
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
            OURS,
        ] {
            check_import(
                Some(&format!("version = 3\nimports = [\"{pattern}\"]\n")),
                Ok(None),
            );
        }
        for pattern in [
            "/etc/containerd/*.toml",
            "/etc/*",
            "/etc/containerd/conf.d/*.conf",
            "conf.d/[h]earth.toml",
        ] {
            let main = format!("version = 3\nimports = [\"{pattern}\"]\n");
            let expected = format!("version = 3\nimports = [\"{pattern}\", \"{OURS}\"]\n");
            check_import(Some(&main), Ok(Some(&expected)));
        }
    }

    #[test]
    fn a_node_without_configuration_gets_one() {
        let expected =
            format!("version = 3\nimports = [\"{OURS}\"] # added by Hearth's installer\n");
        assert_eq!(with_import(None, Path::new(CONFIG)), Ok(Some(expected)));
        assert_eq!(version(None), Ok(3));
        assert_eq!(version(Some("# nothing\n")), Ok(3));
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        check_import(
            Some("version = 3\nimports = \"x\"\n"),
            Err(ConfigError::Imports),
        );
        check_import(
            Some("version = 3\nimports = [1]\n"),
            Err(ConfigError::Imports),
        );
        check_import(
            Some("version = 9\n"),
            Err(ConfigError::Version("9".to_owned())),
        );
        check_import(
            Some("root = \"/x\"\n"),
            Err(ConfigError::Version("1 (none is written)".to_owned())),
        );
        assert!(matches!(
            with_import(Some("a = ["), Path::new(CONFIG)),
            Err(ConfigError::Syntax(_))
        ));
    }

    #[test]
    fn only_our_import_is_taken_out() {
        let check = |main: &str, expected: Option<&str>| {
            assert_eq!(
                without_import(main, Path::new(CONFIG)).unwrap().as_deref(),
                expected,
                "{main}"
            );
        };
        check("version = 3\n", None);
        check(
            "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n",
            None,
        );
        check(
            &format!("version = 3\nimports = [\"{OURS}\", \"/etc/later.toml\"]\n"),
            Some("version = 3\nimports = [ \"/etc/later.toml\"]\n"),
        );
        check(
            &format!("imports = [\"{OURS}\", \"/etc/later.toml\"]{OUR_IMPORTS}\n"),
            Some(&format!("imports = [ \"/etc/later.toml\"]{OUR_IMPORTS}\n")),
        );
    }

    #[test]
    fn the_plugins_name_follows_the_version() {
        let check = |version: i64, plugin: &str| {
            let document: DocumentMut = drop_in(version, Path::new("/opt/hearth/bin"))
                .parse()
                .unwrap();
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
        };
        check(2, "io.containerd.grpc.v1.cri");
        check(3, "io.containerd.cri.v1.runtime");
        check(4, "io.containerd.cri.v1.runtime");
    }
}
