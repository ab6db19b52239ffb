//! One call of loaded code, as who loaded it sees it: what it logs, whom it calls back, how it ends.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hearth_contract::{Outcome, StartKind};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use wasmtime::component::Resource;
use wasmtime_wasi_http::p2::types::HostFutureIncomingResponse;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::logs::{Capture, Captured};

/// The authority by which loaded code calls back. Requests to it never leave the process.
pub(crate) const FUNCTIONS: &str = "functions.hearth";

/// Bytes of the arguments of one call back.
const ARGUMENT_BYTES: usize = 1 << 20;

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    Invoked {
        id: u32,
        name: String,
        arguments: String,
    },
    Ended(Report),
}

/// How a call ended.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    pub(crate) start: StartKind,
    /// Empty where nothing went wrong.
    pub(crate) problem: String,
    pub(crate) duration: Duration,
    pub(crate) cpu: Duration,
    pub(crate) memory_bytes: u64,
    pub(crate) log: Captured,
}

/// What one call of loaded code tells.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    state: Mutex<State>,
    told: Notify,
    capture: OnceLock<Arc<Capture>>,
    cpu_ns: AtomicU64,
    memory_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    /// Calls back that wait for their answers.
    waiting: HashMap<u32, oneshot::Sender<Result<String, String>>>,
    last: u32,
    problem: String,
    /// Nobody answers calls back any more.
    is_left: bool,
    /// Its place among the calls of the loader.
    place: Option<OwnedSemaphorePermit>,
}

impl Observer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: Event) {
        self.state().events.push_back(event);
        self.told.notify_one();
    }

    pub(super) fn occupy(&self, place: OwnedSemaphorePermit) {
        self.state().place = Some(place);
    }

    /// The instance that has the call.
    pub(crate) fn watch(&self, capture: &Arc<Capture>) {
        // A call has one instance.
        let _ = self.capture.set(capture.clone());
    }

    /// What the guest took and held in the end.
    pub(crate) fn spent(&self, cpu: Duration, memory_bytes: u64) {
        let nanoseconds = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
        self.cpu_ns.store(nanoseconds, Ordering::Relaxed);
        self.memory_bytes.store(memory_bytes, Ordering::Relaxed);
    }

    /// Why there is no answer.
    pub(crate) fn problem(&self, problem: &str) {
        problem.clone_into(&mut self.state().problem);
    }

    /// The call never began.
    pub(super) fn refused(&self, (outcome, problem): &(Outcome, String)) {
        self.problem(problem);
        self.ended(*outcome, StartKind::Instantiate, Duration::ZERO);
    }

    /// The call is over.
    pub(crate) fn ended(&self, outcome: Outcome, start: StartKind, duration: Duration) {
        let log = self.capture.get().map(|capture| capture.take());
        let log = log.unwrap_or_default();
        let mut state = self.state();
        let problem = std::mem::take(&mut state.problem);
        state.place = None;
        drop(state);
        self.tell(Event::Ended(Report {
            outcome,
            start,
            problem,
            duration,
            cpu: Duration::from_nanos(self.cpu_ns.load(Ordering::Relaxed)),
            memory_bytes: self.memory_bytes.load(Ordering::Relaxed),
            log,
        }));
    }

    /// What happened next, if something did.
    pub(super) fn next(&self) -> Option<Event> {
        self.state().events.pop_front()
    }

    /// Returns when [`Self::next`] has something. For one who waits.
    pub(super) async fn ready(&self) {
        while self.state().events.is_empty() {
            self.told.notified().await;
        }
    }

    /// The report. For a call that nobody answers calls back of.
    pub(super) async fn report(&self) -> Report {
        self.leave();
        loop {
            self.ready().await;
            if let Some(Event::Ended(report)) = self.next() {
                return report;
            }
        }
    }

    /// Nobody answers calls back any more.
    pub(super) fn leave(&self) {
        let mut state = self.state();
        state.is_left = true;
        state.waiting.clear();
    }

    /// Answers a call back.
    pub(super) fn reply(&self, id: u32, answer: Result<String, String>) {
        let waiting = self.state().waiting.remove(&id);
        if let Some(waiting) = waiting {
            // The code may have ended meanwhile.
            let _ = waiting.send(answer);
        }
    }

    /// Loaded code calls back: hands the call on, and its answer.
    pub(crate) async fn invoke(
        &self,
        request: Request<WasiBody>,
    ) -> Result<Response<WasiBody>, Error> {
        let name = request.uri().path().trim_start_matches('/').to_owned();
        let body = Limited::new(request.into_body(), ARGUMENT_BYTES).collect();
        let body = body
            .await
            .map_err(|error| match error.downcast::<Error>() {
                Ok(error) => *error,
                Err(_) => Error::HttpRequestBodySize(Some(ARGUMENT_BYTES as u64)),
            })?;
        let arguments =
            String::from_utf8(body.to_bytes().into()).map_err(|_| Error::HttpProtocolError)?;
        let receiver = {
            let mut state = self.state();
            if state.is_left {
                return Err(Error::ConnectionTerminated);
            }
            state.last += 1;
            let id = state.last;
            let (sender, receiver) = oneshot::channel();
            state.waiting.insert(id, sender);
            state.events.push_back(Event::Invoked {
                id,
                name,
                arguments,
            });
            receiver
        };
        self.told.notify_one();
        let answer = receiver.await.map_err(|_| Error::ConnectionTerminated)?;
        let (status, text) = match answer {
            Ok(text) => (StatusCode::OK, text),
            Err(text) => (StatusCode::INTERNAL_SERVER_ERROR, text),
        };
        let body = Full::new(Bytes::from(text));
        let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = status;
        Ok(response)
    }
}

/// A call in the hands of the guest that made it.
#[allow(
    unreachable_pub,
    reason = "the bindings of hearth:loader name the types of its resources"
)]
pub struct Execution {
    pub(super) observer: Arc<Observer>,
    /// The answer, until the guest takes it.
    pub(super) response: Option<Resource<HostFutureIncomingResponse>>,
}

#[wasmtime_wasi::async_trait]
impl wasmtime_wasi::p2::Pollable for Execution {
    async fn ready(&mut self) {
        self.observer.ready().await;
    }
}
