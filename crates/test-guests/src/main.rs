//! Builds all guests, examples and the JavaScript environment into a folder, `NAME.wasm` each, and the program that bundles.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Parser;
use hearth_test_guests::Guest;

/// Builds the guests that tests and examples use.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder to write to.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.out)?;
    for guest in Guest::ALL {
        write(&arguments.out, guest.name(), &guest.wasm()?)?;
    }
    let environment = hearth_test_guests::javascript_environment()?;
    write(&arguments.out, "hearth-javascript", &environment)?;
    let bundler = arguments.out.join("hearth-bundle");
    keep(&bundler, &hearth_test_guests::bundler()?)?;
    std::fs::set_permissions(&bundler, std::fs::Permissions::from_mode(0o755))?;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut folders: Vec<_> = std::fs::read_dir(&examples)?.collect::<Result<Vec<_>, _>>()?;
    folders.sort_by_key(std::fs::DirEntry::file_name);
    for folder in folders
        .into_iter()
        .filter(|folder| folder.path().join("package.json").is_file())
    {
        let name = folder.file_name().to_string_lossy().into_owned();
        // `hearth build` bundles the others, from their packages.
        if !folder.path().join("build.js").is_file() {
            packages(&folder.path())?;
            continue;
        }
        write(&arguments.out, &name, &javascript(&folder.path(), &name)?)?;
    }
    Ok(())
}

/// `npm ci && npm run build`, skipped when the result is newer than every source.
fn javascript(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let built = folder.join("dist").join(format!("{name}.wasm"));
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    let mut newest = std::time::SystemTime::UNIX_EPOCH;
    for input in [
        "package-lock.json",
        "package.json",
        "build.js",
        "src",
        "wit",
    ] {
        newest = newest.max(newest_below(&folder.join(input))?);
    }
    if !modified(&built).is_ok_and(|built| built > newest) {
        npm(folder, &["ci", "--no-audit", "--no-fund"])?;
        npm(folder, &["run", "build"])?;
    }
    std::fs::read(&built)
        .with_context(|| format!("npm run build in examples/{name} made no dist/{name}.wasm"))
}

/// The packages that an example's lock file names, unless they are there. None of their install scripts is run.
fn packages(folder: &Path) -> Result<()> {
    let newest = newest_below(&folder.join("package-lock.json"))?;
    let installed = newest_below(&folder.join("node_modules/.package-lock.json"));
    if installed.is_ok_and(|installed| installed > newest) {
        return Ok(());
    }
    npm(
        folder,
        &["ci", "--ignore-scripts", "--no-audit", "--no-fund"],
    )
}

fn npm(folder: &Path, arguments: &[&str]) -> Result<()> {
    let ended = Command::new("npm")
        .args(arguments)
        .current_dir(folder)
        .status()
        .context("start npm; it comes with Node.js")?;
    if !ended.success() {
        bail!("npm {} failed in {}", arguments.join(" "), folder.display());
    }
    Ok(())
}

/// When a file, or the last one in a folder, was changed.
fn newest_below(path: &Path) -> Result<std::time::SystemTime> {
    let mut newest = path
        .metadata()
        .and_then(|metadata| metadata.modified())
        .with_context(|| format!("look at {}", path.display()))?;
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            newest = newest.max(newest_below(&entry?.path())?);
        }
    }
    Ok(newest)
}

fn write(out: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    keep(&out.join(format!("{name}.wasm")), bytes)
}

fn keep(path: &Path, bytes: &[u8]) -> Result<()> {
    // An unchanged file keeps its time: what is made of it need not be made again.
    if std::fs::read(path).is_ok_and(|before| before == bytes) {
        return Ok(());
    }
    std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))?;
    println!("{} ({} bytes)", path.display(), bytes.len());
    Ok(())
}
