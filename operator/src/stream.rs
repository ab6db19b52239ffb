//! The pools' stream: who may connect, what they hear, what they say.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use hearth_api::RUNTIME_CLASS;
use hearth_contract::proto::stream_server::{Stream as StreamService, StreamServer};
use hearth_contract::proto::{FromOperator, FromPod, Hello, Report, from_pod};
use hearth_contract::{STREAM_AUDIENCE, STREAM_PROTOCOLS};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use tokio::sync::Semaphore;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::fleet::{Fleet, PodInfo};
use crate::objects;
use crate::world::World;

/// How long a pod may take to say who it is.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// How long a pod may take to say what it holds, before it is told what it should hold.
const FIRST_REPORT: Duration = Duration::from_secs(1);
/// Tokens that the API server is asked about at once. All pods of a cluster come at once when a leader is new: more requests than
/// it has seats for are refused with 429, and who is refused comes again.
const REVIEWS: usize = 16;
/// Extra fields of a TokenReview that name the pod a token is bound to (KEP-1205).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The gRPC service.
pub(crate) struct Service {
    client: Client,
    world: Arc<World>,
    reviews: Semaphore,
}

impl Service {
    /// Ready to be served.
    pub(crate) fn server(client: Client, world: Arc<World>) -> StreamServer<Self> {
        StreamServer::new(Self {
            client,
            world,
            reviews: Semaphore::new(REVIEWS),
        })
    }

    /// Whether a pod was made for an AgentPool that exists, and runs in our runtime. Labels and owners are what anybody
    /// who may make pods can write; the pool's UID must be the real one.
    fn is_ours(&self, pod: &Pod) -> bool {
        let namespace = pod.namespace().unwrap_or_default();
        let group = objects::group_of(pod);
        let pool = group.and_then(|group| {
            let key = ObjectRef::new(&group.pool).within(&namespace);
            self.world.stores.pools.get(&key)
        });
        let runtime = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.runtime_class_name.as_deref());
        pool.is_some_and(|pool| objects::is_pool_pod(pod, &pool)) && runtime == Some(RUNTIME_CLASS)
    }

    /// Pods dial again and again until somebody leads, and what that costs is to be nothing: it is looked at first.
    fn leads(&self) -> Result<(), Status> {
        match self.world.is_leading() {
            true => Ok(()),
            false => Err(Status::unavailable(
                "this operator does not lead; dial again",
            )),
        }
    }

    /// A pod as it is watched, and where that does not know it yet, as the API server does.
    async fn pod(&self, namespace: &str, name: &str, uid: &str) -> Result<Arc<Pod>, Status> {
        let key = ObjectRef::new(name).within(namespace);
        let known = self.world.stores.pods.get(&key);
        if let Some(pod) =
            known.filter(|pod| pod.uid().as_deref() == Some(uid) && PodInfo::of(pod).is_some())
        {
            return Ok(pod);
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        pods.get(name).await.map(Arc::new).map_err(|error| {
            Status::unavailable(format!("pod {namespace}/{name} cannot be read: {error}"))
        })
    }

    /// The pod that a token is bound to, when it is one of our pool pods.
    async fn authenticate(&self, token: &str) -> Result<Arc<Pod>, Status> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![STREAM_AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        // It is never closed.
        let turn = self.reviews.acquire().await;
        let review = Api::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| {
                Status::unavailable(format!("the token cannot be reviewed: {error}"))
            })?;
        drop(turn);
        let status = review.status.unwrap_or_default();
        let has_audience = status
            .audiences
            .unwrap_or_default()
            .iter()
            .any(|audience| audience == STREAM_AUDIENCE);
        if status.authenticated != Some(true) || !has_audience {
            let problem = status
                .error
                .unwrap_or_else(|| "it is not valid for this audience".to_owned());
            return Err(Status::unauthenticated(format!(
                "the pod's token is refused: {problem}"
            )));
        }
        let user = status.user.unwrap_or_default();
        let namespace = user
            .username
            .as_deref()
            .and_then(|name| {
                name.strip_prefix("system:serviceaccount:")?
                    .split(':')
                    .next()
                    .map(str::to_owned)
            })
            .ok_or_else(|| Status::permission_denied("the token belongs to no ServiceAccount"))?;
        let extra = user.extra.unwrap_or_default();
        let field = |name: &str| extra.get(name).and_then(|values| values.first()).cloned();
        let (Some(name), Some(uid)) = (field(POD_NAME), field(POD_UID)) else {
            return Err(Status::permission_denied("the token is bound to no pod"));
        };
        let pod = self.pod(&namespace, &name, &uid).await?;
        if pod.uid().as_deref() != Some(&uid) || !self.is_ours(&pod) {
            return Err(Status::permission_denied(format!(
                "pod {namespace}/{name} is no pool pod of this operator"
            )));
        }
        Ok(pod)
    }
}

/// A stream's messages to the pod.
type Outgoing = Pin<Box<dyn Stream<Item = Result<FromOperator, Status>> + Send>>;

#[tonic::async_trait]
impl StreamService for Service {
    type ConnectStream = Outgoing;

    async fn connect(
        &self,
        request: Request<Streaming<FromPod>>,
    ) -> Result<Response<Outgoing>, Status> {
        let token = request
            .metadata()
            .get("authorization")
            .and_then(|value| {
                value
                    .to_str()
                    .ok()?
                    .strip_prefix("Bearer ")
                    .map(str::to_owned)
            })
            .ok_or_else(|| {
                Status::unauthenticated("no bearer token in the metadata key authorization")
            })?;
        self.leads()?;
        let pod = self.authenticate(&token).await?;
        let mut incoming = request.into_inner();
        let hello = hello(&mut incoming).await?;
        let info = PodInfo::of(&pod)
            .ok_or_else(|| Status::unavailable("the pod has no node or no pool label yet"))?;
        if hello.pod_uid != info.uid {
            return Err(Status::permission_denied(
                "the token belongs to another pod",
            ));
        }
        self.leads()?;
        let uid = info.uid.clone();
        tracing::info!(pod = %info.name, node = %info.node, shim = %hello.shim_version, "pool pod connected");
        let (sender, outgoing) = Fleet::outbox();
        let world = self.world.clone();
        tokio::spawn(async move {
            // A shim says what it holds as soon as it is answered; one that does not is told all the same.
            let first = tokio::time::timeout(FIRST_REPORT, incoming.next()).await;
            let first = match first {
                Ok(Some(Ok(message))) => report_in(message),
                Ok(Some(Err(_)) | None) => return,
                Err(_) => None,
            };
            let Some(serial) = world.connect(info, sender, first) else {
                return;
            };
            while let Some(Ok(message)) = incoming.next().await {
                if let Some(report) = report_in(message) {
                    world.report(&uid, serial, report);
                }
            }
            world.disconnect(&uid, serial);
        });
        Ok(Response::new(Box::pin(
            ReceiverStream::new(outgoing).map(Ok),
        )))
    }
}

async fn hello(incoming: &mut Streaming<FromPod>) -> Result<Hello, Status> {
    let first = tokio::time::timeout(HELLO_DEADLINE, incoming.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no Hello within 10 s"))??;
    let Some(from_pod::Message::Hello(hello)) = first.and_then(|message| message.message) else {
        return Err(Status::invalid_argument("the first message is not Hello"));
    };
    speaks(hello.protocol)?;
    Ok(hello)
}

fn report_in(message: FromPod) -> Option<Report> {
    match message.message {
        Some(from_pod::Message::Report(report)) => Some(report),
        Some(from_pod::Message::Hello(_)) | None => None,
    }
}

/// Whether this operator speaks what a shim speaks.
fn speaks(protocol: u32) -> Result<(), Status> {
    if STREAM_PROTOCOLS.contains(&protocol) {
        return Ok(());
    }
    let (oldest, newest) = (STREAM_PROTOCOLS.start(), STREAM_PROTOCOLS.end());
    let help = match protocol < *oldest {
        true => "upgrade the node's installation",
        false => "upgrade the operator",
    };
    Err(Status::failed_precondition(format!(
        "the shim speaks protocol {protocol} of the stream, this operator {oldest} to {newest}; {help}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_spoken_is_refused_with_who_is_to_be_upgraded() {
        for protocol in STREAM_PROTOCOLS {
            assert!(speaks(protocol).is_ok());
        }
        for (protocol, help) in [
            (STREAM_PROTOCOLS.start() - 1, "the node's installation"),
            (STREAM_PROTOCOLS.end() + 1, "the operator"),
        ] {
            let refusal = speaks(protocol).unwrap_err();
            // The code by which a shim knows that dialling again does not help.
            assert_eq!(refusal.code(), tonic::Code::FailedPrecondition);
            assert!(refusal.message().contains(help), "{refusal}");
        }
    }
}
