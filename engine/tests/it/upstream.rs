//! Servers that guests call out to, with bytes that no server of HTTP would send.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::harness::DEADLINE;

/// Where one is, and what it saw.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    /// A word for each caller that left.
    callers: mpsc::UnboundedReceiver<()>,
}

impl Upstream {
    /// Writes these bytes once something came, and keeps the connection for as long as the caller does.
    pub(crate) async fn holding(answer: &'static str) -> Self {
        Self::start(answer, true).await
    }

    /// Writes these bytes once something came, and closes.
    pub(crate) async fn closing(answer: &'static str) -> Self {
        Self::start(answer, false).await
    }

    /// Does not listen any more.
    pub(crate) async fn gone() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            callers: mpsc::unbounded_channel().1,
        }
    }

    async fn start(answer: &'static str, holds: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (left, callers) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let left = left.clone();
                tokio::spawn(async move {
                    serve(stream, answer, holds).await;
                    // The test may be over.
                    let _ = left.send(());
                });
            }
        });
        Self { address, callers }
    }

    /// Returns when a caller has left.
    pub(crate) async fn left(&mut self) {
        tokio::time::timeout(DEADLINE, self.callers.recv())
            .await
            .unwrap();
    }
}

async fn serve(mut stream: TcpStream, answer: &str, holds: bool) {
    let mut request = [0; 4096];
    // An error is the caller's end, as no bytes are.
    while let Ok(1..) = stream.read(&mut request).await {
        if stream.write_all(answer.as_bytes()).await.is_err() || !holds {
            return;
        }
    }
}

/// An authority that signs certificates of 127.0.0.1.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// What a server needs that this authority vouches for.
    pub(crate) fn server(&self) -> ServerConfig {
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap()
    }
}

/// Answers one request on each connection over TLS.
pub(crate) async fn secure(config: ServerConfig) -> SocketAddr {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A caller that does not trust it leaves.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    address
}
