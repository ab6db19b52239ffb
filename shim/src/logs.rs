//! The guests' standard streams: fifos that containerd reads.
//!
//! They are opened for reading and writing and non-blocking, so that neither a containerd that restarts (no reader)
//! nor a slow reader stops us. The engine decides what to drop when a fifo is full.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;

/// Standard output and standard error of one container.
#[derive(Debug, Clone)]
pub struct Logs {
    /// Standard output.
    pub stdout: Arc<OwnedFd>,
    /// Standard error.
    pub stderr: Arc<OwnedFd>,
}

impl Logs {
    /// Opens both. An empty path means nobody wants the stream.
    pub fn open(stdout: &str, stderr: &str) -> io::Result<Self> {
        Ok(Self {
            stdout: Arc::new(open(stdout)?),
            stderr: Arc::new(open(stderr)?),
        })
    }
}

fn open(path: &str) -> io::Result<OwnedFd> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("opening {path}: {error}"));
    if path.is_empty() {
        return Ok(File::options().write(true).open("/dev/null")?.into());
    }
    if let Some(scheme) = path.split_once("://").map(|(scheme, _)| scheme)
        && scheme != "fifo"
        && scheme != "file"
    {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("log {path:?}: scheme {scheme:?} is not supported; use fifo or file"),
        ));
    }
    let is_file = path.starts_with("file://");
    let path = path.split_once("://").map_or(path, |(_, path)| path);
    if is_file {
        return Ok(File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(named)?
            .into());
    }
    open_fifo(Path::new(path)).map(OwnedFd::from).map_err(named)
}

/// Opens a fifo so that it never blocks and never lacks a reader.
pub fn open_fifo(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_fifo_without_a_reader_takes_what_fits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            &path,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        )
        .unwrap();
        let mut fifo = open_fifo(&path).unwrap();
        fifo.write_all(b"line\n").unwrap();
        let full = loop {
            if let Err(error) = fifo.write(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let mut first = [0; 5];
        fifo.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"line\n");
    }

    #[test]
    fn unknown_schemes_are_named() {
        let error = Logs::open("binary:///bin/logger", "").unwrap_err();
        assert!(error.to_string().contains("binary"), "{error}");
        Logs::open("", "").unwrap();
    }
}
