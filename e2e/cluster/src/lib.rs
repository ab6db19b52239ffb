//! A real Kubernetes cluster on one machine: real API server, kubelet, containerd and kube-proxy, each node a network
//! namespace and a mount namespace of its own, all of them on one bridge that has no way out.
//!
//! It costs about 720 MB of memory for the first node and some 25 seconds to start. Nodes join and leave while
//! it runs. It needs root, and names in `/run/netns` and `/sys/fs/cgroup` that start with `hearth-`: one cluster a machine.
//!
//! Read in this order: [`layout`] (names, addresses, directories), [`process`] (what is started is recorded),
//! [`control_plane`] and [`node`] (what runs), [`cluster`] (up, open), [`down`].

pub mod cluster;
pub mod control_plane;
pub mod dns;
pub mod down;
pub mod host;
pub mod http;
pub mod image;
pub mod layout;
pub mod network;
pub mod node;
pub mod pods;
pub mod process;
pub mod registry;
pub mod steps;
pub mod supervise;
pub mod tools;
pub mod wait;

mod cgroup;
mod pki;

pub use cluster::Cluster;
pub use image::Image;
pub use layout::Layout;
pub use process::Part;
pub use steps::Steps;
