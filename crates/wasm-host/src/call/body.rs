//! The body of a guest's answer: counted, read ahead as far as it is there, and its end is the call's.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hearth_contract::Outcome;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;
use wasmtime_wasi_http::{Error, WasiBody};

use super::Call;

/// Frames that are read ahead, at most: more than the stream of a guest of 0.2 holds, so that one that has ended is heard
/// to its end.
const AHEAD: usize = 4;

/// What is left of a guest after the head of its answer: nothing, or a task that ends when this is dropped, unless it was
/// let go.
pub(super) struct Guest {
    task: Option<JoinHandle<Option<()>>>,
    is_let_go: bool,
}

impl Guest {
    pub(super) fn new(task: Option<JoinHandle<Option<()>>>) -> Self {
        Self {
            task,
            is_let_go: false,
        }
    }

    /// It goes on whoever reads, and is known to have ended only when it has.
    fn let_go(&mut self) {
        self.is_let_go = true;
    }

    /// Ready when nothing is left of it.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(task) = &mut self.task {
            // How it ended is the call's outcome.
            let _ = ready!(Pin::new(task).poll(cx));
            self.task = None;
        }
        Poll::Ready(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(task) = self.task.take_if(|_| !self.is_let_go) {
            task.abort();
        }
    }
}

/// How the call ended, and what is wrong with its answer's body.
type Broken = (Outcome, String);

/// The body of a guest's answer.
pub struct GuestBody {
    inner: WasiBody,
    /// Frames that were read and not yet asked for.
    ahead: VecDeque<Frame<Bytes>>,
    /// Nothing comes after those.
    is_all_ahead: bool,
    /// Bytes that may still come.
    left: u64,
    /// Bytes that are still to come, where the head says how many.
    promised: Option<u64>,
    call: Arc<Call>,
    guest: Guest,
}

impl std::fmt::Debug for GuestBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestBody").finish_non_exhaustive()
    }
}

impl GuestBody {
    /// `promised` is the length that the head names, in bytes.
    pub(super) fn new(
        inner: WasiBody,
        call: Arc<Call>,
        guest: Guest,
        promised: Option<u64>,
    ) -> Self {
        Self {
            inner,
            ahead: VecDeque::new(),
            is_all_ahead: false,
            left: call.function.spec.limits.response_body_bytes,
            promised,
            call,
            guest,
        }
    }

    /// Reads what is there already, up to [`AHEAD`], so that an answer that is broken from the start is known before its
    /// head is on its way.
    ///
    /// # Errors
    /// How the call ended, and what is wrong with the body.
    pub(super) async fn read_ahead(&mut self) -> Result<(), Broken> {
        poll_fn(|cx| {
            loop {
                match self.poll_inner(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        self.ahead.push_back(frame);
                        if self.ahead.len() == AHEAD {
                            return Poll::Ready(Ok(()));
                        }
                    }
                    Poll::Ready(Some(Err(broken))) => return Poll::Ready(Err(broken)),
                    Poll::Ready(None) => {
                        self.is_all_ahead = true;
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Pending => return Poll::Ready(Ok(())),
                }
            }
        })
        .await
    }

    /// Nothing of it will be asked for any more.
    pub(super) fn complete(&mut self) {
        self.call.end(Outcome::Answered);
        self.guest.let_go();
    }

    /// Counts a frame.
    ///
    /// # Errors
    /// The outcome when it is more than the function may send, or more than the head says.
    fn count(&mut self, frame: &Frame<Bytes>) -> Result<(), Outcome> {
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        let left = self.left.checked_sub(length);
        self.left = left.ok_or(Outcome::ResponseTooLarge)?;
        if let Some(promised) = &mut self.promised {
            *promised = promised.checked_sub(length).ok_or(Outcome::Trapped)?;
        }
        Ok(())
    }

    /// Whether nothing more is asked for: hyper reads as far as the length that it knows.
    fn is_whole(&self) -> bool {
        self.promised == Some(0) || self.inner.size_hint().exact() == Some(0)
    }

    /// Ends the call with this, unless it has ended, and says how it did.
    fn broken(&self, outcome: Outcome, problem: &str) -> Broken {
        self.call.end(outcome);
        let outcome = self.call.outcome().unwrap_or(outcome);
        (outcome, problem.to_owned())
    }

    /// The next frame from the guest, or how the call ended and what is wrong with the body.
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut frame = Pin::new(&mut self.inner).poll_frame(cx);
        if frame.is_pending() && self.guest.poll_ended(cx).is_ready() {
            // What it wrote last may have come in between.
            frame = Pin::new(&mut self.inner).poll_frame(cx);
            if frame.is_pending() {
                if self.is_whole() {
                    return Poll::Ready(None);
                }
                // Its instance may be kept: nothing else would end the call.
                let problem = "the guest ended and left the answer's body open";
                return Poll::Ready(Some(Err(self.broken(Outcome::Trapped, problem))));
            }
        }
        let frame = match ready!(frame) {
            // A body whose guest is gone ends like one that is complete; the caller must see the difference.
            None => match self.call.outcome().filter(|o| *o != Outcome::Answered) {
                Some(outcome) => Some(Err(self.broken(outcome, "the guest ended early"))),
                None => {
                    self.complete();
                    None
                }
            },
            Some(Ok(frame)) => match self.count(&frame) {
                Ok(()) => {
                    if self.is_whole() {
                        self.complete();
                    }
                    Some(Ok(frame))
                }
                Err(outcome) => {
                    let problem = "the answer's body has more bytes than it may have";
                    Some(Err(self.broken(outcome, problem)))
                }
            },
            // The guest gave its body up, or handed on one that broke off.
            Some(Err(error)) => {
                let problem = format!("the answer's body broke off: {error}");
                Some(Err(self.broken(self.call.failure(), &problem)))
            }
        };
        Poll::Ready(frame)
    }
}

impl Drop for GuestBody {
    fn drop(&mut self) {
        if self.inner.is_end_stream() {
            self.complete();
        } else {
            // The caller went away, or the guest broke off, which has been said by now.
            self.call.end(Outcome::ClientGone);
        }
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(frame) = self.ahead.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.is_all_ahead {
            return Poll::Ready(None);
        }
        let frame = ready!(self.poll_inner(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|(outcome, problem)| {
                let problem = format!("{problem}, after the head was on its way");
                self.call.note(outcome, &problem);
                Error::InternalError(Some(problem))
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && (self.is_all_ahead || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let bytes = |frame: &Frame<Bytes>| frame.data_ref().map_or(0, |data| data.len() as u64);
        let ahead = self.ahead.iter().map(bytes).sum();
        // Over HTTP/1.1 trailers come only after a body whose length nobody knows before.
        if self.is_all_ahead && self.ahead.iter().all(Frame::is_data) {
            return SizeHint::with_exact(ahead);
        }
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(ahead + inner.lower());
        if let Some(upper) = inner.upper().filter(|_| !self.is_all_ahead) {
            hint.set_upper(ahead + upper);
        }
        hint
    }
}
