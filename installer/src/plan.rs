//! What has to change, from what is there. Pure.

use std::path::{Path, PathBuf};

use crate::config::{Config, Restart};
use crate::containerd_config::{self, ConfigError};

/// Programs of the payload, in the order in which they are replaced: a new shim must not meet an old engine.
pub const PROGRAMS: [&str; 3] = [
    "hearth-javascript.wasm",
    "hearth-engine",
    containerd_config::SHIM,
];

/// SHA-256 of a file's content.
pub type Digest = [u8; 32];

/// What is on the node. A missing file is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// For each of [`PROGRAMS`]: what the payload has, and what the node has.
    pub programs: [(Digest, Option<Digest>); PROGRAMS.len()],
    /// The shim's configuration file.
    pub shim_config: Option<String>,
    /// containerd's drop-in.
    pub drop_in: Option<String>,
    /// containerd's main file.
    pub main: Option<String>,
    /// An earlier run changed containerd's configuration and ended before containerd read it.
    pub pending: bool,
    /// The running containerd lists the runtime.
    pub listed: bool,
}

/// One text file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Path on the host.
    pub path: PathBuf,
    /// The new content; `None` removes the file.
    pub text: Option<String>,
}

/// What has to change, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Programs to copy.
    pub programs: Vec<&'static str>,
    /// Files to write.
    pub writes: Vec<Write>,
    /// containerd has to read its configuration again.
    pub restart: bool,
}

impl Plan {
    /// Nothing has to change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The path of the shim's configuration file.
pub fn shim_config_path(bin_dir: &Path) -> PathBuf {
    bin_dir.parent().unwrap_or(Path::new("/")).join("shim.toml")
}

/// A file that exists from before containerd's configuration changes until containerd was seen to run with it.
pub fn pending_path(bin_dir: &Path) -> PathBuf {
    bin_dir
        .parent()
        .unwrap_or(Path::new("/"))
        .join("restart-pending")
}

/// The text of the shim's configuration file.
pub fn shim_config(state_dir: &Path) -> String {
    let state_dir = toml_edit::Value::from(state_dir.to_string_lossy().into_owned());
    format!(
        "# Written by Hearth's installer; a change here is overwritten.\nstate_dir = {state_dir}\n"
    )
}

/// Plans an installation.
pub fn install(config: &Config, observed: &Observed) -> Result<Plan, ConfigError> {
    let changed =
        |(_, (payload, installed)): &(&str, (Digest, Option<Digest>))| *installed != Some(*payload);
    let programs = PROGRAMS
        .into_iter()
        .zip(observed.programs)
        .filter(changed)
        .map(|(name, _)| name)
        .collect();
    let mut writes = Vec::new();
    let mut wants = |path: PathBuf, text: Option<String>, found: &Option<String>| {
        let differs = *found != text;
        if differs {
            writes.push(Write { path, text });
        }
        differs
    };
    wants(
        shim_config_path(&config.bin_dir),
        Some(shim_config(&config.state_dir)),
        &observed.shim_config,
    );
    if config.restart == Restart::Manual {
        return Ok(Plan {
            programs,
            writes,
            restart: false,
        });
    }
    let files = containerd_config::installed(
        observed.main.as_deref(),
        &config.containerd_config,
        &config.bin_dir,
    )?;
    // The main file last: it names what by then exists.
    let mut reconfigured = wants(
        containerd_config::drop_in_path(&config.containerd_config),
        files.drop_in,
        &observed.drop_in,
    );
    reconfigured |= wants(config.containerd_config.clone(), files.main, &observed.main);
    Ok(Plan {
        programs,
        writes,
        restart: reconfigured || observed.pending || !observed.listed,
    })
}

/// Plans the way back. Programs are removed by the caller, after containerd forgot them.
pub fn uninstall(config: &Config, observed: &Observed) -> Result<Plan, ConfigError> {
    let mut writes = Vec::new();
    let mut restart = false;
    if config.restart != Restart::Manual {
        if let Some(main) = &observed.main {
            let text = containerd_config::uninstalled(main, &config.containerd_config)?;
            if text.as_ref() != Some(main) {
                let path = config.containerd_config.clone();
                writes.push(Write { path, text });
            }
        }
        if observed.drop_in.is_some() {
            let path = containerd_config::drop_in_path(&config.containerd_config);
            writes.push(Write { path, text: None });
        }
        restart = !writes.is_empty() || observed.pending;
    }
    if observed.shim_config.is_some() {
        writes.push(Write {
            path: shim_config_path(&config.bin_dir),
            text: None,
        });
    }
    Ok(Plan {
        programs: Vec::new(),
        writes,
        restart,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Digest = [1; 32];
    const OLD: Digest = [0; 32];

    fn config(restart: Restart) -> Config {
        Config {
            host_root: "/host".into(),
            payload: "/opt/hearth/bin".into(),
            bin_dir: "/opt/hearth/bin".into(),
            state_dir: "/var/lib/hearth".into(),
            containerd_config: "/etc/containerd/config.toml".into(),
            containerd_socket: "/run/containerd/containerd.sock".into(),
            restart,
            systemd_unit: "containerd.service".to_owned(),
            deadline_seconds: 1,
            interval_seconds: 1,
            ready_file: "/run/ready".into(),
            node_name: "n1".to_owned(),
        }
    }

    fn fresh() -> Observed {
        Observed {
            programs: [(NEW, None); PROGRAMS.len()],
            shim_config: None,
            drop_in: None,
            main: Some("version = 3\n".to_owned()),
            pending: false,
            listed: false,
        }
    }

    /// What is there after a plan was applied.
    fn applied(plan: &Plan, mut observed: Observed) -> Observed {
        for (name, program) in PROGRAMS.into_iter().zip(&mut observed.programs) {
            if plan.programs.contains(&name) {
                program.1 = Some(program.0);
            }
        }
        for write in &plan.writes {
            let text = write.text.clone();
            match write.path.to_str().unwrap() {
                "/opt/hearth/shim.toml" => observed.shim_config = text,
                "/etc/containerd/conf.d/hearth.toml" => observed.drop_in = text,
                "/etc/containerd/config.toml" => observed.main = text,
                other => panic!("{other}"),
            }
        }
        observed.listed = observed.drop_in.is_some();
        observed.pending = false;
        observed
    }

    fn check(observed: &Observed, programs: &[&str], paths: &[&str], restart: bool) {
        let plan = install(&config(Restart::Systemd), observed).unwrap();
        let found: Vec<&str> = plan
            .writes
            .iter()
            .map(|write| write.path.to_str().unwrap())
            .collect();
        assert_eq!(
            (plan.programs.as_slice(), found.as_slice(), plan.restart),
            (programs, paths, restart),
            "{observed:?}"
        );
        let after = applied(&plan, observed.clone());
        assert!(
            install(&config(Restart::Systemd), &after)
                .unwrap()
                .is_empty(),
            "a plan that was applied leaves nothing to do"
        );
    }

    #[test]
    fn only_what_differs_changes_and_only_configuration_restarts() {
        let all = [
            "/opt/hearth/shim.toml",
            "/etc/containerd/conf.d/hearth.toml",
            "/etc/containerd/config.toml",
        ];
        check(&fresh(), &PROGRAMS, &all, true);
        let installed = applied(
            &install(&config(Restart::Systemd), &fresh()).unwrap(),
            fresh(),
        );
        check(&installed, &[], &[], false);
        check(
            &Observed {
                programs: [(NEW, Some(NEW)), (NEW, Some(OLD)), (NEW, Some(NEW))],
                ..installed.clone()
            },
            &["hearth-engine"],
            &[],
            false,
        );
        check(
            &Observed {
                shim_config: None,
                ..installed.clone()
            },
            &[],
            &all[..1],
            false,
        );
        check(
            &Observed {
                drop_in: Some("old".to_owned()),
                ..installed.clone()
            },
            &[],
            &all[1..2],
            true,
        );
        check(
            &Observed {
                main: Some("version = 3\n".to_owned()),
                ..installed.clone()
            },
            &[],
            &all[2..],
            true,
        );
        check(
            &Observed {
                pending: true,
                ..installed.clone()
            },
            &[],
            &[],
            true,
        );
        check(
            &Observed {
                listed: false,
                ..installed
            },
            &[],
            &[],
            true,
        );
    }

    #[test]
    fn manual_leaves_containerd_to_its_owner() {
        let plan = install(&config(Restart::Manual), &fresh()).unwrap();
        assert_eq!(plan.writes.len(), 1);
        assert!(!plan.restart);
    }

    #[test]
    fn the_way_back_ends_where_it_began() {
        let config = config(Restart::Supervised);
        let installed = applied(&install(&config, &fresh()).unwrap(), fresh());
        let plan = uninstall(&config, &installed).unwrap();
        assert!(plan.restart);
        let after = applied(&plan, installed);
        assert_eq!(
            (after.main.as_deref(), after.drop_in, after.shim_config),
            (Some("version = 3\n"), None, None)
        );
        assert!(uninstall(&config, &fresh()).unwrap().is_empty());
    }
}
