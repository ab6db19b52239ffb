//! One call: a place, an instance, the guest, the answer, and exactly one outcome.
//!
//! The guest runs in its connection's task until the head of its answer is there; most guests have ended by then. One
//! that goes on gets a task of its own, which the call's deadline ends however slowly the caller reads, and one that
//! computes is carried to the slow lane. A caller that goes away before the answer is complete ends its guest at once.

mod body;
mod p3;

use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt;
use hearth_contract::{Limits, Outcome, StartKind};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tokio::sync::oneshot;
use wasmtime_wasi_http::handler::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

use crate::capability::loader::{self, Observer};
use crate::function::{HostedFunction, Place, StartError};
use crate::instance::Instance;
use crate::lanes::{Carried, Overspent, Spent, metered};

use body::Guest;
pub use body::GuestBody;

/// The header of answers that Hearth itself makes: a word of [`Outcome`].
pub const OUTCOME_HEADER: &str = "hearth-outcome";

/// Body of an answer, the guest's or ours.
pub type AnswerBody = http_body_util::Either<GuestBody, Full<Bytes>>;

/// What is known of one call. It is counted when the last part that takes part in it lets go.
struct Call {
    function: Arc<HostedFunction>,
    started: Instant,
    start: OnceLock<StartKind>,
    end: OnceLock<(Outcome, Instant)>,
    too_large: AtomicBool,
    /// The guest was refused memory and ended by itself.
    out_of_memory: AtomicBool,
    /// What the code threw, for a caller who may read it.
    thrown: OnceLock<String>,
    /// The function is loaded code: who hears how the call ended.
    observer: Option<Arc<Observer>>,
}

impl Call {
    fn new(function: Arc<HostedFunction>, observer: Option<Arc<Observer>>) -> Arc<Self> {
        Arc::new(Self {
            function,
            started: Instant::now(),
            start: OnceLock::new(),
            end: OnceLock::new(),
            too_large: AtomicBool::new(false),
            out_of_memory: AtomicBool::new(false),
            thrown: OnceLock::new(),
            observer,
        })
    }

    /// There is no answer of the guest's.
    fn fail(&self, outcome: Outcome, problem: &str) {
        self.end(outcome);
        match &self.observer {
            // Who loaded the code hears it.
            Some(observer) => observer.problem(problem),
            None => self.note(outcome, problem),
        }
    }

    /// The first word about how the call ended stands.
    fn end(&self, outcome: Outcome) {
        // A second word is not an error: the deadline may fire while the last byte goes out.
        let _ = self.end.set((outcome, Instant::now()));
    }

    fn note(&self, outcome: Outcome, problem: &str) {
        self.function
            .grants
            .stderr
            .note(&format!("call ended {outcome}: {problem}"));
    }

    /// What is said of a call whose code threw: who loaded the code hears what; of other code the caller does, and only where
    /// `spec.debug` says so.
    fn thrown(&self, outcome: Outcome, text: String) -> String {
        if self.observer.is_some() {
            return match (outcome, text.split_once('\n')) {
                // Its frames are in the log, which comes with it.
                (Outcome::Threw, Some((title, _))) => title.to_owned(),
                _ => text,
            };
        }
        if self.function.spec.capabilities.debug {
            let _ = self.thrown.set(text);
        }
        sentence(outcome, &self.function.spec.limits)
    }

    fn outcome(&self) -> Option<Outcome> {
        self.end.get().map(|(outcome, _)| *outcome)
    }

    /// The word for a guest that failed: over the end of what it may read, or by itself.
    fn failure(&self) -> Outcome {
        match self.too_large.load(Ordering::Relaxed) {
            true => Outcome::TooLarge,
            false => Outcome::Trapped,
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let (outcome, ended) = self
            .end
            .get()
            .copied()
            .unwrap_or((Outcome::ClientGone, Instant::now()));
        let start = self.start.get().copied().unwrap_or(StartKind::Instantiate);
        let duration = ended - self.started;
        self.function.count(outcome, start, duration);
        if let Some(observer) = &self.observer {
            observer.ended(outcome, start, duration);
        }
    }
}

/// Answers one request. Never fails: what goes wrong is an answer with an outcome.
pub async fn handle<B>(
    function: Arc<HostedFunction>,
    request: Request<B>,
) -> Result<Response<AnswerBody>, Infallible>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    if let Some(loader) = &function.loader
        && request.uri().path() == loader::PATH
        && !loader.tokens().is_empty()
    {
        let body = loader.answer(request).await;
        return Ok(body.map(AnswerBody::Right));
    }
    let call = Call::new(function.clone(), None);
    Ok(match answer(&function, &call, request).await {
        Ok(response) => response.map(AnswerBody::Left),
        Err((outcome, problem)) => {
            call.fail(outcome, &problem);
            refusal(outcome, call.thrown.get().unwrap_or(&problem))
        }
    })
}

/// Calls loaded code, whose `observer` hears all that happens.
///
/// # Errors
/// How the call ended, and why, where the code did not answer.
pub(crate) async fn observed<B>(
    function: Arc<HostedFunction>,
    request: Request<B>,
    observer: Arc<Observer>,
) -> Result<Response<GuestBody>, (Outcome, String)>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let call = Call::new(function.clone(), Some(observer));
    let answered = answer(&function, &call, request).await;
    answered.inspect_err(|(outcome, problem)| call.fail(*outcome, problem))
}

async fn answer<B>(
    function: &Arc<HostedFunction>,
    call: &Arc<Call>,
    request: Request<B>,
) -> Result<Response<GuestBody>, (Outcome, String)>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let limits = &function.spec.limits;
    check_size(&request, limits)?;
    let request = addressed(request, function);
    let is_head = *request.method() == Method::HEAD;
    function.take_turn(call.started).await;
    let deadline = tokio::time::Instant::from_std(call.started + limits.deadline);
    let place = tokio::time::timeout_at(deadline, function.place()).await;
    let Ok(Some(place)) = place else {
        let problem = format!(
            "{} calls run and {} wait, which is all that the function allows",
            limits.concurrency, limits.queue_length
        );
        return Err((Outcome::Overloaded, problem));
    };
    let activated = tokio::time::timeout_at(deadline, function.activate()).await;
    let activated = activated.unwrap_or(Err(StartError::Deadline));
    let (instance, start) = activated.map_err(|error| match error {
        StartError::Deadline => (Outcome::DeadlineExceeded, error.to_string()),
        StartError::Failed(_) => (Outcome::Unavailable, error.to_string()),
        StartError::Load(error) => {
            let thrown = function.grants.stderr.translated(error.to_string());
            if !function.is_loaded() {
                function.grants.stderr.note(&thrown);
            }
            (
                Outcome::LoadFailed,
                call.thrown(Outcome::LoadFailed, thrown),
            )
        }
    })?;
    // The first word about the start stands too.
    let _ = call.start.set(start);
    let (sender, mut receiver) = oneshot::channel();
    let request = bounded(request, limits.request_body_bytes, call);
    let spent = Arc::new(Spent::default());
    let work = run(
        instance,
        request,
        sender,
        call.clone(),
        place,
        deadline,
        spent.clone(),
    );
    let lanes = function.shared.lanes.clone();
    let mut guest = Carried::new(unwinding(work, call.clone()), spent, lanes);
    if function.is_heavy() {
        guest = guest.slow();
    }
    let mut work = Some(guest);
    let head = poll_fn(|cx| {
        if let Some(guest) = &mut work
            && Pin::new(guest).poll(cx).is_ready()
        {
            work = None;
        }
        // A guest that ended has sent the head or taken the sender with it.
        Pin::new(&mut receiver).poll(cx)
    })
    .await;
    match head {
        Ok(Ok(response)) => {
            // Nothing of the head is on its way yet, so a guest that failed by now has not answered.
            if let Some(outcome) = call.outcome() {
                return Err((outcome, sentence(outcome, limits)));
            }
            let status = response.status();
            if status.is_informational() {
                let problem =
                    format!("the guest answered with {status}, which no answer ends with");
                return Err((Outcome::Trapped, problem));
            }
            let guest = Guest::new(work.map(tokio::spawn));
            let limit = limits.response_body_bytes;
            let promised = content_length(response.headers());
            if promised.unwrap_or(response.body().size_hint().lower()) > limit && !is_head {
                return Err((Outcome::ResponseTooLarge, too_long(limit)));
            }
            let (head, body) = response.into_parts();
            let mut body = GuestBody::new(body, call.clone(), guest, promised);
            if is_head || is_bodiless(status) || promised == Some(0) {
                // Nobody will read it.
                body.complete();
            } else {
                body.read_ahead().await?;
            }
            Ok(Response::from_parts(head, body))
        }
        Ok(Err(_)) if call.too_large.load(Ordering::Relaxed) => {
            Err((Outcome::TooLarge, sentence(Outcome::TooLarge, limits)))
        }
        // The environment answers so for what its code threw, which the log has told by now.
        Ok(Err(error)) if function.is_javascript() => {
            let problem = match error {
                Error::InternalError(Some(thrown)) => {
                    let thrown = function.grants.stderr.translated(thrown);
                    call.thrown(Outcome::Threw, thrown)
                }
                _ => sentence(Outcome::Threw, limits),
            };
            Err((Outcome::Threw, problem))
        }
        Ok(Err(error)) => Err((
            call.failure(),
            format!("the guest answered with an error: {error}"),
        )),
        Err(_) => {
            // The sender is dropped with the instance, a moment before the guest's work says how it ended.
            if let Some(work) = work {
                work.await;
            }
            let silent = match call.out_of_memory.load(Ordering::Relaxed) {
                true => Outcome::OutOfMemory,
                false => Outcome::Trapped,
            };
            let outcome = call.outcome().unwrap_or(silent);
            Err((outcome, sentence(outcome, limits)))
        }
    }
}

/// Refuses a request whose head or announced body is larger than the function accepts.
fn check_size<B>(request: &Request<B>, limits: &Limits) -> Result<(), (Outcome, String)> {
    let fields = request.headers().iter();
    // With the colon, the space and the end of line of HTTP/1.1.
    let head: usize = fields
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum::<usize>()
        + request.method().as_str().len()
        + request
            .uri()
            .path_and_query()
            .map_or(1, |path| path.as_str().len());
    if head as u64 > u64::from(limits.request_head_bytes) {
        let problem = format!(
            "the request's line and headers have more than {} bytes",
            limits.request_head_bytes
        );
        return Err((Outcome::TooLarge, problem));
    }
    let announced = content_length(request.headers());
    if announced.is_some_and(|bytes| bytes > limits.request_body_bytes) {
        let problem = format!(
            "the request body has more than {} bytes",
            limits.request_body_bytes
        );
        return Err((Outcome::TooLarge, problem));
    }
    Ok(())
}

/// The bytes that a message says its body has.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether an answer of this status has no body, whatever its guest wrote (RFC 9110, 6.4.1).
fn is_bodiless(status: StatusCode) -> bool {
    [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
}

/// Names the function in a request that does not say whom it is for, as HTTP/1.0 allows: guests may count on it.
fn addressed<B>(mut request: Request<B>, function: &HostedFunction) -> Request<B> {
    if request.uri().authority().is_none() && !request.headers().contains_key(HOST) {
        let key = &function.spec.key;
        // Names of Kubernetes objects are letters, digits, dots and dashes.
        if let Ok(host) = HeaderValue::try_from(format!("{}.{}", key.name, key.namespace)) {
            request.headers_mut().insert(HOST, host);
        }
    }
    request
}

fn sentence(outcome: Outcome, limits: &Limits) -> String {
    match outcome {
        Outcome::DeadlineExceeded => {
            format!(
                "no complete answer within {} ms",
                limits.deadline.as_millis()
            )
        }
        Outcome::CpuExceeded => {
            format!(
                "the guest took more than {} ms of processor time",
                limits.cpu.as_millis()
            )
        }
        Outcome::OutOfMemory => "the guest reached its memory limit".to_owned(),
        Outcome::Threw => {
            "the code threw what nobody caught; the function's log tells what and where".to_owned()
        }
        Outcome::LoadFailed => {
            "the function's code cannot be loaded; its log and its Ready condition tell why"
                .to_owned()
        }
        Outcome::TooLarge => "the request body is larger than the function accepts".to_owned(),
        _ => "the guest failed, or ended without an answer".to_owned(),
    }
}

type Answer = Result<Response<WasiBody>, Error>;

/// A panic of ours in a guest's work is that call's end, and not its connection's.
async fn unwinding(work: impl Future<Output = ()>, call: Arc<Call>) {
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        call.end(Outcome::Trapped);
        call.note(
            Outcome::Trapped,
            "the host panicked, which is a bug of Hearth",
        );
    }
}

/// Runs the guest to its end or to its deadline, and says how it ended.
async fn run(
    mut instance: Instance,
    request: Request<WasiBody>,
    sender: oneshot::Sender<Answer>,
    call: Arc<Call>,
    place: Place,
    deadline: tokio::time::Instant,
    spent: Arc<Spent>,
) {
    let limits = &call.function.spec.limits;
    instance.begin(limits);
    if let Some(observer) = &call.observer {
        instance.observe(observer);
    }
    let work = guest(&mut instance, request, sender);
    let work = metered(call.function.program.mark.over(work), &spent, limits.cpu);
    let ended = tokio::time::timeout_at(deadline, work).await;
    call.function.learn(&spent);
    let limiter = &instance.store.data().limiter;
    let refused = limiter.refused;
    if let Some(observer) = &call.observer {
        observer.spent(spent.time(), limiter.held());
    }
    let is_well = matches!(ended, Ok(Ok(Ok(()))));
    match ended {
        // Whether it answered is seen by who waits for the answer.
        Ok(Ok(Ok(()))) => call.out_of_memory.store(refused, Ordering::Relaxed),
        Ok(Ok(Err(error))) => {
            let outcome = match refused {
                true => Outcome::OutOfMemory,
                false => call.failure(),
            };
            call.function
                .grants
                .stderr
                .note(&format!("guest {outcome}: {error:#}"));
            call.end(outcome);
        }
        // Without a limit of its own the one is as long as the other, and both may be over by now.
        Ok(Err(Overspent)) if tokio::time::Instant::now() < deadline => {
            call.end(Outcome::CpuExceeded);
        }
        Ok(Err(Overspent)) | Err(_) => call.end(Outcome::DeadlineExceeded),
    }
    // In this order: an answer that is still being sent breaks only after its outcome is known.
    if is_well && !refused {
        call.function.give_back(instance);
    } else {
        // Its answer, if there is one, is cut when it goes.
        call.function.shared.lanes.drop_promptly(instance);
    }
    drop(place);
}

async fn guest(
    instance: &mut Instance,
    request: Request<WasiBody>,
    sender: oneshot::Sender<Answer>,
) -> wasmtime::Result<()> {
    let Instance { store, proxy, .. } = instance;
    match proxy {
        Proxy::P2(guest) => {
            let request = store
                .data_mut()
                .http()
                .new_incoming_request(Scheme::Http, request)?;
            let answer = store
                .data_mut()
                .http()
                .new_response_outparam_from_callback(move |answer| {
                    // Nobody may be left to hear it.
                    let _ = sender.send(answer.map_err(|code| match code {
                        ErrorCode::InternalError(Some(text)) => Error::InternalError(Some(text)),
                        code => Error::InternalError(Some(format!("{code:?}"))),
                    }));
                })?;
            guest
                .wasi_http_incoming_handler()
                .call_handle(&mut *store, request, answer)
                .await
        }
        Proxy::P3(_) => p3::call(store, proxy, request, sender).await,
    }
}

/// A request whose body ends with an error at `limit` bytes.
fn bounded<B>(request: Request<B>, limit: u64, call: &Arc<Call>) -> Request<WasiBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    // A guest may keep its request for as long as its instance lives.
    let call = Arc::downgrade(call);
    request.map(|body| {
        Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX))
            .map_err(move |error| {
                if error.is::<LengthLimitError>() {
                    if let Some(call) = call.upgrade() {
                        call.too_large.store(true, Ordering::Relaxed);
                    }
                    Error::HttpRequestBodySize(Some(limit))
                } else {
                    Error::InternalError(Some(error.to_string()))
                }
            })
            .boxed_unsync()
    })
}

fn too_long(limit: u64) -> String {
    format!("the answer's body has more than {limit} bytes")
}

fn refusal(outcome: Outcome, problem: &str) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Right(Full::new(Bytes::from(format!(
        "{outcome}: {problem}\n"
    )))));
    let status = outcome.status().unwrap_or(500);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(OUTCOME_HEADER, HeaderValue::from_static(outcome.as_str()));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    if status == 503 {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
