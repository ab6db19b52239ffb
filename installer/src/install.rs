//! The order of steps, and the way back: observe, plan, apply, prove.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};

use crate::config::{Config, Restart};
use crate::containerd_config::{self, SHIM};
use crate::cri::{Cri, Wanted};
use crate::daemon::{Daemon, command};
use crate::host::{self, Host, Undo};
use crate::plan::{self, PROGRAMS, Plan};

/// Time for the shim to say what it is.
const INFO: Duration = Duration::from_secs(10);
/// What the shim keeps in the state directory that can be made again.
const ARTIFACTS: &str = "artifacts";

/// Installs on one node.
#[derive(Debug)]
pub struct Installer<D> {
    config: Config,
    host: Host,
    cri: Cri,
    daemon: D,
}

impl<D: Daemon> Installer<D> {
    /// An installer that changes nothing yet.
    pub fn new(config: Config, daemon: D) -> Self {
        let host = Host::new(&config.host_root);
        let cri = Cri::new(&host.path(&config.containerd_socket));
        Self {
            config,
            host,
            cri,
            daemon,
        }
    }

    /// Brings the node to the wanted state, and proves it. Does nothing but prove where the node is in that state. Returns
    /// what was changed.
    pub async fn install(&self) -> Result<Plan> {
        let observed = self.host.observe(&self.config, self.answering().await?)?;
        let plan = plan::install(&self.config, &observed)?;
        self.stage(&plan).await?;
        self.change(&plan, Wanted::Listed).await?;
        Ok(plan)
    }

    /// Takes everything from the node that an installation brought. Pods that still run keep running, but new ones cannot start.
    pub async fn uninstall(&self) -> Result<Plan> {
        let observed = self.host.observe(&self.config, self.answering().await?)?;
        let plan = plan::uninstall(&self.config, &observed)?;
        let wanted = if self.config.restart == Restart::Manual {
            Wanted::Answer
        } else {
            Wanted::NotListed
        };
        self.change(&plan, wanted).await?;
        for name in PROGRAMS {
            host::remove(&self.host.path(&self.config.bin_dir.join(name)))
                .with_context(|| format!("remove {name}"))?;
        }
        self.host.unstage(&self.config)?;
        let artifacts = self.host.path(&self.config.state_dir.join(ARTIFACTS));
        match std::fs::remove_dir_all(&artifacts) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", artifacts.display()))?;
            }
            _ => {}
        }
        Ok(plan)
    }

    /// Nothing is touched on a node whose containerd does not answer: afterwards nobody could tell whose fault it is.
    async fn answering(&self) -> Result<bool> {
        let untouched = "nothing was changed on this node";
        self.cri
            .wait(Wanted::Answer, self.config.deadline())
            .await
            .context(untouched)?;
        self.cri.config_version().await.context(untouched)?;
        self.cri.listed().await
    }

    /// Copies programs beside their places and asks the new shim what it is, before anything is replaced.
    async fn stage(&self, plan: &Plan) -> Result<()> {
        let staged = self.copy(plan).await;
        if staged.is_err()
            && let Err(error) = self.host.unstage(&self.config)
        {
            tracing::warn!(error = %format!("{error:#}"), "copies of programs were left on the node");
        }
        staged
    }

    async fn copy(&self, plan: &Plan) -> Result<()> {
        for name in &plan.programs {
            let staged = self.host.stage(&self.config, name)?;
            if *name == SHIM {
                check_shim(&staged)
                    .await
                    .context("the new shim does not run on this node; nothing was replaced")?;
            }
        }
        Ok(())
    }

    async fn change(&self, plan: &Plan, wanted: Wanted) -> Result<()> {
        let mut attempt = Attempt {
            undo: Undo::new(&self.host, &self.config),
            owed: self.host.read(&self.pending())?.is_some(),
            restarted: false,
        };
        match self.carry_out(plan, wanted, &mut attempt).await {
            Ok(()) => {
                attempt.undo.keep()?;
                self.host.write(&self.pending(), None)
            }
            Err(error) => Err(self.roll_back(attempt, error).await),
        }
    }

    async fn carry_out(
        &self,
        plan: &Plan,
        wanted: Wanted,
        attempt: &mut Attempt<'_>,
    ) -> Result<()> {
        if plan.restart {
            self.host.write(&self.pending(), Some(""))?;
        }
        attempt.undo.apply(plan)?;
        if plan.restart {
            self.judge(wanted).await?;
            attempt.restarted = true;
            tracing::info!("containerd is restarted to read its changed configuration");
            self.daemon
                .restart()
                .await
                .context("containerd was not restarted")?;
        }
        self.prove(wanted).await
    }

    /// Before a restart: what containerd would run with.
    async fn judge(&self, wanted: Wanted) -> Result<()> {
        let merged = self.daemon.validate().await;
        let merged = merged.context("containerd refuses the new configuration")?;
        let offers = merged.and_then(|merged| containerd_config::offers_runtime(&merged));
        ensure!(
            wanted != Wanted::Listed || offers != Some(false),
            "containerd would not offer the runtime: of several files with the table of a plugin, containerd 1.7 reads the last \
             one alone, and a file that {} imports has the table plugins.'io.containerd.grpc.v1.cri' too; add the runtime to \
             that file yourself and set node.restart=manual",
            self.config.containerd_config.display()
        );
        Ok(())
    }

    async fn prove(&self, wanted: Wanted) -> Result<()> {
        if let Err(error) = self.cri.wait(wanted, self.config.deadline()).await {
            return Err(match self.config.restart {
                Restart::Manual => error.context(self.request().await),
                Restart::Systemd | Restart::Supervised => error,
            });
        }
        if wanted == Wanted::Listed {
            check_shim(&self.host.path(&self.config.bin_dir.join(SHIM))).await?;
        }
        Ok(())
    }

    /// What the owner of containerd's configuration has to do.
    async fn request(&self) -> String {
        let version = self.cri.config_version().await.unwrap_or(3);
        format!(
            "node.restart=manual: add this to containerd's configuration and restart containerd:\n{}",
            containerd_config::table(version, &self.config.bin_dir)
        )
    }

    /// Puts back what was there, and says how that went, what failed, and where to look.
    async fn roll_back(&self, attempt: Attempt<'_>, error: Error) -> Error {
        let restarted = attempt.restarted;
        let outcome = match self.put_back(attempt).await {
            Ok(()) if restarted => {
                "was not changed (what was there before was put back, and containerd answers)"
                    .to_owned()
            }
            Ok(()) => {
                "was not changed (what was there before was put back; containerd was not touched)"
                    .to_owned()
            }
            Err(error) => format!(
                "WAS LEFT HALF CHANGED: PUTTING BACK WHAT WAS THERE BEFORE FAILED TOO ({error:#})"
            ),
        };
        let look = match self.config.restart {
            Restart::Systemd => format!(
                "`journalctl --unit={}` on the node",
                self.config.systemd_unit
            ),
            Restart::Supervised | Restart::Manual => "containerd's log on the node".to_owned(),
        };
        error.context(format!(
            "node {} {outcome}; look at {look}",
            self.config.node_name
        ))
    }

    async fn put_back(&self, attempt: Attempt<'_>) -> Result<()> {
        let mut back = attempt.undo.revert();
        if attempt.restarted {
            // Also where a file was not put back: what failed may have left no containerd.
            back = back.and(self.restart_again().await);
        }
        back?;
        if attempt.restarted || !attempt.owed {
            self.host.write(&self.pending(), None)?;
        }
        Ok(())
    }

    async fn restart_again(&self) -> Result<()> {
        self.daemon.restart().await?;
        self.cri.wait(Wanted::Answer, self.config.deadline()).await
    }

    fn pending(&self) -> PathBuf {
        plan::pending_path(&self.config.bin_dir)
    }
}

/// A change under way.
struct Attempt<'a> {
    undo: Undo<'a>,
    /// An earlier attempt left containerd a restart. It is still owed where this one ends before its own.
    owed: bool,
    restarted: bool,
}

/// Asks a shim what it is, as containerd does before it creates a task.
async fn check_shim(shim: &Path) -> Result<()> {
    let output = command(shim, &[OsString::from("-info")], INFO)
        .await
        .context("ask the shim what it is")?;
    ensure!(
        !output.stdout.is_empty(),
        "{} -info answered nothing",
        shim.display()
    );
    Ok(())
}
