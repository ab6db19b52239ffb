//! What the operator knows: stores of objects, connected pods, the plan.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hearth_api::convert::{self, Bundle};
use hearth_api::v1alpha1::{AgentFunction, AgentPool, Isolation};
use hearth_api::{DEFAULT_POOL, SOURCE_LABEL};
use hearth_contract::proto;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, ResourceQuota, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::mpsc;

use crate::fleet::{self, Fleet, GroupKey, Host, PodInfo};
use crate::meter::{Meter, Reading, WINDOW};
use crate::objects;
use crate::planning::{Plans, Rounds};

/// How long a new leader waits for the pods of a group, which dial again after pauses of up to five seconds.
const ASSEMBLY: Duration = Duration::from_secs(6);

/// Cached objects.
pub(crate) struct Stores {
    /// All AgentFunctions.
    pub(crate) functions: Store<AgentFunction>,
    /// All AgentPools.
    pub(crate) pools: Store<AgentPool>,
    /// Pool pods.
    pub(crate) pods: Store<Pod>,
    /// All nodes.
    pub(crate) nodes: Store<Node>,
    /// All ResourceQuotas.
    pub(crate) quotas: Store<ResourceQuota>,
    /// ConfigMaps that hold code of functions.
    pub(crate) config_maps: Store<ConfigMap>,
    /// Services that this operator manages.
    pub(crate) services: Store<Service>,
    /// EndpointSlices that this operator manages.
    pub(crate) slices: Store<EndpointSlice>,
}

/// Everything that reconciling looks at.
pub(crate) struct World {
    /// Cached objects.
    pub(crate) stores: Stores,
    /// Connected pods.
    pub(crate) fleet: Fleet,
    /// What calls do.
    pub(crate) meter: Meter,
    /// What is planned.
    pub(crate) plans: Plans,
    /// Who asks for planning.
    pub(crate) rounds: Arc<Rounds>,
    leading: AtomicBool,
    led_since: Mutex<Option<Instant>>,
    changed: mpsc::UnboundedSender<ObjectRef<AgentFunction>>,
}

impl World {
    /// With nobody connected. `changed` hears of functions whose reports or plans changed.
    pub(crate) fn new(
        stores: Stores,
        rounds: Arc<Rounds>,
        changed: mpsc::UnboundedSender<ObjectRef<AgentFunction>>,
    ) -> Self {
        Self {
            stores,
            fleet: Fleet::default(),
            meter: Meter::default(),
            plans: Plans::default(),
            rounds,
            leading: AtomicBool::new(false),
            led_since: Mutex::default(),
            changed,
        }
    }

    /// Whether this process may write.
    pub(crate) fn is_leading(&self) -> bool {
        self.leading.load(Ordering::Relaxed)
    }

    /// Changed by the lease. Who does not lead lets its pods go, so that they find who does.
    pub(crate) fn set_leading(&self, leading: bool) {
        self.fleet.unsettle();
        *self
            .led_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = leading.then(Instant::now);
        self.leading.store(leading, Ordering::SeqCst);
        if !leading {
            // Whoever connects after this sees that nobody leads here.
            self.fleet.hang_up();
        }
        self.rounds.ask();
    }

    /// Whether it is known what calls do: for a whole window of theirs this replica was told of them.
    pub(crate) fn has_heard_calls(&self) -> bool {
        let since = *self
            .led_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.is_leading() && since.is_some_and(|since| since.elapsed() >= WINDOW)
    }

    /// A pod connected, and maybe said already what it holds; the next round tells it everything that is its. Returns the
    /// connection's serial; nothing where this replica does not lead any more.
    pub(crate) fn connect(
        &self,
        info: PodInfo,
        sender: fleet::Sender,
        first: Option<proto::Report>,
    ) -> Option<u64> {
        let uid = info.uid.clone();
        let serial = self.fleet.connect(info, sender, first);
        if !self.leading.load(Ordering::SeqCst) {
            self.fleet.disconnect(&uid, serial);
            return None;
        }
        self.rounds.ask();
        Some(serial)
    }

    /// UIDs of the pool pods that are being ended.
    pub(crate) fn ending_pods(&self) -> BTreeSet<String> {
        let pods = self.stores.pods.state().into_iter();
        let ending = pods.filter(|pod| pod.metadata.deletion_timestamp.is_some());
        ending.filter_map(|pod| pod.uid()).collect()
    }

    /// Whether pods of a group may still come whose streams the leader before this one had. Until they did, nobody knows
    /// what is held where.
    pub(crate) fn is_assembling(&self, group: &GroupKey) -> bool {
        let since = *self
            .led_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() < ASSEMBLY)
            && self.stores.pods.state().iter().any(|pod| {
                objects::group_of(pod).as_ref() == Some(group)
                    && objects::is_ready(pod)
                    && pod.uid().is_some_and(|uid| !self.fleet.is_connected(&uid))
            })
    }

    /// A connection ended: its functions are spread over the pods that remain.
    pub(crate) fn disconnect(&self, pod: &str, serial: u64) {
        self.fleet.disconnect(pod, serial);
        self.rounds.ask();
    }

    /// A pod said something.
    pub(crate) fn report(&self, pod: &str, serial: u64, report: proto::Report) {
        let news = self.fleet.report(pod, serial, report);
        for key in news.functions {
            self.touch(&key.namespace, &key.name);
        }
        if news.is_other_cost {
            self.rounds.ask();
        }
    }

    /// What all functions do: namespace, name, reading. Only the leader hears of it, and says nothing before it heard enough:
    /// an autoscaler would take that for silence.
    pub(crate) fn readings(&self) -> Vec<(String, String, Reading)> {
        if !self.has_heard_calls() {
            return Vec::new();
        }
        let functions = self.stores.functions.state().into_iter();
        functions
            .filter_map(|function| {
                let reading = self.meter.read(function.metadata.uid.as_deref()?);
                let namespace = function.namespace().unwrap_or_default();
                Some((namespace, function.name_any(), reading))
            })
            .collect()
    }

    /// Has a function looked at again.
    pub(crate) fn touch(&self, namespace: &str, name: &str) {
        // The receiver lives as long as the controller; after that nothing is reconciled.
        let _ = self.changed.send(ObjectRef::new(name).within(namespace));
    }

    /// Sees to it that what a function says is planned. Waits for that, for `bound` at most.
    pub(crate) async fn planned(&self, function: &AgentFunction, bound: Duration) {
        let version = self.source(function).ok().flatten();
        let version = version.as_deref().map(source_version);
        if !self
            .plans
            .is_current(function, &self.group(function), version)
        {
            let number = self.rounds.ask();
            self.rounds.ended(number, bound).await;
        }
    }

    /// The ConfigMap that holds a function's code, where it names one.
    ///
    /// # Errors
    /// Says what of it is not there.
    pub(crate) fn source(
        &self,
        function: &AgentFunction,
    ) -> Result<Option<Arc<ConfigMap>>, String> {
        let Ok(Bundle::ConfigMap(named)) = convert::bundle(&function.spec) else {
            return Ok(None);
        };
        let namespace = function.namespace().unwrap_or_default();
        let found = self
            .stores
            .config_maps
            .get(&ObjectRef::new(&named.name).within(&namespace));
        let Some(map) = found else {
            return Err(format!(
                "spec.bundle.source.configMap: there is no ConfigMap {} in this namespace with the label {SOURCE_LABEL}; make it, or label it",
                named.name
            ));
        };
        let key = named.key.as_deref().unwrap_or(convert::MODULE_KEY);
        if !map.data.as_ref().is_some_and(|data| data.contains_key(key)) {
            return Err(format!(
                "spec.bundle.source.configMap: the ConfigMap {} has no key {key}",
                named.name
            ));
        }
        Ok(Some(map))
    }

    /// The pool that a function names.
    pub(crate) fn pool_of(&self, function: &AgentFunction) -> Option<Arc<AgentPool>> {
        let namespace = function.namespace().unwrap_or_default();
        self.stores
            .pools
            .get(&ObjectRef::new(pool_name(function)).within(&namespace))
    }

    /// The group whose pods host a function.
    pub(crate) fn group(&self, function: &AgentFunction) -> GroupKey {
        let dedicated = self
            .pool_of(function)
            .is_some_and(|pool| pool.spec.isolation == Some(Isolation::Dedicated));
        GroupKey {
            namespace: function.namespace().unwrap_or_default(),
            pool: pool_name(function).to_owned(),
            function: dedicated.then(|| function.name_any()),
        }
    }

    /// Whether callers of a function are sent to the pods of a group. Those of one that is deleted are not, whatever was planned
    /// of it.
    pub(crate) fn is_asked(&self, group: &GroupKey) -> bool {
        self.stores.functions.state().iter().any(|function| {
            function.metadata.deletion_timestamp.is_none()
                && function.metadata.namespace.as_ref() == Some(&group.namespace)
                && function.metadata.uid.as_ref().is_some_and(|uid| {
                    let serving = self.plans.serving(uid);
                    serving.is_some_and(|serving| serving == *group)
                })
        })
    }

    /// The address of a pod, once the API server knows it.
    pub(crate) fn address(&self, pod: &PodInfo) -> Option<String> {
        let key = ObjectRef::new(&pod.name).within(&pod.group.namespace);
        self.stores.pods.get(&key)?.status.as_ref()?.pod_ip.clone()
    }

    /// What pods say of a function, with the addresses that the API server knows: a shim may connect before kubelet has
    /// written its pod's address. Of pods that are being ended nothing: they answer until all nodes know that, and no longer.
    pub(crate) fn hosts(&self, function: &str) -> Vec<Host> {
        let mut hosts = self.fleet.hosts_of(function);
        hosts.retain_mut(|host| {
            let info = &mut host.pod;
            let key = ObjectRef::new(&info.name).within(&info.group.namespace);
            // One that is not cached is gone, or its event comes.
            let Some(pod) = self.stores.pods.get(&key) else {
                return false;
            };
            if let Some(address) = pod.status.as_ref().and_then(|status| status.pod_ip.clone()) {
                info.address = address;
            }
            pod.metadata.deletion_timestamp.is_none()
        });
        hosts
    }
}

/// Tells one text of a ConfigMap from another.
pub(crate) fn source_version(map: &ConfigMap) -> String {
    let version = map.metadata.resource_version.as_deref().unwrap_or_default();
    format!(
        "{}/{version}",
        map.metadata.uid.as_deref().unwrap_or_default()
    )
}

/// The module of a ConfigMap, its source map in it as its last line.
pub(crate) fn source_text(map: &ConfigMap, key: Option<&str>) -> Option<String> {
    let key = key.unwrap_or(convert::MODULE_KEY);
    let data = map.data.as_ref()?;
    let code = data.get(key)?;
    Some(match data.get(&format!("{key}.map")) {
        Some(map) => format!(
            "{code}\n//# sourceMappingURL=data:application/json;base64,{}\n",
            STANDARD.encode(map)
        ),
        None => code.clone(),
    })
}

/// Name of the pool that a function uses.
pub(crate) fn pool_name(function: &AgentFunction) -> &str {
    function
        .spec
        .pool
        .as_ref()
        .map_or(DEFAULT_POOL, |pool| &pool.name)
}

/// The digest that the image stood for when it was first resolved, while the spec asks for the same image.
pub(crate) fn pinned(function: &AgentFunction) -> Option<String> {
    let bundle = function.status.as_ref()?.bundle.as_ref()?;
    bundle
        .digest
        .clone()
        .filter(|_| bundle.image.is_some() && bundle.image == function.spec.bundle.image)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_leader_reads_what_is_there_and_nobody_else_reads() {
        let world = fake::world(&[fake::function("a", json!({}))], &[], &[]);
        let tick = crate::meter::Tick {
            in_use: 2,
            ..crate::meter::Tick::default()
        };
        // One that was deleted while it was called.
        world
            .meter
            .tick(1.0, [("uid-a", &tick), ("uid-gone", &tick)]);
        // It has heard of a part of the window, and that is not what calls do.
        assert!(world.readings().is_empty());
        fake::leads_for_long(&world);
        let readings = world.readings();
        assert_eq!(readings.len(), 1);
        assert_eq!(
            (readings[0].1.as_str(), readings[0].2.in_flight),
            ("a", 2.0)
        );
        let metrics = crate::metrics::Metrics::new();
        metrics.read(&readings);
        assert!(
            metrics
                .text()
                .contains("hearth_in_flight{function=\"a\",namespace=\"n\"} 2")
        );
        metrics.read(&[]);
        assert!(
            !metrics.text().contains("function="),
            "a deleted function's metrics stay"
        );
        world.set_leading(false);
        assert!(world.readings().is_empty());
    }
}

/// A world of objects that no API server holds.
#[cfg(test)]
pub(crate) mod fake {
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;

    /// Objects of one kind.
    fn store<K>(objects: &[Value]) -> Store<K>
    where
        K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + 'static,
    {
        let (store, mut writer) = reflector::store();
        for object in objects {
            let object = serde_json::from_value(object.clone()).expect("a test's object");
            writer.apply_watcher_event(&Event::Apply(object));
        }
        store
    }

    /// A function `n/name` with the UID `uid-name`, and more of a spec.
    pub(crate) fn function(name: &str, spec: Value) -> Value {
        let mut function = json!({
            "apiVersion": "hearth.dev/v1alpha1",
            "kind": "AgentFunction",
            "metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}"), "generation": 1},
            "spec": spec,
        });
        function["spec"]["bundle"] = json!({"image": "a"});
        function
    }

    /// Makes a world's replica one that leads for long.
    pub(crate) fn leads_for_long(world: &World) {
        let since = Instant::now().checked_sub(WINDOW);
        *world.led_since.lock().unwrap() = since;
    }

    /// A world that leads, with functions, pools and quotas.
    pub(crate) fn world(functions: &[Value], pools: &[Value], quotas: &[Value]) -> World {
        world_with_pods(functions, pools, quotas, &[])
    }

    /// A world that leads, with pool pods too.
    pub(crate) fn world_with_pods(
        functions: &[Value],
        pools: &[Value],
        quotas: &[Value],
        pods: &[Value],
    ) -> World {
        let stores = Stores {
            functions: store(functions),
            pools: store(pools),
            pods: store(pods),
            nodes: store(&[]),
            quotas: store(quotas),
            config_maps: store(&[]),
            services: store(&[]),
            slices: store(&[]),
        };
        let world = World::new(stores, Arc::default(), mpsc::unbounded_channel().0);
        world.set_leading(true);
        world
    }

    /// The object of [`pod`], as it is while it runs.
    pub(crate) fn ready_pod(uid: &str) -> Value {
        json!({
            "metadata": {"name": uid, "namespace": "n", "uid": uid, "labels": {hearth_api::POOL_LABEL: DEFAULT_POOL}},
            "spec": {"nodeName": format!("node-of-{uid}"), "containers": []},
            "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        })
    }

    /// A pod of the pool `default` in the namespace `n`.
    pub(crate) fn pod(uid: &str) -> PodInfo {
        PodInfo {
            uid: uid.to_owned(),
            name: uid.to_owned(),
            node: format!("node-of-{uid}"),
            address: "10.0.0.1".to_owned(),
            group: GroupKey {
                namespace: "n".to_owned(),
                pool: DEFAULT_POOL.to_owned(),
                function: None,
            },
        }
    }
}
