//! A body that may pause only so long: the guest's time-out between two bytes of an answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;
use wasmtime_wasi_http::Error;

/// Ends with [`Error::ConnectionReadTimeout`] where nothing comes for too long while somebody waits.
pub(super) struct Paced<B> {
    inner: B,
    pace: Duration,
    /// While somebody waits.
    pause: Option<Pin<Box<Sleep>>>,
}

impl<B> Paced<B> {
    pub(super) fn new(inner: B, pace: Duration) -> Self {
        Self {
            inner,
            pace,
            pause: None,
        }
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes, Error = Error> + Unpin,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let frame = Pin::new(&mut this.inner).poll_frame(cx);
        if frame.is_ready() {
            this.pause = None;
            return frame;
        }
        let until = || Box::pin(tokio::time::sleep(this.pace));
        let pause = this.pause.get_or_insert_with(until);
        let ended = pause.as_mut().poll(cx);
        ended.map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
