//! Guests' standard output and error: whole lines, each with the function's name where several share one log.
//!
//! A line goes out in one write to a pipe that never blocks: when its reader is behind, the line is dropped and
//! counted, and the guest goes on. Lines over [`LINE_BYTES`] are split there.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

/// Longest line that is written at once: below a pipe's atomic 4,096 bytes, with room for a prefix.
pub const LINE_BYTES: usize = 3800;

/// Where the lines of one stream of one function go.
#[derive(Clone)]
pub struct LogSink {
    inner: Arc<Inner>,
}

struct Inner {
    file: Arc<OwnedFd>,
    prefix: String,
    dropped: AtomicU64,
}

impl LogSink {
    /// Lines go to `file`, which should not block. `name`, when given, stands before each line.
    pub fn new(file: Arc<OwnedFd>, name: Option<&str>) -> Self {
        let prefix = name.map(|name| format!("{name}: ")).unwrap_or_default();
        Self {
            inner: Arc::new(Inner {
                file,
                prefix,
                dropped: AtomicU64::new(0),
            }),
        }
    }

    /// A line of ours about the function, marked as such.
    pub fn note(&self, text: &str) {
        self.line(format!("hearth: {}", text.replace('\n', "\\n ")).as_bytes());
    }

    /// Lines that were dropped because the reader was behind.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::Relaxed)
    }

    fn line(&self, text: &[u8]) {
        for part in text
            .chunks(LINE_BYTES)
            .chain(text.is_empty().then_some(&[][..]))
        {
            let mut whole = Vec::with_capacity(self.inner.prefix.len() + part.len() + 1);
            whole.extend_from_slice(self.inner.prefix.as_bytes());
            whole.extend_from_slice(part);
            whole.push(b'\n');
            if rustix::io::write(&*self.inner.file, &whole).is_err() {
                self.inner.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl std::fmt::Debug for LogSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogSink")
            .field("prefix", &self.inner.prefix)
            .finish_non_exhaustive()
    }
}

impl IsTerminal for LogSink {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogSink {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Lines {
            sink: self.clone(),
            pending: Vec::new(),
        })
    }
}

/// One guest's writes, cut into lines. What is left without an end of line goes out when the guest ends.
struct Lines {
    sink: LogSink,
    pending: Vec<u8>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(&rest[..end]);
            self.sink.line(&std::mem::take(&mut self.pending));
            rest = &rest[end + 1..];
        }
        self.pending.extend_from_slice(rest);
        if self.pending.len() >= LINE_BYTES {
            self.sink.line(&std::mem::take(&mut self.pending));
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.pending.is_empty() {
            self.sink.line(&std::mem::take(&mut self.pending));
        }
    }
}

impl AsyncWrite for Lines {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn written(name: Option<&str>, writes: &[&str]) -> String {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let sink = LogSink::new(Arc::new(writer.into()), name);
        let mut lines = Lines {
            sink,
            pending: Vec::new(),
        };
        for bytes in writes {
            lines.take(bytes.as_bytes());
        }
        drop(lines);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn lines_come_whole_and_named() {
        assert_eq!(
            written(Some("a"), &["one\ntw", "o\n", "\n", "end"]),
            "a: one\na: two\na: \na: end\n"
        );
        assert_eq!(written(None, &["one\n"]), "one\n");
    }

    #[test]
    fn a_long_line_is_split() {
        let long = "x".repeat(LINE_BYTES + 1) + "\n";
        assert_eq!(written(None, &[&long]).lines().count(), 2);
    }

    #[test]
    fn a_reader_that_is_behind_costs_lines_not_time() {
        let (_reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let sink = LogSink::new(Arc::new(writer.into()), None);
        for _ in 0..1000 {
            sink.line(&[b'x'; 1000]);
        }
        assert!(sink.dropped() > 0);
    }
}
