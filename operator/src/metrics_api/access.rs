//! Whether a user may read: asked of the API server, and remembered for a moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};

use super::answer::{GROUP, RESOURCE, Route, VERSION};
use super::front::User;

/// How long an answer is remembered: as long as the API server itself does it for aggregated APIs.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Answers that are remembered at most; above that all are forgotten.
const ANSWERS: usize = 4096;

/// Who asks for which path.
type Question = (User, String);
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

    /// Why a user may not read what is behind a path; `None` when it may.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub(super) async fn may(
        &self,
        user: &User,
        route: &Route,
        path: &str,
    ) -> Result<Option<String>, kube::Error> {
        let question = (user.clone(), path.to_owned());
        let now = Instant::now();
        let known = self.answers().get(&question).cloned();
        if let Some((at, answer)) = known
            && now - at < REMEMBERED
        {
            return Ok(answer);
        }
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let review = reviews
            .create(&PostParams::default(), &review(user, route, path))
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

fn review(user: &User, route: &Route, path: &str) -> SubjectAccessReview {
    let verb = Some("get".to_owned());
    let mut spec = SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        uid: (!user.uid.is_empty()).then(|| user.uid.clone()),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.iter().cloned().collect::<BTreeMap<_, _>>()),
        ..SubjectAccessReviewSpec::default()
    };
    match route {
        Route::Metric {
            namespace,
            name,
            metric,
        } => {
            spec.resource_attributes = Some(ResourceAttributes {
                group: Some(GROUP.to_owned()),
                version: Some(VERSION.to_owned()),
                resource: Some(RESOURCE.to_owned()),
                subresource: Some(metric.clone()),
                namespace: Some(namespace.clone()),
                name: Some(name.clone()),
                verb,
                ..ResourceAttributes::default()
            });
        }
        Route::Groups | Route::Group | Route::Version => {
            spec.non_resource_attributes = Some(NonResourceAttributes {
                path: Some(path.to_owned()),
                verb,
            });
        }
    }
    SubjectAccessReview {
        spec,
        ..SubjectAccessReview::default()
    }
}
