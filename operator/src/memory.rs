//! What was needed on earlier days survives a restart: in ConfigMaps of the operator's namespace, written now and then by the
//! leader, read by the next one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future;
use hearth_api::MANAGER;
use hearth_planner::history::History;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use tokio_util::sync::CancellationToken;

use crate::world::World;

/// Time between two writes.
const WRITES: Duration = Duration::from_secs(600);
/// Time between two looks at whether this replica leads.
const LOOK: Duration = Duration::from_secs(1);
/// ConfigMaps that functions are divided over. The chart names as many.
const SHARDS: u64 = 16;
/// Bytes in one ConfigMap, which may have a mebibyte.
const SHARD_BYTES: usize = 900 << 10;

/// Where it is kept.
pub(crate) struct Memory {
    configs: Api<ConfigMap>,
    /// What stands in each ConfigMap, as far as this replica wrote or read it.
    there: HashMap<u64, BTreeMap<String, ByteString>>,
}

impl Memory {
    /// In the operator's own namespace.
    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        Self {
            configs: Api::namespaced(client, namespace),
            there: HashMap::new(),
        }
    }

    /// Reads when this replica begins to lead, and writes while it does, until `stop`. Planning does not wait for either.
    pub(crate) async fn run(mut self, world: Arc<World>, stop: CancellationToken) {
        let work = async {
            while !world.is_leading() {
                tokio::time::sleep(LOOK).await;
            }
            world.plans.remember(self.read().await);
            // A replica that no longer leads ends.
            loop {
                tokio::time::sleep(WRITES).await;
                self.write(world.plans.histories()).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// What is remembered, by UID. What cannot be read is forgotten: a forecast only adds to what calls need.
    async fn read(&mut self) -> HashMap<String, History> {
        let names: Vec<_> = (0..SHARDS).map(name).collect();
        let read = future::join_all(names.iter().map(|name| self.configs.get_opt(name))).await;
        let mut histories = HashMap::new();
        for (shard, config) in (0..).zip(read) {
            let data = match config {
                Ok(config) => config
                    .and_then(|config| config.binary_data)
                    .unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(%error, "what was needed on earlier days cannot be read");
                    continue;
                }
            };
            let decoded = data.iter();
            let decoded =
                decoded.filter_map(|(uid, bytes)| Some((uid.clone(), History::decode(&bytes.0)?)));
            histories.extend(decoded);
            self.there.insert(shard, data);
        }
        histories
    }

    /// Writes what changed, of functions that have something to remember.
    async fn write(&mut self, histories: impl IntoIterator<Item = (String, Vec<u8>)>) {
        for (shard, data) in shards(histories) {
            if self.there.get(&shard) == Some(&data) {
                continue;
            }
            let config = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(name(shard)),
                    ..ObjectMeta::default()
                },
                binary_data: Some(data.clone()),
                ..ConfigMap::default()
            };
            let (name, parameters) = (name(shard), PatchParams::apply(MANAGER).force());
            let patch = Patch::Apply(&config);
            match self.configs.patch(&name, &parameters, &patch).await {
                Ok(_) => drop(self.there.insert(shard, data)),
                // The next write tries again.
                Err(error) => tracing::warn!(%error, "what was needed is not remembered"),
            }
        }
    }
}

fn name(shard: u64) -> String {
    format!("hearth-history-{shard}")
}

/// Divides histories over the ConfigMaps. Of what does not fit, those are left out whose UID is last.
fn shards(
    histories: impl IntoIterator<Item = (String, Vec<u8>)>,
) -> BTreeMap<u64, BTreeMap<String, ByteString>> {
    let mut shards: BTreeMap<u64, BTreeMap<String, ByteString>> =
        (0..SHARDS).map(|shard| (shard, BTreeMap::new())).collect();
    for (uid, bytes) in histories {
        let sum = uid.bytes().fold(0_u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
        let shard = shards.entry(sum % SHARDS).or_default();
        shard.insert(uid, ByteString(bytes));
    }
    for shard in shards.values_mut() {
        let mut room = SHARD_BYTES;
        shard.retain(|uid, bytes| {
            let left = room.checked_sub(uid.len() + bytes.0.len());
            room = left.unwrap_or(room);
            left.is_some()
        });
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_left_out() {
        let histories = (0..10_000).map(|index| (format!("uid-{index:05}"), vec![7; 2000]));
        let shards = shards(histories);
        assert_eq!(shards.len() as u64, SHARDS);
        for shard in shards.values() {
            let bytes: usize = shard
                .iter()
                .map(|(uid, bytes)| uid.len() + bytes.0.len())
                .sum();
            assert!(bytes <= SHARD_BYTES && bytes > SHARD_BYTES / 2, "{bytes}");
        }
    }
}
