//! One run of the confined compile helper.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use hearth_contract::FailureReason;
use hearth_contract::proto::{self, BundleInput, Compiled, compile_result};
use rustix::process::Signal;
use tokio::process::Child;

use crate::artifact::Draft;
use crate::bundle::Failure;
use crate::cgroup::Cgroup;
use crate::process::{self, NOBODY, Network, Process};

/// What the helper gets beyond its own deadline before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// Compiles `inputs` into `draft`. When this returns, the helper's process has ended.
pub async fn run(
    exe: &Path,
    cgroup: Option<&Cgroup>,
    input: BundleInput,
    inputs: &[OwnedFd],
    draft: &Draft,
    deadline: Duration,
) -> Result<Compiled, Failure> {
    let kills_before = cgroup.map_or(0, Cgroup::oom_kills);
    let mut process = process::spawn(exe, "compile", &Network::Empty, &NOBODY)
        .await
        .map_err(|error| Failure::node("starting the compile helper", error))?;
    let answer = ask(&process, cgroup, input, inputs, draft, deadline).await;
    // It may still hold the draft open for writing, so it must be gone before anybody trusts the file.
    let ended = match end(&mut process.child).await {
        Ok(ended) => ended,
        Err(error) => return Err(Failure::node("ending the compile helper", error)),
    };
    match answer {
        Ok(Some(result)) => decode(result),
        Ok(None) if cgroup.map_or(0, Cgroup::oom_kills) > kills_before => Err(Failure::new(
            FailureReason::CompileLimit,
            "compiling needed more memory than the container's limit; raise the limit or make the bundle smaller",
        )),
        Ok(None) => Err(unanswered(ended, deadline)),
        Err(failure) => Err(failure),
    }
}

/// Ends a helper that has not ended, and says how it did.
async fn end(helper: &mut Child) -> io::Result<ExitStatus> {
    if let Some(ended) = helper.try_wait()? {
        return Ok(ended);
    }
    helper.start_kill()?;
    helper.wait().await
}

/// Why a helper that was not killed from here ended without a word: it sets itself limits that the kernel holds.
fn unanswered(ended: ExitStatus, deadline: Duration) -> Failure {
    let smaller = "make the bundle smaller, or split its largest functions";
    match ended.signal().and_then(Signal::from_named_raw) {
        Some(Signal::XCPU) => Failure::new(
            FailureReason::CompileLimit,
            format!(
                "compiling took more processor time than all cores have in {} s; {smaller}",
                deadline.as_secs()
            ),
        ),
        // Where Rust's allocator finds no memory.
        Some(Signal::ABORT) => Failure::new(
            FailureReason::CompileLimit,
            format!(
                "compiling needed more address space than the compile helper may have; {smaller}"
            ),
        ),
        _ => Failure::new(
            FailureReason::NodeFault,
            format!(
                "the compile helper ended without an answer ({ended}); its log is in containerd's"
            ),
        ),
    }
}

async fn ask(
    process: &Process,
    cgroup: Option<&Cgroup>,
    input: BundleInput,
    inputs: &[OwnedFd],
    draft: &Draft,
    deadline: Duration,
) -> Result<Option<proto::CompileResult>, Failure> {
    if let Some(cgroup) = cgroup {
        cgroup
            .add(process.pid)
            .map_err(|error| Failure::node("moving the compile helper into the cgroup", error))?;
    }
    // When memory runs out, the helper goes before the engine that answers calls.
    process::set_oom_score(process.pid, 1000)
        .map_err(|error| Failure::node("setting the compile helper's OOM score", error))?;
    let request = proto::CompileRequest {
        input: input.into(),
        deadline_ms: u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX),
    };
    let mut descriptors: Vec<BorrowedFd<'_>> = vec![draft.file.as_fd()];
    descriptors.extend(inputs.iter().map(AsFd::as_fd));
    let exchange = async {
        process.channel.send(&request, &descriptors).await?;
        process.channel.receive::<proto::CompileResult>().await
    };
    match tokio::time::timeout(deadline + GRACE, exchange).await {
        Ok(Ok(Some((result, _)))) => Ok(Some(result)),
        Ok(Ok(None)) => Ok(None),
        // A peer that is killed resets the connection when it had not read everything.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(None),
        Ok(Err(error)) => Err(Failure::node("talking to the compile helper", error)),
        Err(_) => Err(Failure::new(
            FailureReason::CompileLimit,
            format!("compiling took longer than {} s", deadline.as_secs()),
        )),
    }
}

fn decode(result: proto::CompileResult) -> Result<Compiled, Failure> {
    match result.result {
        Some(compile_result::Result::Compiled(compiled)) => Ok(compiled),
        Some(compile_result::Result::Failure(failure)) => {
            let reason =
                FailureReason::from_word(&failure.reason).unwrap_or(FailureReason::NodeFault);
            Err(Failure::new(reason, failure.message))
        }
        None => Err(Failure::new(
            FailureReason::NodeFault,
            "the compile helper sent an empty answer",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_that_its_limits_ended_is_the_bundles_fault() {
        for (signal, reason, word) in [
            (Signal::XCPU, FailureReason::CompileLimit, "5 s"),
            (Signal::ABORT, FailureReason::CompileLimit, "address space"),
            (Signal::SEGV, FailureReason::NodeFault, "log"),
        ] {
            let ended = ExitStatus::from_raw(signal.as_raw());
            let failure = unanswered(ended, Duration::from_secs(5));
            assert_eq!(failure.reason, reason, "{failure:?}");
            assert!(failure.message.contains(word), "{failure:?}");
        }
    }
}
