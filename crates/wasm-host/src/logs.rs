//! Guests' standard output and error: whole lines, each with the function's name where several share one log.
//!
//! A line goes out in one write to a pipe that never blocks: when its reader is behind, or the function has logged more
//! than it may this second, the line is dropped and counted, and the guest goes on. Lines over [`LINE_BYTES`] are split
//! there.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use prometheus::IntCounter;

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

use crate::positions::Positions;

/// Longest line that is written at once: below a pipe's atomic 4,096 bytes, with room for a prefix.
pub const LINE_BYTES: usize = 3800;

/// What a function may log in a second, on all its streams together; as much again may come at once after a pause.
pub(crate) struct LogBudget {
    bytes_per_second: f64,
    left: Mutex<(f64, Instant)>,
    dropped: IntCounter,
}

impl LogBudget {
    /// `dropped` counts lines.
    pub(crate) fn new(bytes_per_second: u64, dropped: IntCounter) -> Self {
        let bytes_per_second = bytes_per_second as f64;
        Self {
            bytes_per_second,
            left: Mutex::new((bytes_per_second, Instant::now())),
            dropped,
        }
    }

    /// Takes `bytes` at time `now`. False when there are not so many left.
    fn take(&self, bytes: usize, now: Instant) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.saturating_duration_since(left.1).as_secs_f64();
        let refilled = (left.0 + since * self.bytes_per_second).min(self.bytes_per_second);
        let rest = refilled - bytes as f64;
        let is_enough = rest >= 0.0;
        *left = (if is_enough { rest } else { refilled }, now);
        is_enough
    }
}

/// Bytes of log that one call of loaded code may hand to who loaded it.
const CAPTURE_BYTES: usize = 64 << 10;

/// What an instance of loaded code logs, for who loaded it.
#[derive(Debug, Default)]
pub(crate) struct Capture(Mutex<Captured>);

/// Lines of a log.
#[derive(Debug, Default, Clone)]
pub(crate) struct Captured {
    /// Each with whether it is one of standard error.
    pub(crate) lines: Vec<(bool, String)>,
    /// Lines that found no room.
    pub(crate) dropped: u32,
    bytes: usize,
}

impl Capture {
    fn line(&self, is_error: bool, text: &[u8]) {
        let mut captured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if captured.bytes + text.len() > CAPTURE_BYTES {
            captured.dropped = captured.dropped.saturating_add(1);
            return;
        }
        captured.bytes += text.len();
        let text = String::from_utf8_lossy(text).into_owned();
        captured.lines.push((is_error, text));
    }

    /// What was logged since it was taken last.
    pub(crate) fn take(&self) -> Captured {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where the lines of one stream of one function go.
#[derive(Clone)]
pub struct LogSink {
    to: To,
    /// What it comes from, for lines of the guest.
    positions: Option<Arc<Positions>>,
}

#[derive(Clone)]
enum To {
    File(Arc<Inner>),
    Capture(Arc<Capture>, bool),
}

struct Inner {
    file: Arc<OwnedFd>,
    prefix: String,
    budget: Arc<LogBudget>,
    /// Lines that were dropped and not yet spoken of.
    dropped: AtomicU64,
}

impl LogSink {
    /// Lines go to `file`, which should not block. `name`, when given, stands before each line. The guest's lines have the
    /// positions of its sources where `positions` knows them.
    pub(crate) fn new(
        file: Arc<OwnedFd>,
        name: Option<&str>,
        budget: Arc<LogBudget>,
        positions: Option<Arc<Positions>>,
    ) -> Self {
        let prefix = name.map(|name| format!("{name}: ")).unwrap_or_default();
        Self {
            to: To::File(Arc::new(Inner {
                file,
                prefix,
                budget,
                dropped: AtomicU64::new(0),
            })),
            positions,
        }
    }

    /// Lines are kept, of standard error when `is_error`.
    pub(crate) fn captured(&self, capture: Arc<Capture>, is_error: bool) -> Self {
        Self {
            to: To::Capture(capture, is_error),
            positions: self.positions.clone(),
        }
    }

    /// The same for code that comes from elsewhere.
    pub(crate) fn with_positions(&self, positions: Option<Arc<Positions>>) -> Self {
        Self {
            to: self.to.clone(),
            positions,
        }
    }

    /// A line of ours about the function, marked as such.
    pub fn note(&self, text: &str) {
        self.line(format!("hearth: {}", text.replace('\n', "\\n ")).as_bytes());
    }

    /// Bytes of what the source maps were read to.
    pub(crate) fn positions_bytes(&self) -> usize {
        self.positions.as_ref().map_or(0, |known| known.bytes())
    }

    /// What a guest said, with the positions of its sources.
    pub(crate) fn translated(&self, text: String) -> String {
        match &self.positions {
            Some(positions) => positions.translate(&text).into_owned(),
            None => text,
        }
    }

    /// A line of the guest's.
    fn said(&self, line: &[u8]) {
        match (&self.positions, std::str::from_utf8(line)) {
            (Some(positions), Ok(text)) => self.line(positions.translate(text).as_bytes()),
            _ => self.line(line),
        }
    }

    fn line(&self, text: &[u8]) {
        match &self.to {
            To::File(inner) => inner.line(text),
            To::Capture(capture, is_error) => capture.line(*is_error, text),
        }
    }
}

impl Inner {
    fn line(&self, text: &[u8]) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let said = format!(
                "hearth: {dropped} lines were dropped: more than limits.logBytesPerSecond, or nobody read them"
            );
            if !self.write(said.as_bytes()) {
                self.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
        }
        for part in text
            .chunks(LINE_BYTES)
            .chain(text.is_empty().then_some(&[][..]))
        {
            if !self.write(part) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                self.budget.dropped.inc();
            }
        }
    }

    /// Writes one line, whole or not at all.
    fn write(&self, text: &[u8]) -> bool {
        let length = self.prefix.len() + text.len() + 1;
        if !self.budget.take(length, Instant::now()) {
            return false;
        }
        let mut whole = Vec::with_capacity(length);
        whole.extend_from_slice(self.prefix.as_bytes());
        whole.extend_from_slice(text);
        whole.push(b'\n');
        rustix::io::write(&*self.file, &whole).is_ok()
    }
}

impl std::fmt::Debug for LogSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogSink").finish_non_exhaustive()
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
            self.sink.said(&std::mem::take(&mut self.pending));
            rest = &rest[end + 1..];
        }
        self.pending.extend_from_slice(rest);
        if self.pending.len() >= LINE_BYTES {
            self.sink.said(&std::mem::take(&mut self.pending));
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.pending.is_empty() {
            self.sink.said(&std::mem::take(&mut self.pending));
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

    fn budget(bytes_per_second: u64) -> Arc<LogBudget> {
        let dropped = IntCounter::new("dropped", "Dropped lines").unwrap();
        Arc::new(LogBudget::new(bytes_per_second, dropped))
    }

    fn written(name: Option<&str>, writes: &[&str]) -> String {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let sink = LogSink::new(Arc::new(writer.into()), name, budget(1 << 20), None);
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
    fn fuzz_log_lines() {
        let examples = ["one\ntwo\n\n\u{0}three", "no end", "\n\n"];
        hearth_fuzz::text("fuzz_log_lines", &examples, |input| {
            // Written in two pieces, wherever those are cut.
            let cut = input.floor_char_boundary(input.len() / 2);
            let (first, second) = input.split_at(cut);
            let lines = written(Some("a"), &[first, second]);
            // Unlike `lines`, which takes a carriage return for part of an end.
            let whole = input.strip_suffix('\n').unwrap_or(input);
            let lines_in = whole.split('\n').filter(|_| !input.is_empty());
            let expected: String = lines_in.map(|line| format!("a: {line}\n")).collect();
            assert_eq!(lines, expected);
        });
    }

    #[test]
    fn what_is_captured_is_bounded_and_counted() {
        let capture = Arc::new(Capture::default());
        let file = tempfile::tempfile().unwrap();
        let sink = LogSink::new(Arc::new(file.into()), None, budget(0), None);
        let sink = sink.captured(capture.clone(), true);
        sink.note("first");
        for _ in 0..CAPTURE_BYTES / 1000 + 2 {
            sink.line(&[b'x'; 1000]);
        }
        let captured = capture.take();
        assert_eq!(captured.lines[0], (true, "hearth: first".to_owned()));
        let bytes: usize = captured.lines.iter().map(|(_, text)| text.len()).sum();
        assert!(bytes <= CAPTURE_BYTES && bytes > CAPTURE_BYTES - 1000);
        assert_eq!(captured.dropped, 2);
        assert!(capture.take().lines.is_empty());
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
        let budget = budget(1 << 30);
        let sink = LogSink::new(Arc::new(writer.into()), None, budget.clone(), None);
        for _ in 0..1000 {
            sink.line(&[b'x'; 1000]);
        }
        assert!(budget.dropped.get() > 0);
    }

    #[test]
    fn a_flood_is_cut_to_its_rate_and_spoken_of() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let budget = budget(1000);
        let sink = LogSink::new(Arc::new(writer.into()), None, budget.clone(), None);
        for _ in 0..100 {
            sink.line(&[b'x'; 99]);
        }
        assert!(budget.dropped.get() >= 89, "{}", budget.dropped.get());
        // A second later, without waiting for it.
        budget.left.lock().unwrap().1 -= std::time::Duration::from_secs(1);
        sink.line(b"again");
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.contains("lines were dropped"), "{text}");
        assert!(text.ends_with("again\n"), "{text}");
    }

    #[test]
    fn the_budget_refills_with_time_and_not_above_its_rate() {
        let budget = budget(100);
        let start = Instant::now();
        assert!(budget.take(100, start));
        assert!(!budget.take(1, start));
        let later = |seconds| start + std::time::Duration::from_secs(seconds);
        assert!(budget.take(100, later(1)));
        assert!(budget.take(100, later(100)));
        assert!(!budget.take(1, later(100)));
    }
}
