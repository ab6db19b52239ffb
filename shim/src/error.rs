//! What can go wrong in a task call, and the one table from there to ttrpc codes.

use hearth_contract::FailureReason;

use crate::container::{IllegalMove, State};

/// A task call that was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No container of that id is here.
    #[error("container {0} is not in this pod")]
    NoContainer(String),
    /// A container of that id is here already.
    #[error("container {0} exists already")]
    Exists(String),
    /// The container's state does not allow the call.
    #[error(transparent)]
    Illegal(#[from] IllegalMove),
    /// It was deleted while it was being created.
    #[error("container {0} was deleted while it was being created")]
    Abandoned(String),
    /// An earlier start failed, and what it was to start is gone.
    #[error("container {0} could not be started; delete it and create it anew")]
    StartedInVain(String),
    /// A call that needs processes.
    #[error("{call} is not available: {why}")]
    NotOffered {
        /// The call, in the words of its user.
        call: &'static str,
        /// Why, and what to do instead.
        why: &'static str,
    },
    /// The request cannot be read.
    #[error("{0}")]
    InvalidRequest(String),
    /// The container's bundle cannot run.
    #[error("{}: {message}", reason.as_str())]
    Bundle {
        /// The word that conditions and reports use too.
        reason: FailureReason,
        /// A sentence for the pod's events.
        message: String,
    },
    /// The node refused something.
    #[error("{doing}: {source}")]
    Node {
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl TaskError {
    /// An I/O error with what was being done.
    pub fn node(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Node { doing, source }
    }

    /// The table.
    pub fn code(&self) -> ttrpc::Code {
        match self {
            Self::NoContainer(_) => ttrpc::Code::NOT_FOUND,
            Self::Exists(_) => ttrpc::Code::ALREADY_EXISTS,
            // containerd takes a signal to what has ended for done only when it hears NOT_FOUND.
            Self::Illegal(IllegalMove {
                from: State::Stopped(_),
                call: "kill",
                ..
            }) => ttrpc::Code::NOT_FOUND,
            Self::Illegal(_) | Self::StartedInVain(_) => ttrpc::Code::FAILED_PRECONDITION,
            Self::Abandoned(_) => ttrpc::Code::ABORTED,
            Self::NotOffered { .. } => ttrpc::Code::UNIMPLEMENTED,
            Self::InvalidRequest(_) => ttrpc::Code::INVALID_ARGUMENT,
            Self::Bundle { reason, .. } => match reason {
                FailureReason::ImageNotFound => ttrpc::Code::NOT_FOUND,
                FailureReason::PullFailed
                | FailureReason::NodeFault
                | FailureReason::Quarantined => ttrpc::Code::UNAVAILABLE,
                FailureReason::CompileLimit => ttrpc::Code::RESOURCE_EXHAUSTED,
                FailureReason::NotABundle
                | FailureReason::CoreModule
                | FailureReason::InvalidBundle
                | FailureReason::UnknownImport
                | FailureReason::NoEntryPoint
                | FailureReason::StartFailed
                | FailureReason::LoadFailed => ttrpc::Code::FAILED_PRECONDITION,
            },
            Self::Node { .. } => ttrpc::Code::INTERNAL,
        }
    }
}

impl From<TaskError> for ttrpc::Error {
    fn from(error: TaskError) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code(), error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_codes_that_containerd_branches_on() {
        let check = |error: TaskError, expected| assert_eq!(error.code(), expected, "{error}");
        check(TaskError::NoContainer("a".into()), ttrpc::Code::NOT_FOUND);
        check(TaskError::Exists("a".into()), ttrpc::Code::ALREADY_EXISTS);
        check(
            TaskError::NotOffered {
                call: "exec",
                why: "",
            },
            ttrpc::Code::UNIMPLEMENTED,
        );
        check(
            TaskError::Bundle {
                reason: FailureReason::NotABundle,
                message: "image x is a Linux container".into(),
            },
            ttrpc::Code::FAILED_PRECONDITION,
        );
    }

    #[test]
    fn the_reason_word_leads_the_message() {
        let error = TaskError::Bundle {
            reason: FailureReason::NotABundle,
            message: "image x holds no .wasm file".into(),
        };
        assert_eq!(error.to_string(), "NotABundle: image x holds no .wasm file");
    }
}
