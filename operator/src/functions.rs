//! Reconciling an AgentFunction: pods are told of it by the planning loop; Service, EndpointSlice and status are written
//! here, where they differ.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_api::condition::ConditionType;
use hearth_api::v1alpha1::{
    AgentFunction, AgentFunctionStatus, AgentPool, BundleStatus, OpenWindow, ScalingDecision,
};
use hearth_api::{DEFAULT_POOL, FINALIZER, MANAGER, condition, convert};
use hearth_contract::proto;
use hearth_planner::Short;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

use crate::fleet::PodInfo;
use crate::metrics::Metrics;
use crate::objects;
use crate::pace::Pace;
use crate::planning::Found;
use crate::retry::{self, Retries};
use crate::scaling::Scaling;
use crate::status::{Seen, ServiceProblem};
use crate::world::{self, World};

/// Where nodes say their zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// How long a deleted function waits for nodes to let go of it.
const RELEASE_DEADLINE: Duration = Duration::from_secs(60);
/// Looks again at a deletion that waits; reports trigger it sooner.
const RELEASE_LOOK: Duration = Duration::from_secs(1);
/// Looks again at pods that have not come back.
const SILENCE_LOOK: Duration = Duration::from_secs(2);
/// How long the first pass over a function waits for its pods.
const FIRST_WORD: Duration = Duration::from_millis(50);
/// A look at what nobody told us about.
const RESYNC: Duration = Duration::from_secs(300);

/// What reconciling works with.
pub(crate) struct Context {
    /// The API server.
    pub(crate) client: Client,
    /// Everything that is known.
    pub(crate) world: Arc<World>,
    /// Where events go.
    pub(crate) recorder: Recorder,
    /// Counters.
    pub(crate) metrics: Metrics,
    /// Backoff per object.
    pub(crate) retries: Retries,
    /// Whose numbers are written when.
    pub(crate) pace: Pace,
}

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused or did not answer.
    #[error("{what}: {source}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// What came back.
        #[source]
        source: Box<kube::Error>,
    },
}

fn api(what: &'static str) -> impl FnOnce(kube::Error) -> Error {
    move |source| Error::Api {
        what,
        source: Box::new(source),
    }
}

/// One pass over one function.
pub(crate) async fn reconcile(
    function: Arc<AgentFunction>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    if !context.world.is_leading() {
        return Ok(Action::await_change());
    }
    let started = Instant::now();
    let action = if function.metadata.deletion_timestamp.is_some() {
        release(&function, &context).await
    } else {
        hold(&function, &context).await
    };
    context
        .metrics
        .reconciled(started.elapsed(), action.is_ok());
    if action.is_ok() {
        context.retries.reset(&function.uid().unwrap_or_default());
    }
    action
}

/// What to do after an error: try again, each time later.
pub(crate) fn on_error(
    function: Arc<AgentFunction>,
    error: &Error,
    context: Arc<Context>,
) -> Action {
    let pause = context.retries.next(&function.uid().unwrap_or_default());
    let Error::Api { source, .. } = error;
    if retry::is_of_ending_namespace(source) {
        tracing::debug!(function = %function.name_any(), %error, ?pause, "its namespace is being deleted");
    } else {
        tracing::warn!(function = %function.name_any(), %error, ?pause, "reconcile failed");
    }
    Action::requeue(pause)
}

async fn hold(function: &AgentFunction, context: &Context) -> Result<Action, Error> {
    let namespace = function.namespace().unwrap_or_default();
    let functions: Api<AgentFunction> = Api::namespaced(context.client.clone(), &namespace);
    // None of these needs another: together they take as long as the slowest, and pods are told and speak meanwhile.
    let (finalizer, pool, service, ()) = tokio::join!(
        add_finalizer(function, &functions),
        make_default_pool(function, context),
        write_service(function, context),
        hear_first(function, context),
    );
    finalizer?;
    pool?;
    let mut seen = look(function, context);
    seen.service_problem = service?;
    let silent = silent(function, &seen, context);
    // The endpoints of somebody else's Service are not ours to write.
    if seen.service_problem != Some(ServiceProblem::Conflict) {
        write_slice(function, &seen, &silent, context).await?;
    }
    if !silent.is_empty() && !context.world.fleet.is_settled() {
        // They answered before, and come back within seconds: until then nothing is known that should be written.
        return Ok(Action::requeue(SILENCE_LOOK));
    }
    let wait = write_status(function, &seen, &functions, context).await?;
    Ok(Action::requeue(wait.unwrap_or(RESYNC)))
}

async fn add_finalizer(
    function: &AgentFunction,
    functions: &Api<AgentFunction>,
) -> Result<(), Error> {
    let mut finalizers = function.finalizers().iter();
    if finalizers.any(|finalizer| finalizer == FINALIZER) {
        return Ok(());
    }
    let patch = json!({"apiVersion": "hearth.dev/v1alpha1", "kind": "AgentFunction", "metadata": {"finalizers": [FINALIZER]}});
    functions
        .patch(&function.name_any(), &apply(), &Patch::Apply(patch))
        .await
        .map_err(api("add the finalizer"))?;
    Ok(())
}

/// Has a change planned. In the first pass over a function: a moment for its pods, which answer within milliseconds where the
/// bundle is on the node. Then the first endpoints that are written are those that serve, and kube-proxy has one change less
/// to carry out.
async fn hear_first(function: &AgentFunction, context: &Context) {
    context.world.planned(function, FIRST_WORD).await;
    if function.status.is_none() {
        let uid = function.uid().unwrap_or_default();
        context.world.fleet.hear(&uid, FIRST_WORD).await;
    }
}

/// Endpoints whose pods say nothing, neither good nor bad, and are Ready as kubelet sees them: their streams are being
/// opened, and calls go on without.
fn silent(function: &AgentFunction, seen: &Seen, context: &Context) -> Vec<PodInfo> {
    let world = &context.world;
    let namespace = function.namespace().unwrap_or_default();
    let key = ObjectRef::new(&function.name_any()).within(&namespace);
    let Some(slice) = world.stores.slices.get(&key) else {
        return Vec::new();
    };
    let uid = function.uid().unwrap_or_default();
    let group = world.plans.serving(&uid);
    // Those of a pool that the function has left say nothing of it any more.
    let is_known = world.pool_of(function).is_some();
    let is_its = |pod: &Pod| !is_known || group.is_none() || objects::group_of(pod) == group;
    let spoke = |uid: &str| {
        seen.hosts
            .iter()
            .any(|host| host.pod.uid == uid && host.report.is_some())
    };
    let targets = slice
        .endpoints
        .iter()
        .filter_map(|endpoint| endpoint.target_ref.as_ref());
    targets
        .filter_map(|target| {
            let (name, uid) = (target.name.as_deref()?, target.uid.as_deref()?);
            let pod = world
                .stores
                .pods
                .get(&ObjectRef::new(name).within(&namespace))?;
            let stays =
                pod.uid().as_deref() == Some(uid) && objects::is_ready(&pod) && is_its(&pod);
            (stays && !spoke(uid)).then(|| PodInfo::of(&pod)).flatten()
        })
        .collect()
}

fn apply() -> PatchParams {
    PatchParams::apply(MANAGER).force()
}

fn look(function: &AgentFunction, context: &Context) -> Seen {
    let world = &context.world;
    let uid = function.uid().unwrap_or_default();
    let pool = world.pool_of(function);
    let name = world::pool_name(function);
    let mut hosts = world.hosts(&uid);
    if let Some(group) = world.plans.serving(&uid) {
        // On its way from one pool to another it is in both.
        hosts.retain(|host| host.pod.group == group);
    }
    Seen {
        generation: function.metadata.generation.unwrap_or_default(),
        replicas: world
            .plans
            .wanted(&uid)
            .map_or_else(|| convert::replicas(&function.spec), |(wanted, _)| wanted),
        short: world.plans.short(&uid),
        invalid: invalid(function).or_else(|| world.source(function).err()),
        missing_pool: (pool.is_none() && name != DEFAULT_POOL).then(|| name.to_owned()),
        nodes: pool.map(|pool| crate::pools::nodes(world, &pool).len()),
        service_problem: None,
        without_port: world.plans.port(&uid) == Some(None),
        is_pinned: world::pinned(function).is_some(),
        hosts,
    }
}

/// Why a spec cannot be used, if so.
fn invalid(function: &AgentFunction) -> Option<String> {
    let converted = convert::function(function, 0).err();
    let converted = converted.map(|error| error.to_string());
    converted.or_else(|| Some(Scaling::of(&function.spec).err()?.to_string()))
}

async fn make_default_pool(function: &AgentFunction, context: &Context) -> Result<(), Error> {
    if world::pool_name(function) != DEFAULT_POOL || context.world.pool_of(function).is_some() {
        return Ok(());
    }
    let pools: Api<AgentPool> = Api::namespaced(
        context.client.clone(),
        &function.namespace().unwrap_or_default(),
    );
    match pools
        .create(
            &PostParams::default(),
            &AgentPool::new(DEFAULT_POOL, Default::default()),
        )
        .await
    {
        Ok(_) => Ok(()),
        // Another function of the namespace was first.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(api("make the default pool")(error)),
    }
}

/// Writes the Service, or says why that cannot be.
async fn write_service(
    function: &AgentFunction,
    context: &Context,
) -> Result<Option<ServiceProblem>, Error> {
    let (name, namespace) = (
        function.name_any(),
        function.namespace().unwrap_or_default(),
    );
    let wanted = objects::service(function);
    let services: Api<Service> = Api::namespaced(context.client.clone(), &namespace);
    let key = ObjectRef::new(&name).within(&namespace);
    let ours = context.world.stores.services.get(&key);
    let ours = ours.filter(|service| objects::is_owned(service, function));
    let written = match ours {
        Some(service) if objects::says(&*service, &wanted) => return Ok(None),
        Some(_) => {
            // Not applied: what was created is not owned by who applies, and would stay.
            let parameters = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            services
                .patch(&name, &parameters, &Patch::Merge(&wanted))
                .await
        }
        None => {
            // Created, not applied: what is there already is somebody else's until it proves to be ours.
            let service: Service =
                serde_json::from_value(wanted.clone()).expect("a Service was built");
            let parameters = PostParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PostParams::default()
            };
            services.create(&parameters, &service).await
        }
    };
    match written {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 409 => conflict(function, &services).await,
        // 422 is validation's word, 400 many a webhook's. 403 may be a role that is on its way, and is tried again.
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
            Ok(Some(ServiceProblem::Refused(status.message.clone())))
        }
        Err(error) => Err(api("write the Service")(error)),
    }
}

/// Whose the Service is that the store did not have.
async fn conflict(
    function: &AgentFunction,
    services: &Api<Service>,
) -> Result<Option<ServiceProblem>, Error> {
    let there = services
        .get_opt(&function.name_any())
        .await
        .map_err(api("read the Service"))?;
    if let Some(service) = &there
        && objects::is_left_over(service, function)
    {
        drop_left_over(services, service).await?;
        return Ok(None);
    }
    let is_ours = there.is_some_and(|service| objects::is_owned(&service, function));
    Ok((!is_ours).then_some(ServiceProblem::Conflict))
}

/// Deletes the Service of an earlier function of the same name, which the garbage collector has not come to yet. Its own
/// event brings the next pass.
async fn drop_left_over(services: &Api<Service>, service: &Service) -> Result<(), Error> {
    let parameters = DeleteParams::default().preconditions(Preconditions {
        uid: service.uid(),
        resource_version: None,
    });
    match services.delete(&service.name_any(), &parameters).await {
        Ok(_) => Ok(()),
        // Somebody was faster.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(api("delete the Service of an earlier function")(error)),
    }
}

async fn write_slice(
    function: &AgentFunction,
    seen: &Seen,
    silent: &[PodInfo],
    context: &Context,
) -> Result<(), Error> {
    let uid = function.uid().unwrap_or_default();
    // The round that gives it a port brings another pass.
    let Some(port) = context.world.plans.port(&uid).flatten() else {
        return Ok(());
    };
    let (name, namespace) = (
        function.name_any(),
        function.namespace().unwrap_or_default(),
    );
    let mut pods = seen.serving();
    pods.extend_from_slice(silent);
    pods.sort_by(|a, b| a.uid.cmp(&b.uid));
    let zone_of = |node: &str| {
        let node = context.world.stores.nodes.get(&ObjectRef::new(node))?;
        node.labels().get(ZONE_LABEL).cloned()
    };
    let wanted = objects::slice(function, port, &pods, zone_of);
    let current = context
        .world
        .stores
        .slices
        .get(&ObjectRef::new(&name).within(&namespace));
    if current.is_some_and(|current| objects::slice_says(&current, &wanted)) {
        return Ok(());
    }
    let slices: Api<EndpointSlice> = Api::namespaced(context.client.clone(), &namespace);
    slices
        .patch(&name, &apply(), &Patch::Apply(&wanted))
        .await
        .map_err(api("write the EndpointSlice"))?;
    Ok(())
}

/// Writes the status where it says something else than before. Returns how long to wait where only numbers differ and it is
/// not their turn.
async fn write_status(
    function: &AgentFunction,
    seen: &Seen,
    functions: &Api<AgentFunction>,
    context: &Context,
) -> Result<Option<Duration>, Error> {
    let before = function.status.clone().unwrap_or_default();
    let status = status_of(function, &before, seen, context);
    if status == before {
        return Ok(None);
    }
    let uid = function.uid().unwrap_or_default();
    if !means_other(&before, &status)
        && let Err(wait) = context.pace.take(&uid, Instant::now())
    {
        return Ok(Some(wait));
    }
    let patch =
        json!({"apiVersion": "hearth.dev/v1alpha1", "kind": "AgentFunction", "status": status});
    functions
        .patch_status(&function.name_any(), &apply(), &Patch::Apply(patch))
        .await
        .map_err(api("write the status"))?;
    context.metrics.status_writes.inc();
    tell_scaling(function, &before, &status, seen, context).await;
    tell(
        function,
        &before.conditions,
        &status.conditions,
        seen,
        context,
    )
    .await;
    Ok(None)
}

/// Whether a status says more than other numbers: then it does not wait. [`ConditionType::Warm`] follows the calls, and is
/// a number in this.
fn means_other(before: &AgentFunctionStatus, after: &AgentFunctionStatus) -> bool {
    let meaning = |status: &AgentFunctionStatus| {
        let conditions = status.conditions.iter();
        let conditions = conditions.filter(|c| c.type_ != ConditionType::Warm.as_str());
        let conditions: Vec<_> = conditions
            .map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone()))
            .collect();
        (
            conditions,
            status.observed_generation,
            status.port,
            status.url.clone(),
            status.bundle.clone(),
        )
    };
    meaning(before) != meaning(after)
}

/// What is true of a function, in the words of its status.
fn status_of(
    function: &AgentFunction,
    before: &AgentFunctionStatus,
    seen: &Seen,
    context: &Context,
) -> AgentFunctionStatus {
    let (name, uid) = (function.name_any(), function.uid().unwrap_or_default());
    let plans = &context.world.plans;
    let mut status = before.clone();
    status.observed_generation = function.metadata.generation;
    status.conditions = condition::merge(
        seen.conditions(),
        &before.conditions,
        seen.generation,
        &Time(Timestamp::now()),
    );
    status.replicas = i32::try_from(seen.warm()).unwrap_or(i32::MAX);
    if let Some((wanted, found)) = plans.wanted(&uid) {
        status.wanted = Some(i32::try_from(wanted).unwrap_or(i32::MAX));
        status.wanted_by = found.as_ref().map(|found| found.decision.by.to_owned());
        let is_as_before = (status.wanted, &status.wanted_by) == (before.wanted, &before.wanted_by);
        // Another leader, which has found the same, finds it at another time.
        if !is_as_before || status.scaling.is_none() != found.is_none() {
            status.scaling = found.map(|found| decided(&found, before.wanted));
        }
    }
    status.selector = Some(format!("{}={name}", hearth_api::FUNCTION_LABEL));
    // What is not planned yet stays as it is.
    if let Some(port) = plans.port(&uid) {
        status.port = port.map(i32::from);
    }
    status.pods = i32::try_from(seen.serving().len()).unwrap_or(i32::MAX);
    let port = match convert::service_port(&function.spec) {
        80 => String::new(),
        port => format!(":{port}"),
    };
    let namespace = function.namespace().unwrap_or_default();
    status.url = Some(format!("http://{name}.{namespace}.svc{port}"));
    if let (None, Some(digest)) = (world::pinned(function), seen.digest()) {
        let is_known = before.bundle.as_ref().is_some_and(|bundle| {
            bundle.digest.as_ref() == Some(&digest) && bundle.image == function.spec.bundle.image
        });
        if !is_known {
            status.bundle = Some(BundleStatus {
                generation: function.metadata.generation,
                image: function.spec.bundle.image.clone(),
                digest: Some(digest),
            });
        }
    }
    status
}

/// A decision as the status shows it.
fn decided(found: &Found, before: Option<i32>) -> ScalingDecision {
    let number = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    let decision = &found.decision;
    let window = found.window.clone().zip(decision.window);
    ScalingDecision {
        time: Time(found.at),
        before,
        replicas: number(decision.replicas),
        window: window.map(|(name, (_, replicas))| OpenWindow {
            name,
            replicas: number(replicas),
        }),
        calls: number(decision.calls),
        forecast: number(decision.forecast),
        maximum: number(decision.maximum),
        calls_per_second: i32::try_from(found.came).unwrap_or(i32::MAX),
        start_microseconds: found.start_us.into(),
    }
}

/// An event when `spec.scaling` found another number.
async fn tell_scaling(
    function: &AgentFunction,
    before: &AgentFunctionStatus,
    after: &AgentFunctionStatus,
    seen: &Seen,
    context: &Context,
) {
    let (Some(scaling), Some(wanted)) = (&after.scaling, after.wanted) else {
        return;
    };
    let Some(former) = before.wanted.filter(|former| *former != wanted) else {
        return;
    };
    let short = match seen.short {
        Some((Short::Memory, planned)) => format!("; the pool pods' memory has room for {planned}"),
        Some((Short::Quota, planned)) => format!("; the namespace's quota leaves {planned}"),
        Some((Short::Pods, _)) | None => String::new(),
    };
    let window = scaling.window.as_ref();
    let window = window.map_or_else(String::new, |window| {
        format!(", window {} {}", window.name, window.replicas)
    });
    let note = format!(
        "{former} to {wanted} by {}: replicas {}{window}, calls {} ({} in a second, {} us to make an instance), forecast {}, maximum {}{short}",
        after.wanted_by.as_deref().unwrap_or_default(),
        scaling.replicas,
        scaling.calls,
        scaling.calls_per_second,
        scaling.start_microseconds,
        scaling.forecast,
        scaling.maximum,
    );
    publish(
        function,
        EventType::Normal,
        "Scaled",
        "Scale",
        note,
        context,
    )
    .await;
}

/// An event when Ready changed its status or its reason.
async fn tell(
    function: &AgentFunction,
    before: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
    after: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
    seen: &Seen,
    context: &Context,
) {
    let ready = |conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]| {
        conditions
            .iter()
            .find(|c| c.type_ == "Ready")
            .map(|c| (c.status.clone(), c.reason.clone(), c.message.clone()))
    };
    let (Some(after), before) = (ready(after), ready(before)) else {
        return;
    };
    if before
        .as_ref()
        .is_some_and(|before| (&before.0, &before.1) == (&after.0, &after.1))
    {
        return;
    }
    let failed = seen.failure().is_some()
        || seen.service_problem.is_some()
        || seen.invalid.is_some()
        || seen.missing_pool.is_some();
    let (type_, reason, note) = if after.0 == "True" {
        (
            EventType::Normal,
            "Ready".to_owned(),
            format!("{}{}", after.2, prepared(seen)),
        )
    } else if failed {
        (EventType::Warning, after.1, after.2)
    } else {
        (EventType::Normal, after.1, after.2)
    };
    publish(function, type_, &reason, "Reconcile", note, context).await;
}

async fn publish(
    function: &AgentFunction,
    type_: EventType,
    reason: &str,
    action: &str,
    note: String,
    context: &Context,
) {
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note.chars().take(1000).collect()),
        action: action.to_owned(),
        secondary: None,
    };
    if let Err(error) = context
        .recorder
        .publish(&event, &function.object_ref(&()))
        .await
        && !retry::is_of_ending_namespace(&error)
    {
        tracing::warn!(%error, "the event was not written");
    }
}

/// How the bundle came to its nodes, in words.
fn prepared(seen: &Seen) -> String {
    let placement = seen
        .hosts
        .iter()
        .find_map(|host| host.report.as_ref()?.placement);
    match placement {
        Some(proto::Placement { cached: true, .. }) => {
            "; the compiled bundle was on the node".to_owned()
        }
        Some(placement) => format!(
            "; pulled in {} ms, compiled in {} ms to {} KB",
            placement.pull_ms,
            placement.compile_ms,
            placement.artifact_bytes / 1000
        ),
        None => String::new(),
    }
}

/// Waits until no connected pod holds the function, then lets the object go.
async fn release(function: &AgentFunction, context: &Context) -> Result<Action, Error> {
    if !function
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
    {
        return Ok(Action::await_change());
    }
    let uid = function.uid().unwrap_or_default();
    context.world.planned(function, FIRST_WORD).await;
    let holders = context.world.fleet.hosts_of(&uid);
    let waited = function
        .metadata
        .deletion_timestamp
        .as_ref()
        .map_or(Duration::ZERO, |since| {
            Duration::try_from(Timestamp::now().duration_since(since.0)).unwrap_or_default()
        });
    if !holders.is_empty() && waited < RELEASE_DEADLINE {
        return Ok(Action::requeue(RELEASE_LOOK));
    }
    if !holders.is_empty() {
        let nodes: Vec<_> = holders.iter().map(|host| host.pod.node.as_str()).collect();
        tracing::warn!(function = %function.name_any(), ?nodes, "not released within 60 s; letting the object go");
    }
    let functions: Api<AgentFunction> = Api::namespaced(
        context.client.clone(),
        &function.namespace().unwrap_or_default(),
    );
    let name = function.name_any();
    // With its uid: an apply would make an object that is gone anew.
    let patch = json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": "AgentFunction",
        "metadata": {"name": name, "uid": uid, "finalizers": []},
    });
    match functions.patch(&name, &apply(), &Patch::Apply(patch)).await {
        Ok(_) => {}
        // Gone, or gone and made again: the new one is another's to release.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => return Err(api("remove the finalizer")(error)),
    }
    context.retries.reset(&uid);
    context.pace.forget(&uid);
    Ok(Action::await_change())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: serde_json::Value) -> AgentFunctionStatus {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn only_numbers_wait_for_their_turn() {
        let condition = |kind: &str, status: &str, message: &str| json!({"type": kind, "status": status, "reason": "R", "message": message, "lastTransitionTime": "2026-03-02T08:00:00Z"});
        let before = json!({
            "observedGeneration": 1, "replicas": 3, "wanted": 3, "port": 20000, "url": "u", "pods": 1,
            "conditions": [condition("Ready", "True", "1 pods answer calls"), condition("Warm", "True", "3 of 3")],
        });
        let check = |field: &str, value: serde_json::Value, expected: bool| {
            let mut after = before.clone();
            after[field] = value;
            let (before, after) = (status(before.clone()), status(after));
            assert_eq!(means_other(&before, &after), expected, "{field}: {after:?}");
        };
        let conditions = |ready: &str, warm: &str| {
            json!([
                condition("Ready", ready, "2 pods answer calls"),
                condition("Warm", warm, "2 of 3")
            ])
        };
        check("replicas", 2.into(), false);
        check("wanted", 9.into(), false);
        check("wantedBy", "Calls".into(), false);
        check("pods", 2.into(), false);
        check("conditions", conditions("True", "False"), false);
        check("conditions", conditions("False", "True"), true);
        check("observedGeneration", 2.into(), true);
        check("port", 20001.into(), true);
        check("bundle", json!({"digest": "sha256:a"}), true);
    }
}
