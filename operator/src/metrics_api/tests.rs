use std::collections::BTreeMap;
use std::sync::Mutex;

use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::ConfigMap;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

use super::*;
use crate::meter::{Counted, Tick};
use crate::world::fake;

const BASE: &str = "/apis/custom.metrics.k8s.io/v1beta2";

/// An authority for client certificates, as the API server's front proxy has one.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let pem = parameters.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(parameters, key);
        Self { issuer, pem }
    }

    /// Certificate and key, PEM, of a client called `name`.
    fn client(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// An API server that reviews access: alice may read, nobody else; and counts how often it was asked.
fn reviewer(asked: Arc<Mutex<Vec<Value>>>) -> Client {
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let asked = asked.clone();
        async move {
            let body = request.into_body().collect().await?.to_bytes();
            let mut review: Value = serde_json::from_slice(&body)?;
            let allowed = review["spec"]["user"] == "alice";
            review["status"] = json!({"allowed": allowed, "reason": "by the test"});
            asked.lock().unwrap().push(review.clone());
            let body = kube::client::Body::from(review.to_string().into_bytes());
            Ok::<_, tower::BoxError>(Response::new(body))
        }
    });
    Client::new(service, "default")
}

fn world() -> Arc<World> {
    let functions = ["f", "g"].map(|name| fake::function(name, json!({})));
    let world = fake::world(&functions, &[], &[]);
    let tick = Tick {
        counted: Counted {
            calls: 8,
            non_hits: 2,
            durations: vec![8],
            ..Counted::default()
        },
        in_use: 3,
        queued: 0,
    };
    world.meter.tick(1.0, [("uid-f", &tick)]);
    fake::leads_for_long(&world);
    Arc::new(world)
}

/// A server, and what is needed to ask it.
struct Served {
    address: std::net::SocketAddr,
    own: Certificates,
    authority: Authority,
    world: Arc<World>,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Served {
    async fn new() -> Self {
        let own = crate::tls::make("operator.test.svc").unwrap();
        let authority = Authority::new();
        let data = BTreeMap::from([
            ("requestheader-client-ca-file", authority.pem.clone()),
            (
                "requestheader-allowed-names",
                r#"["front-proxy-client"]"#.to_owned(),
            ),
            (
                "requestheader-username-headers",
                r#"["X-Remote-User"]"#.to_owned(),
            ),
            (
                "requestheader-group-headers",
                r#"["X-Remote-Group"]"#.to_owned(),
            ),
            (
                "requestheader-extra-headers-prefix",
                r#"["X-Remote-Extra-"]"#.to_owned(),
            ),
        ]);
        let config = ConfigMap {
            data: Some(
                data.into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect(),
            ),
            ..ConfigMap::default()
        };
        let front = Front::new(&config, &own).unwrap();
        let asked = Arc::new(Mutex::default());
        let (world, listener) = (world(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let api = Api {
            world: world.clone(),
            access: Arc::new(Access::new(reviewer(asked.clone()))),
            front: watch::channel(Some(Arc::new(front))).1,
        };
        tokio::spawn(api.accept(listener, CancellationToken::new()));
        Self {
            address,
            own,
            authority,
            world,
            asked,
        }
    }

    /// Asks as the front proxy, for a user.
    async fn get(&self, user: &str, path: &str) -> (u16, Value) {
        let proxy = self.authority.client("front-proxy-client");
        self.ask(Some(proxy), &[("X-Remote-User", user)], path)
            .await
    }

    async fn ask(
        &self,
        identity: Option<(String, String)>,
        headers: &[(&str, &str)],
        path: &str,
    ) -> (u16, Value) {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.own.ca.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            Some((certificate, key)) => config
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("operator.test.svc").unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut request = Request::get(path).header("host", "operator");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(http_body_util::Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }
}

fn metric(function: &str, metric: &str) -> String {
    format!("{BASE}/namespaces/n/agentfunctions.hearth.dev/{function}/{metric}")
}

#[tokio::test]
async fn values_are_told_to_who_may_read_them() {
    let served = Served::new().await;
    for (name, expected) in [
        ("hearth_in_flight", "3"),
        ("hearth_queued", "0"),
        ("hearth_calls_per_second", "8"),
        ("hearth_non_hit_share", "250m"),
        ("hearth_p99_seconds", "1m"),
    ] {
        let (status, list) = served.get("alice", &metric("f", name)).await;
        assert_eq!(
            (status, &list["kind"]),
            (200, &json!("MetricValueList")),
            "{list}"
        );
        let item = &list["items"][0];
        assert_eq!(item["value"], expected, "{list}");
        assert_eq!(item["metric"]["name"], name);
        let object = json!({"kind": "AgentFunction", "namespace": "n", "name": "f", "apiVersion": "hearth.dev/v1alpha1"});
        assert_eq!(item["describedObject"], object);
        assert!(item["timestamp"].as_str().unwrap().ends_with('Z'));
    }
    // One that nobody calls is there, too.
    let (_, list) = served.get("alice", &metric("*", "hearth_in_flight")).await;
    let mut values: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["value"].clone())
        .collect();
    values.sort_by_key(ToString::to_string);
    assert_eq!(values, ["0", "3"]);
}

#[tokio::test]
async fn who_may_not_read_is_refused() {
    let served = Served::new().await;
    let path = metric("f", "hearth_in_flight");
    let (status, said) = served.get("mallory", &path).await;
    assert_eq!(
        (status, &said["reason"]),
        (403, &json!("Forbidden")),
        "{said}"
    );
    let attributes = &served.asked.lock().unwrap()[0]["spec"]["resourceAttributes"].clone();
    let expected = json!({
        "group": "custom.metrics.k8s.io", "version": "v1beta2", "resource": "agentfunctions.hearth.dev",
        "subresource": "hearth_in_flight", "namespace": "n", "name": "f", "verb": "get",
    });
    assert_eq!(attributes, &expected);
    // The answer is remembered for the same question, and for no other.
    served.get("mallory", &path).await;
    assert_eq!(served.asked.lock().unwrap().len(), 1);
    served.get("alice", &path).await;
    served
        .get("mallory", &metric("g", "hearth_in_flight"))
        .await;
    assert_eq!(served.asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn only_the_front_proxy_names_users() {
    let served = Served::new().await;
    let path = metric("f", "hearth_in_flight");
    let alice = [("X-Remote-User", "alice")];
    let proxy = served.authority.client("front-proxy-client");
    let other = served.authority.client("kubelet");
    for (identity, headers, expected) in [
        (Some(proxy.clone()), &alice[..], 200),
        (Some(other), &alice, 401),
        (None, &alice, 401),
        (Some(proxy), &[], 401),
    ] {
        let (status, said) = served.ask(identity, headers, &path).await;
        assert_eq!(status, expected, "{said}");
    }
}

#[tokio::test]
async fn groups_and_extra_fields_of_the_user_are_reviewed() {
    let served = Served::new().await;
    let headers = [
        ("X-Remote-User", "alice"),
        ("X-Remote-Group", "one"),
        ("X-Remote-Group", "two"),
        ("X-Remote-Extra-Example.com%2fKey", "v"),
    ];
    let proxy = served.authority.client("front-proxy-client");
    let path = metric("f", "hearth_queued");
    served.ask(Some(proxy), &headers, &path).await;
    let spec = &served.asked.lock().unwrap()[0]["spec"].clone();
    assert_eq!(spec["groups"], json!(["one", "two"]));
    assert_eq!(spec["extra"], json!({"example.com/key": ["v"]}));
}

#[tokio::test]
async fn discovery_names_every_metric() {
    let served = Served::new().await;
    let (status, list) = served.get("alice", BASE).await;
    assert_eq!((status, &list["kind"]), (200, &json!("APIResourceList")));
    let names: Vec<_> = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].clone())
        .collect();
    assert!(
        names.contains(&json!("agentfunctions.hearth.dev/hearth_in_flight")),
        "{names:?}"
    );
    let (_, group) = served.get("alice", "/apis/custom.metrics.k8s.io").await;
    assert_eq!(
        group["preferredVersion"]["groupVersion"],
        "custom.metrics.k8s.io/v1beta2"
    );
    let (_, groups) = served.get("alice", "/apis").await;
    assert_eq!(groups["groups"][0]["name"], "custom.metrics.k8s.io");
    // The API server asks as itself, in no group, for one document about everything.
    let proxy = served.authority.client("front-proxy-client");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList;profile=nopeer,application/json";
    let headers = [
        ("X-Remote-User", "system:kube-aggregator"),
        ("Accept", accept),
    ];
    let (status, list) = served.ask(Some(proxy), &headers, "/apis").await;
    assert_eq!(
        (status, &list["kind"]),
        (200, &json!("APIGroupDiscoveryList"))
    );
    let resource = &list["items"][0]["versions"][0]["resources"][0];
    assert_eq!(
        resource["subresources"][0]["subresource"],
        "hearth_in_flight"
    );
    assert!(served.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_there_says_so() {
    let served = Served::new().await;
    for (path, word) in [
        (metric("h", "hearth_in_flight"), "no AgentFunction n/h"),
        (metric("f", "latency"), "hearth_p99_seconds"),
        (
            format!("{BASE}/namespaces/n/pods/f/hearth_in_flight"),
            "no such path",
        ),
    ] {
        let (status, said) = served.get("alice", &path).await;
        assert_eq!(status, 404, "{path}");
        assert!(said["message"].as_str().unwrap().contains(word), "{said}");
    }
    // What it was told of is not all that calls did, and none would have an autoscaler lower a function that is called.
    for leads in [false, true] {
        served.world.set_leading(leads);
        let (status, _) = served.get("alice", &metric("f", "hearth_in_flight")).await;
        assert_eq!(status, 503);
    }
}
