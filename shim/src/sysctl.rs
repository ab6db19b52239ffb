//! A pod's sysctls: those of its network are set, and others are refused, for what they are of a guest does not have. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One that would change nothing for a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the pod sets the sysctl {0}, and only those of the network (net.*) mean something to a guest; remove it"
)]
pub(crate) struct NotOfNetwork(String);

/// The files of these settings, and what is written there.
pub(crate) fn of_network(
    sysctls: &BTreeMap<String, String>,
) -> Result<Vec<(PathBuf, String)>, NotOfNetwork> {
    let settings = sysctls.iter().map(|(name, value)| {
        // Without a dot left, no path leads out of its folder.
        let file = name.replace('.', "/");
        match file.starts_with("net/") {
            true => Ok((Path::new("/proc/sys").join(file), value.clone())),
            false => Err(NotOfNetwork(name.clone())),
        }
    });
    settings.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_the_network_are_files_and_others_are_refused_by_name() {
        let check = |name: &str, expected: Option<&str>| {
            let sysctls = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
            let expected = expected.map(|file| vec![(PathBuf::from(file), "1".to_owned())]);
            assert_eq!(
                of_network(&sysctls),
                expected.ok_or_else(|| NotOfNetwork(name.to_owned()))
            );
        };
        let file = "/proc/sys/net/ipv4/ip_local_port_range";
        check("net.ipv4.ip_local_port_range", Some(file));
        check("net/ipv4/ip_local_port_range", Some(file));
        check("kernel.shm_rmid_forced", None);
        check("fs.mqueue.msg_max", None);
        check("/kernel/x", None);
        check("net.../kernel/x", Some("/proc/sys/net////kernel/x"));
    }
}
