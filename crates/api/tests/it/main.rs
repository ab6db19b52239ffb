//! What the API server would say, without one; and that `crds/` says what the types say.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests says what it expects as tests do"
)]

mod generated;
mod rules;
