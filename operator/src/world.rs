//! What the operator knows: stores of objects, connected pods; and the one place where a plan becomes messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hearth_api::DEFAULT_POOL;
use hearth_api::convert::{self, Bundle};
use hearth_api::v1alpha1::{AgentFunction, AgentPool, Isolation};
use hearth_contract::{FUNCTION_PORTS, proto};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::mpsc;

use crate::fleet::{Fleet, GroupKey, PodInfo};
use crate::plan::{self, FunctionView};

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
    leading: AtomicBool,
    /// Ports that were handed out and may not be in a cached status yet.
    ports: Mutex<BTreeMap<String, u16>>,
    changed: mpsc::UnboundedSender<ObjectRef<AgentFunction>>,
}

impl World {
    /// With nobody connected. `changed` hears of functions whose reports changed; it holds at most one entry a report.
    pub(crate) fn new(
        stores: Stores,
        changed: mpsc::UnboundedSender<ObjectRef<AgentFunction>>,
    ) -> Self {
        Self {
            stores,
            fleet: Fleet::default(),
            leading: AtomicBool::new(false),
            ports: Mutex::default(),
            changed,
        }
    }

    /// Whether this process may write.
    pub(crate) fn is_leading(&self) -> bool {
        self.leading.load(Ordering::Relaxed)
    }

    /// Changed by the lease.
    pub(crate) fn set_leading(&self, leading: bool) {
        self.fleet.unsettle();
        self.leading.store(leading, Ordering::Relaxed);
    }

    /// A pod connected; its first message holds everything that is its.
    pub(crate) fn connect(&self, info: PodInfo) -> (u64, mpsc::Receiver<proto::FromOperator>) {
        let group = info.group.clone();
        let mut pods = self.fleet.pods_of(&group);
        pods.insert(info.uid.clone());
        let mut planned = self.plan(&group, &pods);
        let own = planned.remove(&info.uid).unwrap_or_default();
        let connected = self.fleet.connect(info, own);
        self.sync(&group);
        self.touch_group(&group);
        connected
    }

    /// A connection ended: its functions are spread over the pods that remain.
    pub(crate) fn disconnect(&self, pod: &str, serial: u64) {
        self.fleet.disconnect(pod, serial);
        for group in self.groups() {
            self.sync(&group);
            self.touch_group(&group);
        }
    }

    /// A pod said something.
    pub(crate) fn report(&self, pod: &str, serial: u64, report: proto::Report) {
        for key in self.fleet.report(pod, serial, report) {
            self.touch(&key.namespace, &key.name);
        }
    }

    fn touch(&self, namespace: &str, name: &str) {
        // The receiver lives as long as the controller; after that nothing is reconciled.
        let _ = self.changed.send(ObjectRef::new(name).within(namespace));
    }

    fn touch_group(&self, group: &GroupKey) {
        for function in self.members(group) {
            self.touch(&group.namespace, &function.name_any());
        }
    }

    fn groups(&self) -> BTreeSet<GroupKey> {
        self.stores
            .functions
            .state()
            .iter()
            .map(|function| self.group(function))
            .collect()
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

    fn members(&self, group: &GroupKey) -> Vec<Arc<AgentFunction>> {
        let members = self.stores.functions.state();
        members
            .into_iter()
            .filter(|f| f.metadata.deletion_timestamp.is_none() && &self.group(f) == group)
            .collect()
    }

    /// Tells every pod of a group what it should hold now.
    pub(crate) fn sync(&self, group: &GroupKey) {
        let pods = self.fleet.pods_of(group);
        for (pod, functions) in self.plan(group, &pods) {
            self.fleet.tell(&pod, functions);
        }
    }

    /// What pods say of a function, with the addresses that the API server knows: a shim may connect before kubelet has
    /// written its pod's address. Of pods that are being ended nothing: they answer until all nodes know that, and no longer.
    pub(crate) fn hosts(&self, function: &str) -> Vec<(PodInfo, Option<proto::FunctionReport>)> {
        let mut hosts = self.fleet.hosts_of(function);
        hosts.retain_mut(|(info, _)| {
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

    /// The port of a function, once it was planned.
    pub(crate) fn port(&self, uid: &str) -> Option<u16> {
        self.ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(uid)
            .copied()
    }

    /// Plans a group and remembers the ports.
    pub(crate) fn plan(
        &self,
        group: &GroupKey,
        pods: &BTreeSet<String>,
    ) -> BTreeMap<String, BTreeMap<String, proto::PlacedFunction>> {
        let members = self.members(group);
        // A function that is on its way out keeps its port until it is gone: its callers must not reach another.
        let leaving: Vec<_> = self
            .stores
            .functions
            .state()
            .into_iter()
            .filter(|f| f.metadata.deletion_timestamp.is_some() && &self.group(f) == group)
            .collect();
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let views: Vec<_> = members
            .iter()
            .map(|function| (function, true))
            .chain(leaving.iter().map(|function| (function, false)))
            .map(|(function, stays)| {
                let uid = function.uid().unwrap_or_default();
                let recorded = function
                    .status
                    .as_ref()
                    .and_then(|status| u16::try_from(status.port?).ok());
                FunctionView {
                    stays,
                    port: ports.get(&uid).copied().or(recorded),
                    replicas: convert::replicas(&function.spec),
                    uid,
                }
            })
            .collect();
        let plan = plan::plan(&views, pods, FUNCTION_PORTS);
        let alive: BTreeSet<_> = self
            .stores
            .functions
            .state()
            .iter()
            .filter_map(|function| function.uid())
            .collect();
        ports.retain(|uid, _| alive.contains(uid));
        ports.extend(plan.ports);
        drop(ports);
        plan.pods
            .into_iter()
            .map(|(pod, held)| {
                let placed = members.iter().filter_map(|function| {
                    let uid = function.uid()?;
                    Some((uid.clone(), placed(function, *held.get(&uid)?)?))
                });
                (pod, placed.collect())
            })
            .collect()
    }
}

/// Name of the pool that a function uses.
pub(crate) fn pool_name(function: &AgentFunction) -> &str {
    function
        .spec
        .pool
        .as_ref()
        .map_or(DEFAULT_POOL, |pool| &pool.name)
}

/// What a pod is told of a function; nothing when its spec cannot be used, which a condition says.
fn placed(function: &AgentFunction, assignment: plan::Assignment) -> Option<proto::PlacedFunction> {
    let converted = convert::function(function, assignment.target).ok()?;
    let placed = proto::PlacedFunction {
        function: Some(converted.into()),
        port: assignment.port.into(),
        ..proto::PlacedFunction::default()
    };
    Some(match convert::bundle(&function.spec).ok()? {
        Bundle::Image(image) => proto::PlacedFunction {
            image: image.to_owned(),
            digest: pinned(function).unwrap_or_default(),
            ..placed
        },
        Bundle::JavaScript(code) => proto::PlacedFunction {
            javascript: code.to_owned(),
            ..placed
        },
    })
}

/// The digest that the image stood for when it was first resolved, while the spec asks for the same image.
pub(crate) fn pinned(function: &AgentFunction) -> Option<String> {
    let bundle = function.status.as_ref()?.bundle.as_ref()?;
    bundle
        .digest
        .clone()
        .filter(|_| bundle.image.is_some() && bundle.image == function.spec.bundle.image)
}
