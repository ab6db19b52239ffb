//! The compile helper: what it makes, and what it says of what is no bundle.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use hearth_contract::proto::{BundleInput, BundleKind};
use hearth_test_guests::Guest;
use rustix::process::Signal;

use crate::harness::{Helper, compile};

#[tokio::test]
async fn good_guests_become_artifacts_of_their_kind() {
    for (guest, kind) in [
        (Guest::Hello, BundleKind::Http),
        (Guest::Mischief, BundleKind::Http),
        (Guest::P3, BundleKind::Http),
        (Guest::Conform, BundleKind::Http),
        (Guest::Command, BundleKind::Command),
        (Guest::Preview1, BundleKind::Command),
        (Guest::Exit, BundleKind::Command),
    ] {
        let (compiled, file) = compile(BundleInput::Wasm, &[&guest.wasm().unwrap()])
            .await
            .unwrap();
        assert_eq!(compiled.kind(), kind, "{guest:?}");
        assert_eq!(compiled.artifact_bytes, file.metadata().unwrap().len());
        assert_eq!(compiled.artifact_sha256.len(), 64);
    }
}

#[tokio::test]
async fn what_is_no_bundle_is_named() {
    for (guest, reason, word) in [
        (Guest::UnknownImport, "UnknownImport", "acme:db/store@1.0.0"),
        (Guest::CoreModule, "CoreModule", "wasm-tools component new"),
        (Guest::ForeignImport, "UnknownImport", "get of env"),
        (Guest::Truncated, "InvalidBundle", "cut short"),
        (Guest::NoEntry, "NoEntryPoint", "wasi:http/incoming-handler"),
    ] {
        let failure = compile(BundleInput::Wasm, &[&guest.wasm().unwrap()])
            .await
            .unwrap_err();
        assert_eq!(failure.reason, reason, "{}", failure.message);
        assert!(
            failure.message.contains(word),
            "{guest:?}: {}",
            failure.message
        );
    }
}

#[tokio::test]
async fn a_layer_without_a_wasm_file_is_no_bundle() {
    // An empty archive: two blocks of zeros.
    let failure = compile(BundleInput::Layers, &[&[0; 1024]])
        .await
        .unwrap_err();
    assert_eq!(failure.reason, "NotABundle", "{}", failure.message);
}

#[tokio::test]
async fn a_bundle_that_takes_too_long_to_compile_ends_its_helper() {
    let wasm = Guest::Bomb.wasm().unwrap();
    let helper = Helper::start(BundleInput::Wasm, &[&wasm], Duration::from_secs(1)).await;
    let (answer, status) = helper.ended().await;
    assert!(answer.is_none(), "{answer:?}");
    assert_eq!(status.signal(), Some(Signal::XCPU.as_raw()), "{status}");
}
