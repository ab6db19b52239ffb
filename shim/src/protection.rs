//! What a plain container's author asks of a container runtime, and a guest cannot be given. A container that asks for it is
//! not created: its author reads why in the Pod's events. Pure.

use crate::spec::Spec;

/// Capabilities that every container has unless its author takes them away. A guest has none, and what they are for it
/// cannot do; `NET_BIND_SERVICE`, which restricted pods may add, is among them.
const USUAL: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Something that was asked for and is not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotGiven {
    /// Rights beyond a container's usual ones.
    #[error(
        "securityContext asks for {0} (capabilities.add, or privileged: true), and a guest has no capabilities; remove it"
    )]
    Capabilities(String),
    /// Devices of the node.
    #[error("the container asks for the device {0}, and a guest has no devices; remove it")]
    Device(String),
}

/// Checks a container's specification.
pub fn check(spec: &Spec) -> Result<(), NotGiven> {
    let bounding = &spec.process.capabilities.bounding;
    let more: Vec<_> = bounding
        .iter()
        .map(String::as_str)
        .filter(|name| !USUAL.contains(name))
        .collect();
    if !more.is_empty() {
        return Err(NotGiven::Capabilities(more.join(", ")));
    }
    match spec.linux.devices.first() {
        Some(device) => Err(NotGiven::Device(device.path.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_guest_has_is_refused_by_name() {
        let check = |json: &str| check(&serde_json::from_str(json).unwrap());
        check("{}").unwrap();
        check(r#"{"process":{"capabilities":{"bounding":["CAP_CHOWN","CAP_NET_BIND_SERVICE"]}}}"#)
            .unwrap();
        let more =
            r#"{"process":{"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_ADMIN","CAP_BPF"]}}}"#;
        assert_eq!(
            check(more),
            Err(NotGiven::Capabilities("CAP_SYS_ADMIN, CAP_BPF".to_owned()))
        );
        let device = r#"{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c"}]}}"#;
        assert_eq!(
            check(device),
            Err(NotGiven::Device("/dev/nvidia0".to_owned()))
        );
    }
}
