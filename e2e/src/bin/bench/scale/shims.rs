//! Pool pods without nodes: their kubelet and their shims, played. They say that everything they are told is served at once, so
//! that what is measured is the operator and the API server.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use hearth_contract::proto::stream_client::StreamClient;
use hearth_contract::proto::{self, FromPod, FunctionReport, State, from_pod};
use hearth_contract::{STREAM_AUDIENCE, STREAM_PROTOCOL};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::{MARK, Watched};

/// Where the operator is.
const NAMESPACE: &str = "hearth-system";
/// The name in its certificate.
const NAME: &str = "hearth-operator.hearth-system.svc";
/// The first pause between two dials, and the longest one, as shims have them.
const REDIAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Time between two reports about calls.
const REPORT: Duration = Duration::from_secs(1);
/// Functions of a pod that are called in that time, each time others.
const CALLED: usize = 20;

/// What all played pods share and show.
#[derive(Default)]
pub(super) struct Shown {
    /// Pods whose stream is open and that were told something.
    pub(super) told: AtomicUsize,
    /// Functions that pods hold, each as often as it is held.
    pub(super) held: AtomicUsize,
    /// Messages that were heard.
    pub(super) messages: AtomicU64,
    /// Functions that stood in them.
    pub(super) placed: AtomicU64,
    /// Calls that are reported of each function that is called in a second.
    pub(super) calls: AtomicU64,
    /// Calls that were reported.
    pub(super) reported: AtomicU64,
    /// Streams that ended.
    pub(super) ended: AtomicU64,
    /// When each function was named in a message first, by name.
    heard: Mutex<HashMap<String, Instant>>,
}

impl Shown {
    /// When a function was named first.
    pub(super) fn heard(&self, name: &str) -> Option<Instant> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(name).copied()
    }
}

/// Plays kubelet for the pool pods of one pool's nodes, and their shims, until it is dropped.
pub(super) struct Played(tokio::task::JoinHandle<()>);

impl Drop for Played {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to play.
///
/// # Errors
/// When the operator's certificate cannot be read.
pub(super) async fn play(client: Client, selector: &str, shown: Arc<Shown>) -> Result<Played> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let secret = secrets.get("hearth-stream-tls").await?;
    let authority = secret.data.and_then(|mut data| data.remove("ca.crt"));
    let authority = authority.context("the Secret hearth-stream-tls has no ca.crt")?;
    let operators = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let operator = Arc::new(Operator {
        client: client.clone(),
        leaders: Watched::start(operators, "hearth.dev/leader=true"),
        authority: String::from_utf8(authority.0)?,
    });
    let pods = watcher(
        Api::<Pod>::all(client.clone()),
        watcher::Config::default().labels(selector),
    );
    let task = async move {
        let mut running = HashMap::<String, tokio::task::JoinHandle<()>>::new();
        let mut pods = std::pin::pin!(pods.default_backoff().touched_objects());
        let mut number = 0u32;
        while let Some(Ok(pod)) = pods.next().await {
            // Those of other nodes have a kubelet.
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
            if !node.is_some_and(|node| node.starts_with(MARK)) {
                continue;
            }
            let uid = pod.uid().unwrap_or_default();
            if pod.metadata.deletion_timestamp.is_some() {
                if let Some(shim) = running.remove(&uid) {
                    shim.abort();
                }
                ended(&client, &pod).await;
                continue;
            }
            running.entry(uid).or_insert_with(|| {
                number += 1;
                let (operator, shown) = (operator.clone(), shown.clone());
                let address = format!("10.250.{}.{}", number / 250, number % 250 + 1);
                tokio::spawn(shim(operator, pod, address, shown))
            });
        }
    };
    Ok(Played(tokio::spawn(task)))
}

/// Kubelet lets go of a pod.
async fn ended(client: &Client, pod: &Pod) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    // Gone already.
    let _ = pods.delete(&pod.name_any(), &now).await;
}

struct Operator {
    client: Client,
    /// PEM of the authority of its certificate.
    authority: String,
    /// Pods of it that lead: one, or none.
    leaders: Watched<Pod>,
}

impl Operator {
    /// Where the leader is. Not through its Service: nobody routes while kube-proxy stands still.
    fn leader(&self) -> Result<String> {
        let mut leaders = self.leaders.objects.state().into_iter();
        let address = leaders.find_map(|pod| match pod.metadata.deletion_timestamp {
            Some(_) => None,
            None => pod.status.as_ref()?.pod_ip.clone(),
        });
        Ok(format!("https://{}:8443", address.context("nobody leads")?))
    }
}

async fn shim(operator: Arc<Operator>, pod: Pod, address: String, shown: Arc<Shown>) {
    let namespace = pod.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(operator.client.clone(), &namespace);
    let running = json!({"status": {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    let (name, parameters) = (pod.name_any(), PatchParams::default());
    let running = Patch::Merge(running);
    let patched = pods.patch_status(&name, &parameters, &running).await;
    // It is gone.
    if patched.is_err() {
        return;
    }
    let mut functions = BTreeMap::new();
    // Kubelet has it before a shim starts.
    let token = loop {
        match token(&operator.client, &namespace, &pod).await {
            Ok(token) => break token,
            Err(_) => tokio::time::sleep(REDIAL.1).await,
        }
    };
    let mut failures = 0;
    loop {
        let began = Instant::now();
        // Dropped: what it held is held no longer.
        let session = Session::new(&shown);
        // The operator went away, or does not lead yet.
        let _ = session.run(&operator, &pod, &token, &mut functions).await;
        shown.ended.fetch_add(1, Ordering::Relaxed);
        failures = match began.elapsed() > REDIAL.1 {
            true => 0,
            false => failures + 1,
        };
        tokio::time::sleep(pause(failures)).await;
    }
}

/// Doubles, and a half of it is random.
fn pause(failures: u32) -> Duration {
    let longest = REDIAL.0.saturating_mul(1 << failures.min(16)).min(REDIAL.1);
    let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    longest.mul_f64(0.5 + random / 2.0)
}

/// One stream.
struct Session<'a> {
    shown: &'a Shown,
    held: usize,
    is_told: bool,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.shown.held.fetch_sub(self.held, Ordering::Relaxed);
        if self.is_told {
            self.shown.told.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<'a> Session<'a> {
    fn new(shown: &'a Shown) -> Self {
        Self {
            shown,
            held: 0,
            is_told: false,
        }
    }

    async fn run(
        mut self,
        operator: &Operator,
        pod: &Pod,
        token: &str,
        functions: &mut BTreeMap<String, FunctionReport>,
    ) -> Result<()> {
        let leader = operator.leader()?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&operator.authority))
            .domain_name(NAME);
        let channel = Endpoint::from_shared(leader)?.tls_config(tls)?;
        let channel = channel.connect_timeout(Duration::from_secs(5));
        let mut client = StreamClient::new(channel.connect().await?);
        let (sender, outgoing) = mpsc::channel(4);
        let hello = proto::Hello {
            protocol: STREAM_PROTOCOL,
            shim_version: "played".to_owned(),
            engine_fingerprint: "played".to_owned(),
            pod_uid: pod.uid().unwrap_or_default(),
        };
        let message = |message| FromPod {
            message: Some(message),
        };
        sender
            .send(message(from_pod::Message::Hello(hello)))
            .await?;
        let mut request = Request::new(ReceiverStream::new(outgoing));
        let metadata = request.metadata_mut();
        metadata.insert("authorization", format!("Bearer {token}").parse()?);
        let mut incoming = client.connect(request).await?.into_inner();
        let report = |revision, complete, functions: Vec<FunctionReport>, removed| {
            message(from_pod::Message::Report(proto::Report {
                revision,
                complete,
                functions,
                removed,
            }))
        };
        let all = functions.values().cloned().collect();
        sender.send(report(0, true, all, Vec::new())).await?;
        let mut ticks = tokio::time::interval(REPORT);
        let (mut revision, mut turn) = (0, 0);
        loop {
            tokio::select! {
                heard = incoming.try_next() => {
                    let Some(heard) = heard? else { return Ok(()) };
                    revision = heard.revision;
                    let removed = heard.remove.clone();
                    let changed = self.take(heard, functions);
                    sender.send(report(revision, false, changed, removed)).await?;
                }
                _ = ticks.tick() => {
                    let calls = self.shown.calls.load(Ordering::Relaxed);
                    if calls > 0 {
                        turn = if turn + CALLED < functions.len() { turn + CALLED } else { 0 };
                        let called = functions.values_mut().skip(turn).take(CALLED).map(|function| {
                            called(function, calls);
                            function.clone()
                        });
                        let called: Vec<_> = called.collect();
                        let count = calls * called.len() as u64;
                        self.shown.reported.fetch_add(count, Ordering::Relaxed);
                        sender.send(report(revision, false, called, Vec::new())).await?;
                    }
                }
            }
        }
    }

    /// Does what a message says, and returns what changed.
    fn take(
        &mut self,
        message: proto::FromOperator,
        functions: &mut BTreeMap<String, FunctionReport>,
    ) -> Vec<FunctionReport> {
        let now = Instant::now();
        self.shown.messages.fetch_add(1, Ordering::Relaxed);
        if message.snapshot {
            functions.clear();
        }
        if !self.is_told {
            self.is_told = true;
            self.shown.told.fetch_add(1, Ordering::Relaxed);
        }
        for uid in &message.remove {
            functions.remove(uid);
        }
        let placed = message.functions.len();
        self.shown
            .placed
            .fetch_add(placed as u64, Ordering::Relaxed);
        let mut changed = Vec::new();
        let mut heard = self
            .shown
            .heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for placed in message.functions {
            let Some(function) = placed.function else {
                continue;
            };
            let Some(key) = function.r#ref else { continue };
            heard.entry(key.name.clone()).or_insert(now);
            let report = functions.entry(key.uid.clone()).or_default();
            report.r#ref = Some(key);
            report.generation = function.generation;
            report.set_state(State::Serving);
            report.answers = true;
            report.digest = "sha256:played".to_owned();
            report.warm = function.target;
            report.target = function.target;
            report.instance_bytes = 1 << 20;
            report.start_us = 20;
            changed.push(report.clone());
        }
        drop(heard);
        // What is held by all together, before and after.
        self.shown
            .held
            .fetch_add(functions.len(), Ordering::Relaxed);
        self.shown.held.fetch_sub(self.held, Ordering::Relaxed);
        self.held = functions.len();
        changed
    }
}

/// So many calls of a function were answered.
fn called(function: &mut FunctionReport, calls: u64) {
    match function.calls.first_mut() {
        Some(counted) => counted.count += calls,
        None => function.calls.push(proto::CallCount {
            outcome: "answered".to_owned(),
            start: "hit".to_owned(),
            count: calls,
        }),
    }
}

/// A token that is bound to the pod, as kubelet mounts it.
async fn token(client: &Client, namespace: &str, pod: &Pod) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![STREAM_AUDIENCE.to_owned()],
            expiration_seconds: Some(7200),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.name_any()),
                uid: pod.uid(),
            }),
        },
        ..TokenRequest::default()
    };
    let made = accounts
        .create_token_request("default", &PostParams::default(), &request)
        .await?;
    Ok(made.status.context("a token was made")?.token)
}
