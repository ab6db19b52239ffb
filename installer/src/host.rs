//! The host's files, below the directory where they are mounted.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::containerd_config;
use crate::plan::{self, Digest, Observed, PROGRAMS, Plan};

/// The host's file system as this container sees it.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The host's `/` is `root` here.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Where a path of the host is here.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Looks at everything that a plan depends on, apart from the running containerd.
    pub fn observe(&self, config: &Config, listed: bool) -> Result<Observed> {
        let digests = |name: &str| -> Result<(Digest, Option<Digest>)> {
            let payload = digest(&config.payload.join(name))?.with_context(|| {
                format!(
                    "the installer's image has no {}",
                    config.payload.join(name).display()
                )
            })?;
            Ok((payload, digest(&self.path(&config.bin_dir.join(name)))?))
        };
        Ok(Observed {
            programs: [
                digests(PROGRAMS[0])?,
                digests(PROGRAMS[1])?,
                digests(PROGRAMS[2])?,
            ],
            shim_config: self.read(&plan::shim_config_path(&config.bin_dir))?,
            drop_in: self.read(&containerd_config::drop_in_path(&config.containerd_config))?,
            main: self.read(&config.containerd_config)?,
            pending: self.read(&plan::pending_path(&config.bin_dir))?.is_some(),
            listed,
        })
    }

    /// A text file's content; `None` where it is missing.
    pub fn read(&self, path: &Path) -> Result<Option<String>> {
        match fs::read_to_string(self.path(path)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(error).with_context(|| format!("read {} of the host", path.display()))
            }
        }
    }

    /// Replaces a text file whole, or removes it. Readers see the old or the new content.
    pub fn write(&self, path: &Path, text: Option<&str>) -> Result<()> {
        let here = self.path(path);
        let result = match text {
            Some(text) => replace(&here, text),
            None => remove(&here).map_err(Into::into),
        };
        result.with_context(|| format!("write {} of the host", path.display()))
    }

    /// Copies a program next to its place, as `<name>.new`, and returns where that is here.
    pub fn stage(&self, config: &Config, name: &str) -> Result<PathBuf> {
        let Places { staged, .. } = self.places(config, name);
        let copy = || -> io::Result<()> {
            make_parent(&staged)?;
            remove(&staged)?;
            fs::copy(config.payload.join(name), &staged)?;
            fs::set_permissions(&staged, Permissions::from_mode(0o755))?;
            File::open(&staged)?.sync_all()
        };
        copy()
            .with_context(|| format!("copy {name} to {} of the host", config.bin_dir.display()))?;
        Ok(staged)
    }

    /// Removes the copies that were not moved to their places; also those of an installation that did not end.
    pub fn unstage(&self, config: &Config) -> Result<()> {
        for name in PROGRAMS {
            remove(&self.places(config, name).staged)
                .with_context(|| format!("remove the copy of {name}"))?;
        }
        Ok(())
    }

    fn places(&self, config: &Config, name: &str) -> Places {
        let program = self.path(&config.bin_dir.join(name));
        let beside = |suffix: &str| program.with_file_name(format!("{name}.{suffix}"));
        Places {
            previous: beside("previous"),
            staged: beside("new"),
            program,
        }
    }
}

/// Where a program is, and what is beside it while it is replaced.
struct Places {
    program: PathBuf,
    previous: PathBuf,
    staged: PathBuf,
}

/// What was changed, and how it was before. Forgotten changes stay; call [`Undo::revert`] or [`Undo::keep`].
#[derive(Debug)]
pub struct Undo<'a> {
    host: &'a Host,
    config: &'a Config,
    texts: Vec<(PathBuf, Option<String>)>,
    programs: Vec<&'static str>,
}

impl<'a> Undo<'a> {
    /// Nothing was changed yet.
    pub fn new(host: &'a Host, config: &'a Config) -> Self {
        Self {
            host,
            config,
            texts: Vec::new(),
            programs: Vec::new(),
        }
    }

    /// Moves staged programs to their places and writes the plan's files. Running shims and engines keep the files they have.
    pub fn apply(&mut self, plan: &Plan) -> Result<()> {
        for name in &plan.programs {
            self.replace_program(name).with_context(|| {
                let place = self.config.bin_dir.join(name);
                format!("replace {} of the host", place.display())
            })?;
        }
        for write in &plan.writes {
            let before = self.host.read(&write.path)?;
            self.host.write(&write.path, write.text.as_deref())?;
            // Not earlier: what refuses to be written also refuses to be put back.
            self.texts.push((write.path.clone(), before));
        }
        Ok(())
    }

    /// Puts everything back, the last change first. Goes on after an error, and reports the first.
    pub fn revert(self) -> Result<()> {
        let mut result = Ok(());
        for (path, text) in self.texts.iter().rev() {
            result = result.and(self.host.write(path, text.as_deref()));
        }
        for name in self.programs.iter().rev() {
            let places = self.host.places(self.config, name);
            let back = match fs::rename(&places.previous, &places.program) {
                // There was none before.
                Err(error) if error.kind() == io::ErrorKind::NotFound => remove(&places.program),
                other => other,
            };
            // Two names of one file, as before the new one came, are not renamed.
            let back = back.and_then(|()| remove(&places.previous));
            result =
                result.and(back.with_context(|| format!("put {} back", places.program.display())));
        }
        result.and(self.host.unstage(self.config))
    }

    /// Forgets how it was before; also what an installation that did not end remembered.
    pub fn keep(self) -> Result<()> {
        for name in PROGRAMS {
            remove(&self.host.places(self.config, name).previous)
                .context("remove a previous program")?;
        }
        Ok(())
    }

    fn replace_program(&mut self, name: &'static str) -> io::Result<()> {
        let places = self.host.places(self.config, name);
        remove(&places.previous)?;
        match fs::hard_link(&places.program, &places.previous) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Not earlier: without its second name, the program itself would be taken for one that was not there before.
        self.programs.push(name);
        fs::rename(&places.staged, &places.program)
    }
}

/// Removes a file; a missing one is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn replace(path: &Path, text: &str) -> Result<()> {
    make_parent(path)?;
    let mode = match fs::symlink_metadata(path) {
        // Its target may be outside of what is mounted, and belongs to whoever made the link.
        Ok(metadata) if metadata.is_symlink() => bail!(
            "it is a symbolic link, so something else manages it; add the runtime there and set node.restart=manual"
        ),
        Ok(metadata) => metadata.permissions().mode() & 0o777,
        Err(_) => 0o644,
    };
    let name = path
        .file_name()
        .context("a file's path ends in its name")?
        .to_string_lossy()
        .into_owned();
    // Hidden, so that no import pattern matches it.
    let temporary = path.with_file_name(format!(".{name}.new"));
    let mut file = File::create(&temporary)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    Ok(())
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

fn digest(path: &Path) -> Result<Option<Digest>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file
            .read(&mut chunk)
            .with_context(|| format!("read {}", path.display()))?
        {
            0 => return Ok(Some(hash.finalize().into())),
            read => hash.update(&chunk[..read]),
        }
    }
}
