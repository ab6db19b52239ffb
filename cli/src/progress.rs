//! Progress of what takes longer than a moment, on standard error and only where that is a terminal: files and pipes have the lines
//! that are said when something is done.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use indicatif::{ProgressBar, ProgressStyle};

/// Time between two pictures of something that waits.
const TICK: Duration = Duration::from_millis(120);
/// Bytes of one step.
const PIECE: usize = 64 << 10;

/// A bar of `bytes` that are sent, called `what`.
pub(crate) fn sending(what: &str, bytes: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}");
    let bar = ProgressBar::new(bytes).with_message(what.to_owned());
    bar.with_style(style.expect("the template is one"))
}

/// A sign that something goes on, until it is dropped. Its message may change.
pub(crate) struct Waiting(ProgressBar);

impl Waiting {
    /// Says what is waited for.
    pub(crate) fn new(what: &str) -> Self {
        let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}");
        let bar = ProgressBar::new_spinner().with_message(what.to_owned());
        let bar = bar.with_style(style.expect("the template is one"));
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Says something else.
    pub(crate) fn say(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A body that shows on a bar how much of it was taken.
pub(crate) struct Shown {
    rest: Bytes,
    bar: ProgressBar,
}

impl Shown {
    /// The body of `bytes`.
    pub(crate) fn new(bytes: Bytes, bar: ProgressBar) -> Self {
        // It may be sent a second time.
        bar.set_position(0);
        Self { rest: bytes, bar }
    }
}

impl Body for Shown {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        self.bar.inc(length as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_body_is_whole_and_the_bar_full() {
        let bytes = Bytes::from(vec![7; 3 * PIECE / 2]);
        let bar = sending("agent.wasm", bytes.len() as u64);
        for _ in 0..2 {
            let body = Shown::new(bytes.clone(), bar.clone());
            assert_eq!(body.size_hint().exact(), Some(bytes.len() as u64));
            assert_eq!(body.collect().await.unwrap().to_bytes(), bytes);
            assert_eq!(bar.position(), bytes.len() as u64);
        }
        assert!(Shown::new(Bytes::new(), bar).is_end_stream());
    }
}
