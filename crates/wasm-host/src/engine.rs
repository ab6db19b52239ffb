//! The one place where wasmtime is configured.
//!
//! Pooling allocator with copy-on-write images: making an instance is a few system calls, not allocations. Epoch
//! interruption: a ticker thread advances the epoch every [`EPOCH_TICK`], and a guest that computes gives its thread
//! back at each tick, so that a spinning guest delays its neighbours by one tick and its deadline can fire.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Weak};
use std::time::Duration;

use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How long a guest may compute before its thread looks at other work.
pub const EPOCH_TICK: Duration = Duration::from_millis(5);

/// Largest linear memory that a slot of the pool can hold, in bytes. `spec.limits.memory` may not ask for more.
pub const MAX_MEMORY_BYTES: usize = 4 << 30;

/// Linear memory that a slot keeps mapped between two instances, in bytes: more than a small guest writes in a call.
const KEEP_RESIDENT: usize = 256 << 10;
/// The same for a stack, from its top.
const KEEP_STACK: usize = 32 << 10;
/// The same for a table.
const KEEP_TABLE: usize = 16 << 10;
/// Slots that are kept for the bundle that used them last.
const UNUSED_SLOTS: u32 = 32;

/// What is chosen per process.
#[derive(Debug, Clone, Copy)]
pub struct EngineSettings {
    /// Most instances alive at once, all functions together. At the bound a call that needs one more is answered
    /// `unavailable`. Costs address space (4 GiB each), no memory.
    pub instances: u32,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self { instances: 4096 }
    }
}

/// A configured wasmtime engine whose epoch advances while it lives.
#[derive(Clone)]
pub struct Engine {
    inner: wasmtime::Engine,
    // Dropped with the last engine; the ticker thread sees that and ends.
    _alive: Arc<()>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine that runs instances.
    ///
    /// # Errors
    /// When this machine cannot give the address space or lacks a feature.
    pub fn new(settings: EngineSettings) -> wasmtime::Result<Self> {
        let mut config = base_config();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling(settings)));
        let inner = wasmtime::Engine::new(&config)?;
        let alive = Arc::new(());
        start_ticker(inner.clone(), Arc::downgrade(&alive))?;
        Ok(Self {
            inner,
            _alive: alive,
        })
    }

    /// An engine that only compiles. Its artifacts are the same as those of [`Engine::new`].
    ///
    /// # Errors
    /// When the settings do not fit this machine.
    #[cfg(feature = "compile")]
    pub fn for_compiling() -> wasmtime::Result<Self> {
        let mut config = base_config();
        // The pool reserves address space, which the compile helper's resource limits do not allow; its sizes are not
        // part of an artifact, the reservation of each memory is.
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        Ok(Self {
            inner: wasmtime::Engine::new(&config)?,
            _alive: Arc::new(()),
        })
    }

    /// The wasmtime engine.
    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.inner
    }

    /// Names what an artifact depends on: our version, wasmtime's, its settings and the CPU's features. Artifacts are
    /// exchanged only between engines with equal fingerprints.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        self.inner.precompile_compatibility_hash().hash(&mut hasher);
        env!("CARGO_PKG_VERSION").hash(&mut hasher);
        format!("{}-{:016x}", env!("CARGO_PKG_VERSION"), hasher.0)
    }
}

fn base_config() -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.wasm_component_model_async(true);
    config.epoch_interruption(true);
    config.memory_init_cow(true);
    // Names of a trap's frames reach the owner's log; line tables would double an artifact.
    config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(20));
    config.generate_address_map(false);
    // The same for compiling and for running: part of the artifact.
    config.memory_reservation(MAX_MEMORY_BYTES as u64);
    config.memory_guard_size(32 << 20);
    config.max_wasm_stack(512 << 10);
    config.async_stack_size(1 << 20);
    config
}

fn pooling(settings: EngineSettings) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    let instances = settings.instances;
    pool.total_component_instances(instances);
    // A component made by componentize-js or by an adapter is several core modules with one memory among them.
    pool.total_core_instances(instances.saturating_mul(8));
    pool.total_memories(instances);
    pool.total_tables(instances.saturating_mul(4));
    pool.total_stacks(instances);
    pool.max_core_instances_per_component(64);
    pool.max_memories_per_component(8);
    pool.max_tables_per_component(64);
    pool.max_component_instance_size(4 << 20);
    pool.max_core_instance_size(4 << 20);
    pool.table_elements(64 << 10);
    pool.max_memory_size(MAX_MEMORY_BYTES);
    // What a call wrote is set back in place: unmapping it interrupts every core, and mapping it again is a fault a page.
    // A slot that was used and waits keeps at most this; at most so many wait for an instance of their own bundle.
    pool.linear_memory_keep_resident(KEEP_RESIDENT);
    pool.async_stack_keep_resident(KEEP_STACK);
    pool.table_keep_resident(KEEP_TABLE);
    pool.max_unused_warm_slots(UNUSED_SLOTS);
    // Finds the written pages, where the kernel is 6.7 or later; else the first bytes are taken for written.
    pool.pagemap_scan(Enabled::Auto);
    pool
}

fn start_ticker(engine: wasmtime::Engine, alive: Weak<()>) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("epoch".to_owned())
        .stack_size(64 << 10)
        .spawn(move || {
            while alive.strong_count() > 0 {
                std::thread::sleep(EPOCH_TICK);
                engine.increment_epoch();
            }
        })?;
    Ok(())
}

/// FNV-1a: the fingerprint must be the same in every process, which std's hasher does not promise.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
