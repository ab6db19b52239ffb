//! Task events to containerd, in order and with retries: a lost TaskExit leaves a pod running forever.
//!
//! One task sends one event at a time, so order holds. An event that containerd does not take is tried again with a
//! growing pause for ten minutes; containerd being restarted takes seconds. The queue holds [`QUEUE`] events: a pod
//! has few containers and each makes four, so a full queue means containerd has been away for long, and then task
//! calls wait for it.

use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{MessageField, MessageFull};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Events that may wait.
const QUEUE: usize = 64;
/// How long one event is tried.
const KEEP_TRYING: Duration = Duration::from_secs(600);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Bound of one call.
const CALL: Duration = Duration::from_secs(5);

/// Sends events. Clones share the queue; when the last is dropped the sender ends after the queue is empty.
#[derive(Debug, Clone)]
pub struct Events {
    queue: mpsc::Sender<Envelope>,
    namespace: String,
}

impl Events {
    /// Starts the sender. `address` is containerd's ttrpc socket.
    pub fn start(address: String, namespace: String) -> (Self, JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let sender = tokio::spawn(send_all(address, waiting));
        (Self { queue, namespace }, sender)
    }

    /// Puts an event into the queue; waits while it is full.
    pub async fn publish<M: containerd_shim::event::Event + MessageFull>(&self, event: M) {
        let topic = event.topic();
        let value = match event.write_to_bytes() {
            Ok(value) => value,
            Err(error) => {
                tracing::error!(topic, %error, "event cannot be encoded");
                return;
            }
        };
        let envelope = Envelope {
            timestamp: MessageField::some(timestamp(SystemTime::now())),
            namespace: self.namespace.clone(),
            topic,
            event: MessageField::some(Any {
                // containerd's typeurl wants the bare name.
                type_url: M::descriptor().full_name().to_owned(),
                value,
                ..Default::default()
            }),
            ..Default::default()
        };
        if self.queue.send(envelope).await.is_err() {
            tracing::error!("event sender has ended");
        }
    }
}

/// A wire timestamp.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
        ..Default::default()
    }
}

async fn send_all(address: String, mut waiting: mpsc::Receiver<Envelope>) {
    let mut client = None;
    while let Some(envelope) = waiting.recv().await {
        let give_up = Instant::now() + KEEP_TRYING;
        let mut pause = Duration::from_millis(50);
        while let Err(error) = send(&address, &mut client, &envelope).await {
            client = None;
            if Instant::now() > give_up {
                tracing::error!(topic = envelope.topic, %error, "event was not taken by containerd and is dropped");
                break;
            }
            tracing::warn!(topic = envelope.topic, %error, "event was not taken by containerd, trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

async fn send(
    address: &str,
    client: &mut Option<EventsClient>,
    envelope: &Envelope,
) -> Result<(), ttrpc::Error> {
    let client = match client {
        Some(client) => client,
        None => {
            let address = match address.contains("://") {
                true => address.to_owned(),
                false => format!("unix://{address}"),
            };
            client.insert(EventsClient::new(Client::connect(&address).await?))
        }
    };
    let request = ForwardRequest {
        envelope: MessageField::some(envelope.clone()),
        ..Default::default()
    };
    client
        .forward(ttrpc::context::with_duration(CALL), &request)
        .await
        .map(drop)
}
