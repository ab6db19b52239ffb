//! What stands where: discovery documents and values.

use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use serde_json::{Value, json};

use crate::meter::{METRICS, WINDOW};
use crate::world::World;

/// Group of the API.
pub(super) const GROUP: &str = "custom.metrics.k8s.io";
/// Version of the API.
pub(super) const VERSION: &str = "v1beta2";
/// Content type of a discovery document about everything.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// The resource whose metrics there are, with its group.
pub(super) const RESOURCE: &str = "agentfunctions.hearth.dev";

/// What a path stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Route {
    /// `/apis`
    Groups,
    /// `/apis/custom.metrics.k8s.io`
    Group,
    /// `/apis/custom.metrics.k8s.io/v1beta2`
    Version,
    /// A metric of one function, or of all functions of a namespace, whose name is then `*`.
    Metric {
        /// Namespace of the function.
        namespace: String,
        /// Name of the function.
        name: String,
        /// Name of the metric.
        metric: String,
    },
}

impl Route {
    /// Reads a path. Selectors select nothing: values carry no labels of their own.
    pub(super) fn of(path: &str, query: Option<&str>) -> Option<Self> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        match segments.as_slice() {
            ["apis"] => Some(Self::Groups),
            ["apis", GROUP] => Some(Self::Group),
            ["apis", GROUP, VERSION] => Some(Self::Version),
            [
                "apis",
                GROUP,
                VERSION,
                "namespaces",
                namespace,
                RESOURCE,
                name,
                metric,
            ] => {
                let mut fields = query.unwrap_or_default().split('&');
                let selects = |field: &str| {
                    field.split_once('=').is_some_and(|(key, value)| {
                        key.ends_with("abelSelector") && !value.is_empty()
                    })
                };
                (!fields.any(selects)).then(|| Self::Metric {
                    namespace: (*namespace).to_owned(),
                    name: name.replace("%2A", "*"),
                    metric: (*metric).to_owned(),
                })
            }
            _ => None,
        }
    }
}

/// Answers a user who may read.
pub(super) fn answer(world: &World, route: &Route, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let version = json!({"groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION});
    let group = json!({"name": GROUP, "versions": [version], "preferredVersion": version});
    let body = match route {
        Route::Groups if accepts_aggregated(headers) => {
            let mut response = respond(StatusCode::OK, &aggregated());
            let content = header::HeaderValue::from_static(AGGREGATED);
            response.headers_mut().insert(header::CONTENT_TYPE, content);
            return response;
        }
        Route::Groups => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}),
        Route::Group => {
            let mut group = group;
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            group
        }
        Route::Version => resources(),
        Route::Metric {
            namespace,
            name,
            metric,
        } => return values(world, namespace, name, metric),
    };
    respond(StatusCode::OK, &body)
}

fn accepts_aggregated(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    accepted.any(|value| value.contains(AGGREGATED))
}

/// All that there is, in one document. Without it the API server calls the group stale, and then neither autoscalers find it
/// nor do namespaces end.
fn aggregated() -> Value {
    let subresources = METRICS.map(|(metric, _, _)| {
        json!({
            "subresource": metric,
            "responseKind": {"group": GROUP, "version": VERSION, "kind": "MetricValueList"},
            "verbs": ["get"],
        })
    });
    let resource = json!({
        "resource": RESOURCE,
        // An empty kind: there is nothing to read at the resource itself.
        "responseKind": {"group": "", "version": "", "kind": ""},
        "scope": "Namespaced",
        "singularResource": "",
        "verbs": [],
        "subresources": subresources,
    });
    let version = json!({"version": VERSION, "resources": [resource], "freshness": "Current"});
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": [{"metadata": {"name": GROUP}, "versions": [version]}],
    })
}

fn resources() -> Value {
    let resources: Vec<_> = METRICS
        .iter()
        .map(|(metric, _, _)| {
            json!({
                "name": format!("{RESOURCE}/{metric}"),
                "singularName": "",
                "namespaced": true,
                "kind": "MetricValueList",
                "verbs": ["get"],
            })
        })
        .collect();
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": resources,
    })
}

fn values(world: &World, namespace: &str, name: &str, metric: &str) -> Response<Full<Bytes>> {
    let Some((_, _, read)) = METRICS.iter().find(|(known, _, _)| *known == metric) else {
        let names = METRICS.map(|(name, _, _)| name).join(", ");
        return not_found(&format!("there is no metric {metric:?}; there are {names}"));
    };
    if !world.is_leading() {
        return unavailable("this operator does not lead; ask again");
    }
    if !world.has_heard_calls() {
        return unavailable(
            "this operator leads for some seconds only, and does not know yet what calls do; ask again",
        );
    }
    let functions = match name {
        "*" => {
            let mut all = world.stores.functions.state();
            all.retain(|function| function.namespace().as_deref() == Some(namespace));
            all
        }
        name => {
            let key = ObjectRef::new(name).within(namespace);
            let Some(function) = world.stores.functions.get(&key) else {
                return not_found(&format!("there is no AgentFunction {namespace}/{name}"));
            };
            vec![function]
        }
    };
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    let item = |function: std::sync::Arc<hearth_api::v1alpha1::AgentFunction>| {
        let reading = world.meter.read(&function.uid().unwrap_or_default());
        json!({
            "describedObject": {
                "kind": "AgentFunction",
                "namespace": namespace,
                "name": function.name_any(),
                "apiVersion": "hearth.dev/v1alpha1",
            },
            "metric": {"name": metric},
            "timestamp": now.to_string(),
            "windowSeconds": WINDOW.as_secs(),
            "value": quantity(read(&reading)),
        })
    };
    let items: Vec<_> = functions.into_iter().map(item).collect();
    let list = json!({
        "kind": "MetricValueList",
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": {},
        "items": items,
    });
    respond(StatusCode::OK, &list)
}

/// A number as a quantity, in thousandths; what is above zero does not become zero.
fn quantity(value: f64) -> String {
    let thousandths = (value * 1000.0).ceil() as u64;
    match thousandths % 1000 {
        0 => (thousandths / 1000).to_string(),
        _ => format!("{thousandths}m"),
    }
}

fn respond(code: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = code;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

fn status(code: StatusCode, reason: &str, message: &str) -> Response<Full<Bytes>> {
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code.as_u16(),
    });
    respond(code, &status)
}

/// The caller is not the API server, or names nobody.
pub(super) fn unauthorized() -> Response<Full<Bytes>> {
    status(
        StatusCode::UNAUTHORIZED,
        "Unauthorized",
        "only the API server may ask, with its front-proxy certificate and a user's name",
    )
}

/// The user may not read this.
pub(super) fn forbidden(user: &str, path: &str, reason: &str) -> Response<Full<Bytes>> {
    let message = format!("{user:?} may not get {path}: {reason}");
    status(StatusCode::FORBIDDEN, "Forbidden", &message)
}

/// There is only reading.
pub(super) fn not_allowed() -> Response<Full<Bytes>> {
    status(
        StatusCode::METHOD_NOT_ALLOWED,
        "MethodNotAllowed",
        "metrics can only be read",
    )
}

/// Nothing is there.
pub(super) fn not_found(message: &str) -> Response<Full<Bytes>> {
    status(StatusCode::NOT_FOUND, "NotFound", message)
}

/// Ask again.
pub(super) fn unavailable(message: &str) -> Response<Full<Bytes>> {
    status(
        StatusCode::SERVICE_UNAVAILABLE,
        "ServiceUnavailable",
        message,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let metric = |name: &str| Route::Metric {
            namespace: "n".to_owned(),
            name: name.to_owned(),
            metric: "m".to_owned(),
        };
        let base = "/apis/custom.metrics.k8s.io/v1beta2";
        let of = format!("{base}/namespaces/n/agentfunctions.hearth.dev");
        for (path, query, expected) in [
            ("/apis", None, Some(Route::Groups)),
            ("/apis/", None, Some(Route::Groups)),
            ("/apis/custom.metrics.k8s.io", None, Some(Route::Group)),
            (base, Some("timeout=32s"), Some(Route::Version)),
            (&format!("{of}/f/m"), None, Some(metric("f"))),
            (
                &format!("{of}/f/m"),
                Some("metricLabelSelector="),
                Some(metric("f")),
            ),
            (
                &format!("{of}/f/m"),
                Some("metricLabelSelector=a%3Db"),
                None,
            ),
            (&format!("{of}/*/m"), Some("labelSelector=a%3Db"), None),
            (&format!("{of}/%2A/m"), None, Some(metric("*"))),
            (&format!("{of}/f"), None, None),
            ("/apis/custom.metrics.k8s.io/v1beta1", None, None),
            (&format!("{base}/namespaces/n/pods/f/m"), None, None),
            ("/", None, None),
        ] {
            assert_eq!(Route::of(path, query), expected, "{path} {query:?}");
        }
    }

    #[test]
    fn quantities() {
        for (value, expected) in [
            (0.0, "0"),
            (3.0, "3"),
            (0.1, "100m"),
            (12.3456, "12346m"),
            (5e-5, "1m"),
        ] {
            assert_eq!(quantity(value), expected);
        }
    }
}
