//! Growing pauses per object: kube-rs repeats at a flat rate by itself. And what need not be told when it fails.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The first pause after a failure.
const FIRST: Duration = Duration::from_secs(1);
/// Pauses double up to this.
const LONGEST: Duration = Duration::from_secs(300);

/// The cause that the API server names when it refuses new objects of a namespace that is being deleted
/// (`NamespaceTerminatingCause` of Kubernetes' `k8s.io/api/core/v1`).
const NAMESPACE_ENDS: &str = "NamespaceTerminating";

/// Whether the API server refused because the object's namespace is being deleted: the object goes soon too, and nobody has to do
/// anything.
pub(crate) fn is_of_ending_namespace(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .into_iter()
        .any(|cause| cause.reason == NAMESPACE_ENDS)
}

/// Failures in a row, per object. An entry goes when its object succeeds or is deleted.
#[derive(Debug, Default)]
pub(crate) struct Retries(Mutex<HashMap<String, u32>>);

impl Retries {
    /// One more failure: how long to wait.
    pub(crate) fn next(&self, uid: &str) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(uid.to_owned()).or_default();
        *count = count.saturating_add(1);
        // A tenth more or less, by the object, so that objects that failed together do not come back together.
        let jitter = uid.bytes().fold(*count, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        }) % 21;
        FIRST.saturating_mul(1 << (*count - 1).min(16)).min(LONGEST) * (90 + jitter) / 100
    }

    /// It worked.
    pub(crate) fn reset(&self, uid: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_namespace_that_ends_is_told_from_other_refusals() {
        let refused = |reason: &str| {
            // As it comes over the wire.
            let cause = json!({ "reason": reason, "message": "", "field": "metadata.namespace" });
            let details = json!({ "causes": [cause] });
            let status = json!({ "status": "Failure", "code": 403, "reason": "Forbidden", "details": details });
            let status: Status = serde_json::from_value(status).unwrap();
            kube::Error::Api(Box::new(status))
        };
        assert!(is_of_ending_namespace(&refused("NamespaceTerminating")));
        assert!(!is_of_ending_namespace(&refused("FieldValueForbidden")));
    }

    #[test]
    fn pauses_grow_up_to_a_bound_and_start_anew() {
        let retries = Retries::default();
        let pauses: Vec<_> = (0..12).map(|_| retries.next("a")).collect();
        assert!(pauses[0] < Duration::from_millis(1101) && pauses[0] >= Duration::from_millis(900));
        assert!(pauses[4] > pauses[2] * 2);
        assert!(pauses[11] <= LONGEST * 11 / 10 && pauses[11] >= LONGEST * 9 / 10);
        retries.reset("a");
        assert!(retries.next("a") < Duration::from_millis(1101));
    }
}
