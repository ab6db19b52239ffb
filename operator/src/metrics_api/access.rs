//! Whether a user may read: asked of the API server, and remembered for a moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};

use super::answer::{GROUP, RESOURCE, Route, VERSION};
use super::front::User;

/// How long an answer is remembered: as long as the API server itself does it for aggregated APIs.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Answers that are remembered at most; above that all are forgotten.
const ANSWERS: usize = 4096;

/// Who asks for what.
type Question = (User, Route);
/// When it was answered, and why not, if not.
type Answer = (Instant, Option<String>);

/// Asks, and remembers.
pub(super) struct Access {
    client: Client,
    answers: Mutex<HashMap<Question, Answer>>,
}

impl Access {
    /// Asks with this client.
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            answers: Mutex::default(),
        }
    }

    /// Why a user may not read something; `None` when it may. Discovery says the same of every installation: whom the API server
    /// names may read it.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub(super) async fn may(
        &self,
        user: &User,
        route: &Route,
    ) -> Result<Option<String>, kube::Error> {
        let Some(attributes) = attributes(route) else {
            return Ok(None);
        };
        let question = (user.clone(), route.clone());
        let now = Instant::now();
        let known = self.answers().get(&question).cloned();
        if let Some((at, answer)) = known
            && now - at < REMEMBERED
        {
            return Ok(answer);
        }
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let review = reviews
            .create(&PostParams::default(), &review(user, attributes))
            .await?;
        let status = review.status.unwrap_or_default();
        let answer = match status.allowed && status.denied != Some(true) {
            true => None,
            false => Some(status.reason.unwrap_or_default()),
        };
        let mut answers = self.answers();
        if answers.len() >= ANSWERS {
            answers.clear();
        }
        answers.insert(question, (now, answer.clone()));
        Ok(answer)
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, HashMap<Question, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a user must be allowed to get; nothing for discovery.
fn attributes(route: &Route) -> Option<ResourceAttributes> {
    let Route::Metric {
        namespace,
        name,
        metric,
    } = route
    else {
        return None;
    };
    Some(ResourceAttributes {
        group: Some(GROUP.to_owned()),
        version: Some(VERSION.to_owned()),
        resource: Some(RESOURCE.to_owned()),
        subresource: Some(metric.clone()),
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
        verb: Some("get".to_owned()),
        ..ResourceAttributes::default()
    })
}

fn review(user: &User, attributes: ResourceAttributes) -> SubjectAccessReview {
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: (!user.uid.is_empty()).then(|| user.uid.clone()),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.iter().cloned().collect::<BTreeMap<_, _>>()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}
