//! What the chart installs besides a running operator: what it may do, what may reach it, and that it says whether it works.

use anyhow::{Context, Result, ensure};
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::api::{Api, PostParams};

use crate::support::{HELLO, contains, helm};

/// Where the operator is.
const NAMESPACE: &str = "hearth-system";

pub(crate) async fn pods_keep_to_the_pod_security_that_is_promised(cx: &Cx) -> Result<()> {
    let label = "pod-security.kubernetes.io/enforce=restricted";
    cx.cluster
        .kubectl(&["label", "namespace", &cx.namespace, label])?;
    // Pool pods, in fact.
    cx.ready_function("hello", HELLO, "  replicas: 1").await?;
    // The operator's; and what installs on nodes may not, which shows that somebody looks.
    let deployments: Api<Deployment> = Api::namespaced(cx.client.clone(), NAMESPACE);
    let operator = deployments.get("hearth-operator").await?.spec;
    let operator = operator.context("a Deployment has a spec")?.template;
    is_admitted(cx, operator)
        .await?
        .map_err(anyhow::Error::msg)?;
    let daemons: Api<DaemonSet> = Api::namespaced(cx.client.clone(), NAMESPACE);
    let installer = daemons.get("hearth-node").await?.spec;
    let installer = installer.context("a DaemonSet has a spec")?.template;
    let said = is_admitted(cx, installer).await?;
    contains("the refusal", &said.err().unwrap_or_default(), "privileged")
}

/// Whether a pod would be taken in the case's namespace, and why not.
async fn is_admitted(cx: &Cx, template: PodTemplateSpec) -> Result<Result<(), String>> {
    let mut spec = template.spec.context("a template has a spec")?;
    // That is another namespace's, and what is asked is not whose rights it has.
    spec.service_account_name = None;
    spec.service_account = None;
    let mut pod = Pod {
        spec: Some(spec),
        ..Pod::default()
    };
    pod.metadata.name = Some("would-be".to_owned());
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    Ok(match cx.pods().create(&dry, &pod).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => return Err(error.into()),
    })
}

pub(crate) async fn who_may_view_or_edit_a_namespace_may_do_so_with_functions(
    cx: &Cx,
) -> Result<()> {
    for role in ["view", "edit", "admin"] {
        let user = format!("--user={role}er");
        let role_flag = format!("--clusterrole={role}");
        cx.kubectl(&["create", "rolebinding", role, &role_flag, &user])?;
    }
    let may = |user: &str, verb: &str, what: &str| {
        let (what, subresource) = what.split_once('/').unwrap_or((what, ""));
        let (part, user) = (
            format!("--subresource={subresource}"),
            format!("--as={user}"),
        );
        let words = [
            "--namespace",
            &cx.namespace,
            "auth",
            "can-i",
            verb,
            what,
            &part,
            &user,
        ];
        // `no` is an exit code of its own.
        let output = cx.cluster.kubectl_output(&words, "")?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(
            said == "yes" || said == "no",
            "kubectl auth can-i: {output:?}"
        );
        Ok(said == "yes")
    };
    let expected = [
        ("viewer", "get", "agentfunctions.hearth.dev", true),
        ("viewer", "list", "agentpools.hearth.dev", true),
        ("viewer", "create", "agentfunctions.hearth.dev", false),
        ("viewer", "delete", "agentpools.hearth.dev", false),
        ("editer", "create", "agentfunctions.hearth.dev", true),
        ("editer", "patch", "agentfunctions.hearth.dev/scale", true),
        (
            "editer",
            "update",
            "agentfunctions.hearth.dev/status",
            false,
        ),
        ("adminer", "delete", "agentpools.hearth.dev", true),
        ("stranger", "get", "agentfunctions.hearth.dev", false),
    ];
    // A binding takes a moment until it counts.
    until("rights to be as they should", SETTLE, || async {
        let mut wrong = Vec::new();
        for (user, verb, what, expected) in expected {
            if may(user, verb, what)? != expected {
                wrong.push(format!("{user} may {verb} {what}: {}", !expected));
            }
        }
        Ok(Seen::when(wrong.is_empty(), (), wrong.join(", ")))
    })
    .await?;
    // What autoscalers are shown is served by the operator, which asks the API server who may see it.
    cx.ready_function("seen", HELLO, "  replicas: 1").await?;
    let path = format!(
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{}/agentfunctions.hearth.dev/seen/hearth_in_flight",
        cx.namespace
    );
    let read = |user: &str| {
        let user = format!("--as={user}");
        cx.cluster
            .kubectl_output(&["get", "--raw", &path, &user], "")
    };
    until("a viewer to read a metric", SETTLE, || async {
        let output = read("viewer")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let instead = format!("{output:?}");
        Ok(Seen::when(said.contains("hearth_in_flight"), (), instead))
    })
    .await?;
    let refused = read("stranger")?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(said.contains("Forbidden"), "a stranger is told {refused:?}");
    Ok(())
}

pub(crate) async fn helm_test_says_that_it_works(cx: &Cx) -> Result<()> {
    let said = helm(cx, &["test", "hearth", "--logs", "--timeout=180s"])?;
    for step in ["applied, and Ready", "and answered", "scaled to 2"] {
        contains("helm test", &said, step)?;
    }
    // It leaves nothing but its pod.
    let left = cx.cluster.kubectl(&[
        "get",
        "agentfunctions,agentpools,networkpolicies,serviceaccounts,roles,rolebindings",
        "--namespace",
        NAMESPACE,
        "--output=name",
    ])?;
    let left: Vec<_> = left
        .lines()
        .filter(|name| name.contains("hearth-test"))
        .collect();
    ensure!(left.is_empty(), "it left {left:?}");
    Ok(())
}
