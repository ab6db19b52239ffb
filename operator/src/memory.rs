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
/// Time between two tries to read what is there.
const READS: Duration = Duration::from_secs(10);
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
            loop {
                world.plans.remember(self.read().await);
                if self.there.len() as u64 == SHARDS {
                    break;
                }
                // What is not read would be written over.
                tokio::time::sleep(READS).await;
            }
            loop {
                tokio::time::sleep(WRITES).await;
                if world.is_leading() {
                    self.write(world.plans.histories()).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// What is remembered, by UID, in ConfigMaps that were not read yet. Of one that does not decode nothing is: a forecast only
    /// adds to what calls need.
    async fn read(&mut self) -> HashMap<String, History> {
        let unread: Vec<_> = (0..SHARDS)
            .filter(|shard| !self.there.contains_key(shard))
            .collect();
        let configs = &self.configs;
        let read = unread
            .iter()
            .map(|shard| async { configs.get_opt(&name(*shard)).await });
        let read = future::join_all(read).await;
        let mut histories = HashMap::new();
        for (shard, config) in unread.into_iter().zip(read) {
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
    use std::sync::Mutex;

    use http::{Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// An API server that keeps what is applied to ConfigMaps, and fails where it shall.
    #[derive(Clone, Default)]
    struct Server {
        maps: Arc<Mutex<HashMap<String, Value>>>,
        failing: Arc<Mutex<Option<String>>>,
    }

    impl Server {
        fn client(&self) -> Client {
            let server = self.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let server = server.clone();
                async move {
                    let name = request.uri().path().rsplit('/').next().unwrap().to_owned();
                    let is_write = request.method() == http::Method::PATCH;
                    let body = request.into_body().collect().await?.to_bytes();
                    let status = |code: u16| json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "", "message": "by the test"});
                    let (code, answer) = if server.failing.lock().unwrap().as_ref() == Some(&name) {
                        (500, status(500))
                    } else if is_write {
                        let map: Value = serde_json::from_slice(&body)?;
                        server.maps.lock().unwrap().insert(name, map.clone());
                        (200, map)
                    } else {
                        let maps = server.maps.lock().unwrap();
                        maps.get(&name)
                            .map_or((404, status(404)), |map| (200, map.clone()))
                    };
                    let body = Body::from(answer.to_string().into_bytes());
                    Ok::<_, tower::BoxError>(Response::builder().status(code).body(body)?)
                }
            });
            Client::new(service, "default")
        }
    }

    #[tokio::test]
    async fn what_one_leader_wrote_the_next_one_reads_and_a_failed_read_is_tried_again() {
        let server = Server::default();
        let mut history = History::default();
        for minute in 0..3 {
            history.observe(minute * 600, 7);
        }
        let encoded = history.encode();
        let written = (0..64).map(|index| (format!("uid-{index}"), encoded.clone()));
        let mut first = Memory::new(server.client(), "n");
        assert!(first.read().await.is_empty());
        first.write(written).await;

        let mut second = Memory::new(server.client(), "n");
        *server.failing.lock().unwrap() = Some(name(3));
        let read = second.read().await;
        assert!(read.len() < 64 && second.there.len() as u64 == SHARDS - 1);
        *server.failing.lock().unwrap() = None;
        let rest = second.read().await;
        assert_eq!(
            (read.len() + rest.len(), second.there.len() as u64),
            (64, SHARDS)
        );
        assert!(
            read.values()
                .chain(rest.values())
                .all(|read| read.encode() == encoded)
        );
    }

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
