//! The gRPC stream to the operator. While it is down, every function goes on with the last known wishes.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use hearth_contract::STREAM_PROTOCOL;
use hearth_contract::proto::stream_client::StreamClient;
use hearth_contract::proto::{self, FromPod, FunctionReport, from_pod};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::{Operator, Wishes};
use crate::host::{Board, Desired};
use crate::pod_file::read_beneath;

/// Bound of a dial, with TLS.
const DIAL: Duration = Duration::from_secs(5);
/// A peer that does not answer a ping so long is gone.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Longest pause between two dials.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Changes are collected for so long before they are reported.
const COLLECT: Duration = Duration::from_millis(10);
/// A report is due after so long without a change.
const AT_LEAST: Duration = Duration::from_secs(10);
/// Reports that wait for a slow operator; more are not made, the next one holds what they would have said.
const QUEUE: usize = 4;
/// Largest message from the operator: thousands of functions, some with their code.
const MESSAGE_BYTES: usize = 512 << 20;
/// Largest token, in bytes.
const TOKEN_BYTES: u64 = 64 << 10;

/// Keeps a stream to the operator for the container's life.
pub async fn run(
    operator: Operator,
    desired: watch::Sender<Desired>,
    mut board: watch::Receiver<Board>,
) {
    let mut wishes = Wishes::default();
    let mut failures = 0u32;
    loop {
        let began = Instant::now();
        let ended = session(&operator, &mut wishes, &desired, &mut board).await;
        if board.has_changed().is_err() {
            return;
        }
        failures = match began.elapsed() > LONGEST_PAUSE {
            true => 0,
            false => failures.saturating_add(1),
        };
        let pause = pause(failures, RandomState::new().build_hasher().finish());
        match ended {
            Ok(()) => tracing::info!("operator closed the stream"),
            Err(status) if status.code() == Code::FailedPrecondition => {
                tracing::error!(reason = status.message(), "operator refuses this shim");
            }
            Err(status) => {
                tracing::warn!(reason = %status, pause_ms = pause.as_millis(), "no stream to the operator");
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// 100 ms doubling to five seconds, of which a random half: shims that lost one operator do not come back at once.
fn pause(failures: u32, random: u64) -> Duration {
    let full = Duration::from_millis(100)
        .saturating_mul(2u32.saturating_pow(failures.min(10)))
        .min(LONGEST_PAUSE);
    let part = u32::try_from(random % 1000).unwrap_or(0);
    full / 2 + full / 2 * part / 1000
}

async fn session(
    operator: &Operator,
    wishes: &mut Wishes,
    desired: &watch::Sender<Desired>,
    board: &mut watch::Receiver<Board>,
) -> Result<(), Status> {
    let fingerprint = match board.wait_for(|board| !board.fingerprint.is_empty()).await {
        Ok(board) => board.fingerprint.clone(),
        Err(_) => return Ok(()),
    };
    let (reports, outgoing) = mpsc::channel::<FromPod>(QUEUE);
    let hello = proto::Hello {
        protocol: STREAM_PROTOCOL,
        shim_version: env!("CARGO_PKG_VERSION").to_owned(),
        engine_fingerprint: fingerprint,
        pod_uid: operator.pod_uid.clone(),
    };
    let hello = FromPod {
        message: Some(from_pod::Message::Hello(hello)),
    };
    if reports.try_send(hello).is_err() {
        return Err(Status::internal("a new queue has no place"));
    }
    let mut client = dial(operator).await?;
    let mut request = Request::new(ReceiverStream::new(outgoing));
    let token = read_token(operator).map_err(|error| {
        Status::unauthenticated(format!("reading {}: {error}", operator.token.display()))
    })?;
    let value = format!("Bearer {token}")
        .parse()
        .map_err(|_| Status::unauthenticated("the token is not printable"))?;
    request.metadata_mut().insert("authorization", value);
    let response = tokio::time::timeout(DIAL, client.connect(request))
        .await
        .map_err(|_| Status::deadline_exceeded("operator did not answer the call in time"))??;
    let mut incoming = response.into_inner();
    tracing::info!(url = operator.url, "stream to the operator is open");

    let mut sent = Sent::default();
    let mut dirty = true;
    let mut last = Instant::now();
    loop {
        let due = last + if dirty { COLLECT } else { AT_LEAST };
        tokio::select! {
            message = incoming.message() => match message? {
                Some(message) => {
                    wishes.take(message);
                    desired.send_modify(|now| *now = wishes.desired(now));
                    // What is done about it shows on the board; what cannot be done is said at once.
                    dirty |= !wishes.refused.is_empty();
                }
                None => return Ok(()),
            },
            changed = board.changed(), if !dirty => match changed {
                Ok(()) => dirty = true,
                Err(_) => return Ok(()),
            },
            () = tokio::time::sleep_until(due) => {
                last = Instant::now();
                let place = match reports.try_reserve() {
                    Ok(place) => place,
                    // An operator that reads slowly hears what is true once there is a place again, and not all that was.
                    Err(mpsc::error::TrySendError::Full(())) => {
                        dirty = true;
                        continue;
                    }
                    Err(mpsc::error::TrySendError::Closed(())) => return Ok(()),
                };
                dirty = false;
                if let Some(report) = sent.report(&board.borrow_and_update(), wishes, last) {
                    place.send(FromPod { message: Some(from_pod::Message::Report(report)) });
                }
            },
        }
    }
}

async fn dial(operator: &Operator) -> Result<StreamClient<tonic::transport::Channel>, Status> {
    let failed = |error: tonic::transport::Error| {
        // tonic's own text is "transport error"; the cause says which.
        let cause = std::error::Error::source(&error)
            .map_or_else(|| error.to_string(), ToString::to_string);
        Status::unavailable(format!(
            "dialling {} failed, maybe a NetworkPolicy or firewall between node and operator: {cause}",
            operator.url
        ))
    };
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&operator.authority))
        .domain_name(&operator.name);
    let endpoint = Endpoint::from_shared(operator.url.clone())
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(failed)?
        .connect_timeout(DIAL)
        .http2_keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await.map_err(failed)?;
    Ok(StreamClient::new(channel).max_decoding_message_size(MESSAGE_BYTES))
}

fn read_token(operator: &Operator) -> std::io::Result<String> {
    let token = read_beneath(&operator.volume, &operator.token, TOKEN_BYTES)?;
    Ok(token.trim().to_owned())
}

/// What the operator was told on this stream.
#[derive(Debug, Default)]
struct Sent {
    at: Option<Instant>,
    revision: u64,
    functions: BTreeMap<String, FunctionReport>,
    removed: BTreeSet<String>,
}

impl Sent {
    /// The next report, if one is due `at` this time.
    fn report(&mut self, board: &Board, wishes: &Wishes, at: Instant) -> Option<proto::Report> {
        let mut now = board.functions.clone();
        for (uid, refusal) in &wishes.refused {
            now.insert(uid.clone(), refusal.clone());
        }
        let complete = self.at.is_none();
        let changed: Vec<_> = now
            .iter()
            .filter(|(uid, report)| complete || self.functions.get(*uid) != Some(report))
            .map(|(_, report)| report.clone())
            .collect();
        let removed: Vec<_> = board
            .removed
            .iter()
            .filter(|uid| !self.removed.contains(*uid) && !now.contains_key(*uid))
            .cloned()
            .collect();
        let overdue = self.at.is_none_or(|last| at - last >= AT_LEAST);
        if changed.is_empty() && removed.is_empty() && self.revision == board.revision && !overdue {
            return None;
        }
        self.at = Some(at);
        self.revision = board.revision;
        self.functions = now;
        self.removed = board.removed.iter().cloned().collect();
        Some(proto::Report {
            revision: board.revision,
            complete,
            functions: changed,
            removed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(revision: u64, functions: &[(&str, u32)], removed: &[&str]) -> Board {
        Board {
            revision,
            functions: functions
                .iter()
                .map(|(uid, warm)| {
                    let report = FunctionReport {
                        warm: *warm,
                        ..FunctionReport::default()
                    };
                    ((*uid).to_owned(), report)
                })
                .collect(),
            removed: removed.iter().map(|uid| (*uid).to_owned()).collect(),
            ..Board::default()
        }
    }

    #[test]
    fn reports_say_what_changed_and_all_now_and_then() {
        let now = Instant::now();
        let mut sent = Sent::default();
        let mut report = |revision, functions: &[_], removed: &[_], at| {
            sent.report(&board(revision, functions, removed), &Wishes::default(), at)
        };
        let first = report(1, &[("a", 1), ("b", 1)], &[], now).unwrap();
        assert!(first.complete);
        assert_eq!(first.functions.len(), 2);
        assert!(report(1, &[("a", 1), ("b", 1)], &[], now).is_none());
        let second = report(1, &[("a", 2), ("b", 1)], &[], now).unwrap();
        assert!(!second.complete);
        assert_eq!(second.functions.len(), 1);
        let third = report(2, &[("a", 2)], &["b"], now).unwrap();
        assert_eq!((third.revision, third.removed), (2, vec!["b".to_owned()]));
        assert!(report(2, &[("a", 2)], &["b"], now).is_none());
        assert!(report(2, &[("a", 2)], &["b"], now + AT_LEAST).is_some());
    }

    #[test]
    fn pauses_grow_to_their_bound_and_differ() {
        for random in [0, 1, 500, 999, u64::MAX] {
            for failures in [0, 1, 5, 50, u32::MAX] {
                assert!(pause(failures, random) <= LONGEST_PAUSE);
            }
            assert!(pause(0, random) >= Duration::from_millis(50));
        }
        assert!(pause(9, 0) < pause(9, 900));
    }
}
