//! The connected pool pods: what each was told, what each said last. In memory only; all of it comes back when pods
//! reconnect.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_contract::proto;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::sync::{Notify, mpsc};

use crate::objects;

/// Messages to one pod that wait; a pod that does not read for so long is cut off and reconnects.
const OUTBOX: usize = 1024;

/// Pods that lost their stream dial again within seconds.
const SETTLE: Duration = Duration::from_secs(30);

/// Which pods share functions: a pool, or one function of a Dedicated pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupKey {
    /// Namespace of the pool.
    pub(crate) namespace: String,
    /// Name of the pool.
    pub(crate) pool: String,
    /// Name of the one function, where the pool is Dedicated.
    pub(crate) function: Option<String>,
}

/// A connected pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodInfo {
    /// UID of the pod.
    pub(crate) uid: String,
    /// Name of the pod.
    pub(crate) name: String,
    /// Node it runs on.
    pub(crate) node: String,
    /// Address of the pod.
    pub(crate) address: String,
    /// Which group it belongs to.
    pub(crate) group: GroupKey,
}

impl PodInfo {
    /// What is known of a pool pod; `None` while it has no node.
    pub(crate) fn of(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref();
        Some(Self {
            uid: pod.uid()?,
            name: pod.name_any(),
            node: pod.spec.as_ref()?.node_name.clone()?,
            address: status
                .and_then(|status| status.pod_ip.clone())
                .unwrap_or_default(),
            group: objects::group_of(pod)?,
        })
    }
}

struct Connection {
    info: PodInfo,
    /// Tells this connection from a later one of the same pod.
    serial: u64,
    sender: mpsc::Sender<proto::FromOperator>,
    revision: u64,
    told: BTreeMap<String, proto::PlacedFunction>,
    reports: HashMap<String, proto::FunctionReport>,
}

/// All connected pods.
#[derive(Default)]
pub(crate) struct Fleet {
    connections: Mutex<(u64, HashMap<String, Connection>)>,
    /// When this operator began to lead, or a pod was lost, whichever is later.
    unsettled: Mutex<Option<Instant>>,
    /// Told of every report.
    reported: Notify,
}

impl Fleet {
    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<String, Connection>)> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod connected. The first message tells it everything; an older connection of the same pod ends.
    pub(crate) fn connect(
        &self,
        info: PodInfo,
        functions: BTreeMap<String, proto::PlacedFunction>,
    ) -> (u64, mpsc::Receiver<proto::FromOperator>) {
        let (sender, receiver) = mpsc::channel(OUTBOX);
        let first = proto::FromOperator {
            revision: 1,
            snapshot: true,
            functions: functions.values().cloned().collect(),
            remove: Vec::new(),
        };
        // The channel is empty: it takes the message.
        let _ = sender.try_send(first);
        let mut fleet = self.lock();
        fleet.0 += 1;
        let serial = fleet.0;
        let connection = Connection {
            info,
            serial,
            sender,
            revision: 1,
            told: functions,
            reports: HashMap::new(),
        };
        fleet.1.insert(connection.info.uid.clone(), connection);
        (serial, receiver)
    }

    /// A connection ended.
    pub(crate) fn disconnect(&self, pod: &str, serial: u64) {
        let mut fleet = self.lock();
        if fleet
            .1
            .get(pod)
            .is_some_and(|connection| connection.serial == serial)
        {
            fleet.1.remove(pod);
            drop(fleet);
            self.unsettle();
        }
    }

    /// From now on, for a while, silence of a pod says nothing about it.
    pub(crate) fn unsettle(&self) {
        *self
            .unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether pods had time to come back since the last of them, or this operator, began anew.
    pub(crate) fn is_settled(&self) -> bool {
        self.unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none_or(|since| since.elapsed() > SETTLE)
    }

    /// What a pod said. Returns the functions of which something changed. A pod speaks of what it was told, and of nothing
    /// else: who holds a pod's token must not become an endpoint of somebody's function.
    pub(crate) fn report(
        &self,
        pod: &str,
        serial: u64,
        report: proto::Report,
    ) -> Vec<proto::FunctionRef> {
        let mut fleet = self.lock();
        let Some(connection) = fleet
            .1
            .get_mut(pod)
            .filter(|connection| connection.serial == serial)
        else {
            return Vec::new();
        };
        let mut changed = Vec::new();
        let mut seen = BTreeSet::new();
        for function in report.functions {
            let Some(key) = function.r#ref.clone() else {
                continue;
            };
            if !connection.told.contains_key(&key.uid) && !connection.reports.contains_key(&key.uid)
            {
                continue;
            }
            seen.insert(key.uid.clone());
            if connection.reports.get(&key.uid) != Some(&function) {
                connection.reports.insert(key.uid.clone(), function);
                changed.push(key);
            }
        }
        let gone: Vec<String> = connection
            .reports
            .keys()
            .filter(|uid| report.removed.contains(uid) || (report.complete && !seen.contains(*uid)))
            .cloned()
            .collect();
        for uid in gone {
            changed.extend(
                connection
                    .reports
                    .remove(&uid)
                    .and_then(|report| report.r#ref),
            );
        }
        drop(fleet);
        self.reported.notify_waiters();
        changed
    }

    /// Returns when every pod that was told of a function has said how it went, at once where none was, and after `bound`
    /// at the latest.
    pub(crate) async fn hear(&self, function: &str, bound: Duration) {
        let heard = async {
            loop {
                // Before the look: a report between the two is not missed.
                let reported = self.reported.notified();
                let ended = |report: proto::FunctionReport| {
                    matches!(report.state(), proto::State::Serving | proto::State::Failed)
                };
                let hosts = self.hosts_of(function);
                if hosts
                    .into_iter()
                    .all(|(_, report)| report.is_some_and(ended))
                {
                    return;
                }
                reported.await;
            }
        };
        // Later words bring another pass.
        let _ = tokio::time::timeout(bound, heard).await;
    }

    /// UIDs of a group's connected pods.
    pub(crate) fn pods_of(&self, group: &GroupKey) -> BTreeSet<String> {
        self.lock()
            .1
            .values()
            .filter(|connection| &connection.info.group == group)
            .map(|c| c.info.uid.clone())
            .collect()
    }

    /// Groups whose pods hold a function, or were told to.
    pub(crate) fn groups_of(&self, function: &str) -> BTreeSet<GroupKey> {
        let hosts = self.hosts_of(function);
        hosts.into_iter().map(|(pod, _)| pod.group).collect()
    }

    /// Tells a pod what it should hold, as far as that differs from what it was told.
    pub(crate) fn tell(&self, pod: &str, wanted: BTreeMap<String, proto::PlacedFunction>) {
        let mut fleet = self.lock();
        let Some(connection) = fleet.1.get_mut(pod) else {
            return;
        };
        let functions: Vec<_> = wanted
            .iter()
            .filter(|(uid, function)| connection.told.get(*uid) != Some(function))
            .map(|(_, f)| f.clone())
            .collect();
        let remove: Vec<_> = connection
            .told
            .keys()
            .filter(|uid| !wanted.contains_key(*uid))
            .cloned()
            .collect();
        if functions.is_empty() && remove.is_empty() {
            return;
        }
        connection.revision += 1;
        let message = proto::FromOperator {
            revision: connection.revision,
            snapshot: false,
            functions,
            remove,
        };
        if connection.sender.try_send(message).is_ok() {
            connection.told = wanted;
        } else {
            tracing::warn!(pod = %connection.info.name, "the pod does not read; its stream is cut, and it will come back");
            fleet.1.remove(pod);
        }
    }

    /// What every connected pod that has or should have a function says of it.
    pub(crate) fn hosts_of(&self, function: &str) -> Vec<(PodInfo, Option<proto::FunctionReport>)> {
        let fleet = self.lock();
        let mut hosts: Vec<_> = fleet
            .1
            .values()
            .filter(|connection| {
                connection.told.contains_key(function) || connection.reports.contains_key(function)
            })
            .map(|connection| {
                (
                    connection.info.clone(),
                    connection.reports.get(function).cloned(),
                )
            })
            .collect();
        hosts.sort_by(|a, b| a.0.uid.cmp(&b.0.uid));
        hosts
    }

    /// Connected pods.
    pub(crate) fn len(&self) -> usize {
        self.lock().1.len()
    }

    /// Whether a pod is connected.
    pub(crate) fn is_connected(&self, pod: &str) -> bool {
        self.lock().1.contains_key(pod)
    }
}
