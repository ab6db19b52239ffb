//! Image references, in the normal form that containerd uses as a name. Pure.

/// The full form of what a user wrote: registry, repository, and a tag or digest.
pub fn normalise(image: &str) -> String {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let (first, has_registry) = match name.split_once('/') {
        Some((first, _)) => (first, first.contains(['.', ':']) || first == "localhost"),
        None => (name, false),
    };
    let full = match (has_registry, name.contains('/')) {
        (true, _) => name.to_owned(),
        (false, true) => format!("docker.io/{name}"),
        (false, false) => format!("docker.io/library/{first}"),
    };
    match (digest, tag_start(&full)) {
        (Some(digest), Some(at)) => format!("{}@{digest}", &full[..at]),
        (Some(digest), None) => format!("{full}@{digest}"),
        (None, Some(_)) => full,
        (None, None) => format!("{full}:latest"),
    }
}

/// The same repository at a digest.
pub fn with_digest(image: &str, digest: &str) -> String {
    let full = normalise(image);
    let name = full.split('@').next().unwrap_or(&full);
    let end = tag_start(name).unwrap_or(name.len());
    format!("{}@{digest}", &name[..end])
}

/// Where the tag's colon is: after the last slash, so that a registry's port is none.
fn tag_start(name: &str) -> Option<usize> {
    let from = name.rfind('/').unwrap_or(0);
    name[from..].rfind(':').map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        for (given, expected) in [
            ("hello", "docker.io/library/hello:latest"),
            ("hello:v1", "docker.io/library/hello:v1"),
            ("acme/hello", "docker.io/acme/hello:latest"),
            ("ghcr.io/acme/hello:v1", "ghcr.io/acme/hello:v1"),
            ("10.0.0.1:5000/hello", "10.0.0.1:5000/hello:latest"),
            ("localhost/hello:v1", "localhost/hello:v1"),
            ("r.io/a:v1@sha256:00", "r.io/a@sha256:00"),
            ("r.io:5000/a@sha256:00", "r.io:5000/a@sha256:00"),
        ] {
            assert_eq!(normalise(given), expected, "{given}");
        }
    }

    #[test]
    fn fuzz_reference() {
        let examples = ["ghcr.io/acme/hello:v1", "r.io:5000/a@sha256:00", "hello"];
        hearth_fuzz::text("fuzz_reference", &examples, |image| {
            let full = normalise(image);
            if !image.contains('@') {
                assert_eq!(normalise(&full), full, "{image:?}");
            }
            assert!(
                with_digest(image, "sha256:ff").ends_with("@sha256:ff"),
                "{image:?}"
            );
        });
    }

    #[test]
    fn a_digest_replaces_the_tag() {
        for (given, expected) in [
            ("r.io:5000/a:v1", "r.io:5000/a@sha256:ff"),
            ("r.io:5000/a@sha256:00", "r.io:5000/a@sha256:ff"),
            ("a", "docker.io/library/a@sha256:ff"),
        ] {
            assert_eq!(with_digest(given, "sha256:ff"), expected, "{given}");
        }
    }
}
