//! What a user gets wrong, and the sentence that helps.

use anyhow::{Context, Result, bail, ensure};
use hearth_api::v1alpha1::AgentFunction;
use hearth_cluster::Image;
use hearth_cluster::image::{Blob, Pack, Packed};
use hearth_e2e::{Cx, call, manifest};

use crate::support::{self, HELLO, contains};

/// Media type of an index: one name for images of several architectures.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(crate) async fn the_api_server_refuses_impossible_manifests(cx: &Cx) -> Result<()> {
    let cases = [
        ("  replica: 2", "unknown field \"spec.replica\""),
        ("  replicas: -1", "spec.replicas"),
        ("  limits:\n    memory: lots", "memory"),
        (
            "  limits:\n    deadlineMilliseconds: 0",
            "deadlineMilliseconds",
        ),
        ("  limits:\n    concurrency: 0", "concurrency"),
        ("  limits:\n    cpuMilliseconds: 0", "cpuMilliseconds"),
        (
            "  limits:\n    requestHead: 1Mi",
            "requestHead is a quantity from 1Ki to 256Ki",
        ),
        (
            "  limits:\n    responseBody: 2Gi",
            "responseBody is a quantity from 0 to 1Gi",
        ),
        ("  limits:\n    outboundCalls: -1", "outboundCalls"),
        (
            "  limits:\n    logBytesPerSecond: 1Gi",
            "logBytesPerSecond is a quantity from 0 to 10Mi",
        ),
        ("  reuse:\n    seconds: 60", "spec.reuse.calls"),
        ("  reuse:\n    calls: 0", "spec.reuse.calls"),
        (
            "  reuse:\n    calls: 1\n    seconds: 90000",
            "spec.reuse.seconds",
        ),
        ("  egress:\n    allow: [\"ftp://example.com\"]", "egress"),
        (
            "  egress:\n    allow: [\"https://example.com/path\"]",
            "egress",
        ),
        (
            "  env:\n    - name: A\n      value: x\n    - name: A\n      value: y",
            "Duplicate value",
        ),
        ("  service:\n    port: 70000", "port"),
        ("  loader:\n    concurrency: 0", "spec.loader.concurrency"),
        (
            "  loader:\n    limits:\n      memory: 8Gi",
            "memory is a quantity from 1Mi to 4Gi",
        ),
        ("  loader:\n    endpoint: {}", "tokenDigests"),
        (
            "  loader:\n    endpoint:\n      tokenDigests: [\"sha256:0000000000000000000000000000000000000000000000000000000000000000x\"]",
            "tokenDigests",
        ),
    ];
    for (spec, word) in cases {
        match cx.apply(&manifest("wrong", HELLO, spec)) {
            Ok(said) => bail!("{spec:?} was taken: {said}"),
            Err(error) => contains(
                &format!("the refusal of {spec:?}"),
                &format!("{error:#}"),
                word,
            )?,
        }
    }
    match cx.apply(
        "apiVersion: hearth.dev/v1alpha1\nkind: AgentFunction\nmetadata:\n  name: none\nspec: {}\n",
    ) {
        Ok(said) => bail!("a function without a bundle was taken: {said}"),
        Err(error) => contains("the refusal", &format!("{error:#}"), "bundle"),
    }
}

/// Applies a function that cannot serve beside one that does, and returns the bad one when its condition says `reason`.
async fn fails(cx: &Cx, image: &str, reason: &str, words: &[&str]) -> Result<AgentFunction> {
    cx.ready_function("neighbour", HELLO, "  replicas: 1")
        .await?;
    cx.apply(&manifest("bad", image, "  replicas: 1"))?;
    let function = support::fails(cx, "bad", reason, words).await?;
    let answer = call::get(&cx.route("neighbour").await?, "/").await?;
    ensure!(answer.status == 200, "the neighbour: {answer:?}");
    Ok(function)
}

pub(crate) async fn an_image_that_does_not_exist(cx: &Cx) -> Result<()> {
    fails(
        cx,
        "localhost:5000/examples/no-such-agent:1",
        "ImageNotFound",
        &["no-such-agent"],
    )
    .await?;
    Ok(())
}

pub(crate) async fn a_registry_that_does_not_answer(cx: &Cx) -> Result<()> {
    fails(
        cx,
        "localhost:5999/examples/hello-c:dev",
        "PullFailed",
        &["localhost:5999"],
    )
    .await?;
    Ok(())
}

pub(crate) async fn a_linux_container(cx: &Cx) -> Result<()> {
    fails(
        cx,
        "localhost:5000/busybox:1",
        "NotABundle",
        &["busybox", ".wasm"],
    )
    .await?;
    Ok(())
}

async fn broken(cx: &Cx, guest: &str, reason: &str, words: &[&str]) -> Result<()> {
    let image = support::guest(cx, guest)?;
    fails(cx, &image, reason, words).await?;
    Ok(())
}

pub(crate) async fn an_import_that_hearth_does_not_offer(cx: &Cx) -> Result<()> {
    broken(cx, "unknown-import", "UnknownImport", &["acme:db/store"]).await
}

pub(crate) async fn a_bundle_for_another_architecture(cx: &Cx) -> Result<()> {
    let wasm = std::fs::read(cx.cluster.guest("hello-c")).context("read the guest")?;
    let image = Image::wasm_file("hello.wasm", wasm)
        .architecture("s390x")
        .pack()?;
    cx.cluster.push_image("e2e/elsewhere:s390x", &image)?;
    let manifest = &image.manifest;
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{
            "mediaType": manifest.media_type,
            "digest": manifest.digest,
            "size": manifest.bytes.len(),
            "platform": {"os": "linux", "architecture": "s390x"},
        }],
    });
    let index = Packed {
        manifest: Blob::new(INDEX, index.to_string().into_bytes()),
        blobs: Vec::new(),
    };
    let image = cx.cluster.push_image("e2e/elsewhere:1", &index)?;
    fails(cx, &image, "NotABundle", &["architecture"]).await?;
    Ok(())
}

pub(crate) async fn a_core_module(cx: &Cx) -> Result<()> {
    broken(cx, "core-module", "CoreModule", &["component"]).await
}

pub(crate) async fn a_truncated_file(cx: &Cx) -> Result<()> {
    broken(cx, "truncated", "InvalidBundle", &["cut short"]).await
}

pub(crate) async fn a_bundle_that_is_too_much_to_compile(cx: &Cx) -> Result<()> {
    cx.apply(
        "apiVersion: hearth.dev/v1alpha1\nkind: AgentPool\nmetadata:\n  name: default\nspec:\n  resources:\n    limits:\n      memory: 192Mi",
    )?;
    broken(cx, "bomb", "CompileLimit", &["memory", "smaller"]).await
}

pub(crate) async fn a_component_without_entry(cx: &Cx) -> Result<()> {
    broken(cx, "no-entry", "NoEntryPoint", &["wasi:http"]).await
}

pub(crate) async fn a_service_that_belongs_to_somebody_else(cx: &Cx) -> Result<()> {
    cx.apply("apiVersion: v1\nkind: Service\nmetadata:\n  name: taken\nspec:\n  ports:\n    - port: 80\n")?;
    cx.apply(&manifest("taken", HELLO, "  replicas: 1"))?;
    let function = cx.condition("taken", "Ready", "False").await?;
    let conditions = function
        .status
        .map(|status| status.conditions)
        .unwrap_or_default();
    ensure!(
        conditions.iter().any(|c| c.reason == "ServiceConflict"),
        "{conditions:?}"
    );
    let kept = cx.kubectl(&[
        "get",
        "service",
        "taken",
        "-o",
        "jsonpath={.metadata.ownerReferences}",
    ])?;
    ensure!(kept.trim().is_empty(), "the Service was taken over: {kept}");
    Ok(())
}
