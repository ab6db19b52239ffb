//! The wiring: caches, stream, controllers, lease, each started once and stopped together.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, future};
use hearth_api::convert::{self, Bundle};
use hearth_api::v1alpha1::{AgentFunction, AgentPool};
use hearth_api::{MANAGER, POOL_LABEL, SOURCE_LABEL};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, ResourceQuota, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt, controller, reflector, watcher};
use kube::{Client, ResourceExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream, WatchStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::config::Config;
use crate::http::Answers;
use crate::leader;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::objects::PoolSettings;
use crate::pace::Pace;
use crate::planning::Rounds;
use crate::retry::Retries;
use crate::unreadable::{self, Unreadable};
use crate::world::{Stores, World, pool_name};
use crate::{functions, metrics_api, planning, pools, stream, tls};

/// Objects that are reconciled at once.
const CONCURRENCY: u16 = 16;
/// The caches must be filled within this time.
const SYNC_DEADLINE: Duration = Duration::from_secs(60);

/// Runs the operator until `shutdown`.
///
/// # Errors
/// When a part cannot start, or the lease was lost.
pub(crate) async fn run(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let client = Client::try_default()
        .await
        .context("reach the API server; in a pod the ServiceAccount says how")?;
    let stop = CancellationToken::new();
    let stopper = stop.clone();
    tokio::spawn(async move {
        shutdown.await;
        stopper.cancel();
    });
    let metrics = Metrics::new();
    let name = format!("{}.{}.svc", config.stream_service, config.pod_namespace);
    let certificates = tls::load(&client, &config.pod_namespace, &name).await?;
    let settings = PoolSettings {
        image: config.pool_image.clone(),
        stream: stream_address(&client, &config).await?,
        stream_name: name,
        ca_pem: certificates.ca.clone(),
        priority_class: config.pool_priority_class.clone(),
    };
    let (function_changed, function_changes) = mpsc::unbounded_channel();
    let (pool_changed, pool_changes) = mpsc::unbounded_channel();
    let (unreadable, not_read) = mpsc::unbounded_channel();
    let controllers = Controllers::new(&client, &function_changed, &pool_changed, unreadable);
    let rounds = Arc::new(Rounds::default());
    let stores = controllers.stores(&client, &function_changed, &pool_changed, &rounds, &stop);
    let world = Arc::new(World::new(stores, rounds, function_changed));
    let ready = Arc::new(AtomicBool::new(false));
    let http = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], config.http_port)))
        .await
        .context("listen for http")?;
    let answers = Answers {
        metrics: metrics.clone(),
        world: world.clone(),
        ready: ready.clone(),
    };
    tokio::spawn(crate::http::serve(http, answers, stop.clone()));
    let memory = Memory::new(client.clone(), &config.pod_namespace);
    tokio::spawn(memory.run(world.clone(), stop.clone()));
    tokio::spawn(planning::run(world.clone(), stop.clone()));
    let (led, leads) = watch::channel(());
    let parts = Parts {
        client: client.clone(),
        world: world.clone(),
        metrics: metrics.clone(),
        settings,
    };
    tokio::spawn(unreadable::tell(
        not_read,
        client.clone(),
        world.clone(),
        leads.clone(),
        stop.clone(),
    ));
    let own = controllers.filled.clone();
    let controllers = controllers.spawn(parts, function_changes, pool_changes, &leads, &stop);
    filled(&world, &own).await?;
    ready.store(true, Ordering::Relaxed);
    let server = spawn_stream(&client, &world, &config, &certificates, &stop).await?;
    if let Some(port) = config.metrics_api_port {
        spawn_metrics_api(port, &client, &world, &config, certificates, &stop).await?;
    }
    let me = leader::Identity {
        pod: config.pod_name.clone(),
        namespace: config.pod_namespace.clone(),
    };
    let led = move || {
        led.send_replace(());
    };
    let lease = leader::run(client, me, world, metrics, stop.clone(), led).await;
    stop.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(10), future::join(controllers, server)).await;
    lease
}

/// The stream's address: the Service's own, because shims live in the node's network, where cluster names mean nothing.
async fn stream_address(client: &Client, config: &Config) -> Result<String> {
    let services: Api<Service> = Api::namespaced(client.clone(), &config.pod_namespace);
    let service = services
        .get(&config.stream_service)
        .await
        .with_context(|| format!("read the Service {}", config.stream_service))?;
    let spec = service.spec.unwrap_or_default();
    let address = spec
        .cluster_ip
        .filter(|ip| ip != "None")
        .with_context(|| format!("the Service {} has no cluster IP", config.stream_service))?;
    let port = spec
        .ports
        .unwrap_or_default()
        .first()
        .map_or(8443, |port| port.port);
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address
    };
    Ok(format!("https://{host}:{port}"))
}

/// Both controllers before they run: their own caches are the ones that planning reads, because a controller fills its
/// cache before it reconciles.
struct Controllers {
    functions: Controller<AgentFunction>,
    pools: Controller<AgentPool>,
    /// Cancelled when the two caches are filled.
    filled: [CancellationToken; 2],
}

/// What reconciling needs.
struct Parts {
    client: Client,
    world: Arc<World>,
    metrics: Metrics,
    settings: PoolSettings,
}

impl Controllers {
    /// A changed function has its pool looked at, a changed pool its functions.
    fn new(
        client: &Client,
        function_changed: &mpsc::UnboundedSender<ObjectRef<AgentFunction>>,
        pool_changed: &mpsc::UnboundedSender<ObjectRef<AgentPool>>,
        unreadable: mpsc::UnboundedSender<Unreadable>,
    ) -> Self {
        let filled = [CancellationToken::new(), CancellationToken::new()];
        let (pool_changed, pools) = (pool_changed.clone(), Mutex::new(HashMap::new()));
        let on_function = move |function: &AgentFunction| {
            let (uid, namespace) = (function.uid(), function.namespace().unwrap_or_default());
            let pool = pool_name(function).to_owned();
            let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
            let before = match function.metadata.deletion_timestamp {
                Some(_) => pools.remove(&uid),
                None => pools.insert(uid, pool.clone()),
            };
            // The pool that it left looks after pods that it needs no more.
            let left = before.filter(|before| *before != pool);
            for name in left.into_iter().chain([pool]) {
                // The receivers live as long as the controllers; after that nothing is reconciled.
                let _ = pool_changed.send(ObjectRef::new(&name).within(&namespace));
            }
        };
        let functions = controller(
            Api::all(client.clone()),
            filled[0].clone(),
            on_function,
            unreadable.clone(),
        );
        let (function_changed, store) = (function_changed.clone(), functions.store());
        let on_pool = move |pool: &AgentPool| {
            let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
            for user in users(&store, &namespace, &name) {
                let _ = function_changed.send(user);
            }
        };
        Self {
            pools: controller(
                Api::all(client.clone()),
                filled[1].clone(),
                on_pool,
                unreadable,
            ),
            functions,
            filled,
        }
    }

    /// The caches. Those of other kinds tell whoever uses an object after it is cached, not before.
    fn stores(
        &self,
        client: &Client,
        function_changed: &mpsc::UnboundedSender<ObjectRef<AgentFunction>>,
        pool_changed: &mpsc::UnboundedSender<ObjectRef<AgentPool>>,
        rounds: &Arc<Rounds>,
        stop: &CancellationToken,
    ) -> Stores {
        let (functions, pools) = (self.functions.store(), self.pools.store());
        let ours = || {
            watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={MANAGER}"))
        };
        let (all_users, of_pod, function, pool) = (
            functions.clone(),
            pool_changed.clone(),
            function_changed.clone(),
            pool_changed.clone(),
        );
        let on_pod = move |pod: &Pod| {
            let namespace = pod.namespace().unwrap_or_default();
            let Some(name) = pod.labels().get(POOL_LABEL) else {
                return;
            };
            // The receivers live as long as the controllers; after that nothing is reconciled.
            let _ = of_pod.send(ObjectRef::new(name).within(&namespace));
            for user in users(&all_users, &namespace, name) {
                let _ = function.send(user);
            }
        };
        let all_pools = pools.clone();
        let on_node = move |_: &Node| {
            for each in all_pools.state() {
                let _ = pool.send(ObjectRef::from_obj(&*each));
            }
        };
        let by_quota = rounds.clone();
        let on_quota = move |_: &ResourceQuota| {
            by_quota.ask();
        };
        // The round plans what changed code asks for; the function's conditions tell what is not there.
        let (rounds, by_source, all) =
            (rounds.clone(), function_changed.clone(), functions.clone());
        let on_source = move |map: &ConfigMap| {
            rounds.ask();
            for function in all.state() {
                let is_user = match convert::bundle(&function.spec) {
                    Ok(Bundle::ConfigMap(named)) => named.name == map.name_any(),
                    _ => false,
                };
                if is_user && function.namespace() == map.namespace() {
                    let _ = by_source.send(ObjectRef::from_obj(&*function));
                }
            }
        };
        let (by_service, by_slice) = (function_changed.clone(), function_changed.clone());
        // Service and EndpointSlice have their function's name.
        let on_service = move |service: &Service| {
            let _ = by_service.send(
                ObjectRef::new(&service.name_any())
                    .within(&service.namespace().unwrap_or_default()),
            );
        };
        let on_slice = move |slice: &EndpointSlice| {
            let _ = by_slice.send(
                ObjectRef::new(&slice.name_any()).within(&slice.namespace().unwrap_or_default()),
            );
        };
        Stores {
            functions,
            pools,
            pods: cache(
                Api::all(client.clone()),
                watcher::Config::default().labels(POOL_LABEL),
                on_pod,
                stop,
            ),
            nodes: cache(
                Api::all(client.clone()),
                watcher::Config::default(),
                on_node,
                stop,
            ),
            quotas: cache(
                Api::all(client.clone()),
                watcher::Config::default(),
                on_quota,
                stop,
            ),
            config_maps: cache(
                Api::all(client.clone()),
                watcher::Config::default().labels(SOURCE_LABEL),
                on_source,
                stop,
            ),
            services: cache(Api::all(client.clone()), ours(), on_service, stop),
            slices: cache(Api::all(client.clone()), ours(), on_slice, stop),
        }
    }

    fn spawn(
        self,
        parts: Parts,
        function_changes: mpsc::UnboundedReceiver<ObjectRef<AgentFunction>>,
        pool_changes: mpsc::UnboundedReceiver<ObjectRef<AgentPool>>,
        leads: &watch::Receiver<()>,
        stop: &CancellationToken,
    ) -> tokio::task::JoinHandle<()> {
        let Parts {
            client,
            world,
            metrics,
            settings,
        } = parts;
        let config = controller::Config::default().concurrency(CONCURRENCY);
        let reporter = Reporter {
            controller: MANAGER.into(),
            instance: None,
        };
        let context = Arc::new(functions::Context {
            client: client.clone(),
            world: world.clone(),
            recorder: Recorder::new(client.clone(), reporter),
            metrics,
            retries: Retries::default(),
            pace: Pace::default(),
        });
        let functions = self
            .functions
            .with_config(config.clone())
            .reconcile_on(UnboundedReceiverStream::new(function_changes))
            .reconcile_all_on(WatchStream::from_changes(leads.clone()))
            .graceful_shutdown_on(stop.clone().cancelled_owned())
            .run(functions::reconcile, functions::on_error, context)
            .for_each(|_| future::ready(()));
        let context = Arc::new(pools::Context {
            client,
            world,
            settings,
            retries: Retries::default(),
            pace: Pace::default(),
        });
        let pools = self
            .pools
            .with_config(config)
            .reconcile_on(UnboundedReceiverStream::new(pool_changes))
            .reconcile_all_on(WatchStream::from_changes(leads.clone()))
            .graceful_shutdown_on(stop.clone().cancelled_owned())
            .run(pools::reconcile, pools::on_error, context)
            .for_each(|_| future::ready(()));
        tokio::spawn(async move {
            future::join(functions, pools).await;
        })
    }
}

/// A controller of one kind, whose cache holds no fields that nobody here reads, and no objects that cannot be read; those are
/// told of. `changed` hears of an object after it is cached. `filled` is cancelled when the cache is filled: the store's own
/// `wait_until_ready` wakes only the last of its waiters, and the controller is one.
fn controller<K>(
    api: Api<DeserializeGuard<K>>,
    filled: CancellationToken,
    changed: impl Fn(&K) + Send + Sync + 'static,
    unreadable: mpsc::UnboundedSender<Unreadable>,
) -> Controller<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let (known, filled_with) = (store.clone(), store.clone());
    let stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .filter_map(move |event| {
            let readable = event.map(|event| unreadable::without(event, &known, &unreadable));
            future::ready(readable.transpose())
        })
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .inspect(move |event| match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => changed(object),
            // Only now they are there.
            Ok(watcher::Event::InitDone) => {
                filled_with
                    .state()
                    .iter()
                    .for_each(|object| changed(object));
                filled.cancel();
            }
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) | Err(_) => {}
        })
        .applied_objects();
    Controller::for_stream(stream, store)
}

/// A cache of one kind, without the fields that nobody here reads. `changed` hears of an object after it is cached.
fn cache<K>(
    api: Api<K>,
    config: watcher::Config,
    changed: impl Fn(&K) + Send + Sync + 'static,
    stop: &CancellationToken,
) -> Store<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(api, config)
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear());
    let stop = stop.clone();
    tokio::spawn(async move {
        let watching = stream.reflect(writer).for_each(|event| {
            match event {
                Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => {
                    changed(&object)
                }
                // A list after a lost watch: who was told before is looked at by the resync.
                Ok(watcher::Event::InitApply(object)) => changed(&object),
                Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
                Err(error) => tracing::warn!(%error, kind = %K::kind(&()), "watch"),
            }
            future::ready(())
        });
        tokio::select! {
            () = stop.cancelled() => {}
            () = watching => {}
        }
    });
    store
}

async fn filled(world: &World, controllers: &[CancellationToken; 2]) -> Result<()> {
    let stores = &world.stores;
    let all = async {
        for cache in controllers {
            cache.cancelled().await;
        }
        stores.pods.wait_until_ready().await?;
        stores.nodes.wait_until_ready().await?;
        stores.quotas.wait_until_ready().await?;
        stores.config_maps.wait_until_ready().await?;
        stores.services.wait_until_ready().await?;
        stores.slices.wait_until_ready().await
    };
    tokio::time::timeout(SYNC_DEADLINE, all)
        .await
        .context("the caches were not filled within 60 s; maybe the CRDs are missing or the ServiceAccount may not list")?
        .context("a watch ended")
}

/// The functions that name a pool.
fn users(
    functions: &Store<AgentFunction>,
    namespace: &str,
    pool: &str,
) -> Vec<ObjectRef<AgentFunction>> {
    let functions = functions.state();
    let users = functions
        .iter()
        .filter(|f| f.namespace().as_deref() == Some(namespace) && pool_name(f) == pool);
    users
        .map(|function| ObjectRef::from_obj(&**function))
        .collect()
}

async fn spawn_stream(
    client: &Client,
    world: &Arc<World>,
    config: &Config,
    certificates: &tls::Certificates,
    stop: &CancellationToken,
) -> Result<tokio::task::JoinHandle<()>> {
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], config.stream_port)))
        .await
        .context("listen for the stream")?;
    let identity = Identity::from_pem(&certificates.certificate, &certificates.key);
    let router = Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity))
        .context("the stream's certificate")?
        // A shim whose node went away without a word is noticed, and its functions are spread anew.
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(stream::Service::server(client.clone(), world.clone()));
    let stop = stop.clone();
    Ok(tokio::spawn(async move {
        let incoming = TcpListenerStream::new(listener).map_ok(|stream| {
            // A failure only costs latency.
            let _ = stream.set_nodelay(true);
            stream
        });
        if let Err(error) = router
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await
        {
            tracing::error!(%error, "the stream's server ended");
        }
    }))
}

/// Serves custom.metrics.k8s.io under the stream's name and certificate.
async fn spawn_metrics_api(
    port: u16,
    client: &Client,
    world: &Arc<World>,
    config: &Config,
    certificates: tls::Certificates,
    stop: &CancellationToken,
) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port)))
        .await
        .context("listen for custom metrics")?;
    let registration = metrics_api::Registration {
        client: client.clone(),
        service: (config.pod_namespace.clone(), config.stream_service.clone()),
        ca: certificates.ca.clone(),
    };
    tokio::spawn(registration.run(world.clone(), stop.clone()));
    let (client, world) = (client.clone(), world.clone());
    tokio::spawn(metrics_api::serve(
        listener,
        client,
        world,
        certificates,
        stop.clone(),
    ));
    Ok(())
}
