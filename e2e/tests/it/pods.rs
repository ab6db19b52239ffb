//! Plain pods: a bundle in place of a container image.

use anyhow::{Context, Result, ensure};
use hearth_cluster::pods::Traces;
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};

use crate::support::{self, HELLO, contains};

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  runtimeClassName: hearth\n  terminationGracePeriodSeconds: 5\n  containers:\n    - name: agent\n      image: {image}\n      command: [agent]\n      env:\n        - name: GREETING\n          value: moin\n"
    )
}

async fn running(cx: &Cx, name: &str) -> Result<Pod> {
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

/// Runs the guest as a Job for each argument, which is the exit code that the command asks for, and expects the code beside it.
async fn jobs_end(cx: &Cx, guest: &str, cases: [(&str, i32); 2]) -> Result<()> {
    let image = support::guest(cx, guest)?;
    for (argument, code) in cases {
        let name = format!("ends-with-{argument}");
        cx.apply(&format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: {name}\nspec:\n  backoffLimit: 0\n  template:\n    spec:\n      runtimeClassName: hearth\n      restartPolicy: Never\n      containers:\n        - name: command\n          image: {image}\n          command: [command, \"{argument}\"]\n"
        ))?;
        let pods = cx.pods();
        let ended = until(&format!("job {name} to end"), SETTLE, || async {
            let labels = ListParams::default().labels(&format!("job-name={name}"));
            let pod = pods.list(&labels).await?.items.into_iter().next();
            let statuses = pod
                .and_then(|pod| pod.status?.container_statuses)
                .unwrap_or_default();
            let ended = statuses
                .first()
                .and_then(|status| status.state.clone()?.terminated);
            Ok(ended.map_or_else(|| Seen::NotYet(format!("{statuses:?}")), Seen::Yes))
        })
        .await?;
        ensure!(ended.exit_code == code, "{name}: {ended:?}");
    }
    Ok(())
}

pub(crate) async fn a_command_runs_as_a_job_and_its_exit_code_is_kept(cx: &Cx) -> Result<()> {
    // wasi:cli/run says success or failure, and no code.
    jobs_end(cx, "command", [("0", 0), ("3", 1)]).await
}

pub(crate) async fn a_module_of_preview_1_runs_as_a_job_and_its_exit_code_is_kept(
    cx: &Cx,
) -> Result<()> {
    jobs_end(cx, "preview1", [("0", 0), ("3", 3)]).await
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
