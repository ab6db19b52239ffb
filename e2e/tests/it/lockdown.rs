//! What engines have given up, on the node.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use hearth_e2e::wait::{Seen, until};
use hearth_e2e::{Cx, SETTLE, call};
use kube::ResourceExt;

use crate::pods;
use crate::support::{self, Backdoor, HELLO, contains};
use crate::survive::ENGINE;

/// Namespaces in which an engine is with nobody of the node.
const OWN: [&str; 5] = ["mnt", "pid", "net", "ipc", "uts"];

pub(crate) async fn an_engine_has_given_up_what_a_container_might_have(cx: &Cx) -> Result<()> {
    let user = "  securityContext: {runAsUser: 1234, runAsGroup: 2345, fsGroup: 3456}\n";
    cx.apply(&(pods::pod("plain", HELLO) + user))?;
    cx.ready_function("function", HELLO, "  replicas: 1")
        .await?;
    let plain = pods::running(cx, "plain").await?;
    let pool = cx.pool_pod().await?;
    for (pod, user, group, of_volumes) in [
        (plain, 1234, 2345, Some("3456")),
        (pool, 64532, 64532, None),
    ] {
        let engines = cx
            .cluster
            .pids_in_pod(&pod.uid().context("a pod has a UID")?, ENGINE)?;
        let [engine] = engines[..] else {
            anyhow::bail!("{} has the engines {engines:?}", pod.name_any());
        };
        let proc = Path::new("/proc").join(engine.to_string());
        let status = fs::read_to_string(proc.join("status"))?;
        for line in [
            format!("Uid:\t{user}\t{user}\t{user}\t{user}\n"),
            format!("Gid:\t{group}\t{group}\t{group}\t{group}\n"),
            "CapInh:\t0000000000000000\n".to_owned(),
            "CapPrm:\t0000000000000000\n".to_owned(),
            "CapEff:\t0000000000000000\n".to_owned(),
            "CapBnd:\t0000000000000000\n".to_owned(),
            "CapAmb:\t0000000000000000\n".to_owned(),
            "NoNewPrivs:\t1\n".to_owned(),
            "Seccomp:\t2\n".to_owned(),
        ] {
            contains("the engine's status", &status, &line)?;
        }
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
        let groups: Vec<_> = groups.unwrap_or_default().split_whitespace().collect();
        ensure!(
            !groups.contains(&"0") && of_volumes.is_none_or(|group| groups.contains(&group)),
            "{status}"
        );
        let supervisor = cx.cluster.pid(hearth_cluster::Part::Supervisor(1))?;
        for namespace in OWN {
            let of = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
            ensure!(of(engine)? != of(supervisor)?, "{namespace} is the node's");
        }
        let limits = fs::read_to_string(proc.join("limits"))?;
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let core: Vec<_> = core.unwrap_or_default().split_whitespace().collect();
        ensure!(core.ends_with(&["0", "0", "bytes"]), "{limits}");
        ensure!(
            fs::read(proc.join("environ"))?.is_empty(),
            "it has an environment"
        );
        ensure!(names(&proc.join("root"))? == ["dev", "hearth-engine", "proc"]);
        // What /proc shows of a process is root's when nobody else may trace it.
        let owner = fs::metadata(proc.join("environ"))?.uid();
        ensure!(owner == 0, "others may trace it");
        for file in fs::read_dir(proc.join("fd"))?.flatten() {
            // One may be closed meanwhile.
            let (Ok(name), Ok(meant)) = (fs::read_link(file.path()), fs::metadata(file.path()))
            else {
                continue;
            };
            // Standard error is the shim's log, wherever that goes.
            ensure!(
                file.file_name() == "2" || is_needed(&name.to_string_lossy(), meant.file_type()),
                "it holds {name:?}"
            );
        }
    }
    Ok(())
}

/// Whether an engine needs such a descriptor: sockets and pipes that it was given, its events, what its guests run in, the
/// pages that they wrote, what was compiled of them, random numbers, a volume.
fn is_needed(name: &str, kind: fs::FileType) -> bool {
    let known = ["anon_inode:[event", "/memfd:", "/dev/null", "/dev/urandom"];
    kind.is_socket()
        || kind.is_fifo()
        || known.iter().any(|known| name.starts_with(known))
        || name.ends_with("/pagemap")
        || name.ends_with(".cwasm")
        || (kind.is_dir() && name.contains("/volumes/"))
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names: Vec<_> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

pub(crate) async fn each_escape_of_a_broken_sandbox_is_refused(cx: &Cx) -> Result<()> {
    let backdoor = Backdoor::install(cx)?;
    let image = support::guest(cx, "backdoor")?;
    cx.ready_function("broken", &image, "  replicas: 1").await?;
    let address = cx.route("broken").await?;
    for (name, expected) in [
        ("socket-inet", "done"),
        ("root", "dev hearth-engine proc"),
        ("others", ""),
        ("open", "ENOENT"),
        ("open-of-parent", "ENOENT"),
        ("create", "EROFS"),
        ("execve", "EPERM"),
        ("fork", "EPERM"),
        ("clone3", "ENOSYS"),
        ("ptrace", "EPERM"),
        ("process_vm_readv", "EPERM"),
        ("mount", "EPERM"),
        ("pivot_root", "EPERM"),
        ("chroot", "EPERM"),
        ("bpf", "EPERM"),
        ("perf_event_open", "EPERM"),
        ("io_uring_setup", "EPERM"),
        ("socket-unix", "EPERM"),
        ("socket-netlink", "EPERM"),
        ("socket-packet", "EPERM"),
        ("setuid", "EPERM"),
        ("setgroups", "EPERM"),
        ("capset", "EPERM"),
        ("unshare", "EPERM"),
        ("setns", "EPERM"),
        ("kill", "EPERM"),
        ("init_module", "EPERM"),
    ] {
        let answer = call::get(&address, &format!("/{name}")).await?;
        ensure!(
            (answer.status, answer.body.as_str()) == (200, expected),
            "{name}: {answer:?}"
        );
    }
    // The compile helper of that node.
    let functions = cx.functions();
    for name in ["socket-inet", "open", "execve", "kill"] {
        let image = cx.push_artifact(
            &format!("backdoor-{name}"),
            format!("backdoor:{name}").as_bytes(),
        )?;
        cx.apply(&hearth_e2e::cx::manifest(name, &image, ""))?;
        until("the helper's answer", SETTLE, || async {
            let status = functions.get(name).await?.status.unwrap_or_default();
            let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
            Ok(match ready {
                Some(ready) if ready.message.contains("EPERM") => Seen::Yes(()),
                other => Seen::NotYet(format!("{other:?}")),
            })
        })
        .await?;
    }
    backdoor.remove(cx).await
}
