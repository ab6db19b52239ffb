//! The planning loop: observe, plan, apply, in rounds. Whatever comes in while a round runs is taken up by the next one, so
//! that a thousand changes at once are a few rounds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_api::QUOTA;
use hearth_api::convert::{self, Bundle};
use hearth_api::v1alpha1::{AgentFunction, AgentPool};
use hearth_contract::{FUNCTION_PORTS, guest_bytes, proto};
use hearth_planner::history::History;
use hearth_planner::size::Sizer;
use hearth_planner::{Function, Group, Namespace, Placement, Pod, Short, ports};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::fleet::{Brought, Cost, GroupKey, Host, Told};
use crate::meter::Tick;
use crate::scaling::{Decision, Scaling};
use crate::world::{self, World};

/// Time between two looks at what calls do, and between rounds that nobody asked for.
const TICK: Duration = Duration::from_secs(1);
/// How long a function is in the group that it left after the other one answers: nodes learn of its endpoints meanwhile.
const LEAVING: Duration = Duration::from_secs(5);
/// Linear memory that an instance is taken to need until one was made, in bytes.
const UNKNOWN_BYTES: u64 = 1 << 20;

/// Rounds that were asked for, and the last one that ended.
pub(crate) struct Rounds {
    asked: AtomicU64,
    ask: Notify,
    ended: watch::Sender<u64>,
}

impl Default for Rounds {
    fn default() -> Self {
        Self {
            asked: AtomicU64::new(0),
            ask: Notify::new(),
            ended: watch::channel(0).0,
        }
    }
}

impl Rounds {
    /// Asks for a round that begins after now. Returns its number.
    pub(crate) fn ask(&self) -> u64 {
        let number = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.ask.notify_one();
        number
    }

    /// Returns when a round ended that saw what was asked with this number, and after `bound` at the latest.
    pub(crate) async fn ended(&self, number: u64, bound: Duration) {
        let mut ended = self.ended.subscribe();
        let done = ended.wait_for(|ended| *ended >= number);
        // The caller goes on with what is known; what comes later brings another pass.
        let _ = tokio::time::timeout(bound, done).await;
    }
}

/// Runs rounds while this replica leads, until `stop`.
pub(crate) async fn run(world: Arc<World>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut is_moving, mut last) = (false, Instant::now());
    loop {
        let is_tick = tokio::select! {
            () = stop.cancelled() => return,
            () = world.rounds.ask.notified() => false,
            _ = ticks.tick() => true,
        };
        let (number, started) = (world.rounds.asked.load(Ordering::Acquire), Instant::now());
        let now = Timestamp::now();
        let mut is_due = !is_tick || is_moving;
        if is_tick {
            // Who does not lead hears of no calls, and that is not that there are none.
            if world.is_leading() {
                is_due |= tick(&world, (started - last).as_secs_f64(), now);
            }
            last = started;
        }
        if world.is_leading() && is_due {
            is_moving = round(&world, now);
        }
        world.rounds.ended.send_replace(number);
        // Planning takes half of one core at most. A timer does not measure less than this.
        let took = started.elapsed();
        if took > Duration::from_millis(1) {
            tokio::time::sleep(took).await;
        }
    }
}

/// Takes up what calls did in the `seconds` since the last tick. Whether a function needs another plan for it.
fn tick(world: &World, seconds: f64, now: Timestamp) -> bool {
    let ticks = world.fleet.ticks();
    let mut by_function = HashMap::<&str, Vec<(&str, &Tick)>>::new();
    for (function, pod, tick) in &ticks {
        by_function.entry(function).or_default().push((pod, tick));
    }
    let all = ticks
        .iter()
        .map(|(function, _, tick)| (function.as_str(), tick));
    world.meter.tick(seconds, all);
    let mut is_other = false;
    for (uid, planned) in &mut *world.plans.lock() {
        let Some(scaling) = planned.scaling.clone() else {
            continue;
        };
        let ticks = by_function.get(uid.as_str());
        let ticks = ticks.map_or(&[][..], Vec::as_slice);
        planned.came = ticks.iter().map(|(_, tick)| tick.counted.came).sum();
        let cost = world.fleet.cost(uid);
        let alive = |pod: &str| world.fleet.is_connected(pod);
        is_other |= scaling.observe(&mut planned.sizer, now, cost, ticks, alive);
        is_other |= scaling.size(&planned.sizer, now).wanted != planned.wanted;
    }
    is_other
}

/// What is planned of one function.
#[derive(Debug, Clone, Default)]
struct Planned {
    /// What its plan was made from.
    made_from: Option<MadeFrom>,
    port: Option<u16>,
    /// Nothing where its spec cannot be used, which a condition says, or where it leaves.
    placed: Option<Arc<proto::PlacedFunction>>,
    /// Nothing where `replicas` alone says how many.
    scaling: Option<Arc<Scaling>>,
    sizer: Sizer,
    /// Calls that came between the last two ticks.
    came: u64,
    wanted: u32,
    /// What that was found from, where something scales.
    found: Option<Arc<Found>>,
    /// UID of a pod and its target, above zero, by UID.
    targets: Vec<(String, u32)>,
    short: Option<Short>,
    /// Where it was, while it is there still.
    before: Option<Before>,
}

/// The group that a function leaves for another: another pool, or pods of its own. Pods of it answer until those of the other
/// do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Before {
    group: GroupKey,
    port: Option<u16>,
    /// Pods that a leader before this one told of it, and how many instances.
    brought: BTreeMap<String, u32>,
    /// When pods of the other group were first seen to answer.
    answered: Option<Instant>,
}

/// A number as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The number and its inputs.
    pub(crate) decision: Decision,
    /// Name of the open window, where one is.
    pub(crate) window: Option<String>,
    /// When the number, or what decided it, became another.
    pub(crate) at: Timestamp,
    /// Calls that came within the second before.
    pub(crate) came: u64,
    /// Time to make an instance, in microseconds; 0 until one was made.
    pub(crate) start_us: u32,
}

/// What of an object decides its plan.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MadeFrom {
    generation: Option<i64>,
    digest: Option<String>,
    /// Version of the ConfigMap that holds its code.
    source: Option<String>,
    is_leaving: bool,
    group: GroupKey,
}

/// What is planned of all functions, by UID.
#[derive(Default)]
pub(crate) struct Plans {
    all: Mutex<HashMap<String, Planned>>,
    /// What each namespace was planned from, where nothing is left to be done.
    done: Mutex<HashMap<String, Namespace>>,
}

impl Plans {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Planned>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn done(&self) -> MutexGuard<'_, HashMap<String, Namespace>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what was needed on earlier days. Functions that are not there are forgotten by the next round.
    pub(crate) fn remember(&self, histories: HashMap<String, History>) {
        let mut plans = self.lock();
        for (uid, history) in histories {
            plans.entry(uid).or_default().sizer.remember(history);
        }
    }

    /// What was needed, encoded.
    pub(crate) fn histories(&self) -> Vec<(String, Vec<u8>)> {
        let plans = self.lock();
        let all = plans
            .iter()
            .filter(|(_, planned)| !planned.sizer.history().is_empty());
        all.map(|(uid, planned)| (uid.clone(), planned.sizer.history().encode()))
            .collect()
    }

    /// The port of a function, once it was planned. `Some(None)`: none was left.
    pub(crate) fn port(&self, uid: &str) -> Option<Option<u16>> {
        let plans = self.lock();
        let planned = plans.get(uid)?;
        let (_, port) = serving(planned)?;
        Some(port)
    }

    /// The group whose pods answer a function's callers, once it was planned.
    pub(crate) fn serving(&self, uid: &str) -> Option<GroupKey> {
        let plans = self.lock();
        let (group, _) = serving(plans.get(uid)?)?;
        Some(group.clone())
    }

    /// Warm instances wanted of a function, once it was planned, and what that was found from where something scales.
    pub(crate) fn wanted(&self, uid: &str) -> Option<(u32, Option<Arc<Found>>)> {
        let plans = self.lock();
        let planned = plans.get(uid)?;
        let wanted = (planned.wanted, planned.found.clone());
        planned.made_from.as_ref().map(|_| wanted)
    }

    /// Why fewer instances of a function are planned than wanted, and how many are.
    pub(crate) fn short(&self, uid: &str) -> Option<(Short, u32)> {
        let plans = self.lock();
        let planned = plans.get(uid)?;
        let total = planned.targets.iter().map(|(_, target)| target).sum();
        Some((planned.short?, total))
    }

    /// Whether the plan was made from what the object says now, and the ConfigMap that holds its code.
    pub(crate) fn is_current(
        &self,
        function: &AgentFunction,
        group: &GroupKey,
        source: Option<String>,
    ) -> bool {
        let uid = function.metadata.uid.as_deref().unwrap_or_default();
        let plans = self.lock();
        let planned = plans.get(uid);
        let wanted = Some(made_from(function, group, source));
        planned.is_some_and(|planned| planned.made_from == wanted)
    }
}

/// Whose pods answer, and at which port: the group that it is in, or the one before it as long as nobody answers there.
fn serving(planned: &Planned) -> Option<(&GroupKey, Option<u16>)> {
    let made_from = planned.made_from.as_ref()?;
    let before = planned.before.as_ref();
    Some(match before.filter(|before| before.answered.is_none()) {
        Some(before) => (&before.group, before.port),
        None => (&made_from.group, planned.port),
    })
}

fn made_from(function: &AgentFunction, group: &GroupKey, source: Option<String>) -> MadeFrom {
    MadeFrom {
        generation: function.metadata.generation,
        digest: world::pinned(function),
        source,
        is_leaving: function.metadata.deletion_timestamp.is_some(),
        group: group.clone(),
    }
}

/// The functions and pods of one group, by UID.
#[derive(Default)]
struct Members {
    functions: BTreeMap<String, Arc<AgentFunction>>,
    pods: Vec<String>,
    memory: Option<u64>,
}

/// Observes, plans, and tells every pod what changed. Whether another round may move more.
fn round(world: &World, now: Timestamp) -> bool {
    let changed = world.fleet.take_changed();
    let mut groups = observe(world);
    let all = || groups.values().flat_map(|members| members.functions.keys());
    let alive: BTreeSet<&str> = all().map(String::as_str).collect();
    let costs = world.fleet.costs(|uid| alive.contains(uid));
    let quotas = quotas(world);
    let mut plans = world.plans.lock();
    plans.retain(|uid, _| alive.contains(uid.as_str()));
    for brought in world.fleet.take_brought() {
        adopt(&mut plans, &groups, brought, now);
    }
    // Groups of one namespace share its quota, so they are planned together.
    let assembling = groups.keys().filter(|group| world.is_assembling(group));
    let assembling: BTreeSet<_> = assembling.map(|group| group.namespace.clone()).collect();
    groups.retain(|group, _| !assembling.contains(&group.namespace));
    let leavers = plans.iter();
    let leavers = leavers.filter_map(|(uid, planned)| Some((uid.clone(), planned.before.clone()?)));
    let leavers: Vec<_> = leavers.collect();
    let mut touched = Vec::new();
    // Namespaces that may need another plan although their numbers are the same.
    let mut restless: BTreeSet<&str> = changed.iter().map(|key| &*key.namespace).collect();
    for (key, members) in &groups {
        let came_or_went = changed.contains(key);
        let renewed = renew(world, &mut plans, key, members, &leavers);
        if renewed.is_any {
            restless.insert(&key.namespace);
        }
        let sized = size(&mut plans, members, &costs, now);
        let all = members.functions.iter();
        let is_other =
            |uid: &String| came_or_went || renewed.moved.contains(uid) || sized.contains(uid);
        touched.extend(all.filter(|(uid, _)| is_other(uid)));
    }
    let (mut kept, left) = leave(world, &mut plans);
    let mut is_moving = !assembling.is_empty();
    for (key, members) in &groups {
        for (uid, function) in &members.functions {
            let is_leaving = plans[uid].before.is_some();
            is_moving |= is_leaving;
            if left.contains(uid) {
                touched.push((uid, function));
            }
            if is_leaving || left.contains(uid) {
                restless.insert(&key.namespace);
            }
        }
    }
    let mut done = world.plans.done();
    let namespaces: BTreeSet<_> = groups.keys().map(|key| &key.namespace).collect();
    done.retain(|namespace, _| namespaces.contains(namespace));
    let mut groups = groups.iter().peekable();
    while let Some(&(first, _)) = groups.peek() {
        let namespace = &first.namespace;
        let of_it: Vec<_> =
            std::iter::from_fn(|| groups.next_if(|(key, _)| &key.namespace == namespace)).collect();
        let observed = Namespace {
            quota: quotas.get(namespace).copied(),
            groups: of_it
                .iter()
                .map(|(_, members)| group(members, &plans, &costs))
                .collect(),
        };
        // A plan that is carried out is the plan again.
        if !restless.contains(&**namespace) && done.get(namespace) == Some(&observed) {
            continue;
        }
        let plan = hearth_planner::plan(&observed);
        is_moving |= plan.moves > 0;
        let held = observed.groups.iter().flat_map(|group| &group.functions);
        let planned = plan.groups.iter().flatten();
        let is_done = held
            .zip(planned)
            .all(|(held, planned)| held.held == planned.targets);
        for ((_, members), placements) in of_it.into_iter().zip(plan.groups) {
            touched.extend(apply(world, &mut plans, members, placements, &mut kept));
        }
        match is_done {
            true => drop(done.insert(namespace.clone(), observed)),
            false => drop(done.remove(namespace)),
        }
    }
    drop(done);
    drop(plans);
    for (_, function) in touched {
        world.touch(
            &function.namespace().unwrap_or_default(),
            &function.name_any(),
        );
    }
    is_moving
}

/// Who is there: functions by the group whose pods host them, and the pods that are connected.
fn observe(world: &World) -> BTreeMap<GroupKey, Members> {
    let mut groups = BTreeMap::<GroupKey, Members>::new();
    for function in world.stores.functions.state() {
        let members = groups.entry(world.group(&function)).or_default();
        members
            .functions
            .insert(function.uid().unwrap_or_default(), function);
    }
    let ending = world.ending_pods();
    for (key, pods) in world.fleet.pods() {
        let stay = pods.iter().any(|pod| !ending.contains(pod));
        let pods = pods
            .into_iter()
            .filter(|pod| !stay || !ending.contains(pod));
        // What a pod that is being ended holds is made in others before it is gone.
        groups.entry(key).or_default().pods = pods.collect();
    }
    for (key, members) in &mut groups {
        let pool = ObjectRef::new(&key.pool).within(&key.namespace);
        let pool = world.stores.pools.get(&pool);
        members.memory = pool.and_then(|pool| memory(&pool));
    }
    groups
}

/// What a pool's pods may hold in instances, in bytes, where they have a limit.
fn memory(pool: &AgentPool) -> Option<u64> {
    let limit = pool.spec.resources.as_ref()?.limits.get("memory")?;
    // A pod with a limit that cannot be read is refused by the API server.
    convert::whole_quantity(&limit.0).map(guest_bytes)
}

/// Warm instances that each namespace may have: the lowest of its ResourceQuotas.
fn quotas(world: &World) -> BTreeMap<String, u64> {
    let mut quotas = BTreeMap::new();
    for quota in world.stores.quotas.state() {
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
        let most = hard.and_then(|hard| convert::whole_quantity(&hard.get(QUOTA)?.0));
        if let Some(most) = most {
            let namespace = quota.namespace().unwrap_or_default();
            let lowest = quotas.entry(namespace).or_insert(most);
            *lowest = most.min(*lowest);
        }
    }
    quotas
}

/// Functions whose objects say something else than before.
#[derive(Default)]
struct Renewed<'a> {
    is_any: bool,
    /// Those that have another port.
    moved: BTreeSet<&'a String>,
}

/// Takes up what the objects of a group say now.
fn renew<'a>(
    world: &World,
    plans: &mut HashMap<String, Planned>,
    key: &GroupKey,
    members: &'a Members,
    leavers: &[(String, Before)],
) -> Renewed<'a> {
    // One that comes from another group had a port there, which is somebody else's here.
    let has =
        |planned: &Planned, function: &AgentFunction| match (&planned.made_from, &planned.before) {
            (Some(made_from), _) if made_from.group == *key => planned.port,
            (_, Some(before)) if before.group == *key => before.port,
            (None, None) => recorded(function),
            _ => None,
        };
    let claims = members
        .functions
        .iter()
        .map(|(uid, function)| ports::Claim {
            uid,
            port: match plans.get(uid) {
                Some(planned) => has(planned, function),
                None => recorded(function),
            },
            // A function that leaves keeps its port until it is gone: its callers must not reach another.
            stays: function.metadata.deletion_timestamp.is_none(),
        });
    let gone = leavers.iter().filter(|(_, before)| before.group == *key);
    let gone = gone.map(|(uid, before)| ports::Claim {
        uid,
        port: before.port,
        stays: false,
    });
    let gone = gone.filter(|claim| !members.functions.contains_key(claim.uid));
    let claims = claims.chain(gone);
    let ports = ports::assign(&claims.collect::<Vec<_>>(), FUNCTION_PORTS);
    let mut renewed = Renewed::default();
    for (uid, function) in &members.functions {
        let source = world.source(function).ok().flatten();
        let version = source.as_deref().map(world::source_version);
        let port = ports.get(uid.as_str()).copied();
        let made_from = made_from(function, key, version);
        let planned = plans.entry(uid.clone()).or_default();
        if planned.made_from.as_ref() == Some(&made_from) && planned.port == port {
            continue;
        }
        renewed.is_any = true;
        let is_elsewhere = |before: &&MadeFrom| before.group != *key;
        if let Some(before) = planned.made_from.as_ref().filter(is_elsewhere)
            && serving(planned).is_some_and(|(group, _)| *group == before.group)
        {
            planned.before = Some(Before {
                group: before.group.clone(),
                port: planned.port,
                brought: BTreeMap::new(),
                answered: None,
            });
        }
        if planned
            .before
            .as_ref()
            .is_some_and(|before| before.group == *key)
        {
            // It came back before it had gone.
            planned.before = None;
        }
        if planned.port != port || planned.made_from.is_none() {
            renewed.moved.insert(uid);
        }
        let stays = !made_from.is_leaving;
        let scaling = Scaling::of(&function.spec);
        let is_usable = stays && scaling.is_ok();
        planned.placed = port
            .filter(|_| is_usable)
            .and_then(|port| placed(function, source.as_deref(), port));
        planned.scaling = scaling.ok().flatten().map(Arc::new);
        (planned.wanted, planned.found) = (convert::replicas(&function.spec), None);
        (planned.port, planned.made_from) = (port, Some(made_from));
    }
    renewed
}

/// Takes over what a pod that came was told earlier, maybe by the leader before this one: what it holds stays where it is, and
/// a number that calls raised does not fall because another looks at it.
fn adopt(
    plans: &mut HashMap<String, Planned>,
    groups: &BTreeMap<GroupKey, Members>,
    brought: Brought,
    now: Timestamp,
) {
    let members = groups.get(&brought.group);
    for (uid, target) in brought.targets {
        let function = members.and_then(|members| members.functions.get(&uid));
        let Some(function) = function else {
            adopt_leaver(plans, groups, &brought.group, &brought.pod, uid, target);
            continue;
        };
        let planned = plans.entry(uid).or_default();
        let is_known = planned.targets.iter().any(|(pod, _)| *pod == brought.pod);
        if !is_known {
            planned.targets.push((brought.pod.clone(), target));
            planned.targets.sort();
        }
        // Also where a plan was made already: a pod may come late.
        if let Ok(Some(scaling)) = Scaling::of(&function.spec) {
            scaling.assume(&mut planned.sizer, now, &brought.pod, target);
        }
    }
}

/// The same of a function that was on its way to another group when this replica began to lead: who answers goes on.
fn adopt_leaver(
    plans: &mut HashMap<String, Planned>,
    groups: &BTreeMap<GroupKey, Members>,
    group: &GroupKey,
    pod: &str,
    uid: String,
    target: u32,
) {
    let elsewhere = groups
        .iter()
        .filter(|(key, _)| key.namespace == group.namespace);
    let mut elsewhere = elsewhere.filter_map(|(_, members)| members.functions.get(&uid));
    // One that is nowhere was deleted.
    let Some(function) = elsewhere.next() else {
        return;
    };
    let planned = plans.entry(uid).or_default();
    let is_known = planned
        .before
        .as_ref()
        .is_some_and(|before| before.group == *group);
    if planned.made_from.is_none() || is_known {
        let before = planned.before.get_or_insert_with(|| Before {
            group: group.clone(),
            port: recorded(function),
            brought: BTreeMap::new(),
            answered: None,
        });
        before.brought.insert(pod.to_owned(), target);
    }
}

/// The port that a function's status names.
fn recorded(function: &AgentFunction) -> Option<u16> {
    let status = function.status.as_ref()?;
    u16::try_from(status.port?).ok()
}

/// Finds the numbers of those that scale. Returns those that have another one than before.
fn size<'a>(
    plans: &mut HashMap<String, Planned>,
    members: &'a Members,
    costs: &HashMap<String, Cost>,
    now: Timestamp,
) -> BTreeSet<&'a String> {
    let mut sized = BTreeSet::new();
    for uid in members.functions.keys() {
        let Some(planned) = plans.get_mut(uid) else {
            continue;
        };
        let Some(scaling) = &planned.scaling else {
            continue;
        };
        let decision = scaling.size(&planned.sizer, now);
        let found = planned.found.as_ref().map(|found| &found.decision);
        if found.is_none_or(|found| (found.wanted, found.by) != (decision.wanted, decision.by)) {
            let window = decision.window;
            let found = Found {
                decision,
                window: window.map(|(index, _)| scaling.window_name(index).to_owned()),
                at: now,
                came: planned.came,
                start_us: costs.get(uid).map_or(0, |cost| cost.start_us),
            };
            (planned.wanted, planned.found) = (decision.wanted, Some(Arc::new(found)));
            sized.insert(uid);
        }
    }
    sized
}

/// What a pod is told of a function; nothing when its spec cannot be used.
fn placed(
    function: &AgentFunction,
    source: Option<&ConfigMap>,
    port: u16,
) -> Option<Arc<proto::PlacedFunction>> {
    let converted = convert::function(function, 0).ok()?;
    let placed = proto::PlacedFunction {
        function: Some(converted.into()),
        port: port.into(),
        ..proto::PlacedFunction::default()
    };
    Some(Arc::new(match convert::bundle(&function.spec).ok()? {
        Bundle::Image(image) => proto::PlacedFunction {
            image: image.to_owned(),
            digest: world::pinned(function).unwrap_or_default(),
            ..placed
        },
        Bundle::JavaScript(code) => proto::PlacedFunction {
            javascript: code.to_owned(),
            ..placed
        },
        Bundle::ConfigMap(named) => proto::PlacedFunction {
            javascript: world::source_text(source?, named.key.as_deref())?,
            ..placed
        },
    }))
}

/// A group as planning sees it.
fn group(
    members: &Members,
    plans: &HashMap<String, Planned>,
    costs: &HashMap<String, Cost>,
) -> Group {
    let index = |pod: &String| members.pods.binary_search(pod).ok();
    let function = |uid: &String| {
        let planned = &plans[uid];
        let held = planned.targets.iter();
        let held = held.filter_map(|(pod, target)| Some((index(pod)?, *target)));
        let scaling = planned.scaling.as_ref();
        Function {
            wanted: planned.placed.as_ref().map_or(0, |_| planned.wanted),
            // What scales was bounded when it was sized.
            most: u32::MAX,
            weight: scaling.map_or(NonZeroU32::MIN, |scaling| scaling.weight),
            instance_bytes: costs.get(uid).map_or(UNKNOWN_BYTES, |cost| cost.bytes),
            held: held.collect(),
            demand: scaling.map_or_else(Vec::new, |_| {
                let pods = members.pods.iter().map(String::as_str);
                planned.sizer.demand(planned.wanted, pods)
            }),
        }
    };
    Group {
        pods: vec![
            Pod {
                memory: members.memory
            };
            members.pods.len()
        ],
        functions: members.functions.keys().map(function).collect(),
    }
}

/// What pods keep of functions that leave them, by UID of pod and function.
type Kept = HashMap<String, Vec<(String, Told)>>;

/// Looks after functions that go from one group to another. Returns what pods of the former keep, and functions whose callers
/// are answered by others than before.
fn leave(world: &World, plans: &mut HashMap<String, Planned>) -> (Kept, BTreeSet<String>) {
    let (mut kept, mut touched) = (Kept::new(), BTreeSet::new());
    for (uid, planned) in plans {
        let (Some(before), Some(made_from)) = (&mut planned.before, &planned.made_from) else {
            continue;
        };
        let hosts = world.fleet.hosts_of(uid);
        // Of those only that can be endpoints: a pod may answer before its address is known.
        let answers = |host: &Host| {
            host.pod.group == made_from.group
                && host.report.as_ref().is_some_and(|report| report.answers)
                && (!host.pod.address.is_empty() || world.address(&host.pod).is_some())
        };
        if before.answered.is_none() && hosts.iter().any(answers) {
            before.answered = Some(Instant::now());
            touched.insert(uid.clone());
        }
        let told = hosts.iter().filter(|host| host.pod.group == before.group);
        let told = told.map(|host| (host.pod.uid.clone(), host.target));
        let brought = before.brought.clone().into_iter();
        let brought = brought.filter(|(pod, _)| world.fleet.is_connected(pod));
        let pods: BTreeMap<String, u32> = brought.chain(told).collect();
        let is_over = before.answered.is_some_and(|at| at.elapsed() >= LEAVING);
        if made_from.is_leaving || is_over || pods.is_empty() {
            planned.before = None;
            touched.insert(uid.clone());
            continue;
        }
        for (pod, target) in pods {
            let told = world.fleet.told(&pod, uid).or_else(|| {
                let mut placed = proto::PlacedFunction::clone(planned.placed.as_deref()?);
                placed.port = before.port?.into();
                Some(Told {
                    placed: Arc::new(placed),
                    target,
                })
            });
            if let Some(told) = told {
                kept.entry(pod).or_default().push((uid.clone(), told));
            }
        }
    }
    (kept, touched)
}

/// Keeps a group's plan and tells its pods. Returns the functions that have another number than before, or want for another reason.
fn apply<'a>(
    world: &World,
    plans: &mut HashMap<String, Planned>,
    members: &'a Members,
    placements: Vec<Placement>,
    kept: &mut Kept,
) -> Vec<(&'a String, &'a Arc<AgentFunction>)> {
    let mut wanted: Vec<Vec<(&str, Told)>> = vec![Vec::new(); members.pods.len()];
    let mut touched = Vec::new();
    for ((uid, function), placement) in members.functions.iter().zip(placements) {
        let Some(planned) = plans.get_mut(uid) else {
            continue;
        };
        if let Some(placed) = &planned.placed {
            let mut targets = placement.targets.iter().peekable();
            for (index, wanted) in wanted.iter_mut().enumerate() {
                let target = targets.next_if(|(pod, _)| *pod == index);
                let told = Told {
                    placed: placed.clone(),
                    target: target.map_or(0, |(_, target)| *target),
                };
                wanted.push((uid, told));
            }
        }
        let before: u32 = planned.targets.iter().map(|(_, target)| target).sum();
        let after: u32 = placement.targets.iter().map(|(_, target)| target).sum();
        // Of fewer than before no pod may say anything new: it has more than those.
        if (planned.short, before) != (placement.short, after) {
            touched.push((uid, function));
        }
        planned.short = placement.short;
        let targets = placement.targets.iter();
        let targets = targets.map(|(pod, target)| (members.pods[*pod].clone(), *target));
        planned.targets = targets.collect();
    }
    for (pod, mut wanted) in members.pods.iter().zip(wanted) {
        let kept = kept.remove(pod).unwrap_or_default();
        wanted.extend(kept.iter().map(|(uid, told)| (uid.as_str(), told.clone())));
        if let Some((serial, report)) = world.fleet.tell(pod, &wanted) {
            world.report(pod, serial, report);
        }
    }
    touched
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Fleet;
    use crate::world::fake;
    use k8s_openapi::jiff::SignedDuration;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    type Messages = mpsc::Receiver<proto::FromOperator>;

    fn now() -> Timestamp {
        "2026-03-02T08:00:00Z".parse().unwrap()
    }

    fn connected(world: &World, pod: &str) -> (u64, Messages) {
        connected_with(world, pod, None)
    }

    fn connected_with(world: &World, pod: &str, first: Option<proto::Report>) -> (u64, Messages) {
        let (sender, messages) = Fleet::outbox();
        let serial = world.connect(fake::pod(pod), sender, first);
        (serial.unwrap(), messages)
    }

    /// The targets that a pod was told, by the function's name, and the ports.
    fn told(messages: &mut Messages) -> BTreeMap<String, (u32, u32)> {
        let mut told = BTreeMap::new();
        while let Ok(message) = messages.try_recv() {
            if message.snapshot {
                told.clear();
            }
            for placed in message.functions {
                let function = placed.function.unwrap();
                told.insert(function.r#ref.unwrap().name, (function.target, placed.port));
            }
            for uid in message.remove {
                told.remove(uid.trim_start_matches("uid-"));
            }
        }
        told
    }

    fn targets(messages: &mut Messages) -> BTreeMap<String, u32> {
        let told = told(messages).into_iter();
        told.map(|(name, (target, _))| (name, target)).collect()
    }

    fn expected(targets: &[(&str, u32)]) -> BTreeMap<String, u32> {
        let targets = targets.iter();
        targets
            .map(|(name, target)| ((*name).to_owned(), *target))
            .collect()
    }

    #[test]
    fn every_pod_holds_every_function_and_instances_are_shared_out() {
        let functions = [("a", 4), ("b", 1)];
        let functions =
            functions.map(|(name, replicas)| fake::function(name, json!({"replicas": replicas})));
        let world = fake::world(&functions, &[], &[]);
        let (_, mut one) = connected(&world, "one");
        assert!(!round(&world, now()));
        let first = told(&mut one);
        assert_eq!(first["a"].0 + first["b"].0, 5);
        assert!(first["a"].1 != first["b"].1 && FUNCTION_PORTS.contains(&(first["a"].1 as u16)));
        assert_eq!(
            world.plans.port("uid-a").flatten().map(u32::from),
            Some(first["a"].1)
        );

        let (serial, mut two) = connected(&world, "two");
        assert!(round(&world, now()));
        while round(&world, now()) {}
        assert_eq!(told(&mut one)["a"], (2, first["a"].1));
        assert_eq!(told(&mut two)["a"], (2, first["a"].1));

        world.disconnect("two", serial);
        assert!(!round(&world, now()));
        assert_eq!(told(&mut one)["a"].0, 4);
        // Nothing changed: nobody is told anything, nor is it planned again, until somebody comes.
        assert!(!round(&world, now()) && told(&mut one).is_empty());
        assert!(world.plans.done().contains_key("n"));
        let (_, mut three) = connected(&world, "three");
        while round(&world, now()) {}
        assert_eq!(told(&mut three)["a"].0, 2);
    }

    #[test]
    fn a_function_stays_where_it_was_until_it_is_answered_where_it_goes() {
        let world = fake::world(&[fake::function("a", json!({}))], &[], &[]);
        let answers = proto::FunctionReport {
            r#ref: Some(proto::FunctionRef {
                uid: "uid-a".to_owned(),
                namespace: "n".to_owned(),
                name: "a".to_owned(),
            }),
            answers: true,
            ..proto::FunctionReport::default()
        };
        let report = || proto::Report {
            functions: vec![answers.clone()],
            ..proto::Report::default()
        };
        // The old group has told its pod of it, and callers are answered there.
        let (here, mut new) = connected(&world, "here");
        round(&world, now());
        assert!(told(&mut new).contains_key("a"));
        let mut info = fake::pod("there");
        info.group.pool = "former".to_owned();
        let former = info.group.clone();
        let (sender, mut old) = Fleet::outbox();
        let there = world.connect(info, sender, None).unwrap();
        let placed = world.plans.lock()["uid-a"].placed.clone().unwrap();
        let before = Told { placed, target: 1 };
        world.fleet.tell("there", &[("uid-a", before)]);
        world.report("there", there, report());
        assert!(told(&mut old).contains_key("a"));
        let plan = |change: fn(&mut Planned, &GroupKey)| {
            change(world.plans.lock().get_mut("uid-a").unwrap(), &former);
            round(&world, now())
        };

        let is_going = plan(|planned, former| {
            planned.made_from.as_mut().unwrap().group = former.clone();
        });
        assert!(is_going && old.try_recv().is_err(), "it is told to let go");
        assert_eq!(world.plans.serving("uid-a").as_ref(), Some(&former));
        // It is answered, and nodes learn of that.
        world.report("here", here, report());
        assert!(plan(|_, _| {}) && old.try_recv().is_err());
        assert_eq!(world.plans.serving("uid-a"), Some(fake::pod("x").group));
        let is_going = plan(|planned, _| {
            let before = planned.before.as_mut().unwrap();
            before.answered = Instant::now().checked_sub(LEAVING);
        });
        assert!(!is_going);
        assert_eq!(old.try_recv().unwrap().remove, ["uid-a"]);
    }

    #[test]
    fn a_new_leader_leaves_a_function_where_it_is_answered_on_its_way_elsewhere() {
        let [mut moved, other] = ["a", "b"].map(|name| fake::function(name, json!({})));
        moved["status"] = json!({"port": 20007});
        let world = fake::world(&[moved, other], &[], &[]);
        let mut info = fake::pod("there");
        info.group.pool = "former".to_owned();
        let former = info.group.clone();
        let report = proto::FunctionReport {
            r#ref: Some(proto::FunctionRef {
                uid: "uid-a".to_owned(),
                namespace: "n".to_owned(),
                name: "a".to_owned(),
            }),
            target: 3,
            answers: true,
            ..proto::FunctionReport::default()
        };
        let first = proto::Report {
            functions: vec![report],
            ..proto::Report::default()
        };
        let (sender, mut old) = Fleet::outbox();
        world.connect(info, sender, Some(first)).unwrap();
        let (_, mut new) = connected(&world, "here");
        round(&world, now());
        assert_eq!(told(&mut old)["a"], (3, 20007));
        assert!(told(&mut new).contains_key("a"));
        assert_eq!(world.plans.serving("uid-a"), Some(former));
        assert_eq!(world.plans.port("uid-a"), Some(Some(20007)));
    }

    #[test]
    fn a_function_that_leaves_is_held_nowhere_and_keeps_its_port() {
        let mut leaving = fake::function("a", json!({}));
        leaving["metadata"]["deletionTimestamp"] = "2026-03-02T08:00:00Z".into();
        leaving["status"] = json!({"port": 20000});
        let world = fake::world(&[leaving, fake::function("b", json!({}))], &[], &[]);
        let (_, mut pod) = connected(&world, "one");
        round(&world, now());
        assert_eq!(world.plans.port("uid-a"), Some(Some(20000)));
        let told = told(&mut pod);
        assert!(!told.contains_key("a") && told["b"].1 != 20000);
    }

    #[test]
    fn callers_are_sent_to_no_pod_for_a_function_that_is_deleted() {
        let group = fake::pod("one").group;
        let [there, mut leaving] = ["a", "a"].map(|name| fake::function(name, json!({})));
        leaving["metadata"]["deletionTimestamp"] = "2026-03-02T08:00:00Z".into();
        for (function, expected) in [(there, true), (leaving, false)] {
            let world = fake::world(&[function], &[], &[]);
            round(&world, now());
            assert_eq!(world.is_asked(&group), expected);
            let mut other = group.clone();
            other.pool = "other".to_owned();
            assert!(!world.is_asked(&other));
        }
    }

    fn pool(memory: &str) -> Value {
        json!({
            "apiVersion": "hearth.dev/v1alpha1",
            "kind": "AgentPool",
            "metadata": {"name": "default", "namespace": "n", "uid": "p"},
            "spec": {"resources": {"limits": {"memory": memory}}},
        })
    }

    #[test]
    fn what_finds_no_room_says_so() {
        let functions = [("a", 2), ("b", 50)];
        let functions =
            functions.map(|(name, replicas)| fake::function(name, json!({"replicas": replicas})));
        // 32 Mi are for guests, and nobody knows yet that an instance needs more than one.
        let world = fake::world(&functions, &[pool("64Mi")], &[]);
        let (serial, mut pod) = connected(&world, "one");
        round(&world, now());
        assert_eq!(targets(&mut pod), expected(&[("a", 2), ("b", 30)]));
        assert_eq!(world.plans.short("uid-a"), None);
        assert_eq!(world.plans.short("uid-b"), Some((Short::Memory, 30)));
        let report = proto::FunctionReport {
            r#ref: Some(proto::FunctionRef {
                uid: "uid-b".to_owned(),
                ..proto::FunctionRef::default()
            }),
            instance_bytes: 2 << 20,
            ..proto::FunctionReport::default()
        };
        let report = proto::Report {
            functions: vec![report],
            ..proto::Report::default()
        };
        world.report("one", serial, report);
        round(&world, now());
        assert_eq!(targets(&mut pod), expected(&[("b", 15)]));
    }

    #[test]
    fn a_namespaces_quota_is_shared() {
        let functions = ["a", "b"].map(|name| fake::function(name, json!({"replicas": 8})));
        let quota = |hard: Value| {
            json!({
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": {"name": hard.to_string(), "namespace": "n"},
                "spec": {"hard": hard},
            })
        };
        let quotas = [
            quota(json!({"pods": "1"})),
            quota(json!({QUOTA: "10"})),
            quota(json!({QUOTA: "1k"})),
        ];
        let world = fake::world(&functions, &[], &quotas);
        let (_, mut pod) = connected(&world, "one");
        round(&world, now());
        assert_eq!(targets(&mut pod), expected(&[("a", 5), ("b", 5)]));
        assert_eq!(world.plans.short("uid-a"), Some((Short::Quota, 5)));
    }

    #[test]
    fn calls_raise_the_number_where_they_are() {
        let scaling = json!({"replicas": 2, "scaling": {"maxReplicas": 9, "policy": "Reactive"}});
        let world = fake::world(&[fake::function("a", scaling)], &[], &[]);
        let (serial, mut one) = connected(&world, "one");
        let (_, mut two) = connected(&world, "two");
        round(&world, now());
        assert_eq!(targets(&mut one), expected(&[("a", 1)]));
        let wanted = || {
            let (wanted, found) = world.plans.wanted("uid-a").unwrap();
            found.map(|found| (wanted, found.decision.by, found.decision.calls, found.came))
        };
        assert_eq!(wanted(), Some((2, "Replicas", 0, 0)));
        let report = |count| {
            let function = proto::FunctionReport {
                r#ref: Some(proto::FunctionRef {
                    uid: "uid-a".to_owned(),
                    ..proto::FunctionRef::default()
                }),
                instance_bytes: 1 << 20,
                start_us: 300_000,
                calls: vec![proto::CallCount {
                    outcome: "answered".to_owned(),
                    start: "hit".to_owned(),
                    count,
                }],
                ..proto::FunctionReport::default()
            };
            let functions = vec![function];
            world.report(
                "one",
                serial,
                proto::Report {
                    functions,
                    ..proto::Report::default()
                },
            );
        };
        report(0);
        assert!(!tick(&world, 1.0, now()));
        report(8);
        assert!(tick(&world, 1.0, now()));
        while round(&world, now()) {}
        // Eight at once, and what comes above that in one of a hundred cases; no more than the maximum.
        assert_eq!(wanted(), Some((9, "Maximum", 15, 8)));
        assert_eq!(targets(&mut one), expected(&[("a", 8)]));
        assert!(targets(&mut two)["a"] == 1);
    }

    #[test]
    fn a_new_leader_leaves_what_is_held_where_it_is() {
        let scaling = json!({"replicas": 2, "scaling": {"maxReplicas": 99}});
        let functions = [
            fake::function("steady", json!({"replicas": 7})),
            fake::function("busy", scaling),
        ];
        let pods = ["one", "two"].map(fake::ready_pod);
        let world = fake::world_with_pods(&functions, &[], &[], &pods);
        let holds = |steady: u32, busy: u32| {
            let function = |name: &str, target| proto::FunctionReport {
                r#ref: Some(proto::FunctionRef {
                    namespace: "n".to_owned(),
                    name: name.to_owned(),
                    uid: format!("uid-{name}"),
                }),
                state: proto::State::Serving.into(),
                answers: true,
                target,
                ..proto::FunctionReport::default()
            };
            Some(proto::Report {
                complete: true,
                functions: vec![function("steady", steady), function("busy", busy)],
                ..proto::Report::default()
            })
        };
        let (_, mut one) = connected_with(&world, "one", holds(3, 20));
        // The other one has not come back: nobody is told anything.
        assert!(round(&world, now()) && told(&mut one).is_empty());
        assert_eq!(world.plans.wanted("uid-busy"), None);
        let (_, mut two) = connected_with(&world, "two", holds(4, 1));
        round(&world, now());
        assert_eq!(targets(&mut one), expected(&[("busy", 20), ("steady", 3)]));
        assert_eq!(targets(&mut two), expected(&[("busy", 1), ("steady", 4)]));
        // What they said is heard, now that they were told.
        let heard = world.fleet.hosts_of("uid-busy");
        assert!(heard.len() == 2 && heard.iter().all(|host| host.report.is_some()));
        // Without calls, it falls as it would have fallen under the leader before.
        let later = |seconds: i64| now() + SignedDuration::from_secs(seconds);
        for second in 1..60 {
            tick(&world, 1.0, later(second));
            assert_eq!(scaled(&world, "uid-busy", later(second)), 21, "{second}");
        }
        for second in 60..200 {
            tick(&world, 1.0, later(second));
        }
        assert_eq!(scaled(&world, "uid-busy", later(200)), 2);
    }

    #[test]
    fn a_pod_that_comes_late_brings_what_its_calls_needed() {
        let scaling = json!({"replicas": 1, "scaling": {"maxReplicas": 99}});
        let world = fake::world(&[fake::function("a", scaling)], &[], &[]);
        assert_eq!(scaled(&world, "uid-a", now()), 1);
        let function = proto::FunctionReport {
            r#ref: Some(proto::FunctionRef {
                uid: "uid-a".to_owned(),
                ..proto::FunctionRef::default()
            }),
            target: 5,
            ..proto::FunctionReport::default()
        };
        let report = proto::Report {
            functions: vec![function],
            ..proto::Report::default()
        };
        let (_, mut pod) = connected_with(&world, "one", Some(report));
        assert_eq!(scaled(&world, "uid-a", now()), 5);
        assert_eq!(targets(&mut pod), expected(&[("a", 5)]));
    }

    /// What is wanted of a function that scales, after another round.
    fn scaled(world: &World, uid: &str, now: Timestamp) -> u32 {
        round(world, now);
        world.plans.wanted(uid).unwrap().0
    }

    #[test]
    fn ten_thousand_functions_are_planned_within_a_second() {
        let functions: Vec<_> = (0..10_000)
            .map(|index| fake::function(&format!("f{index:04}"), json!({"replicas": 2})))
            .collect();
        let world = fake::world(&functions, &[], &[]);
        let mut pods: Vec<_> = (0..10)
            .map(|pod| connected(&world, &format!("p{pod}")))
            .collect();
        round(&world, now());
        let sum: u32 = pods
            .iter_mut()
            .map(|(_, pod)| targets(pod).values().sum::<u32>())
            .sum();
        assert_eq!(sum, 20_000);
        let started = Instant::now();
        round(&world, now());
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "{:?}",
            started.elapsed()
        );
    }
}
