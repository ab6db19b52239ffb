//! Where things are on this node: read once from `shim.toml`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The shim's configuration. Every field is optional in the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Holds the artifact cache. Unset: `/var/lib/hearth`.
    pub state_dir: PathBuf,
    /// The engine's binary. Unset: `hearth-engine` beside the shim's own binary.
    pub engine: PathBuf,
    /// The JavaScript environment. Unset: `hearth-javascript.wasm` beside the shim's own binary.
    pub javascript: PathBuf,
    /// Wall-clock bound of one compilation, in milliseconds. Unset: 120,000.
    pub compile_deadline_ms: u32,
    /// Pods of this node begin to use a new binary of the engine at different times within so many milliseconds after it was
    /// installed: each starts a second engine for a moment. Unset: 30,000.
    pub handover_spread_ms: u32,
    /// Bytes that the artifact cache may hold; the least recently used go first. Unset: 10 GiB.
    pub cache_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/hearth"),
            engine: PathBuf::from("hearth-engine"),
            javascript: PathBuf::from("hearth-javascript.wasm"),
            compile_deadline_ms: 120_000,
            handover_spread_ms: 30_000,
            cache_bytes: 10 << 30,
        }
    }
}

/// Why the configuration could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there and cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no such TOML.
    #[error("{path} is no valid shim configuration")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
}

impl Config {
    /// Reads `<dir of exe>/../shim.toml`. A file that is not there means the defaults.
    pub fn load(exe: &Path) -> Result<Self, ConfigError> {
        let bin_dir = exe.parent().unwrap_or(Path::new("/"));
        let path = bin_dir.parent().unwrap_or(Path::new("/")).join("shim.toml");
        let mut config = match std::fs::read_to_string(&path) {
            Ok(text) => {
                toml::from_str(&text).map_err(|source| ConfigError::Parse { path, source })?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        // A relative path means beside the shim: an upgrade moves both at once.
        config.engine = bin_dir.join(&config.engine);
        config.javascript = bin_dir.join(&config.javascript);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_means_defaults_and_the_engine_beside_the_shim() {
        let dir = tempfile::tempdir().unwrap();
        let exe = dir.path().join("bin/containerd-shim-hearth-v1");
        let config = Config::load(&exe).unwrap();
        assert_eq!(config.state_dir, Path::new("/var/lib/hearth"));
        assert_eq!(config.engine, dir.path().join("bin/hearth-engine"));
    }

    #[test]
    fn the_file_overrides_and_unknown_fields_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let exe = dir.path().join("bin/shim");
        let file = dir.path().join("shim.toml");
        std::fs::write(&file, "state_dir = \"/x\"\nengine = \"/y/engine\"\n").unwrap();
        let config = Config::load(&exe).unwrap();
        assert_eq!(config.state_dir, Path::new("/x"));
        assert_eq!(config.engine, Path::new("/y/engine"));
        std::fs::write(&file, "statedir = \"/x\"\n").unwrap();
        assert!(matches!(Config::load(&exe), Err(ConfigError::Parse { .. })));
    }
}
