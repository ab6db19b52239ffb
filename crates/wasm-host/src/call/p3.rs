//! Calls of guests that export `wasi:http/handler@0.3`.
//!
//! Such a guest returns the head of its answer and goes on: its tasks write the body, and the host moves what one stream
//! hands to another. Both happen only while the store's event loop runs. It runs until nobody reads the body any more and
//! the guest's tasks have ended.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use wasmtime::{AsContextMut, Store};
use wasmtime_wasi_http::handler::{Prepared, Proxy};
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

use super::Answer;
use crate::instance::State;

/// Runs the guest to its end.
pub(super) async fn call(
    store: &mut Store<State>,
    proxy: &Proxy,
    request: Request<WasiBody>,
    sender: oneshot::Sender<Answer>,
) -> wasmtime::Result<()> {
    let (alive, instance) = oneshot::channel::<Infallible>();
    // After a call that does not end well, the table goes with the instance; by then the call's outcome is known.
    let alive = store.data_mut().http().table.push(alive)?;
    let (reading, unread) = oneshot::channel::<Infallible>();
    let (first, answered) = futures::channel::oneshot::channel();
    let prepared = Prepared::new(store.as_context_mut(), proxy, request, State::http, first)?;
    store
        .run_concurrent(async move |accessor| {
            prepared.run(accessor, pending()).await?;
            if let Ok(answer) = answered.await {
                let answer = answer
                    .map(|response| response.map(|inner| streamed(inner, instance, reading)))
                    .map_err(|error| Error::InternalError(Some(format!("{error:#}"))));
                // Nobody may be left to hear it.
                let _ = sender.send(answer);
            }
            // An error is the sender's end, which is what is waited for.
            let _ = unread.await;
            poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            wasmtime::error::Ok(())
        })
        .await??;
    store.data_mut().http().table.delete(alive)?;
    Ok(())
}

fn streamed(
    inner: WasiBody,
    instance: oneshot::Receiver<Infallible>,
    reading: oneshot::Sender<Infallible>,
) -> WasiBody {
    let body = Streamed {
        inner,
        instance,
        _reading: reading,
    };
    body.boxed_unsync()
}

/// The body of an answer. It ends with its instance also where its bytes do not come from there: a guest may hand on the
/// body of its request, or of an answer that it got itself.
struct Streamed {
    inner: WasiBody,
    instance: oneshot::Receiver<Infallible>,
    /// Dropped when nobody reads any more.
    _reading: oneshot::Sender<Infallible>,
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        // The instance outlives a body that is complete. What cut this one short is the call's outcome.
        if self.instance.is_terminated() || Pin::new(&mut self.instance).poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
