//! The peer of `bench engine`: how long wasmtime's `InstancePre` alone takes for an instance, with the one configuration that
//! there is and nothing around it.
//!
//! `bare-instance ARTIFACT COUNT` makes so many instances, keeps them all, and prints the microseconds that one took.

use std::fs::File;
use std::time::Instant;

use hearth_wasm_host::{Artifact, Engine, EngineSettings};
use wasmtime::Store;
use wasmtime::component::Linker;
use wasmtime::error::Context;

#[tokio::main(flavor = "current_thread")]
async fn main() -> wasmtime::Result<()> {
    let mut words = std::env::args().skip(1);
    let usage = "usage: bare-instance ARTIFACT COUNT";
    let path = words.next().context(usage)?;
    let count = words.next().context(usage)?.parse::<u32>().context(usage)?;
    let file = File::open(&path).context(path)?;
    let engine = Engine::new(EngineSettings::default())?;
    let artifact = Artifact::of(file.into());
    let component = artifact.component(&engine)?;
    let mut linker = Linker::<()>::new(component.engine());
    // Nothing is imported that start-up code of the measured guest calls.
    linker.define_unknown_imports_as_traps(component)?;
    let instance = linker.instantiate_pre(component)?;
    let mut kept = Vec::new();
    let started = Instant::now();
    for _ in 0..count {
        let mut store = Store::new(component.engine(), ());
        store.epoch_deadline_async_yield_and_update(1);
        let instance = instance.instantiate_async(&mut store).await?;
        kept.push((store, instance));
    }
    let micros = started.elapsed().as_secs_f64() * 1e6;
    println!("{:.3}", micros / f64::from(count));
    Ok(())
}
