//! Objects that cannot be read, because another version of Hearth wrote them: they are passed over, with a word to whoever has
//! them, and all others go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_api::MANAGER;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Client, Resource};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::world::World;

/// An object that cannot be read, and why.
#[derive(Debug)]
pub(crate) struct Unreadable {
    object: ObjectReference,
    problem: String,
}

/// An event without objects that cannot be read; those are told of. One that was read before stays as it was then, until it is
/// deleted.
pub(crate) fn without<K>(
    event: watcher::Event<DeserializeGuard<K>>,
    known: &Store<K>,
    told: &mpsc::UnboundedSender<Unreadable>,
) -> Option<watcher::Event<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    use watcher::Event;
    // What it was when it was read last.
    let last = |metadata: &ObjectMeta| {
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let key = ObjectRef::new(metadata.name.as_deref().unwrap_or_default());
        known
            .get(&key.within(namespace))
            .map(|object| K::clone(&*object))
    };
    let readable = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(object) => Some(object),
        Err(invalid) => {
            let last = last(&invalid.metadata);
            let problem = invalid.error.clone();
            let object = DeserializeGuard::<K>(Err(invalid)).object_ref(&());
            // The receiver lives as long as the process.
            let _ = told.send(Unreadable { object, problem });
            last
        }
    };
    Some(match event {
        Event::Apply(guard) => Event::Apply(readable(guard)?),
        // A list takes the place of all that is known.
        Event::InitApply(guard) => Event::InitApply(readable(guard)?),
        Event::Delete(guard) => Event::Delete(match guard.0 {
            Ok(object) => object,
            Err(invalid) => last(&invalid.metadata)?,
        }),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    })
}

/// Says in the log, and while this replica leads in an event of the object, what cannot be read, until `stop`.
pub(crate) async fn tell(
    mut unreadable: mpsc::UnboundedReceiver<Unreadable>,
    client: Client,
    world: Arc<World>,
    mut leads: watch::Receiver<()>,
    stop: CancellationToken,
) {
    let reporter = Reporter {
        controller: MANAGER.into(),
        instance: None,
    };
    let recorder = Recorder::new(client, reporter);
    let mut waiting = BTreeMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(one) = unreadable.recv() => {
                let object = &one.object;
                tracing::warn!(kind = object.kind, namespace = object.namespace, name = object.name, problem = one.problem, "an object cannot be read and is passed over");
                waiting.insert(one.object.uid.clone(), one);
            }
            Ok(()) = leads.changed() => {}
            else => return,
        }
        if !world.is_leading() {
            continue;
        }
        for Unreadable { object, problem } in std::mem::take(&mut waiting).into_values() {
            let event = Event {
                type_: EventType::Warning,
                reason: "Unreadable".to_owned(),
                note: Some(format!(
                    "this version of the operator cannot read it and passes it over ({problem}): upgrade the operator, or take back what it does not know"
                )),
                action: "Read".to_owned(),
                secondary: None,
            };
            if let Err(error) = recorder.publish(&event, &object).await {
                tracing::warn!(%error, "the event was not written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_api::v1alpha1::AgentFunction;
    use kube::ResourceExt;
    use kube::runtime::reflector;
    use serde_json::json;

    use super::*;

    fn guard(name: &str, spec: serde_json::Value) -> DeserializeGuard<AgentFunction> {
        let object = json!({
            "apiVersion": "hearth.dev/v1alpha1",
            "kind": "AgentFunction",
            "metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}")},
            "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn one_object_that_cannot_be_read_keeps_no_other_from_being_read() {
        use watcher::Event;
        let (store, mut writer) = reflector::store::<AgentFunction>();
        let (told, mut heard) = mpsc::unbounded_channel();
        let good = || json!({"bundle": {"image": "a"}});
        let bad = || json!({"bundle": {"image": "a"}, "scaling": {"policy": "Clairvoyant"}});
        let names = |store: &Store<AgentFunction>| {
            let mut names: Vec<_> = store.state().iter().map(|f| f.name_any()).collect();
            names.sort();
            names
        };
        let mut see = |event| {
            if let Some(event) = without(event, &store, &told) {
                writer.apply_watcher_event(&event);
            }
            names(&store)
        };
        see(Event::Init);
        see(Event::InitApply(guard("a", good())));
        see(Event::InitApply(guard("b", bad())));
        see(Event::InitApply(guard("c", good())));
        assert_eq!(see(Event::InitDone), ["a", "c"]);
        let unreadable = heard.try_recv().unwrap();
        assert_eq!(unreadable.object.name.as_deref(), Some("b"));
        assert_eq!(unreadable.object.uid.as_deref(), Some("uid-b"));
        assert!(unreadable.problem.contains("Clairvoyant"), "{unreadable:?}");
        // One that was read before goes on as it was, until it is deleted.
        assert_eq!(see(Event::Apply(guard("a", bad()))), ["a", "c"]);
        see(Event::Init);
        see(Event::InitApply(guard("a", bad())));
        see(Event::InitApply(guard("b", bad())));
        see(Event::InitApply(guard("c", good())));
        assert_eq!(see(Event::InitDone), ["a", "c"]);
        assert_eq!(see(Event::Delete(guard("a", bad()))), ["c"]);
        assert_eq!(see(Event::Delete(guard("b", bad()))), ["c"]);
        assert_eq!(see(Event::Apply(guard("b", good()))), ["b", "c"]);
    }
}
