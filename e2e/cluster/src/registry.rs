//! Pushing images to the cluster's registry. Content that is there already is not sent again.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};

use crate::http::{Request, Response, send};
use crate::image::{Blob, Packed};
use crate::layout::{self, REGISTRY};

/// A name as in a pod, `localhost:5000/<repository>:<tag>`, in its two parts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name<'a> {
    repository: &'a str,
    tag: &'a str,
}

fn parse(name: &str) -> Result<Name<'_>> {
    let rest = name
        .strip_prefix(REGISTRY)
        .and_then(|rest| rest.strip_prefix('/'));
    let rest = rest.with_context(|| format!("{name} must start with {REGISTRY}/"))?;
    let (repository, tag) = rest
        .rsplit_once(':')
        .with_context(|| format!("{name} must end with a tag"))?;
    ensure!(
        !repository.is_empty() && !tag.is_empty(),
        "{name} lacks a repository or a tag"
    );
    Ok(Name { repository, tag })
}

/// The whole name of `<repository>:<tag>`, which may be whole already.
pub fn reference(name: &str) -> String {
    match name.strip_prefix(REGISTRY) {
        Some(_) => name.to_owned(),
        None => format!("{REGISTRY}/{name}"),
    }
}

/// Pushes an image under a name. The calling thread must be inside a node's network namespace. Returns whether the name
/// means another image now.
pub fn push(name: &str, image: &Packed) -> Result<bool> {
    let Name { repository, tag } = parse(name)?;
    if tagged(name)?.as_deref() == Some(image.digest()) {
        return Ok(false);
    }
    for blob in &image.blobs {
        push_blob(repository, blob).with_context(|| format!("push a layer of {name}"))?;
    }
    let path = format!("/v2/{repository}/manifests/{tag}");
    let answer = ask(
        "PUT",
        &path,
        Some(&image.manifest.media_type),
        &image.manifest.bytes,
    )?;
    expect(&answer, 201, "the manifest").with_context(|| format!("push {name}"))?;
    Ok(true)
}

/// The digest that a name means now.
pub fn tagged(name: &str) -> Result<Option<String>> {
    let Name { repository, tag } = parse(name)?;
    let path = format!("/v2/{repository}/manifests/{tag}");
    let accept = [("Accept", "application/vnd.oci.image.manifest.v1+json")];
    let request = Request {
        method: "HEAD",
        path: &path,
        headers: &accept,
        body: b"",
    };
    let answer = send(address(), REGISTRY, request)?;
    match answer.status {
        404 => Ok(None),
        200 => Ok(answer.header("docker-content-digest").map(str::to_owned)),
        status => bail!("the registry answered {status} to HEAD {path}"),
    }
}

fn push_blob(repository: &str, blob: &Blob) -> Result<()> {
    let found = ask(
        "HEAD",
        &format!("/v2/{repository}/blobs/{}", blob.digest),
        None,
        b"",
    )?;
    if found.status == 200 {
        return Ok(());
    }
    let upload = ask(
        "POST",
        &format!("/v2/{repository}/blobs/uploads/"),
        None,
        b"",
    )?;
    expect(&upload, 202, "an upload")?;
    let location = upload
        .header("location")
        .context("the registry names no place to upload to")?;
    let path = upload_path(location, &blob.digest);
    let answer = ask("PUT", &path, Some("application/octet-stream"), &blob.bytes)?;
    expect(&answer, 201, "a blob")
}

/// Where to send a blob: the path of the answered location, which may be a whole URL and may have a query.
fn upload_path(location: &str, digest: &str) -> String {
    let path = match location.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => location,
    };
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}digest={digest}")
}

fn ask(method: &str, path: &str, content_type: Option<&str>, body: &[u8]) -> Result<Response> {
    let header = content_type.map(|value| ("Content-Type", value));
    send(
        address(),
        REGISTRY,
        Request {
            method,
            path,
            headers: header.as_slice(),
            body,
        },
    )
}

fn expect(answer: &Response, status: u16, what: &str) -> Result<()> {
    ensure!(
        answer.status == status,
        "the registry refused {what} with {}: {}",
        answer.status,
        answer.text()
    );
    Ok(())
}

fn address() -> SocketAddr {
    SocketAddr::from((layout::node_ip(1), 5000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split() {
        let name = parse("localhost:5000/hearth/operator:dev").unwrap();
        assert_eq!(
            name,
            Name {
                repository: "hearth/operator",
                tag: "dev"
            }
        );
        assert!(parse("docker.io/library/busybox:1").is_err());
        assert!(parse("localhost:5000/hearth").is_err());
    }

    #[test]
    fn uploads_go_where_the_registry_says() {
        let cases = [
            (
                "http://localhost:5000/v2/a/uploads/1?_state=x",
                "/v2/a/uploads/1?_state=x&digest=d",
            ),
            ("/v2/a/uploads/1", "/v2/a/uploads/1?digest=d"),
        ];
        for (location, expected) in cases {
            assert_eq!(upload_path(location, "d"), expected);
        }
    }
}
