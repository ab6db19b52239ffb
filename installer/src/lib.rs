//! Puts Hearth on one node: programs into a directory of the host, a drop-in into containerd's configuration, a restart of
//! containerd only where that configuration changed, proof that the runtime answers, a label that lets pods come. What it
//! changed it takes back when the proof fails.
//!
//! It runs as a privileged pod in the host's process namespace, with the host's directories mounted below one path
//! ([`host::Host`]). It costs one restart of containerd at the first installation, during which pods keep running, and none
//! after that.
//!
//! Read in this order: [`config`] (what is asked), [`containerd_config`] and [`plan`] (what follows from what is there; pure),
//! [`host`], [`cri`], [`daemon`] and [`node`] (the world), [`install`] (the order of steps, and the way back).

pub mod config;
pub mod containerd_config;
pub mod plan;

pub mod cri;
pub mod daemon;
pub mod host;
pub mod node;

pub mod install;
pub mod run;
