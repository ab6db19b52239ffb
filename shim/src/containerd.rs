//! The few calls of containerd's gRPC API that the shim makes. Everything goes through containerd so that mirrors,
//! credentials and certificates that the cluster's owner configured keep working.

use std::time::Duration;

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

/// The generated messages.
#[allow(
    missing_docs,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated from containerd.proto"
)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/containerd.subset.rs"));
}

/// Bound of a call that reads containerd's own store.
const STORE_CALL: Duration = Duration::from_secs(10);
/// Bound of reading one blob.
const BLOB_CALL: Duration = Duration::from_secs(60);
/// Bound of one pull. Kubelet's own bound is a progress time-out inside containerd.
const PULL_CALL: Duration = Duration::from_secs(600);
/// Largest message: containerd sends blobs in chunks of at most 4 MiB.
const MESSAGE_BYTES: usize = 8 << 20;

/// A client for one containerd namespace. Clones share the connection, which is made on the first call and again
/// after containerd was restarted.
#[derive(Debug, Clone)]
pub struct Containerd {
    channel: Channel,
    namespace: MetadataValue<tonic::metadata::Ascii>,
}

impl Containerd {
    /// `address` is containerd's gRPC socket.
    ///
    /// # Errors
    /// The address or the namespace cannot be written into a request.
    pub fn new(address: &str, namespace: &str) -> anyhow::Result<Self> {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        let endpoint = Endpoint::from_shared(format!("unix://{path}"))?;
        Ok(Self {
            channel: endpoint.connect_lazy(),
            namespace: namespace.parse()?,
        })
    }

    /// The name of the image that a container was made from.
    pub async fn container_image(&self, id: &str) -> Result<String, Status> {
        let request = proto::GetContainerRequest { id: id.to_owned() };
        let path = "/containerd.services.containers.v1.Containers/Get";
        let response: proto::GetContainerResponse = self.call(path, request, STORE_CALL).await?;
        Ok(response.container.unwrap_or_default().image)
    }

    /// What an image's name stands for.
    pub async fn image(&self, name: &str) -> Result<proto::Descriptor, Status> {
        let request = proto::GetImageRequest {
            name: name.to_owned(),
        };
        let path = "/containerd.services.images.v1.Images/Get";
        let response: proto::GetImageResponse = self.call(path, request, STORE_CALL).await?;
        response
            .image
            .and_then(|image| image.target)
            .ok_or_else(|| Status::not_found(format!("image {name:?} has no target")))
    }

    /// Pulls an image the way kubelet does.
    pub async fn pull(&self, name: &str) -> Result<(), Status> {
        let request = proto::PullImageRequest {
            image: Some(proto::ImageSpec {
                image: name.to_owned(),
            }),
        };
        let path = "/runtime.v1.ImageService/PullImage";
        let _: proto::PullImageResponse = self.call(path, request, PULL_CALL).await?;
        Ok(())
    }

    /// Reads a blob and gives it, piece by piece, to `take`.
    pub async fn read(
        &self,
        digest: &str,
        mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), Status> {
        let request = proto::ReadContentRequest {
            digest: digest.to_owned(),
            ..Default::default()
        };
        let path = "/containerd.services.content.v1.Content/Read";
        let read = async {
            let mut client = self.client().await?;
            let codec =
                ProstCodec::<proto::ReadContentRequest, proto::ReadContentResponse>::default();
            let response = client
                .server_streaming(
                    self.request(request),
                    PathAndQuery::from_static(path),
                    codec,
                )
                .await?;
            let mut pieces = response.into_inner();
            while let Some(piece) = pieces.message().await? {
                take(&piece.data).map_err(|error| {
                    Status::resource_exhausted(format!("blob {digest}: {error}"))
                })?;
            }
            Ok(())
        };
        match tokio::time::timeout(BLOB_CALL, read).await {
            Ok(result) => result,
            Err(_) => Err(Status::deadline_exceeded(format!(
                "containerd did not finish sending blob {digest}"
            ))),
        }
    }

    async fn client(&self) -> Result<Grpc<Channel>, Status> {
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES);
        client
            .ready()
            .await
            .map_err(|error| Status::unavailable(format!("containerd does not answer: {error}")))?;
        Ok(client)
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", self.namespace.clone());
        request
    }

    async fn call<M, R>(&self, path: &'static str, message: M, bound: Duration) -> Result<R, Status>
    where
        M: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let call = async {
            let mut client = self.client().await?;
            let codec = ProstCodec::<M, R>::default();
            let path = PathAndQuery::from_static(path);
            client.unary(self.request(message), path, codec).await
        };
        match tokio::time::timeout(bound, call).await {
            Ok(response) => Ok(response?.into_inner()),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "containerd did not answer {path} within {} s",
                bound.as_secs()
            ))),
        }
    }
}
