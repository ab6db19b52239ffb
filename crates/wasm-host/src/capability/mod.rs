//! What a guest may touch. Everything here is off until a field of the function grants it.

pub(crate) mod egress;
pub mod folders;
pub(crate) mod loader;
pub mod names;
mod paced;
