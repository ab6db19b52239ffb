//! Where `linux.cgroupsPath` leads, for both of kubelet's cgroup drivers. Pure.

use std::path::{Component, Path, PathBuf};

/// A cgroup path that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cgroup path {0:?} is neither an absolute path (cgroupfs) nor slice:prefix:name (systemd)")]
pub struct InvalidPath(String);

/// The path below a hierarchy's root, without a leading slash.
///
/// `/kubepods/pod1/c1` is the cgroupfs driver's form. `kubepods-pod1.slice:cri-containerd:c1` is systemd's: each dash
/// in a slice's name is a level above it.
pub fn relative(cgroups_path: &str) -> Result<PathBuf, InvalidPath> {
    let invalid = || InvalidPath(cgroups_path.to_owned());
    let path = match cgroups_path.split(':').collect::<Vec<_>>()[..] {
        [path] => PathBuf::from(path.strip_prefix('/').ok_or_else(invalid)?),
        [slice, prefix, name] if !name.is_empty() => {
            let unit = match (name.ends_with(".slice"), prefix) {
                (true, _) => name.to_owned(),
                (false, "") => format!("{name}.scope"),
                (false, prefix) => format!("{prefix}-{name}.scope"),
            };
            slice_path(slice).ok_or_else(invalid)?.join(unit)
        }
        _ => return Err(invalid()),
    };
    let is_plain = |path: &Path| {
        path.components()
            .all(|component| matches!(component, Component::Normal(_)))
    };
    if path.as_os_str().is_empty() || !is_plain(&path) {
        return Err(invalid());
    }
    Ok(path)
}

/// `a-b.slice` is the folder `a.slice/a-b.slice`.
fn slice_path(slice: &str) -> Option<PathBuf> {
    let name = match slice {
        "" => "system",
        "-.slice" => return Some(PathBuf::new()),
        slice => slice.strip_suffix(".slice")?,
    };
    if name.is_empty() || name.contains('/') || name.split('-').any(str::is_empty) {
        return None;
    }
    let levels = name
        .match_indices('-')
        .map(|(at, _)| &name[..at])
        .chain([name]);
    Some(levels.map(|level| format!("{level}.slice")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_drivers_forms_are_read() {
        for (given, expected) in [
            (
                "/kubepods/besteffort/pod1/c1",
                "kubepods/besteffort/pod1/c1",
            ),
            (
                "kubepods-besteffort-pod1_2.slice:cri-containerd:c1",
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice/cri-containerd-c1.scope",
            ),
            ("kubepods.slice::c1", "kubepods.slice/c1.scope"),
            (":x:c1", "system.slice/x-c1.scope"),
            ("-.slice:x:c1", "x-c1.scope"),
        ] {
            assert_eq!(relative(given).unwrap(), Path::new(expected), "{given}");
        }
    }

    #[test]
    fn fuzz_cgroup_path() {
        let examples = [
            "/kubepods/pod1/c1",
            "kubepods-pod1_2.slice:cri-containerd:c1",
        ];
        hearth_fuzz::text("fuzz_cgroup_path", &examples, |input| {
            if let Ok(path) = relative(input) {
                // It stays below the hierarchy that it is joined to.
                assert!(
                    Path::new("/root").join(&path).starts_with("/root"),
                    "{input:?}"
                );
                assert!(
                    path.components()
                        .all(|part| matches!(part, Component::Normal(_)))
                );
            }
        });
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for given in [
            "",
            "/",
            "relative",
            "/a/../b",
            "a.slice:x:",
            "a:b",
            "a-.slice:x:y",
            "nosuffix:x:y",
            "../x.slice:y:z",
            "a.slice:..:/../../z",
        ] {
            assert!(relative(given).is_err(), "{given}");
        }
    }
}
