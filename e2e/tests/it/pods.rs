//! Plain pods: a bundle in place of a container image.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use hearth_cluster::pods::Traces;
use hearth_e2e::load::Steady;
use hearth_e2e::process::Process;
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
        let Some(pod) = pods.get_opt(name).await? else {
            // A controller is about to make it.
            return Ok(Seen::NotYet("no such pod".to_owned()));
        };
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

pub(crate) async fn what_is_named_elsewhere_reaches_a_guest(cx: &Cx) -> Result<()> {
    cx.apply("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: greeting\ndata:\n  GREETING: salut\n---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: greeting\nstringData:\n  GREETING: sesame\n")?;
    for (name, container, said) in [
        (
            "map",
            "envFrom: [{configMapRef: {name: greeting}}]",
            "salut",
        ),
        (
            "secret",
            "envFrom: [{secretRef: {name: greeting}}]",
            "sesame",
        ),
        (
            "downward",
            "env: [{name: GREETING, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}]",
            &cx.namespace,
        ),
    ] {
        job(cx, name, "\"0\"", container, "")?;
        let (pod, _) = ended(cx, name).await?;
        let log = cx.logs(&pod).await?;
        contains(
            &format!("the log of {name}"),
            &log,
            &format!("greeting {said}"),
        )?;
    }
    Ok(())
}

pub(crate) async fn what_kubernetes_decides_about_a_pod_happens(cx: &Cx) -> Result<()> {
    // A Job that has a deadline.
    let image = support::guest(cx, "command")?;
    cx.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: late}}\nspec:\n  backoffLimit: 0\n  activeDeadlineSeconds: 3\n  template:\n    spec:\n      runtimeClassName: hearth\n      restartPolicy: Never\n      terminationGracePeriodSeconds: 1\n      containers: [{{name: command, image: \"{image}\", command: [command], args: [spin]}}]\n"
    ))?;
    let late = "--for=jsonpath={.status.conditions[?(@.type=='Failed')].reason}=DeadlineExceeded";
    cx.kubectl(&["wait", "job/late", late, "--timeout=90s"])?;
    let pods = cx.pods();
    until("the pod of the job to be gone", SETTLE, || async {
        let labels = ListParams::default().labels("job-name=late");
        let left = pods.list(&labels).await?.items;
        let phases: Vec<_> = left
            .iter()
            .filter_map(|pod| pod.status.clone()?.phase)
            .collect();
        let is_over = phases.iter().all(|phase| phase == "Failed");
        Ok(Seen::when(is_over, (), format!("{phases:?}")))
    })
    .await?;

    // An image that may not be pulled, and is not there.
    let never = pod("never", "localhost:5000/not/there:1");
    let never = format!("{never}      imagePullPolicy: Never\n");
    cx.apply(&never)?;
    cx.event("never", "ErrImageNeverPull").await?;

    // Another image beside a bundle, for a look at it: there is nothing to look at from within.
    cx.apply(&pod("plain", HELLO))?;
    running(cx, "plain").await?;
    cx.kubectl(&[
        "debug",
        "plain",
        "--image=localhost:5000/busybox:1",
        "--profile=baseline",
        "--",
        "sh",
    ])?;
    cx.event("plain", "NotABundle").await?;
    let answer = call_pod(cx, "plain", "/").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let copied = cx.kubectl(&["cp", "plain:/etc/hostname", "/dev/null"]);
    let error = copied.err().context("a file was copied")?;
    contains("the error", &format!("{error:#}"), "kubectl logs")
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
        held.control_groups.len() > before.control_groups.len()
            && held.mounts.len() > before.mounts.len(),
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

/// Pods that the churn makes and deletes, `HEARTH_CHURN` of them.
const CHURN: usize = 50;
/// Plain pods that run beside a tenth as many pool pods, `HEARTH_DENSITY` of them.
const DENSITY: usize = 10;

/// A number of pods that a variable changes.
fn number(variable: &str, default: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(pods) => pods
            .parse()
            .with_context(|| format!("{variable} is a number of pods")),
        Err(_) => Ok(default),
    }
}

pub(crate) async fn pods_that_came_and_went_leave_nothing_behind(cx: &Cx) -> Result<()> {
    let pods = number("HEARTH_CHURN", CHURN)?;
    let at_once = (pods / 20).clamp(10, 50);
    let before = support::traces_before(cx).await?;
    for round in 0..pods.div_ceil(at_once) {
        let names: Vec<_> = (0..at_once)
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

pub(crate) async fn many_plain_pods_run_beside_many_pool_pods(cx: &Cx) -> Result<()> {
    let plain = number("HEARTH_DENSITY", DENSITY)?;
    let pools = plain.div_ceil(10);
    let names: Vec<_> = (0..plain).map(|at| format!("plain-{at}")).collect();
    let mut manifests: Vec<_> = names.iter().map(|name| pod(name, HELLO)).collect();
    // Each function has a pool, and so a pod, of its own.
    for at in 0..pools {
        manifests.push(format!("apiVersion: hearth.dev/v1alpha1\nkind: AgentPool\nmetadata: {{name: pool-{at}}}\nspec: {{}}\n"));
        let spec = format!("  replicas: 2\n  pool: {{name: pool-{at}}}");
        manifests.push(hearth_e2e::cx::manifest(
            &format!("function-{at}"),
            HELLO,
            &spec,
        ));
    }
    let since = std::time::Instant::now();
    cx.apply(&manifests.join("---\n"))?;
    let mut resident = 0;
    for name in &names {
        let uid = running(cx, name).await?.uid().context("a pod has a UID")?;
        resident += cx.cluster.resident_bytes_of_pod(&uid)?;
    }
    for at in 0..pools {
        cx.condition(&format!("function-{at}"), "Ready", "True")
            .await?;
    }
    let took = since.elapsed();
    let mean = resident / plain.max(1) as u64;
    println!(
        "{plain} plain pods and {pools} pool pods are ready after {took:?}, {mean} bytes resident for each plain one"
    );
    for name in [&names[0], &names[plain - 1]] {
        let answer = call_pod(cx, name, "/").await?;
        ensure!(answer.status == 200, "{name}: {answer:?}");
    }
    for at in [0, pools - 1] {
        let answer = call::get(&cx.route(&format!("function-{at}")).await?, "/").await?;
        ensure!(answer.status == 200, "{at}: {answer:?}");
    }
    Ok(())
}

pub(crate) async fn a_deployment_is_rolled_without_a_failed_call(cx: &Cx) -> Result<()> {
    cx.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: rolled\nspec:\n  replicas: 2\n  selector: {{matchLabels: {{app: rolled}}}}\n  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}\n  template:\n    metadata: {{labels: {{app: rolled}}}}\n    spec:\n      runtimeClassName: hearth\n      containers:\n        - name: agent\n          image: {HELLO}\n          command: [agent]\n          readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}\n---\napiVersion: v1\nkind: Service\nmetadata:\n  name: rolled\nspec:\n  selector: {{app: rolled}}\n  ports: [{{port: 80, targetPort: 8080}}]\n"
    ))?;
    let rolled = ["rollout", "status", "deployment/rolled", "--timeout=90s"];
    cx.kubectl(&rolled)?;
    let calls = Steady::start(&cx.route("rolled").await?, 200);
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

pub(crate) async fn a_pod_may_have_hooks_probes_sysctls_and_the_nodes_network(
    cx: &Cx,
) -> Result<()> {
    // kubelet asks for none of these paths before the hook was answered.
    let hooks = "      lifecycle: {postStart: {httpGet: {path: /, port: 8080}}, preStop: {sleep: {seconds: 1}}}\n";
    let probes = "      startupProbe: {httpGet: {port: 8080}, periodSeconds: 1}\n      livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}\n      readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}\n";
    let security = "      securityContext: {readOnlyRootFilesystem: true, runAsNonRoot: true, runAsUser: 1234, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}\n";
    let of_pod = "  shareProcessNamespace: true\n  securityContext: {sysctls: [{name: net.ipv4.ip_local_port_range, value: \"41000 42000\"}]}\n";
    cx.apply(&(pod("all", HELLO) + hooks + probes + security + of_pod))?;
    let answer = call_pod(cx, "all", "/").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let all = running(cx, "all").await?;
    let engine = cx
        .cluster
        .pids_in_pod(&all.uid().context("a pod has a UID")?, "hearth-engine")?;
    let engine = engine.first().context("an engine")?;
    let range = std::process::Command::new("nsenter")
        .arg(format!("--net=/proc/{engine}/ns/net"))
        .args(["cat", "/proc/sys/net/ipv4/ip_local_port_range"])
        .output()?;
    contains(
        "the port range",
        &String::from_utf8_lossy(&range.stdout),
        "41000\t42000",
    )?;
    // Its end waits for the hook.
    let since = std::time::Instant::now();
    cx.kubectl(&["delete", "pod", "all", "--timeout=60s"])?;
    ensure!(since.elapsed().as_secs() >= 1, "the hook was passed over");

    let shared = "  hostNetwork: true\n";
    let port = "        - name: PORT\n          value: \"18081\"\n";
    cx.apply(&(pod("host", HELLO) + port + shared))?;
    running(cx, "host").await?;
    let address = format!("{}:18081", cx.cluster.node_ip(1));
    let answer = call::get(&address, "/").await?;
    contains("the answer", &answer.body, "moin")?;

    for (name, container, of_pod, word) in [
        (
            "probe",
            "      readinessProbe: {exec: {command: [ls]}, periodSeconds: 1}\n",
            "",
            "no processes",
        ),
        (
            "hook",
            "      lifecycle: {postStart: {exec: {command: [ls]}}}\n",
            "",
            // kubelet keeps the reason to itself.
            "PostStartHook failed",
        ),
        (
            "ipc",
            "",
            "  securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: \"1\"}]}\n",
            "kernel.shm_rmid_forced",
        ),
    ] {
        cx.apply(&(pod(name, HELLO) + container + of_pod))?;
        cx.event(name, word).await?;
    }
    Ok(())
}

pub(crate) async fn controllers_of_every_kind_make_pods_of_bundles(cx: &Cx) -> Result<()> {
    let command = support::guest(cx, "command")?;
    let server = format!(
        "metadata: {{labels: {{app: kinds}}}}\n    spec:\n      runtimeClassName: hearth\n      terminationGracePeriodSeconds: 5\n      containers: [{{name: agent, image: {HELLO}, command: [agent]}}]\n"
    );
    let selector = "selector: {matchLabels: {app: kinds}}";
    cx.apply(&format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: stateful}}\nspec:\n  replicas: 2\n  serviceName: stateful\n  {selector}\n  template:\n    {server}---\napiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: daemon}}\nspec:\n  {selector}\n  template:\n    {server}---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: cron}}\nspec:\n  schedule: \"0 0 1 1 *\"\n  jobTemplate:\n    spec:\n      backoffLimit: 1\n      template:\n        spec:\n          runtimeClassName: hearth\n          restartPolicy: Never\n          containers: [{{name: command, image: \"{command}\", command: [command], args: [\"0\"]}}]\n"
    ))?;
    cx.kubectl(&["create", "job", "now", "--from=cronjob/cron"])?;
    for kind in ["statefulset/stateful", "daemonset/daemon"] {
        cx.kubectl(&["rollout", "status", kind, "--timeout=90s"])?;
    }
    cx.kubectl(&[
        "wait",
        "job/now",
        "--for=condition=Complete",
        "--timeout=90s",
    ])?;
    // The first is there before the second, and each has its name again when it comes back.
    cx.kubectl(&["delete", "pod", "stateful-0", "--timeout=60s"])?;
    running(cx, "stateful-0").await?;
    // A job that fails is tried again, and no more often than it says.
    cx.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: retried}}\nspec:\n  backoffLimit: 1\n  activeDeadlineSeconds: 60\n  template:\n    spec:\n      runtimeClassName: hearth\n      restartPolicy: Never\n      containers: [{{name: command, image: \"{command}\", command: [command], args: [\"1\"]}}]\n"
    ))?;
    cx.kubectl(&[
        "wait",
        "job/retried",
        "--for=condition=Failed",
        "--timeout=90s",
    ])?;
    let labels = ListParams::default().labels("job-name=retried");
    let tries = cx.pods().list(&labels).await?.items.len();
    ensure!(tries == 2, "{tries} pods");
    Ok(())
}

/// `kubectl logs --follow`, and what it said.
struct Followed {
    /// It follows until it is ended.
    _process: Process,
    said: std::path::PathBuf,
}

impl Drop for Followed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.said);
    }
}

impl Followed {
    fn start(cx: &Cx, pod: &str) -> Result<Self> {
        let said = std::env::temp_dir().join(format!("{}-{pod}.log", cx.namespace));
        let process = cx
            .cluster
            .command(1, cx.cluster.layout().tool("kubectl"))
            .args(["--namespace", &cx.namespace, "logs", "--follow", pod])
            .stdout(std::fs::File::create(&said)?)
            .spawn()?;
        Ok(Self {
            _process: process.into(),
            said,
        })
    }

    fn lines(&self, line: &str) -> Result<usize> {
        let said = std::fs::read(&self.said)?;
        Ok(String::from_utf8_lossy(&said).matches(line).count())
    }
}

pub(crate) async fn logs_are_followed_through_a_rotation_and_kept_of_the_container_before(
    cx: &Cx,
) -> Result<()> {
    const LINE: &str = "a line on stdout";
    let image = support::mischief(cx)?;
    cx.ready_function(
        "talks",
        &image,
        "  replicas: 1\n  limits: {logBytesPerSecond: 10Mi}",
    )
    .await?;
    let address = cx.route("talks").await?;
    let pool = cx.pool_pod().await?;
    let followed = Followed::start(cx, &pool.name_any())?;
    let logged = |lines: usize| {
        let followed = &followed;
        async move {
            until(&format!("{lines} lines"), SETTLE, || async {
                let seen = followed.lines(LINE)?;
                Ok(Seen::when(seen == lines, (), format!("{seen} lines")))
            })
            .await
        }
    };
    call::get(&address, "/log").await?;
    logged(1).await?;
    let logs = cx.cluster.node_directory(1).join("pod-logs");
    let own = format!("{}_{}_", cx.namespace, pool.name_any());
    until("the log to be rotated", SETTLE, || async {
        let files = log_files(&logs, &own)?;
        let rotated = files.iter().any(|(name, _)| name.contains(".log."));
        // More than kubelet leaves in one file, however much of a flood is dropped.
        if !rotated && files.iter().all(|(_, bytes)| *bytes < 2 << 20) {
            call::get(&address, "/flood").await?;
        }
        Ok(Seen::when(rotated, (), format!("{files:?}")))
    })
    .await?;
    call::get(&address, "/log").await?;
    logged(2).await?;

    let command = support::guest(cx, "command")?;
    cx.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: again}}\nspec:\n  runtimeClassName: hearth\n  containers: [{{name: command, image: \"{command}\", command: [command], args: [trap]}}]\n"
    ))?;
    until("the log of the container before", SETTLE, || async {
        Ok(match cx.kubectl(&["logs", "again", "--previous"]) {
            Ok(log) if log.contains("argument trap") => Seen::Yes(()),
            Ok(log) => Seen::NotYet(log),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await
}

/// Log files of the containers of pods whose folder begins so, with their bytes.
fn log_files(logs: &Path, pod: &str) -> Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for folder in std::fs::read_dir(logs)?.flatten() {
        if folder.file_name().to_string_lossy().starts_with(pod) {
            for container in std::fs::read_dir(folder.path())?.flatten() {
                for file in std::fs::read_dir(container.path())?.flatten() {
                    // Kubelet removes some at any time.
                    if let Ok(metadata) = file.metadata() {
                        let name = file.file_name().to_string_lossy().into_owned();
                        files.push((name, metadata.len()));
                    }
                }
            }
        }
    }
    Ok(files)
}

pub(crate) async fn a_port_is_forwarded_and_stats_are_read(cx: &Cx) -> Result<()> {
    const PORT: u16 = 18080;
    cx.apply(&pod("plain", HELLO))?;
    running(cx, "plain").await?;
    let mut forward = cx
        .cluster
        .command(1, cx.cluster.layout().tool("kubectl"))
        .args(["--namespace", &cx.namespace, "port-forward", "plain"])
        .arg(format!("{PORT}:8080"))
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let address = format!("127.0.0.1:{PORT}");
    let answer = until("an answer", SETTLE, || async {
        Ok(match call::get(&address, "/").await {
            Ok(answer) => Seen::Yes(answer),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await;
    forward.kill()?;
    forward.wait()?;
    contains("the answer", &answer?.body, "moin, world")?;

    // What `kubectl top` shows, when somebody collects it.
    let node = hearth_cluster::layout::node_name(1);
    let summary = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    until("the pod's use of memory and processor", SETTLE, || async {
        let summary = cx.cluster.kubectl(&["get", "--raw", &summary])?;
        let summary: serde_json::Value = serde_json::from_str(&summary)?;
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        let own = pods.iter().find(|pod| {
            pod["podRef"]["namespace"] == cx.namespace.as_str() && pod["podRef"]["name"] == "plain"
        });
        let container = own
            .map(|pod| pod["containers"][0].clone())
            .unwrap_or_default();
        let memory = container["memory"]["workingSetBytes"].as_u64();
        let processor = container["cpu"]["usageCoreNanoSeconds"].as_u64();
        let used = |value: Option<u64>| value.is_some_and(|value| value > 0);
        Ok(Seen::when(
            used(memory) && used(processor),
            (),
            container.to_string(),
        ))
    })
    .await
}
