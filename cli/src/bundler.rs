//! The program that bundles, `hearth-bundle` (tools/bundle): esbuild, and what Hearth says to Node's built-in modules. It is
//! asked on standard input and answers on standard output, a line of JSON each; asked again, it builds what changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::project::Project;

/// The program, beside this one.
const PROGRAM: &str = "hearth-bundle";
/// Names it elsewhere.
const VARIABLE: &str = "HEARTH_BUNDLE";

#[derive(Serialize)]
struct Request<'a> {
    entry: &'a std::path::Path,
    minify: bool,
    alias: &'a BTreeMap<String, String>,
    stub: &'a [String],
}

/// Where something stands.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Place {
    file: String,
    line: u32,
    column: u32,
    text: String,
}

/// What is wrong with the code.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Problem {
    message: String,
    place: Option<Place>,
    #[serde(deserialize_with = "nothing_is_empty", default)]
    notes: Vec<String>,
}

/// A module that is no file, and who imports it.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Import {
    /// What it is called.
    pub(crate) name: String,
    /// Files.
    #[serde(deserialize_with = "nothing_is_empty", default)]
    pub(crate) importers: Vec<String>,
}

/// A file that went in.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Input {
    /// From the project's folder.
    pub(crate) path: String,
    /// What is left of it.
    pub(crate) bytes: usize,
}

/// A bundle, or why there is none.
#[derive(Debug, Deserialize)]
pub(crate) struct Bundle {
    /// One ES module.
    pub(crate) code: String,
    /// Its source map.
    pub(crate) map: String,
    /// The folder that paths begin in.
    pub(crate) root: PathBuf,
    #[serde(deserialize_with = "nothing_is_empty")]
    pub(crate) inputs: Vec<Input>,
    #[serde(deserialize_with = "nothing_is_empty")]
    pub(crate) errors: Vec<Problem>,
    #[serde(deserialize_with = "nothing_is_empty")]
    pub(crate) warnings: Vec<Problem>,
    /// Modules of Node that it has all the same.
    #[serde(deserialize_with = "nothing_is_empty")]
    pub(crate) provided: Vec<Import>,
    /// Modules that are not there, and throw where code asks for them.
    #[serde(deserialize_with = "nothing_is_empty")]
    pub(crate) absent: Vec<Import>,
}

/// Go writes `null` for an empty list.
fn nothing_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Bundle {
    /// Code and source map in one text, as nodes and `hearth serve` take it.
    pub(crate) fn module(&self) -> String {
        with_map(&self.code, &self.map)
    }
}

/// A module's text with its source map as its last line.
pub(crate) fn with_map(code: &str, map: &str) -> String {
    let line_end = if code.ends_with('\n') { "" } else { "\n" };
    format!(
        "{code}{line_end}//# sourceMappingURL=data:application/json;base64,{}\n",
        STANDARD.encode(map)
    )
}

/// The program, running.
#[derive(Debug)]
pub(crate) struct Bundler {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Drop for Bundler {
    fn drop(&mut self) {
        // It may have ended by itself, which is what is asked.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Bundler {
    /// Starts it.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) fn start() -> Result<Self> {
        let path = match std::env::var_os(VARIABLE) {
            Some(path) => PathBuf::from(path),
            None => std::env::current_exe()?.with_file_name(PROGRAM),
        };
        let mut process = Command::new(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!(
                    "start {}, which bundles; it is installed beside hearth, and {VARIABLE} names it elsewhere",
                    path.display()
                )
            })?;
        Ok(Self {
            requests: process.stdin.take().context("standard input is a pipe")?,
            answers: BufReader::new(process.stdout.take().context("standard output is a pipe")?),
            process,
        })
    }

    /// Bundles a project. What is wrong with its code is in the bundle's `errors`.
    ///
    /// # Errors
    /// When the program fails.
    pub(crate) fn build(&mut self, project: &Project, minify: bool) -> Result<Bundle> {
        let request = Request {
            entry: &project.entry,
            minify: minify || project.settings.minify,
            alias: &project.settings.alias,
            stub: &project.settings.stub,
        };
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        let mut answer = String::new();
        (self.requests.write_all(&line))
            .and_then(|()| self.requests.flush())
            .and_then(|()| self.answers.read_line(&mut answer))
            .context("ask hearth-bundle")?;
        ensure!(
            !answer.is_empty(),
            "hearth-bundle ended; what it said stands above"
        );
        serde_json::from_str(&answer).context("read what hearth-bundle answers")
    }
}

/// Problems as a terminal shows them: what, where, and the line.
pub(crate) fn described(kind: &str, problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        // Writing to a string cannot fail.
        let _ = match &problem.place {
            Some(Place {
                file,
                line,
                column,
                text: code,
            }) => {
                let indent = " ".repeat((*column as usize).saturating_sub(1));
                writeln!(
                    text,
                    "{file}:{line}:{column}: {kind}: {}\n  {}\n  {indent}^",
                    problem.message,
                    code.trim_end()
                )
            }
            None => writeln!(text, "{kind}: {}", problem.message),
        };
        for note in &problem.notes {
            let _ = writeln!(text, "  {note}");
        }
    }
    text
}
