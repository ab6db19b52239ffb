//! The pools' stream: who may connect, what they hear, what they say.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use hearth_api::RUNTIME_CLASS;
use hearth_contract::proto::stream_server::{Stream as StreamService, StreamServer};
use hearth_contract::proto::{FromOperator, FromPod, Hello, from_pod};
use hearth_contract::{STREAM_AUDIENCE, STREAM_PROTOCOL};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::fleet::PodInfo;
use crate::objects;
use crate::world::World;

/// How long a pod may take to say who it is.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// Extra fields of a TokenReview that name the pod a token is bound to (KEP-1205).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The gRPC service.
pub(crate) struct Service {
    client: Client,
    world: Arc<World>,
}

impl Service {
    /// Ready to be served.
    pub(crate) fn server(client: Client, world: Arc<World>) -> StreamServer<Self> {
        StreamServer::new(Self { client, world })
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

    /// The pod that a token is bound to, when it is one of our pool pods.
    async fn authenticate(&self, token: &str) -> Result<Pod, Status> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![STREAM_AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let review = Api::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| {
                Status::unavailable(format!("the token cannot be reviewed: {error}"))
            })?;
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
        let pod = Api::<Pod>::namespaced(self.client.clone(), &namespace)
            .get(&name)
            .await
            .map_err(|error| {
                Status::unavailable(format!("pod {namespace}/{name} cannot be read: {error}"))
            })?;
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
        if !self.world.is_leading() {
            return Err(Status::unavailable(
                "this operator does not lead; dial again",
            ));
        }
        let uid = info.uid.clone();
        tracing::info!(pod = %info.name, node = %info.node, shim = %hello.shim_version, "pool pod connected");
        let (serial, outgoing) = self.world.connect(info);
        let world = self.world.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                if let Some(from_pod::Message::Report(report)) = message.message {
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
    if hello.protocol != STREAM_PROTOCOL {
        return Err(Status::failed_precondition(format!(
            "the shim speaks protocol {}, this operator {STREAM_PROTOCOL}; upgrade the older one",
            hello.protocol
        )));
    }
    Ok(hello)
}
