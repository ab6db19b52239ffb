//! The connected pool pods: what each was told, what each said last. In memory only; all of it comes back when pods
//! reconnect.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_contract::proto;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::sync::{Notify, mpsc};

use crate::meter::{Counted, Tick};
use crate::objects;

/// Messages to one pod that wait; a pod that does not read for so long is cut off and reconnects.
const OUTBOX: usize = 1024;

/// Pods that lost their stream dial again within seconds.
const SETTLE: Duration = Duration::from_secs(30);

/// Where messages to a pod go.
pub(crate) type Sender = mpsc::Sender<proto::FromOperator>;

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

/// What a pod was told of one function.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    /// All but the target, which changes more often and differs from pod to pod.
    pub(crate) placed: Arc<proto::PlacedFunction>,
    /// Warm instances to hold.
    pub(crate) target: u32,
}

impl Told {
    fn says(&self, other: &Self) -> bool {
        self.target == other.target
            && (Arc::ptr_eq(&self.placed, &other.placed) || self.placed == other.placed)
    }

    fn message(&self) -> proto::PlacedFunction {
        let mut placed = proto::PlacedFunction::clone(&self.placed);
        if let Some(function) = &mut placed.function {
            function.target = self.target;
        }
        placed
    }
}

/// A pod that has or should have a function.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Which pod.
    pub(crate) pod: PodInfo,
    /// Warm instances that it was told to hold.
    pub(crate) target: u32,
    /// What it said last.
    pub(crate) report: Option<proto::FunctionReport>,
}

/// What an instance of a function costs, as a pod said last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Linear memory, in bytes.
    pub(crate) bytes: u64,
    /// Time to make one, in microseconds.
    pub(crate) start_us: u32,
}

/// What reports changed.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Functions of which somebody should look at the status.
    pub(crate) functions: Vec<proto::FunctionRef>,
    /// The memory of an instance is another than before.
    pub(crate) is_other_cost: bool,
}

struct Connection {
    info: PodInfo,
    /// Tells this connection from a later one of the same pod.
    serial: u64,
    sender: Sender,
    /// Of the last message; 0 before the first, which tells everything.
    revision: u64,
    /// What the pod said before it was told anything. A pod speaks of what it was told, so that is heard after the first
    /// message.
    unheard: Option<proto::Report>,
    told: HashMap<String, Told>,
    reports: HashMap<String, proto::FunctionReport>,
    /// What was counted of functions since the last tick, of those only that are called.
    counted: HashMap<String, Counted>,
}

#[derive(Default)]
struct State {
    serial: u64,
    connections: HashMap<String, Connection>,
    /// Pods that were told of a function or speak of it, by the function's UID.
    hosts: HashMap<String, BTreeSet<String>>,
    costs: HashMap<String, Cost>,
    /// Groups of which a pod came or went.
    changed: BTreeSet<GroupKey>,
    /// What pods that came hold by what they were told before, by pod.
    brought: Vec<Brought>,
}

/// What a pod that connects was told earlier, maybe by another operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Brought {
    /// UID of the pod.
    pub(crate) pod: String,
    /// Its group.
    pub(crate) group: GroupKey,
    /// UIDs of functions, and how many warm instances of each.
    pub(crate) targets: Vec<(String, u32)>,
}

impl Brought {
    fn of(info: &PodInfo, report: &proto::Report) -> Self {
        let targets = report.functions.iter().filter_map(|function| {
            // A shim that does not say what it was told says what it has.
            let target = match function.target {
                0 => function.warm,
                target => target,
            };
            Some((function.r#ref.as_ref()?.uid.clone(), target))
        });
        Self {
            pod: info.uid.clone(),
            group: info.group.clone(),
            targets: targets.filter(|(_, target)| *target > 0).collect(),
        }
    }
}

impl State {
    /// Takes note of whether a pod has to do with a function.
    fn note_host(&mut self, function: &str, pod: &str) {
        let is_host = self.connections.get(pod).is_some_and(|connection| {
            connection.told.contains_key(function) || connection.reports.contains_key(function)
        });
        if is_host {
            let hosts = self.hosts.entry(function.to_owned()).or_default();
            hosts.insert(pod.to_owned());
        } else if let Some(hosts) = self.hosts.get_mut(function) {
            hosts.remove(pod);
            if hosts.is_empty() {
                self.hosts.remove(function);
            }
        }
    }

    fn drop_connection(&mut self, pod: &str) {
        let Some(connection) = self.connections.remove(pod) else {
            return;
        };
        for function in connection.told.keys().chain(connection.reports.keys()) {
            self.note_host(function, pod);
        }
        self.changed.insert(connection.info.group);
    }
}

/// All connected pods.
#[derive(Default)]
pub(crate) struct Fleet {
    state: Mutex<State>,
    /// When this operator began to lead, or a pod was lost, whichever is later.
    unsettled: Mutex<Option<Instant>>,
    /// Told of every report.
    reported: Notify,
}

impl Fleet {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue to a pod that is connecting.
    pub(crate) fn outbox() -> (Sender, mpsc::Receiver<proto::FromOperator>) {
        mpsc::channel(OUTBOX)
    }

    /// A pod connected, and maybe said already what it holds; the next [`Fleet::tell`] tells it everything. An older
    /// connection of the same pod ends.
    pub(crate) fn connect(
        &self,
        info: PodInfo,
        sender: Sender,
        first: Option<proto::Report>,
    ) -> u64 {
        let mut fleet = self.lock();
        fleet.drop_connection(&info.uid);
        fleet.serial += 1;
        let serial = fleet.serial;
        fleet.changed.insert(info.group.clone());
        if let Some(report) = &first {
            fleet.brought.push(Brought::of(&info, report));
        }
        let connection = Connection {
            info,
            serial,
            sender,
            revision: 0,
            unheard: first,
            told: HashMap::new(),
            reports: HashMap::new(),
            counted: HashMap::new(),
        };
        let uid = connection.info.uid.clone();
        fleet.connections.insert(uid, connection);
        serial
    }

    /// What pods that came since this was asked last were told before.
    pub(crate) fn take_brought(&self) -> Vec<Brought> {
        std::mem::take(&mut self.lock().brought)
    }

    /// A connection ended.
    pub(crate) fn disconnect(&self, pod: &str, serial: u64) {
        let mut fleet = self.lock();
        let there = fleet.connections.get(pod);
        if there.is_some_and(|connection| connection.serial == serial) {
            fleet.drop_connection(pod);
            drop(fleet);
            self.unsettle();
        }
    }

    /// Ends all connections. Pods that are let go dial again.
    pub(crate) fn hang_up(&self) {
        let mut fleet = self.lock();
        let pods: Vec<_> = fleet.connections.keys().cloned().collect();
        for pod in pods {
            fleet.drop_connection(&pod);
        }
        fleet.brought.clear();
    }

    /// What a pod was told of a function.
    pub(crate) fn told(&self, pod: &str, function: &str) -> Option<Told> {
        let fleet = self.lock();
        fleet.connections.get(pod)?.told.get(function).cloned()
    }

    /// Groups of which a pod came or went since this was asked last.
    pub(crate) fn take_changed(&self) -> BTreeSet<GroupKey> {
        std::mem::take(&mut self.lock().changed)
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

    /// What a pod said. A pod speaks of what it was told, and of nothing else: who holds a pod's token must not become an
    /// endpoint of somebody's function.
    pub(crate) fn report(&self, pod: &str, serial: u64, report: proto::Report) -> News {
        let mut fleet = self.lock();
        let State {
            connections, costs, ..
        } = &mut *fleet;
        let connection = connections.get_mut(pod);
        let Some(connection) = connection.filter(|connection| connection.serial == serial) else {
            return News::default();
        };
        if connection.revision == 0 {
            hear_later(&mut connection.unheard, report);
            return News::default();
        }
        let (mut news, mut seen) = (News::default(), BTreeSet::new());
        for function in report.functions {
            let Some(key) = function.r#ref.clone() else {
                continue;
            };
            let before = connection.reports.get(&key.uid);
            if !connection.told.contains_key(&key.uid) && before.is_none() {
                continue;
            }
            seen.insert(key.uid.clone());
            if function.instance_bytes > 0 {
                let cost = costs.entry(key.uid.clone()).or_default();
                news.is_other_cost |= cost.bytes != function.instance_bytes;
                *cost = Cost {
                    bytes: function.instance_bytes,
                    start_us: function.start_us,
                };
            }
            let target = connection.told.get(&key.uid).map_or(0, |told| told.target);
            let is_other =
                before.is_none_or(|before| matters(before, target) != matters(&function, target));
            if let Some(before) = before.filter(|before| is_called(before, &function)) {
                let counted = connection.counted.entry(key.uid.clone()).or_default();
                counted.add(before, &function);
            }
            connection.reports.insert(key.uid.clone(), function);
            if is_other {
                news.functions.push(key);
            }
        }
        let gone: Vec<String> = connection
            .reports
            .keys()
            .filter(|uid| report.removed.contains(uid) || (report.complete && !seen.contains(*uid)))
            .cloned()
            .collect();
        for uid in &gone {
            let report = connection.reports.remove(uid);
            news.functions
                .extend(report.and_then(|report| report.r#ref));
        }
        for uid in gone.iter().chain(&seen) {
            fleet.note_host(uid, pod);
        }
        drop(fleet);
        self.reported.notify_waiters();
        news
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
                if hosts.into_iter().all(|host| host.report.is_some_and(ended)) {
                    return;
                }
                reported.await;
            }
        };
        // Later words bring another pass.
        let _ = tokio::time::timeout(bound, heard).await;
    }

    /// UIDs of the connected pods, by group.
    pub(crate) fn pods(&self) -> BTreeMap<GroupKey, BTreeSet<String>> {
        let mut groups = BTreeMap::<GroupKey, BTreeSet<String>>::new();
        for connection in self.lock().connections.values() {
            let pods = groups.entry(connection.info.group.clone()).or_default();
            pods.insert(connection.info.uid.clone());
        }
        groups
    }

    /// What an instance of each function costs, as far as a pod said it. Those of functions that are not `alive` are
    /// forgotten.
    pub(crate) fn costs(&self, alive: impl Fn(&str) -> bool) -> HashMap<String, Cost> {
        let mut fleet = self.lock();
        fleet.costs.retain(|uid, _| alive(uid));
        fleet.costs.clone()
    }

    /// What an instance of a function costs; zero until a pod said it.
    pub(crate) fn cost(&self, function: &str) -> Cost {
        self.lock().costs.get(function).copied().unwrap_or_default()
    }

    /// What happened since this was asked last: function, pod and what was counted, of those only that are called.
    pub(crate) fn ticks(&self) -> Vec<(String, String, Tick)> {
        let mut ticks = Vec::new();
        for (pod, connection) in &mut self.lock().connections {
            for (function, counted) in std::mem::take(&mut connection.counted) {
                let report = connection.reports.get(&function);
                let (in_use, queued) =
                    report.map_or((0, 0), |report| (report.in_use, report.queued));
                if in_use > 0 || queued > 0 {
                    // No report comes while a call runs and nothing else happens.
                    let goes_on = Counted {
                        in_use,
                        ..Counted::default()
                    };
                    connection.counted.insert(function.clone(), goes_on);
                }
                let tick = Tick {
                    counted,
                    in_use,
                    queued,
                };
                ticks.push((function, pod.clone(), tick));
            }
        }
        ticks
    }

    /// Tells a pod what it should hold, by the functions' UIDs, as far as that differs from what it was told. Returns what
    /// the pod said before, with the serial of its connection, when that is to be heard now.
    pub(crate) fn tell(&self, pod: &str, wanted: &[(&str, Told)]) -> Option<(u64, proto::Report)> {
        let mut fleet = self.lock();
        let connection = fleet.connections.get_mut(pod)?;
        let told = &connection.told;
        let is_news =
            |(uid, wanted): &&(&str, Told)| told.get(*uid).is_none_or(|told| !told.says(wanted));
        let news: Vec<_> = wanted.iter().filter(is_news).cloned().collect();
        let known = wanted.iter().filter(|(uid, _)| told.contains_key(*uid));
        let remove: Vec<_> = if known.count() == told.len() {
            Vec::new()
        } else {
            let wanted: BTreeSet<_> = wanted.iter().map(|(uid, _)| *uid).collect();
            let gone = told.keys().filter(|uid| !wanted.contains(uid.as_str()));
            gone.cloned().collect()
        };
        let is_first = connection.revision == 0;
        if news.is_empty() && remove.is_empty() && !is_first {
            return None;
        }
        connection.revision += 1;
        let message = proto::FromOperator {
            revision: connection.revision,
            snapshot: is_first,
            functions: news.iter().map(|(_, told)| told.message()).collect(),
            remove: remove.clone(),
        };
        if connection.sender.try_send(message).is_err() {
            tracing::warn!(pod = %connection.info.name, "the pod does not read; its stream is cut, and it will come back");
            fleet.drop_connection(pod);
            return None;
        }
        let functions = news.iter().map(|(uid, _)| (*uid).to_owned());
        let functions: Vec<_> = functions.chain(remove.iter().cloned()).collect();
        for uid in &remove {
            connection.told.remove(uid);
        }
        let news = news.into_iter().map(|(uid, told)| (uid.to_owned(), told));
        connection.told.extend(news);
        let unheard = connection.unheard.take();
        let unheard = unheard.map(|report| (connection.serial, report));
        for function in functions {
            fleet.note_host(&function, pod);
        }
        unheard
    }

    /// Every connected pod that has or should have a function, by UID.
    pub(crate) fn hosts_of(&self, function: &str) -> Vec<Host> {
        let fleet = self.lock();
        let hosts = fleet.hosts.get(function).into_iter().flatten();
        let hosts = hosts.filter_map(|pod| fleet.connections.get(pod));
        hosts
            .map(|connection| Host {
                pod: connection.info.clone(),
                target: connection.told.get(function).map_or(0, |told| told.target),
                report: connection.reports.get(function).cloned(),
            })
            .collect()
    }

    /// UIDs of the functions whose callers a pod answers. `None`: it is not connected.
    pub(crate) fn answered_by(&self, pod: &str) -> Option<BTreeSet<String>> {
        let fleet = self.lock();
        let reports = fleet.connections.get(pod)?.reports.iter();
        let answered = reports.filter(|(_, report)| report.answers);
        Some(answered.map(|(uid, _)| uid.clone()).collect())
    }

    /// Connected pods.
    pub(crate) fn len(&self) -> usize {
        self.lock().connections.len()
    }

    /// Whether a pod is connected.
    pub(crate) fn is_connected(&self, pod: &str) -> bool {
        self.lock().connections.contains_key(pod)
    }
}

/// Instances that count as those that a pod should hold: warm ones, and those in a call, until others take their place.
pub(crate) fn held(report: &proto::FunctionReport, target: u32) -> u32 {
    report.warm.saturating_add(report.in_use).min(target)
}

/// Adds a report to what a pod said before it was told anything.
fn hear_later(unheard: &mut Option<proto::Report>, report: proto::Report) {
    let Some(before) = unheard.as_mut().filter(|_| !report.complete) else {
        *unheard = Some(report);
        return;
    };
    let uid = |function: &proto::FunctionReport| {
        let key = function.r#ref.as_ref();
        key.map_or_else(String::new, |key| key.uid.clone())
    };
    let newer = report.functions.iter().map(uid);
    let newer: BTreeSet<_> = newer.chain(report.removed.iter().cloned()).collect();
    before
        .functions
        .retain(|function| !newer.contains(&uid(function)));
    before.functions.extend(report.functions);
    before.removed.extend(report.removed);
}

/// Whether a function is called, or was since the report before.
fn is_called(before: &proto::FunctionReport, now: &proto::FunctionReport) -> bool {
    now.in_use > 0 || now.queued > 0 || before.in_use > 0 || before.calls != now.calls
}

/// A report without what changes with every call: the status says nothing of that.
fn matters(report: &proto::FunctionReport, target: u32) -> proto::FunctionReport {
    let mut report = report.clone();
    report.warm = held(&report, target);
    report.in_use = 0;
    report.queued = 0;
    report.calls = Vec::new();
    report.durations = Vec::new();
    report.start_us = 0;
    report.instance_bytes = 0;
    report.target = 0;
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::fake::pod;

    fn told(target: u32) -> Told {
        let placed = proto::PlacedFunction {
            function: Some(proto::Function::default()),
            ..proto::PlacedFunction::default()
        };
        Told {
            placed: Arc::new(placed),
            target,
        }
    }

    fn connect(
        fleet: &Fleet,
        first: Option<proto::Report>,
    ) -> (u64, mpsc::Receiver<proto::FromOperator>) {
        let (sender, receiver) = Fleet::outbox();
        (fleet.connect(pod("p"), sender, first), receiver)
    }

    fn report(uid: &str, warm: u32, in_use: u32) -> proto::Report {
        let function = proto::FunctionReport {
            r#ref: Some(proto::FunctionRef {
                uid: uid.to_owned(),
                ..proto::FunctionRef::default()
            }),
            warm,
            in_use,
            instance_bytes: 7,
            ..proto::FunctionReport::default()
        };
        proto::Report {
            functions: vec![function],
            ..proto::Report::default()
        }
    }

    #[test]
    fn a_pod_is_told_everything_first_and_then_what_changed() {
        let fleet = Fleet::default();
        let (_, mut messages) = connect(&fleet, None);
        fleet.tell("p", &[]);
        let first = messages.try_recv().unwrap();
        assert!(first.snapshot && first.functions.is_empty() && first.revision == 1);
        fleet.tell("p", &[("a", told(1)), ("b", told(2))]);
        let targets = |message: &proto::FromOperator| {
            let functions = message.functions.iter();
            functions
                .map(|placed| placed.function.as_ref().unwrap().target)
                .collect::<Vec<_>>()
        };
        assert_eq!(targets(&messages.try_recv().unwrap()), [1, 2]);
        fleet.tell("p", &[("a", told(1)), ("b", told(2))]);
        assert!(messages.try_recv().is_err());
        fleet.tell("p", &[("b", told(3))]);
        let changed = messages.try_recv().unwrap();
        assert_eq!(
            (targets(&changed), changed.remove),
            (vec![3], vec!["a".to_owned()])
        );
        assert!(!changed.snapshot && changed.revision == 3);
        assert!(fleet.hosts_of("a").is_empty());
        assert_eq!(fleet.hosts_of("b").len(), 1);
    }

    #[test]
    fn a_pod_speaks_of_what_it_was_told() {
        let fleet = Fleet::default();
        let (serial, _messages) = connect(&fleet, None);
        assert!(
            fleet
                .report("p", serial, report("a", 1, 0))
                .functions
                .is_empty()
        );
        fleet.tell("p", &[("a", told(1))]);
        let news = fleet.report("p", serial, report("a", 1, 0));
        assert!(news.functions.len() == 1 && news.is_other_cost);
        // The same number of instances, one of them in a call.
        let news = fleet.report("p", serial, report("a", 0, 1));
        assert!(news.functions.is_empty() && !news.is_other_cost);
        assert_eq!(fleet.hosts_of("a")[0].report.as_ref().unwrap().in_use, 1);
        // It holds the function until it says that it is gone.
        fleet.tell("p", &[]);
        assert_eq!(fleet.hosts_of("a").len(), 1);
        let removed = proto::Report {
            removed: vec!["a".to_owned()],
            ..proto::Report::default()
        };
        assert_eq!(fleet.report("p", serial, removed).functions.len(), 1);
        assert!(fleet.hosts_of("a").is_empty());
    }

    #[test]
    fn what_a_pod_says_first_is_heard_when_it_was_told() {
        let fleet = Fleet::default();
        let mut first = report("a", 3, 2);
        first.functions[0].target = 4;
        first.functions.extend(report("b", 1, 0).functions);
        first.functions.extend(report("c", 0, 9).functions);
        let (serial, _messages) = connect(&fleet, Some(first));
        let brought = fleet.take_brought();
        // What it was told; what it has, where an older shim does not say that.
        let targets = [("a".to_owned(), 4), ("b".to_owned(), 1)];
        assert_eq!((brought.len(), &brought[0].targets[..]), (1, &targets[..]));
        assert!(fleet.take_brought().is_empty() && fleet.hosts_of("a").is_empty());
        // Until then, what it says is kept together.
        let mut later = report("b", 2, 0);
        later.removed.push("c".to_owned());
        assert!(fleet.report("p", serial, later).functions.is_empty());
        let (of, heard) = fleet.tell("p", &[("a", told(4))]).unwrap();
        let warm =
            |report: &proto::FunctionReport| (report.r#ref.clone().unwrap().uid, report.warm);
        let all: Vec<_> = heard.functions.iter().map(warm).collect();
        assert_eq!(
            (of, all),
            (serial, vec![("a".to_owned(), 3), ("b".to_owned(), 2)])
        );
        assert_eq!(fleet.tell("p", &[("a", told(5))]), None);
    }

    #[test]
    fn a_call_that_goes_on_is_counted_at_every_tick() {
        let fleet = Fleet::default();
        let (serial, _messages) = connect(&fleet, None);
        fleet.tell("p", &[("a", told(1))]);
        fleet.report("p", serial, report("a", 1, 0));
        assert!(fleet.ticks().is_empty());
        fleet.report("p", serial, report("a", 1, 1));
        for _ in 0..3 {
            let ticks = fleet.ticks();
            assert_eq!((ticks[0].0.as_str(), ticks[0].1.as_str()), ("a", "p"));
            assert_eq!((ticks[0].2.in_use, ticks[0].2.counted.in_use), (1, 1));
        }
        fleet.report("p", serial, report("a", 1, 0));
        assert_eq!(fleet.ticks().len(), 1);
        assert!(fleet.ticks().is_empty());
    }

    #[test]
    fn a_connection_that_ends_leaves_nothing() {
        let fleet = Fleet::default();
        let (serial, _messages) = connect(&fleet, None);
        fleet.tell("p", &[("a", told(1))]);
        assert_eq!(fleet.take_changed().len(), 1);
        assert!(fleet.is_settled());
        // Of an earlier connection nothing ends.
        fleet.disconnect("p", serial - 1);
        assert!(fleet.is_connected("p") && fleet.take_changed().is_empty());
        fleet.disconnect("p", serial);
        assert!(!fleet.is_connected("p") && fleet.hosts_of("a").is_empty());
        assert!(fleet.take_changed().len() == 1 && !fleet.is_settled());
    }
}
