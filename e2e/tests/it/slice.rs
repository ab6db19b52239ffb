//! The whole path: apply, pool pod, warm instances, Service, answer, status, scale, delete.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hearth_cluster::Part;
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call, load, manifest};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use crate::support::{
    HELLO, METRICS, contains, mischief, nothing_left, support_tools, traces_before, warm_in_engines,
};

async fn only_pool_pod(cx: &Cx) -> Result<Pod> {
    cx.pool_pods()
        .await?
        .into_iter()
        .next()
        .context("no pool pod in the namespace")
}

pub(crate) async fn an_applied_function_answers_through_its_service(cx: &Cx) -> Result<()> {
    let function = cx.ready_function("hello", HELLO, "  replicas: 2").await?;
    let answer = call::get(&cx.route("hello").await?, "/").await?;
    ensure!(answer.status == 200, "{answer:?}");
    contains("the answer", &answer.body, "ello")?;
    ensure!(
        answer.outcome.is_none(),
        "an answer of the guest carries no outcome: {answer:?}"
    );

    let pod = &cx.pool_pod().await?;
    let labels = ["function=\"hello\""];
    let bytes = cx
        .metric(pod, METRICS, "hearth_bundle_artifact_bytes", &labels)
        .await?;
    ensure!(bytes > 0.0, "the artifact has {bytes} bytes");

    let status = function.status.context("a status")?;
    ensure!(status.observed_generation == function.metadata.generation);
    let digest = status
        .bundle
        .and_then(|bundle| bundle.digest)
        .context("a digest")?;
    ensure!(
        digest.starts_with("sha256:") && digest.len() == 71,
        "digest {digest}"
    );
    ensure!(
        status.url.as_deref() == Some(&format!("http://hello.{}.svc", cx.namespace)),
        "url {:?}",
        status.url
    );
    ensure!(
        !status.selector.unwrap_or_default().is_empty(),
        "HPA refuses an empty selector"
    );

    cx.condition("hello", "BundleResolved", "True").await?;
    cx.condition("hello", "Warm", "True").await?;
    let table = cx.kubectl(&["get", "agentfunctions"])?;
    contains("kubectl get", &table, "hello")?;
    contains("kubectl get", &table, "True")?;
    Ok(())
}

pub(crate) async fn scale_says_eight_when_eight_are_warm(cx: &Cx) -> Result<()> {
    cx.ready_function("hello", HELLO, "  replicas: 1").await?;
    cx.kubectl(&["scale", "agentfunction/hello", "--replicas=8"])?;
    let functions = cx.functions();
    until("status.replicas to be 8", SETTLE, || async {
        let replicas = functions
            .get("hello")
            .await?
            .status
            .map_or(0, |status| status.replicas);
        if replicas < 8 {
            return Ok(Seen::NotYet(format!("{replicas}")));
        }
        // Not before: the engine itself says 8 by the time the status does.
        let warm = warm_in_engines(cx, "hello").await?;
        ensure!(
            warm >= 8.0,
            "the status says {replicas}, the engine holds {warm}"
        );
        Ok(Seen::Yes(()))
    })
    .await?;
    cx.kubectl(&["scale", "agentfunction/hello", "--replicas=0"])?;
    until("no warm instance to be left", SETTLE, || async {
        let warm = warm_in_engines(cx, "hello").await?;
        let replicas = functions
            .get("hello")
            .await?
            .status
            .map_or(0, |status| status.replicas);
        Ok(Seen::when(
            warm == 0.0 && replicas == 0,
            (),
            format!("{warm} warm, status {replicas}"),
        ))
    })
    .await?;
    // Nothing warm is slower, not broken.
    let answer = call::get(&cx.route("hello").await?, "/").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let pod = only_pool_pod(cx).await?;
    let made = cx
        .metric(
            &pod,
            METRICS,
            "hearth_calls_total",
            &["function=\"hello\"", "start=\"instantiate\""],
        )
        .await?;
    ensure!(
        made == 1.0,
        "the call was not counted as instantiate: {made}"
    );
    Ok(())
}

pub(crate) async fn a_changed_bundle_replaces_the_old_one_without_a_failed_call(
    cx: &Cx,
) -> Result<()> {
    let before = cx.ready_function("agent", HELLO, "  replicas: 2").await?;
    let address = cx.route("agent").await?;
    let calls = tokio::spawn({
        let address = address.clone();
        async move { load::run(&address, "/hello", 2, Duration::from_secs(6)).await }
    });
    let after = cx
        .ready_function("agent", &mischief(cx)?, "  replicas: 2")
        .await?;
    let digest = |function: hearth_api::v1alpha1::AgentFunction| {
        function
            .status
            .and_then(|status| status.bundle)
            .and_then(|bundle| bundle.digest)
    };
    ensure!(digest(before) != digest(after), "the digest did not change");
    let load = calls.await??;
    ensure!(
        load.failed == 0,
        "{} of {} calls failed",
        load.failed,
        load.micros.len()
    );
    Ok(())
}

pub(crate) async fn log_lines_carry_the_functions_name(cx: &Cx) -> Result<()> {
    cx.ready_function("chatty", &mischief(cx)?, "  replicas: 1")
        .await?;
    call::get(&cx.route("chatty").await?, "/log").await?;
    let pod = only_pool_pod(cx).await?.name_any();
    let log = until("both lines in kubectl logs", SETTLE, || async {
        let log = cx.logs(&pod).await?;
        Ok(Seen::when(
            log.contains("stdout") && log.contains("stderr"),
            log.clone(),
            log,
        ))
    })
    .await?;
    for line in log
        .lines()
        .filter(|line| line.contains("stdout") || line.contains("stderr"))
    {
        ensure!(
            line.starts_with("chatty: "),
            "a line without a name: {line:?}"
        );
    }
    Ok(())
}

pub(crate) async fn a_deleted_function_leaves_nothing_behind(cx: &Cx) -> Result<()> {
    let before = traces_before(cx).await?;
    let function = cx.ready_function("gone", HELLO, "  replicas: 3").await?;
    cx.ready_function("stays", HELLO, "  replicas: 1").await?;
    let port = function
        .status
        .and_then(|status| status.port)
        .context("a port")?;
    cx.kubectl(&["delete", "agentfunction", "gone", "--timeout=60s"])?;
    let services: Api<Service> = Api::namespaced(cx.client.clone(), &cx.namespace);
    let slices: Api<EndpointSlice> = Api::namespaced(cx.client.clone(), &cx.namespace);
    until(
        "Service and EndpointSlice to be collected",
        SETTLE,
        || async {
            let service = services.get_opt("gone").await?.is_some();
            let slices = slices
                .list(&ListParams::default().labels("kubernetes.io/service-name=gone"))
                .await?
                .items
                .len();
            Ok(Seen::when(
                !service && slices == 0,
                (),
                format!("service: {service}, slices: {slices}"),
            ))
        },
    )
    .await?;
    let pod = only_pool_pod(cx).await?;
    let held = cx
        .metric(&pod, METRICS, "hearth_instances", &["function=\"gone\""])
        .await?;
    ensure!(held == 0.0, "{held} instances are left");
    let address = pod
        .status
        .and_then(|status| status.pod_ip)
        .context("an address")?;
    let refused = call::get(&format!("{address}:{port}"), "/").await;
    ensure!(refused.is_err(), "the port still answers: {refused:?}");
    let answer = call::get(&cx.route("stays").await?, "/").await?;
    ensure!(answer.status == 200, "the neighbour: {answer:?}");
    let held = cx.cluster.traces()?;
    ensure!(
        held.shims > before.shims && held.engines > before.engines,
        "a pool pod is counted: {held:?}, before: {before:?}"
    );
    // The last function takes the pool pod with it.
    cx.kubectl(&["delete", "agentfunction", "stays", "--timeout=60s"])?;
    nothing_left(cx, before).await
}

pub(crate) async fn calls_go_on_while_the_operator_is_away(cx: &Cx) -> Result<()> {
    cx.ready_function("steady", HELLO, "  replicas: 2").await?;
    let address = cx.route("steady").await?;
    let operator = ["--namespace", "hearth-system"];
    let kubectl = |args: &[&str]| cx.cluster.kubectl(&[&operator[..], args].concat());
    kubectl(&["scale", "deployment/hearth-operator", "--replicas=0"])?;
    kubectl(&[
        "wait",
        "--for=delete",
        "pod",
        "--selector=app.kubernetes.io/component=operator",
        "--timeout=60s",
    ])?;
    // Calls while it is away, while it comes back, and while pool pods dial it again.
    let calls = tokio::spawn({
        let address = address.clone();
        async move {
            let kept = load::run(&address, "/", 2, Duration::from_secs(12));
            let fresh = load::fresh(&address, "/", Duration::from_secs(12));
            tokio::try_join!(kept, fresh)
        }
    });
    kubectl(&["scale", "deployment/hearth-operator", "--replicas=1"])?;
    kubectl(&[
        "rollout",
        "status",
        "deployment/hearth-operator",
        "--timeout=60s",
    ])?;
    let (kept, load) = calls.await??;
    ensure!(
        kept.failed == 0,
        "{} of {} calls on kept connections failed",
        kept.failed,
        kept.micros.len()
    );
    ensure!(
        load.failed == 0,
        "{} of {} calls failed",
        load.failed,
        load.micros.len()
    );
    // The pool pod finds the new operator, and a change reaches it.
    cx.kubectl(&["scale", "agentfunction/steady", "--replicas=5"])?;
    let functions = cx.functions();
    until("5 to be warm", SETTLE, || async {
        let replicas = functions
            .get("steady")
            .await?
            .status
            .map_or(0, |status| status.replicas);
        Ok(Seen::when(replicas == 5, (), format!("{replicas}")))
    })
    .await
}

pub(crate) async fn the_hello_example_runs_as_it_stands(cx: &Cx) -> Result<()> {
    let manifest = cx
        .cluster
        .layout()
        .repository()
        .join("examples/hello-c/agentfunction.yaml");
    cx.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    cx.condition("hello-c", "Ready", "True").await?;
    let answer = call::get(&cx.route("hello-c").await?, "/?name=Hearth").await?;
    contains("the answer", &answer.body, "Hello, Hearth!")
}

pub(crate) async fn egress_is_denied_unless_listed(cx: &Cx) -> Result<()> {
    cx.ready_function("target", HELLO, "  replicas: 1").await?;
    let target = cx.route("target").await?;
    cx.ready_function("closed", &mischief(cx)?, "  replicas: 1")
        .await?;
    let spec = format!("  replicas: 1\n  egress:\n    allow: [\"{target}\"]");
    cx.ready_function("open", &mischief(cx)?, &spec).await?;
    let path = format!("/fetch?url=http://{target}/");
    let denied = call::get(&cx.route("closed").await?, &path).await?;
    ensure!(denied.status == 502, "{denied:?}");
    contains("what the guest was told", &denied.body, "denied")?;
    let allowed = call::get(&cx.route("open").await?, &path).await?;
    ensure!(allowed.status == 200, "{allowed:?}");
    contains("what the guest fetched", &allowed.body, "ello")?;
    Ok(())
}

pub(crate) async fn the_support_agent_runs_its_whole_loop(cx: &Cx) -> Result<()> {
    let example = cx
        .cluster
        .layout()
        .repository()
        .join("examples/support-agent");
    support_tools(cx)?;
    let manifest = example.join("agentfunction.yaml");
    cx.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    cx.condition("support-agent", "Ready", "True").await?;
    let address = cx.route("support-agent").await?;
    let question = r#"{"customer":"c-17","question":"Where is my order 4711?"}"#;
    let answer = call::post(&address, "/ask", question).await?;
    ensure!(answer.status == 200, "{answer:?}");
    contains("the answer", &answer.body, "4711")?;
    contains("the answer", &answer.body, "answer")?;
    Ok(())
}

pub(crate) async fn the_operator_tells_about_itself(cx: &Cx) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cx.client.clone(), "hearth-system");
    let operators = pods
        .list(&ListParams::default().labels("app.kubernetes.io/component=operator"))
        .await?
        .items;
    let operator = operators.first().context("an operator pod")?;
    let address = operator
        .status
        .as_ref()
        .and_then(|status| status.pod_ip.clone())
        .context("an address")?;
    for path in ["/livez", "/readyz", "/metrics"] {
        let answer = call::get(&format!("{address}:8080"), path).await?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
    }
    let leads = cx
        .metric(operator, 8080, "hearth_operator_leader", &[])
        .await?;
    ensure!(leads == 1.0, "the only operator leads: {leads}");
    cx.apply(&manifest("counted", HELLO, "  replicas: 1"))?;
    cx.condition("counted", "Ready", "True").await?;
    let streams = cx
        .metric(operator, 8080, "hearth_operator_streams", &[])
        .await?;
    ensure!(streams >= 1.0, "a pool pod is connected: {streams}");
    cx.event("counted", "Ready").await?;
    Ok(())
}

pub(crate) async fn the_installer_restarts_containerd_only_when_something_changed(
    cx: &Cx,
) -> Result<()> {
    let nodes: Api<Node> = Api::all(cx.client.clone());
    for node in nodes.list(&ListParams::default()).await?.items {
        ensure!(
            node.labels().get("hearth.dev/ready").map(String::as_str) == Some("true"),
            "{}",
            node.name_any()
        );
    }
    let before = cx.cluster.pid(Part::Containerd(1))?;
    let kubectl = |args: &[&str]| {
        cx.cluster
            .kubectl(&[&["--namespace", "hearth-system"][..], args].concat())
    };
    kubectl(&["rollout", "restart", "daemonset/hearth-node"])?;
    kubectl(&[
        "rollout",
        "status",
        "daemonset/hearth-node",
        "--timeout=90s",
    ])?;
    ensure!(
        cx.cluster.pid(Part::Containerd(1))? == before,
        "containerd was restarted without need"
    );
    Ok(())
}
