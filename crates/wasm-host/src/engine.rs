//! The one place where wasmtime is configured.
//!
//! Pooling allocator with copy-on-write images: making an instance is a few system calls, not allocations. Epoch
//! interruption: a ticker thread advances the epoch every [`EPOCH_TICK`], and a guest that computes gives its thread
//! back at each tick, so that a spinning guest delays its neighbours by one tick and its deadline can fire.
//!
//! There are two wasmtime engines. Guests of WASI 0.2 run on one without the component model's concurrency, which spares
//! each of their host calls the bookkeeping of tasks; those of WASI 0.3 need it. The second one is made when the first of
//! them comes.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
use wasmtime::component::Component;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How long a guest may compute before its thread looks at other work.
pub const EPOCH_TICK: Duration = Duration::from_millis(5);

/// Largest linear memory that a slot of the pool can hold, in bytes. `spec.limits.memory` may not ask for more.
pub const MAX_MEMORY_BYTES: usize = 4 << 30;

/// Linear memory that a slot keeps mapped between two instances, in bytes: more than a small guest writes in a call, and a small
/// function in JavaScript.
const KEEP_RESIDENT: usize = 384 << 10;
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

/// What a component needs of its engine. Part of what its artifact is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Concurrency {
    /// WASI 0.2: one task at a time in each instance.
    Without,
    /// WASI 0.3: async functions, streams, futures.
    With,
}

impl Concurrency {
    /// Both; the cheaper one first.
    pub(crate) const ALL: [Self; 2] = [Self::Without, Self::With];
}

/// A host function for tests, which guests may import as `attempt`: a text in, a text out.
pub type Probe = fn(&str) -> String;

/// Configured wasmtime engines whose epoch advances while this lives.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    pub(crate) probe: Option<Probe>,
}

struct Inner {
    /// `None` for an engine that only compiles.
    settings: Option<EngineSettings>,
    without: wasmtime::Engine,
    with: OnceLock<wasmtime::Engine>,
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
        let engine = Self::made(Some(settings))?;
        start_ticker(Arc::downgrade(&engine.inner))?;
        Ok(engine)
    }

    /// An engine that only compiles. Its artifacts are the same as those of [`Engine::new`].
    ///
    /// # Errors
    /// When the settings do not fit this machine.
    #[cfg(feature = "compile")]
    pub fn for_compiling() -> wasmtime::Result<Self> {
        Self::made(None)
    }

    fn made(settings: Option<EngineSettings>) -> wasmtime::Result<Self> {
        let inner = Inner {
            without: while_readable(|| {
                wasmtime::Engine::new(&config(settings, Concurrency::Without))
            })?,
            with: OnceLock::new(),
            settings,
        };
        Ok(Self {
            inner: Arc::new(inner),
            probe: None,
        })
    }

    /// The same engine, with a host function that only tests have.
    #[must_use]
    pub fn with_probe(self, probe: Option<Probe>) -> Self {
        Self { probe, ..self }
    }

    /// The wasmtime engine for components that need `concurrency`.
    ///
    /// # Errors
    /// When the second one is made now and this machine cannot give its address space.
    pub(crate) fn wasmtime(&self, concurrency: Concurrency) -> wasmtime::Result<&wasmtime::Engine> {
        let Inner {
            settings,
            without,
            with,
        } = &*self.inner;
        if concurrency == Concurrency::Without {
            return Ok(without);
        }
        if let Some(engine) = with.get() {
            return Ok(engine);
        }
        let made = while_readable(|| wasmtime::Engine::new(&config(*settings, concurrency)))?;
        // Somebody may have been faster; then that one is used.
        Ok(with.get_or_init(|| made))
    }

    /// Which of the two engines a component is for.
    pub(crate) fn concurrency_of(&self, component: &Component) -> Concurrency {
        match wasmtime::Engine::same(component.engine(), &self.inner.without) {
            true => Concurrency::Without,
            false => Concurrency::With,
        }
    }

    /// Names what an artifact depends on: our version, wasmtime's, its settings and the CPU's features. Artifacts are
    /// exchanged only between engines with equal fingerprints.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        let compatibility = self.inner.without.precompile_compatibility_hash();
        compatibility.hash(&mut hasher);
        env!("CARGO_PKG_VERSION").hash(&mut hasher);
        format!("{}-{:016x}", env!("CARGO_PKG_VERSION"), hasher.0)
    }
}

/// The configuration of an engine that runs instances, or without `settings` of one that compiles for it.
fn config(settings: Option<EngineSettings>, concurrency: Concurrency) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    let concurrent = concurrency == Concurrency::With;
    config.concurrency_support(concurrent);
    config.wasm_component_model_async(concurrent);
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
    config.allocation_strategy(match settings {
        Some(settings) => InstanceAllocationStrategy::Pooling(pooling(settings)),
        // The pool reserves address space, which the compile helper's resource limits do not allow; its sizes are not
        // part of an artifact, the reservation of each memory is.
        None => InstanceAllocationStrategy::OnDemand,
    });
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

/// Does something while the process may read all that `/proc` has of itself. The pool asks the kernel through a file of it
/// which pages a guest wrote, and a process that lets nobody trace it cannot open that one.
fn while_readable<T>(work: impl FnOnce() -> T) -> T {
    let before = dumpable_behavior();
    let made_so = before.and_then(|_| set_dumpable_behavior(DumpableBehavior::Dumpable));
    let done = work();
    if let (Ok(before), Ok(())) = (before, made_so)
        && let Err(error) = set_dumpable_behavior(before)
    {
        tracing::error!(%error, "other processes of this user may trace this one");
    }
    done
}

fn start_ticker(engines: Weak<Inner>) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("epoch".to_owned())
        .stack_size(64 << 10)
        .spawn(move || {
            while let Some(engines) = engines.upgrade() {
                engines.without.increment_epoch();
                if let Some(engine) = engines.with.get() {
                    engine.increment_epoch();
                }
                drop(engines);
                std::thread::sleep(EPOCH_TICK);
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
