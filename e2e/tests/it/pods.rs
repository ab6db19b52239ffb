//! Plain pods: a bundle in place of a container image.

use anyhow::{Context, Result, ensure};
use hearth_cluster::pods::Traces;
use hearth_e2e::load::Ongoing;
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use crate::support::{self, HELLO, contains};

pub(crate) fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  runtimeClassName: hearth\n  terminationGracePeriodSeconds: 5\n  containers:\n    - name: agent\n      image: {image}\n      command: [agent]\n      env:\n        - name: GREETING\n          value: moin\n"
    )
}

pub(crate) async fn running(cx: &Cx, name: &str) -> Result<Pod> {
    let pods = cx.pods();
    until(&format!("pod {name} to be Ready"), SETTLE, || async {
        let pod = pods.get(name).await?;
        let status = pod.status.clone().unwrap_or_default();
        let ready = status
            .conditions
            .unwrap_or_default()
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True");
        Ok(Seen::when(
            ready,
            pod,
            format!("{:?} {:?}", status.phase, status.container_statuses),
        ))
    })
    .await
}

/// Calls a plain pod at its own address, once it is Ready.
async fn call_pod(cx: &Cx, name: &str, path: &str) -> Result<call::Answer> {
    let status = running(cx, name).await?.status;
    let address = status
        .and_then(|status| status.pod_ip)
        .context("an address")?;
    call::get(&format!("{address}:8080"), path).await
}

async fn answers(cx: &Cx, image: &str) -> Result<()> {
    cx.apply(&pod("plain", image))?;
    let answer = call_pod(cx, "plain", "/").await?;
    ensure!(answer.status == 200, "{answer:?}");
    contains("the answer", &answer.body, "moin, world")
}

pub(crate) async fn a_bundle_runs_as_an_ordinary_pod(cx: &Cx) -> Result<()> {
    answers(cx, HELLO).await
}

pub(crate) async fn a_wasm_artifact_runs_as_an_ordinary_pod(cx: &Cx) -> Result<()> {
    let image = support::guest(cx, "hello-c")?;
    answers(cx, &image).await
}

pub(crate) async fn the_example_pod_runs_as_it_stands(cx: &Cx) -> Result<()> {
    let manifest = cx
        .cluster
        .layout()
        .repository()
        .join("examples/plain-pod/pod.yaml");
    cx.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    let answer = call_pod(cx, "plain-hello", "/?name=Hearth").await?;
    contains("the answer", &answer.body, "Hello, Hearth!")
}

/// A Job of the test guest that is a command, with more of its container's and its pod's specification (YAML in one line).
fn job(cx: &Cx, name: &str, args: &str, container: &str, pod: &str) -> Result<()> {
    job_of(cx, "command", name, args, container, pod)
}

/// The same of another guest.
pub(crate) fn job_of(
    cx: &Cx,
    guest: &str,
    name: &str,
    args: &str,
    container: &str,
    pod: &str,
) -> Result<()> {
    let image = support::guest(cx, guest)?;
    cx.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: {name}\nspec:\n  backoffLimit: 0\n  template:\n    spec:\n      runtimeClassName: hearth\n      restartPolicy: Never\n      {pod}\n      containers:\n        - name: command\n          image: {image}\n          command: [command]\n          args: [{args}]\n          {container}\n"
    ))?;
    Ok(())
}

/// The pod of a Job, and how its container ended.
pub(crate) async fn ended(cx: &Cx, job: &str) -> Result<(String, ContainerStateTerminated)> {
    let pods = cx.pods();
    until(&format!("job {job} to end"), SETTLE, || async {
        let labels = ListParams::default().labels(&format!("job-name={job}"));
        let Some(pod) = pods.list(&labels).await?.items.into_iter().next() else {
            return Ok(Seen::NotYet("no pod".to_owned()));
        };
        let name = pod.name_any();
        let statuses = pod.status.and_then(|status| status.container_statuses);
        let statuses = statuses.unwrap_or_default();
        let terminated = statuses
            .first()
            .and_then(|status| status.state.clone()?.terminated);
        Ok(terminated.map_or_else(
            || Seen::NotYet(format!("{statuses:?}")),
            |terminated| Seen::Yes((name, terminated)),
        ))
    })
    .await
}

pub(crate) async fn a_command_runs_as_a_job_and_its_exit_code_is_kept(cx: &Cx) -> Result<()> {
    for (name, code, reason) in [("completes", 0, "Completed"), ("fails", 1, "Error")] {
        job(cx, name, &format!("\"{code}\""), "", "")?;
        let (_, end) = ended(cx, name).await?;
        ensure!(end.exit_code == code, "{name}: {end:?}");
        ensure!(end.reason.as_deref() == Some(reason), "{name}: {end:?}");
    }
    Ok(())
}

pub(crate) async fn a_module_of_preview_1_runs_as_a_job_and_its_exit_code_is_kept(
    cx: &Cx,
) -> Result<()> {
    // wasi:cli/run of 0.2 says success or failure; proc_exit of preview 1 has a code.
    for (name, code) in [("completes", 0), ("fails", 3)] {
        job_of(cx, "preview1", name, &format!("\"{code}\""), "", "")?;
        let (_, end) = ended(cx, name).await?;
        ensure!(end.exit_code == code, "{name}: {end:?}");
    }
    Ok(())
}

pub(crate) async fn a_guests_end_has_the_reason_and_the_message_that_users_know(
    cx: &Cx,
) -> Result<()> {
    for (args, code, reason, word) in [
        ("trap", 134, "Error", "give_up"),
        ("hoard", 137, "OOMKilled", "memory limit"),
    ] {
        job(cx, args, args, "", "")?;
        let (_, end) = ended(cx, args).await?;
        ensure!(end.exit_code == code, "{args}: {end:?}");
        ensure!(end.reason.as_deref() == Some(reason), "{args}: {end:?}");
        contains("the message", &end.message.unwrap_or_default(), word)?;
    }
    Ok(())
}

pub(crate) async fn volumes_are_read_and_written_as_they_are_mounted(cx: &Cx) -> Result<()> {
    cx.apply("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: agent\ndata:\n  agent.conf: temperature 0\n")?;
    cx.apply(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: agent\nstringData:\n  key: sesame\n",
    )?;
    let volumes = "volumes: [{name: config, configMap: {name: agent}}, {name: secret, secret: {secretName: agent}}, {name: scratch, emptyDir: {}}]";
    let mounts = "volumeMounts: [{name: config, mountPath: /etc/agent}, {name: secret, mountPath: /secret}, {name: scratch, mountPath: /scratch}]";
    for (name, args, code, line) in [
        (
            "config",
            "read, /etc/agent/agent.conf",
            0,
            "read temperature 0",
        ),
        ("secret", "read, /secret/key", 0, "read sesame"),
        ("scratch", "write, /scratch/out, done", 0, "argument done"),
        (
            "denied",
            "write, /etc/agent/out, done",
            1,
            "/etc/agent/out: ",
        ),
        (
            "token",
            "read, /var/run/secrets/kubernetes.io/serviceaccount/namespace",
            0,
            "read pods-",
        ),
    ] {
        job(cx, name, args, mounts, volumes)?;
        let (pod, end) = ended(cx, name).await?;
        let log = cx.logs(&pod).await?;
        ensure!(end.exit_code == code, "{name}: {end:?}: {log}");
        contains(&format!("the log of {name}"), &log, line)?;
    }
    Ok(())
}

pub(crate) async fn init_containers_run_first_and_containers_share_the_pod(cx: &Cx) -> Result<()> {
    let command = support::guest(cx, "command")?;
    cx.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: several\nspec:\n  runtimeClassName: hearth\n  terminationGracePeriodSeconds: 5\n  volumes: [{{name: shared, emptyDir: {{}}}}]\n  initContainers:\n    - name: first\n      image: {command}\n      command: [command, write, /shared/by-first, ready]\n      volumeMounts: [{{name: shared, mountPath: /shared}}]\n    - name: second\n      image: {command}\n      command: [command, read, /shared/by-first]\n      volumeMounts: [{{name: shared, mountPath: /shared}}]\n  containers:\n    - name: one\n      image: {HELLO}\n      command: [agent]\n    - name: two\n      image: {HELLO}\n      command: [agent]\n      env: [{{name: PORT, value: \"8081\"}}, {{name: GREETING, value: salut}}]\n      readinessProbe: {{httpGet: {{port: 8081}}}}\n"
    ))?;
    let status = running(cx, "several").await?.status;
    let address = status
        .and_then(|status| status.pod_ip)
        .context("an address")?;
    for (port, greeting) in [(8080, "Hello"), (8081, "salut")] {
        let answer = call::get(&format!("{address}:{port}"), "/").await?;
        contains("the answer", &answer.body, greeting)?;
    }
    let log = cx.kubectl(&["logs", "several", "--container=second"])?;
    contains("the second's log", &log, "read ready")
}

pub(crate) async fn what_a_guest_cannot_be_given_stops_its_pod_with_a_reason(
    cx: &Cx,
) -> Result<()> {
    cx.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: agent\ndata:\n  agent.conf: x\n",
    )?;
    for (name, container, word) in [
        (
            "file",
            "volumeMounts: [{name: config, mountPath: /etc/agent.conf, subPath: agent.conf}]",
            "single file",
        ),
        (
            "capable",
            "securityContext: {capabilities: {add: [SYS_ADMIN]}}",
            "CAP_SYS_ADMIN",
        ),
        ("console", "tty: true", "terminal"),
    ] {
        let volumes = "  volumes: [{name: config, configMap: {name: agent}}]\n";
        cx.apply(&format!("{}      {container}\n{volumes}", pod(name, HELLO)))?;
        let line = cx.event(name, word).await?;
        contains("the event", &line, "Failed")?;
    }
    Ok(())
}

pub(crate) async fn a_deleted_pod_leaves_nothing_behind(cx: &Cx) -> Result<()> {
    let before = support::traces_before(cx).await?;
    cx.apply(&pod("plain", HELLO))?;
    running(cx, "plain").await?;
    let held = cx.cluster.traces()?;
    let counts = |traces: &Traces| (traces.shims, traces.engines, traces.sockets);
    ensure!(
        counts(&held) == (before.shims + 1, before.engines + 1, before.sockets + 1),
        "one of each a pod: {held:?}, before: {before:?}"
    );
    ensure!(
        held.control_groups.len() > before.control_groups.len() && held.mounts > before.mounts,
        "a pod has control groups and mounts: {held:?}, before: {before:?}"
    );
    cx.kubectl(&["delete", "pod", "plain", "--timeout=60s"])?;
    let pods: Api<Pod> = cx.pods();
    ensure!(pods.get_opt("plain").await?.is_none());
    support::nothing_left(cx, before).await
}

pub(crate) async fn an_image_that_is_no_bundle_says_so_in_the_pods_events(cx: &Cx) -> Result<()> {
    cx.apply(&pod("linux", "localhost:5000/busybox:1"))?;
    let line = cx.event("linux", "NotABundle").await?;
    contains("the event", &line, "busybox")
}

pub(crate) async fn exec_is_refused_with_a_reason(cx: &Cx) -> Result<()> {
    cx.apply(&pod("plain", HELLO))?;
    running(cx, "plain").await?;
    let error = match cx.kubectl(&["exec", "plain", "--", "ls"]) {
        Ok(output) => anyhow::bail!("exec answered {output:?}"),
        Err(error) => format!("{error:#}"),
    };
    contains("the error", &error, "exec")?;
    contains("the error", &error, "kubectl logs")
}

/// Pods that the churn makes and deletes, `HEARTH_CHURN` of them: a thousand take about an hour.
const CHURN: usize = 50;

pub(crate) async fn pods_that_came_and_went_leave_nothing_behind(cx: &Cx) -> Result<()> {
    const AT_ONCE: usize = 10;
    let pods = match std::env::var("HEARTH_CHURN") {
        Ok(pods) => pods.parse().context("HEARTH_CHURN is a number of pods")?,
        Err(_) => CHURN,
    };
    let before = support::traces_before(cx).await?;
    for round in 0..pods.div_ceil(AT_ONCE) {
        let names: Vec<_> = (0..AT_ONCE)
            .map(|at| format!("churn-{round}-{at}"))
            .collect();
        let manifests: Vec<_> = names.iter().map(|name| pod(name, HELLO)).collect();
        cx.apply(&manifests.join("---\n"))?;
        for name in &names {
            running(cx, name).await?;
        }
        let mut delete = vec!["delete", "pod", "--timeout=90s"];
        delete.extend(names.iter().map(String::as_str));
        cx.kubectl(&delete)?;
    }
    support::nothing_left(cx, before).await
}

pub(crate) async fn a_deployment_is_rolled_without_a_failed_call(cx: &Cx) -> Result<()> {
    cx.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: rolled\nspec:\n  replicas: 2\n  selector: {{matchLabels: {{app: rolled}}}}\n  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}\n  template:\n    metadata: {{labels: {{app: rolled}}}}\n    spec:\n      runtimeClassName: hearth\n      containers:\n        - name: agent\n          image: {HELLO}\n          command: [agent]\n          readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}\n---\napiVersion: v1\nkind: Service\nmetadata:\n  name: rolled\nspec:\n  selector: {{app: rolled}}\n  ports: [{{port: 80, targetPort: 8080}}]\n"
    ))?;
    let rolled = ["rollout", "status", "deployment/rolled", "--timeout=90s"];
    cx.kubectl(&rolled)?;
    let calls = Ongoing::start(&cx.route("rolled").await?, "/");
    cx.kubectl(&["rollout", "restart", "deployment/rolled"])?;
    cx.kubectl(&rolled)?;
    // The last of the old pods is still going.
    let pods = cx.pods();
    until("the old pods to be gone", SETTLE, || async {
        let left = pods
            .list(&ListParams::default().labels("app=rolled"))
            .await?;
        let left = left.items.len();
        Ok(Seen::when(left == 2, (), format!("{left} pods")))
    })
    .await?;
    calls.end().await?.none_failed()
}
