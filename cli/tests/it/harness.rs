//! `hearth` as a process, with what it needs beside it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take: compiling the environment, unoptimised, on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with the bundler, the environment, and a cache of what that is compiled to.
fn beside() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let bundler = folder.path().join("hearth-bundle");
        std::fs::write(&bundler, hearth_test_guests::bundler().unwrap()).unwrap();
        std::fs::set_permissions(&bundler, std::fs::Permissions::from_mode(0o755)).unwrap();
        let environment = hearth_test_guests::javascript_environment().unwrap();
        std::fs::write(folder.path().join("hearth-javascript.wasm"), environment).unwrap();
        folder
    });
    folder.path()
}

/// A project of these files.
pub(crate) fn project(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        write(folder.path(), path, text);
    }
    folder
}

pub(crate) fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn command(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
    command
        .args(words)
        .current_dir(folder)
        .env("HEARTH_BUNDLE", beside().join("hearth-bundle"))
        .env("HEARTH_JAVASCRIPT", beside().join("hearth-javascript.wasm"))
        .env("XDG_CACHE_HOME", beside().join("cache"))
        .stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn hearth(folder: &Path, words: &[&str]) -> Output {
    command(folder, words).output().unwrap()
}

/// Runs `make` in a folder, with `hearth` on its path.
pub(crate) fn make(folder: &Path) -> Output {
    let mut path = Path::new(env!("CARGO_BIN_EXE_hearth"))
        .parent()
        .unwrap()
        .as_os_str()
        .to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let mut make = Command::new("make");
    make.current_dir(folder)
        .env("PATH", path)
        .stdin(Stdio::null());
    make.output().unwrap()
}

/// What it printed, as it must when it succeeds.
pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An agent that answers, until it is dropped.
pub(crate) struct Running {
    process: Child,
    lines: Receiver<String>,
    pub(crate) address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Running {
    /// Starts `hearth WORDS --port 0` and waits for its address.
    pub(crate) fn start(folder: &Path, words: &[&str]) -> Self {
        let mut process = command(folder, words)
            .args(["--port", "0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut running = Self {
            process,
            lines,
            address: String::new(),
        };
        let line = running.line("http://");
        let address = line.split_whitespace().next().unwrap();
        running.address = address.trim_start_matches("http://").to_owned();
        running
    }

    /// Waits for a line of standard error with these words.
    pub(crate) fn line(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no line with {words:?}: {error}\n{}", seen.join("\n")),
            }
        }
    }

    /// A call; the whole answer, head and body.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// Where cached artifacts are.
pub(crate) fn cache() -> PathBuf {
    beside().join("cache/hearth")
}
