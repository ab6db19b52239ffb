//! The compile helper: reads sealed inputs, writes one artifact, says what it made. Opens nothing by name.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hearth_contract::FailureReason;
use hearth_contract::proto::{self, BundleInput, CompileRequest, CompileResult, compile_result};
use hearth_wasm_host::bundle::BundleError;
use hearth_wasm_host::{Engine, compile};
use rustix::process::{Resource, Rlimit, setrlimit};
use sha2::{Digest, Sha256};

use crate::Backdoor;
use crate::lockdown::Role;

/// Address space of the helper: a large component takes about 2 GiB to compile on several threads.
const ADDRESS_SPACE: u64 = 8 << 30;

pub(crate) fn main(backdoor: Option<Backdoor>) -> Result<()> {
    super::confine(Role::Compile)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let control = super::control()?;
        let Some((request, descriptors)) = control.receive::<CompileRequest>().await? else {
            bail!("the shim closed the control socket before it asked for anything");
        };
        bound(&request)?;
        let result = match work(&request, descriptors, backdoor)? {
            Ok(compiled) => compile_result::Result::Compiled(compiled),
            Err((reason, message)) => compile_result::Result::Failure(proto::Failure {
                reason: reason.as_str().to_owned(),
                message,
            }),
        };
        control
            .send(
                &CompileResult {
                    result: Some(result),
                },
                &[],
            )
            .await?;
        Ok(())
    })
}

/// CPU time and memory end the process when the shim's own deadline does not.
fn bound(request: &CompileRequest) -> Result<()> {
    let seconds = Duration::from_millis(request.deadline_ms.into())
        .as_secs()
        .max(1);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let processor = seconds * cores;
    // At the first the process is told (SIGXCPU), which ends it with a signal that says why; at the second it is killed.
    for (resource, current, maximum) in [
        (Resource::Cpu, processor, processor + 1),
        (Resource::As, ADDRESS_SPACE, ADDRESS_SPACE),
    ] {
        setrlimit(
            resource,
            Rlimit {
                current: Some(current),
                maximum: Some(maximum),
            },
        )
        .with_context(|| format!("set the limit {resource:?}"))?;
    }
    Ok(())
}

type Worked = std::result::Result<proto::Compiled, (FailureReason, String)>;

fn work(
    request: &CompileRequest,
    descriptors: Vec<OwnedFd>,
    backdoor: Option<Backdoor>,
) -> Result<Worked> {
    let mut descriptors = descriptors.into_iter().map(File::from);
    let mut output = descriptors
        .next()
        .context("the request carries no output descriptor")?;
    let mut inputs = Vec::new();
    for mut input in descriptors {
        input.rewind().context("rewind an input")?;
        inputs.push(input);
    }
    let wrong = |error: BundleError| (error.reason(), error.to_string());
    let bytes = match request.input() {
        BundleInput::Wasm => {
            let mut bytes = Vec::new();
            let Some(input) = inputs.first_mut() else {
                bail!("the request carries no input descriptor")
            };
            input
                .take(compile::MAX_COMPONENT_BYTES)
                .read_to_end(&mut bytes)
                .context("read the component")?;
            bytes
        }
        BundleInput::Layers => match compile::find_component(inputs) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(wrong(error))),
        },
        BundleInput::Unspecified => {
            bail!("the request says no kind of input; shim and engine are of different versions")
        }
    };
    let said = backdoor.and_then(|backdoor| (backdoor.bundle)(&bytes));
    if let Some(said) = said {
        return Ok(Err((FailureReason::InvalidBundle, said)));
    }
    let started = Instant::now();
    let engine = Engine::for_compiling()
        .map_err(|error| anyhow::anyhow!("{error:#}"))?
        .with_probe(backdoor.map(|backdoor| backdoor.guest));
    let compiled = match compile::compile(&engine, &bytes) {
        Ok(compiled) => compiled,
        Err(error) => return Ok(Err(wrong(error))),
    };
    if let Err(error) = output
        .write_all(&compiled.artifact)
        .and_then(|()| output.sync_all())
    {
        return Ok(Err((
            FailureReason::NodeFault,
            format!("the artifact cannot be written, maybe the disk is full: {error}"),
        )));
    }
    Ok(Ok(proto::Compiled {
        kind: proto::BundleKind::from(compiled.kind).into(),
        fingerprint: engine.fingerprint(),
        artifact_bytes: compiled.artifact.len() as u64,
        artifact_sha256: Sha256::digest(&compiled.artifact)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        compile_ms: u32::try_from(started.elapsed().as_millis()).unwrap_or(u32::MAX),
    }))
}
