//! One sandbox: a store, its state, and the linker that says what a guest may import.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hearth_contract::egress::EgressRule;
use hearth_contract::{Function, Limits, Reuse};
use wasmtime::Store;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::handler::{Proxy, ProxyPre};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::bundle::BundleError;
#[cfg(feature = "compile")]
use crate::bundle::BundleKind;
use crate::capability::egress::{Egress, Outside};
use crate::capability::folders::View;
use crate::capability::loader::{self, Loaded, Loader, Observer};
use crate::engine::{Concurrency, Engine, Probe};
use crate::function::Lent;
use crate::javascript::Environment;
use crate::limits::{InstanceLimiter, MemoryBudget};
use crate::logs::{Capture, LogSink};

/// Prefixes of the interfaces that the linker offers.
const OFFERED: [&str; 8] = [
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:http/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
    "hearth:loader/",
];

/// What a store holds for its guest.
pub struct State {
    pub(crate) table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    pub(crate) egress: Egress,
    /// Runs code that comes at run time, where the guest may.
    pub(crate) loader: Option<Arc<Loader>>,
    /// The guest is such code.
    pub(crate) loaded: Option<Arc<Loaded>>,
    /// What it logs then.
    capture: Option<Arc<Capture>>,
    pub(crate) limiter: InstanceLimiter,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("limiter", &self.limiter)
            .finish_non_exhaustive()
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.egress,
        }
    }
}

/// What all instances of one function share.
pub(crate) struct Grants {
    pub(crate) outside: Outside,
    pub(crate) rules: Arc<[EgressRule]>,
    pub(crate) budget: Arc<MemoryBudget>,
    pub(crate) stdout: LogSink,
    pub(crate) stderr: LogSink,
    pub(crate) view: View,
    /// Those of `rules` count that these allow too, where there are any.
    pub(crate) within: Option<Arc<[EgressRule]>>,
    pub(crate) loader: Option<Arc<Loader>>,
    /// What loaded code is told; `None` for other code. Its log is captured, and `stdout` and `stderr` hear only of its
    /// calls.
    pub(crate) loaded: Option<Arc<Loaded>>,
}

/// Makes a store for one instance of `function`. Nothing is granted that the function does not name: no files but those in
/// its view, no addresses, an empty standard input.
pub(crate) fn store(
    engine: &wasmtime::Engine,
    function: &Function,
    grants: &Grants,
) -> Store<State> {
    let capture = grants.loaded.as_ref().map(|_| Arc::<Capture>::default());
    let log = |given: &LogSink, is_error| match &capture {
        Some(capture) => given.captured(capture.clone(), is_error),
        None => given.clone(),
    };
    let stderr = log(&grants.stderr, true);
    let mut wasi = WasiCtx::builder();
    wasi.stdout(log(&grants.stdout, false))
        .stderr(stderr.clone());
    wasi.envs(&function.capabilities.env)
        .args(&function.capabilities.args);
    let state = State {
        table: ResourceTable::new(),
        wasi: grants.view.build(wasi),
        http: WasiHttpCtx::new(),
        egress: Egress {
            outside: grants.outside.clone(),
            rules: grants.rules.clone(),
            within: grants.within.clone(),
            log: stderr,
            left: function.limits.outbound_calls,
            next: None,
            observer: None,
        },
        loader: grants.loader.clone(),
        loaded: grants.loaded.clone(),
        capture,
        limiter: InstanceLimiter::new(grants.budget.clone(), function.limits.memory_bytes.get()),
    };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limiter);
    store.epoch_deadline_async_yield_and_update(1);
    store
}

/// An instance that waits for a call, or is in one.
pub(crate) struct Instance {
    pub(crate) store: Store<State>,
    pub(crate) proxy: Proxy,
    /// When it was made.
    pub(crate) made: Instant,
    /// Calls that it has had.
    pub(crate) calls: u32,
    /// While it is in a call from which it may come back.
    pub(crate) lent: Option<Lent>,
}

impl Instance {
    /// A call begins: what is counted for each starts anew.
    pub(crate) fn begin(&mut self, limits: &Limits) {
        self.calls = self.calls.saturating_add(1);
        let state = self.store.data_mut();
        state.limiter.refused = false;
        state.limiter.is_called = true;
        state.egress.left = limits.outbound_calls;
        // It waited for this call; what it may compute before it gives its thread back begins now.
        self.store.set_epoch_deadline(1);
    }

    /// The call that begins is one of loaded code, and `observer` hears what it does.
    pub(crate) fn observe(&mut self, observer: &Arc<Observer>) {
        let state = self.store.data_mut();
        if let Some(capture) = &state.capture {
            observer.watch(capture);
        }
        state.egress.observer = Some(observer.clone());
    }

    /// Whether another call may follow the ones that it had.
    pub(crate) fn is_reusable(&self, reuse: &Reuse) -> bool {
        self.calls < reuse.calls.get() && self.made.elapsed() < reuse.age
    }
}

/// A bundle, linked: instances are made from it. One that is the JavaScript environment needs a module to answer calls.
pub(crate) enum Linked {
    Http(ProxyPre<State>, Option<Environment>),
    Command(CommandPre<State>),
}

/// The linkers of all guests: one for each engine, made when the first component of that engine comes.
#[derive(Default)]
pub(crate) struct Linkers {
    without: OnceLock<Linker<State>>,
    with: OnceLock<Linker<State>>,
}

impl Linkers {
    /// Links a bundle.
    pub(crate) fn link(
        &self,
        engine: &Engine,
        component: &Component,
    ) -> Result<Linked, BundleError> {
        let concurrency = engine.concurrency_of(component);
        let place = match concurrency {
            Concurrency::Without => &self.without,
            Concurrency::With => &self.with,
        };
        let linker = match place.get() {
            Some(linker) => linker,
            None => {
                let made = linker(component.engine(), concurrency, engine.probe)
                    .map_err(|error| BundleError::Invalid(format!("{error:#}")))?;
                // Somebody may have been faster; then that one is used.
                place.get_or_init(|| made)
            }
        };
        link(linker, component)
    }
}

/// What guests may import.
fn linker(
    engine: &wasmtime::Engine,
    concurrency: Concurrency,
    probe: Option<Probe>,
) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    loader::add_to_linker(&mut linker)?;
    if concurrency == Concurrency::With {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    if let Some(probe) = probe {
        linker
            .root()
            .func_wrap("attempt", move |_, (name,): (String,)| Ok((probe(&name),)))?;
    }
    Ok(linker)
}

fn link(linker: &Linker<State>, component: &Component) -> Result<Linked, BundleError> {
    let engine = component.engine();
    let ty = component.component_type();
    let pre = linker.instantiate_pre(component).map_err(|error| {
        let foreign: Vec<_> = ty
            .imports(engine)
            .map(|(name, _)| name.to_owned())
            .filter(|name| !OFFERED.iter().any(|offered| name.starts_with(offered)))
            .collect();
        BundleError::UnknownImport(if foreign.is_empty() {
            format!("{error:#}")
        } else {
            foreign.join(", ")
        })
    })?;
    let exports: Vec<String> = ty
        .exports(engine)
        .map(|(name, _)| name.to_owned())
        .collect();
    let has = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));
    let broken = |error: wasmtime::Error| BundleError::Invalid(format!("{error:#}"));
    if has("wasi:http/incoming-handler@0.2.") {
        let pre = wasmtime_wasi_http::p2::bindings::ProxyPre::new(pre).map_err(broken)?;
        return Ok(Linked::Http(ProxyPre::P2(pre), Environment::of(component)));
    }
    if has("wasi:http/handler@0.3.") {
        let pre = wasmtime_wasi_http::p3::bindings::ServicePre::new(pre).map_err(broken)?;
        return Ok(Linked::Http(ProxyPre::P3(pre), None));
    }
    if has("wasi:cli/run@0.2.") {
        return Ok(Linked::Command(CommandPre::new(pre).map_err(broken)?));
    }
    Err(BundleError::NoEntryPoint(if exports.is_empty() {
        "nothing".to_owned()
    } else {
        exports.join(", ")
    }))
}

/// Checks that a bundle can be linked and called.
#[cfg(feature = "compile")]
pub(crate) fn check(engine: &Engine, component: &Component) -> Result<BundleKind, BundleError> {
    Ok(match Linkers::default().link(engine, component)? {
        Linked::Http(..) => BundleKind::Http,
        Linked::Command(_) => BundleKind::Command,
    })
}
