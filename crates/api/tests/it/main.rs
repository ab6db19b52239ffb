//! What the API server would say, without one; and that `crds/` says what the types say.

mod generated;
mod rules;
