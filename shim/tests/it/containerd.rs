//! What the shim asks of containerd: images and content over gRPC, and an ear for events over ttrpc.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use containerd_shim_protos::api::{Empty, ForwardRequest};
use containerd_shim_protos::events::task::TaskExit;
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::shim_async::{Events, create_events};
use hearth_shim::containerd::proto;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::net::UnixListener;
use ttrpc::asynchronous::{Server, TtrpcContext};

use crate::node::eventually;

/// A registry that takes requests and never answers.
pub(crate) const BLACK_HOLE: &str = "dead.example.com/";

/// The digest of bytes that never come.
const NEVER: &str = "sha256:never";

/// Images by name, blobs by digest, images of containers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store(Arc<Mutex<Stored>>);

#[derive(Debug, Default)]
struct Stored {
    images: BTreeMap<String, proto::Descriptor>,
    /// Images that a registry has and the node has not.
    published: BTreeMap<String, proto::Descriptor>,
    blobs: HashMap<String, Vec<u8>>,
    containers: HashMap<String, String>,
    pulls: Vec<String>,
}

impl Store {
    /// Takes a component as a wasm artifact.
    pub(crate) fn put(&self, image: &str, wasm: Vec<u8>) {
        self.publish(image, wasm);
        self.0.lock().unwrap().pull(image);
    }

    /// Has a component in a registry, as a wasm artifact.
    pub(crate) fn publish(&self, image: &str, wasm: Vec<u8>) {
        self.publish_as(image, "application/wasm", wasm);
    }

    /// Has a module in a registry, as `hearth push` puts it there.
    pub(crate) fn publish_module(&self, image: &str, code: &str) {
        let kind = "application/vnd.hearth.module.v1+javascript";
        self.publish_as(image, kind, code.into());
    }

    fn publish_as(&self, image: &str, kind: &str, layer: Vec<u8>) {
        let mut stored = self.0.lock().unwrap();
        let (config, layer) = (stored.blob(b"{}".to_vec()), stored.blob(layer));
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.wasm.config.v0+json",
                "digest": config.digest, "size": config.size,
            },
            "layers": [{
                "mediaType": kind, "digest": layer.digest, "size": layer.size,
            }],
        });
        let manifest = stored.blob(manifest.to_string().into_bytes());
        stored.published.insert(image.to_owned(), manifest);
    }

    /// Has an image whose bytes never come.
    pub(crate) fn slow(&self, image: &str) {
        let target = proto::Descriptor {
            digest: NEVER.to_owned(),
            ..proto::Descriptor::default()
        };
        let mut stored = self.0.lock().unwrap();
        stored.images.insert(image.to_owned(), target);
    }

    /// Says which image a container was made from.
    pub(crate) fn container(&self, id: &str, image: &str) {
        let mut stored = self.0.lock().unwrap();
        stored.containers.insert(id.to_owned(), image.to_owned());
    }

    /// Images that were to be pulled, in order.
    pub(crate) fn pulls(&self) -> Vec<String> {
        self.0.lock().unwrap().pulls.clone()
    }

    /// Serves the store on a socket.
    pub(crate) fn serve(&self, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        let store = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let store = store.clone();
                let service = service_fn(move |request| answer(store.clone(), request));
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
    }

    /// The message that answers one call, or a gRPC code and its sentence.
    async fn call(&self, path: &str, request: Bytes) -> Result<Vec<u8>, (u8, String)> {
        let missing = |what: &str| (5, format!("{what} is not here"));
        match path {
            "/containerd.services.containers.v1.Containers/Get" => {
                let id = proto::GetContainerRequest::decode(request).unwrap().id;
                let image = self.0.lock().unwrap().containers.get(&id).cloned();
                let image = image.ok_or_else(|| missing(&id))?;
                let container = Some(proto::Container { id, image });
                Ok(proto::GetContainerResponse { container }.encode_to_vec())
            }
            "/containerd.services.images.v1.Images/Get" => {
                let name = proto::GetImageRequest::decode(request).unwrap().name;
                let target = self.0.lock().unwrap().images.get(&name).cloned();
                let target = Some(target.ok_or_else(|| missing(&name))?);
                let image = Some(proto::Image { name, target });
                Ok(proto::GetImageResponse { image }.encode_to_vec())
            }
            "/containerd.services.content.v1.Content/Read" => {
                let digest = proto::ReadContentRequest::decode(request).unwrap().digest;
                if digest == NEVER {
                    std::future::pending::<()>().await;
                }
                let data = self.0.lock().unwrap().blobs.get(&digest).cloned();
                let data = data.ok_or_else(|| missing(&digest))?;
                Ok(proto::ReadContentResponse { offset: 0, data }.encode_to_vec())
            }
            "/runtime.v1.ImageService/PullImage" => {
                let request = proto::PullImageRequest::decode(request).unwrap();
                let image = request.image.unwrap_or_default().image;
                self.0.lock().unwrap().pulls.push(image.clone());
                if image.starts_with(BLACK_HOLE) {
                    std::future::pending::<()>().await;
                }
                match self.0.lock().unwrap().pull(&image) {
                    true => Ok(proto::PullImageResponse { image_ref: image }.encode_to_vec()),
                    false => Err(missing(&image)),
                }
            }
            other => Err((12, format!("{other} is not played here"))),
        }
    }
}

impl Stored {
    /// Whether a registry has it; then the node has it too.
    fn pull(&mut self, image: &str) -> bool {
        let found = self.published.remove(image);
        let is_found = found.is_some();
        self.images
            .extend(found.map(|target| (image.to_owned(), target)));
        is_found
    }

    fn blob(&mut self, bytes: Vec<u8>) -> proto::Descriptor {
        let hash = Sha256::digest(&bytes);
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = format!("sha256:{hash}");
        let size = i64::try_from(bytes.len()).unwrap();
        self.blobs.insert(digest.clone(), bytes);
        proto::Descriptor {
            media_type: String::new(),
            digest,
            size,
        }
    }
}

type Body = StreamBody<tokio_stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

/// gRPC by hand: one framed message and the status behind it.
async fn answer(store: Store, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let mut message = request.into_body().collect().await.unwrap().to_bytes();
    let answer = store.call(&path, message.split_off(5)).await;
    let (mut frames, mut trailers) = (Vec::new(), HeaderMap::new());
    match answer {
        Ok(message) => {
            let mut framed = BytesMut::new();
            framed.put_u8(0);
            framed.put_u32(u32::try_from(message.len()).unwrap());
            framed.put_slice(&message);
            frames.push(Ok(Frame::data(framed.freeze())));
            trailers.insert("grpc-status", "0".parse().unwrap());
        }
        Err((code, message)) => {
            trailers.insert("grpc-status", code.to_string().parse().unwrap());
            trailers.insert("grpc-message", message.parse().unwrap());
        }
    }
    frames.push(Ok(Frame::trailers(trailers)));
    let body = StreamBody::new(tokio_stream::iter(frames));
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(body).unwrap())
}

/// The events that containerd got, as `TOPIC CODE`, where the code stands only behind exits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    /// Listens on a socket for as long as the server lives.
    pub(crate) async fn serve(&self, socket: &Path) -> Server {
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(create_events(Arc::new(self.clone())));
        server.start().await.unwrap();
        server
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until these were the last: they come a moment after the call that made them was answered.
    pub(crate) async fn ends_with(&self, events: &[&str]) {
        eventually("the last events", || {
            let all = self.all();
            let from = all.len().checked_sub(events.len())?;
            (all[from..] == *events).then_some(())
        })
        .await;
    }
}

#[async_trait]
impl Events for Heard {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap_or_default();
        let mut line = envelope.topic.clone();
        if envelope.topic == "/tasks/exit" {
            let exit = TaskExit::parse_from_bytes(&envelope.event.value).unwrap();
            line = format!("{line} {}", exit.exit_status);
        }
        self.0.lock().unwrap().push(line);
        Ok(Empty::default())
    }
}
