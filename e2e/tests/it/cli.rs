//! `hearth serve`: the same host without a cluster.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use hearth_e2e::served::{Served, refused};
use hearth_e2e::{Cx, call, manifest};

use crate::support::{HELLO, contains};

/// Writes a manifest where nothing but these cases writes.
fn written(name: &str, manifest: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, manifest).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

async fn serve(cx: &Cx, words: &[&OsStr]) -> Result<Served> {
    Served::start(&cx.cluster, words).await
}

pub(crate) async fn serve_answers_without_a_cluster(cx: &Cx) -> Result<()> {
    let agent = serve(cx, &[cx.cluster.guest("hello-c").as_os_str()]).await?;
    let answer = call::get(&agent.address, "/").await?;
    ensure!(answer.status == 200, "{answer:?}");
    contains("the answer", &answer.body, "ello")
}

pub(crate) async fn serve_runs_a_manifest_with_its_environment_and_its_egress(
    cx: &Cx,
) -> Result<()> {
    let hello = cx.cluster.guest("hello-c");
    let listed = serve(cx, &[hello.as_os_str()]).await?;
    let other = serve(cx, &[hello.as_os_str()]).await?;
    let spec = format!(
        "  env:\n    - name: MOOD\n      value: mischievous\n  egress:\n    allow: [\"{}\"]",
        listed.address
    );
    let manifest = written("agent.yaml", &manifest("agent", HELLO, &spec))?;
    let bundle = cx.cluster.guest("mischief");
    let words = [
        manifest.as_os_str(),
        "--bundle".as_ref(),
        bundle.as_os_str(),
    ];
    let agent = serve(cx, &words).await?;

    let mood = call::get(&agent.address, "/env?name=MOOD").await?;
    ensure!(mood.status == 200, "{mood:?}");
    contains("the variable of the manifest", &mood.body, "mischievous")?;
    let path = call::get(&agent.address, "/env?name=PATH").await?;
    ensure!(path.status == 404, "a variable of the caller's: {path:?}");

    let fetch = |target: &Served| format!("/fetch?url=http://{}/", target.address);
    let allowed = call::get(&agent.address, &fetch(&listed)).await?;
    ensure!(allowed.status == 200, "{allowed:?}");
    contains("what the guest fetched", &allowed.body, "ello")?;
    let denied = call::get(&agent.address, &fetch(&other)).await?;
    ensure!(denied.status == 502, "{denied:?}");
    contains("what the guest was told", &denied.body, "denied")
}

pub(crate) async fn serve_says_what_is_wrong_with_a_manifest(cx: &Cx) -> Result<()> {
    let bundle = cx.cluster.guest("hello-c");
    let with_bundle = ["--bundle".as_ref(), bundle.as_os_str()];
    let good = written("good.yaml", &manifest("agent", HELLO, "  replicas: 1"))?;
    let misspelt = written("misspelt.yaml", &manifest("agent", HELLO, "  replica: 1"))?;
    let pod = written(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: agent}\nspec: {containers: []}\n",
    )?;
    let nowhere = Path::new("no/such/agent.yaml");
    let no_bundle = ["--bundle".as_ref(), OsStr::new("no/such/agent.wasm")];
    // The manifest, what follows it, what is named and what helps.
    let cases: [(&Path, &[&OsStr], &str, &str); 5] = [
        (
            &misspelt,
            &with_bundle,
            "spec.replica;",
            "correct or remove",
        ),
        (&pod, &with_bundle, "\"Pod\"", "AgentFunction"),
        (nowhere, &with_bundle, "no/such/agent.yaml", "manifest"),
        (&good, &no_bundle, "no/such/agent.wasm", "component"),
        (&good, &[], HELLO, "--bundle"),
    ];
    for (manifest, rest, named, help) in cases {
        let words = [&[manifest.as_os_str()], rest].concat();
        let said = refused(&cx.cluster, &words).await?;
        let what = format!("the error about {}", manifest.display());
        contains(&what, &said, named)?;
        contains(&what, &said, help)?;
    }
    Ok(())
}
