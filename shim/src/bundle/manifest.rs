//! OCI manifests and indexes: which of them is a bundle, and where its bytes are. Pure.

use serde::Deserialize;

/// Most layers of a bundle image, which is built from nothing. Each travels as a descriptor to the compile helper.
pub(super) const LAYERS: usize = 7;

const WASM: &str = "application/wasm";
/// One ES module, and the source map that may follow it. `hearth push` writes them.
const MODULE: &str = "application/vnd.hearth.module.v1+javascript";
const SOURCE_MAP: &str = "application/vnd.hearth.sourcemap.v1+json";

/// A blob.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// What it is called.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// What it is for, in an index.
    pub platform: Option<Platform>,
}

/// `platform` of an index entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// Go's word for the architecture.
    pub architecture: String,
    /// Go's word for the operating system.
    pub os: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Wire {
    artifact_type: String,
    config: Descriptor,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// What a blob under an image's name can be.
#[derive(Debug)]
pub(super) enum Document {
    /// Several manifests for several platforms.
    Index(Index),
    /// One image or artifact.
    Manifest(Manifest),
}

/// An index.
#[derive(Debug)]
pub(super) struct Index {
    manifests: Vec<Descriptor>,
}

/// A manifest.
#[derive(Debug)]
pub(super) struct Manifest {
    kind: String,
    layers: Vec<Descriptor>,
}

/// Where a bundle's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// One blob is the component.
    Wasm(Descriptor),
    /// tar layers, lowest first, with one `.wasm` file somewhere in them.
    Layers(Vec<Descriptor>),
    /// One ES module, and its source map where there is one behind it.
    JavaScript(Vec<Descriptor>),
}

impl Contents {
    /// The blobs, in order.
    pub fn blobs(&self) -> &[Descriptor] {
        match self {
            Self::Wasm(blob) => std::slice::from_ref(blob),
            Self::Layers(layers) | Self::JavaScript(layers) => layers,
        }
    }
}

/// Reads a manifest or an index.
pub(super) fn read(bytes: &[u8]) -> Result<Document, String> {
    let wire: Wire = serde_json::from_slice(bytes)
        .map_err(|error| format!("its manifest cannot be read: {error}"))?;
    if let Some(manifests) = wire.manifests {
        return Ok(Document::Index(Index { manifests }));
    }
    let kind = match wire.artifact_type.is_empty() {
        true => wire.config.media_type,
        false => wire.artifact_type,
    };
    match wire.layers {
        Some(layers) => Ok(Document::Manifest(Manifest { kind, layers })),
        None => Err("its manifest lists neither layers nor manifests".to_owned()),
    }
}

impl Index {
    /// Digests to try, the best first: one for wasm, the only one there is, one for Linux on this architecture.
    pub(super) fn candidates(&self, arch: &str) -> Result<Vec<String>, String> {
        let arch = match arch {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        // Attestations stand in indexes beside images, for the platform unknown/unknown.
        let real: Vec<&Descriptor> = self
            .manifests
            .iter()
            .filter(|entry| {
                entry
                    .platform
                    .as_ref()
                    .is_none_or(|platform| platform.os != "unknown")
            })
            .collect();
        let rank = |entry: &Descriptor| match &entry.platform {
            Some(platform) if platform.architecture.starts_with("wasm") => Some(0),
            Some(platform) if platform.os == "linux" && platform.architecture == arch => Some(2),
            _ if real.len() == 1 => Some(1),
            _ => None,
        };
        let mut ranked: Vec<_> = real
            .iter()
            .filter_map(|entry| Some((rank(entry)?, *entry)))
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        if ranked.is_empty() {
            let have: Vec<_> = real
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .map(|platform| format!("{}/{}", platform.os, platform.architecture))
                .collect();
            return Err(format!(
                "its index has manifests for {} and none for wasm or linux/{arch}",
                have.join(", ")
            ));
        }
        Ok(ranked
            .into_iter()
            .map(|(_, entry)| entry.digest.clone())
            .collect())
    }
}

impl Manifest {
    /// Decides where the component is.
    pub(super) fn contents(self) -> Result<Contents, String> {
        let wasm: Vec<_> = self
            .layers
            .iter()
            .filter(|layer| layer.media_type == WASM)
            .collect();
        match wasm[..] {
            [layer] => return Ok(Contents::Wasm(layer.clone())),
            [] => {}
            _ => {
                return Err(format!(
                    "it has {} layers of type {WASM}, not one",
                    wasm.len()
                ));
            }
        }
        let kinds: Vec<&str> = (self.layers.iter())
            .map(|layer| layer.media_type.as_str())
            .collect();
        match kinds[..] {
            [MODULE] | [MODULE, SOURCE_MAP] => return Ok(Contents::JavaScript(self.layers)),
            _ if kinds.contains(&MODULE) => {
                return Err(format!(
                    "its layers are of the types {}; a JavaScript bundle is one {MODULE}, and one {SOURCE_MAP} behind it or none",
                    kinds.join(", ")
                ));
            }
            _ => {}
        }
        if self.layers.is_empty() {
            return Err(format!("it has no layers and is of type {:?}", self.kind));
        }
        if let Some(layer) = self.layers.iter().find(|layer| !is_tar(&layer.media_type)) {
            return Err(format!(
                "its layer {} is of type {:?}; a bundle has {WASM}, or tar layers that are plain or gzip",
                layer.digest, layer.media_type
            ));
        }
        if self.layers.len() > LAYERS {
            return Err(format!(
                "it has {} layers, a bundle at most {LAYERS}; it is probably a Linux container",
                self.layers.len()
            ));
        }
        Ok(Contents::Layers(self.layers))
    }
}

fn is_tar(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(json: &str) -> Result<Contents, String> {
        match read(json.as_bytes())? {
            Document::Manifest(manifest) => manifest.contents(),
            Document::Index(_) => panic!("an index"),
        }
    }

    #[test]
    fn fuzz_manifest() {
        let examples = [
            r#"{"config":{"mediaType":"application/vnd.wasm.config.v0+json","digest":"sha256:0","size":2},"layers":[{"mediaType":"application/wasm","digest":"sha256:1","size":3}]}"#,
            r#"{"config":{},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:2","size":9},{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":"sha256:3"}]}"#,
            r#"{"manifests":[{"digest":"sha256:4","platform":{"architecture":"wasm","os":"wasip2"}},{"digest":"sha256:5","platform":{"architecture":"amd64","os":"linux"}},{"digest":"sha256:6","platform":{"architecture":"unknown","os":"unknown"}}]}"#,
        ];
        hearth_fuzz::text("fuzz_manifest", &examples, |input| {
            match read(input.as_bytes()) {
                Ok(Document::Index(index)) => {
                    if let Ok(candidates) = index.candidates("x86_64") {
                        assert!(!candidates.is_empty());
                    }
                }
                Ok(Document::Manifest(manifest)) => {
                    if let Ok(contents) = manifest.contents() {
                        assert!((1..=LAYERS).contains(&contents.blobs().len()));
                    }
                }
                Err(_) => {}
            }
        });
    }

    #[test]
    fn a_wasm_artifact_is_its_one_wasm_layer() {
        let found = contents(
            r#"{"config":{"mediaType":"application/vnd.wasm.config.v0+json"},
                "layers":[{"mediaType":"application/wasm","digest":"sha256:aa","size":7}]}"#,
        )
        .unwrap();
        let Contents::Wasm(layer) = found else {
            panic!("{found:?}")
        };
        assert_eq!((layer.digest.as_str(), layer.size), ("sha256:aa", 7));
    }

    #[test]
    fn a_module_is_a_bundle_with_a_source_map_or_without() {
        let layers = |kinds: &[&str]| {
            let layers: Vec<_> = (kinds.iter())
                .map(|kind| format!(r#"{{"mediaType":"{kind}","digest":"sha256:aa","size":7}}"#))
                .collect();
            contents(&format!(
                r#"{{"artifactType":"application/vnd.hearth.javascript.v1","config":{{}},"layers":[{}]}}"#,
                layers.join(",")
            ))
        };
        for kinds in [&[MODULE][..], &[MODULE, SOURCE_MAP]] {
            let found = layers(kinds).unwrap();
            assert!(
                matches!(&found, Contents::JavaScript(blobs) if blobs.len() == kinds.len()),
                "{found:?}"
            );
        }
        for kinds in [
            &[MODULE, MODULE][..],
            &[SOURCE_MAP, MODULE],
            &[MODULE, "a/b"],
        ] {
            let problem = layers(kinds).unwrap_err();
            assert!(problem.contains("a JavaScript bundle is one"), "{problem}");
        }
    }

    #[test]
    fn an_image_is_its_layers() {
        let found = contents(
            r#"{"config":{"mediaType":"application/vnd.oci.image.config.v1+json"},"layers":[
                {"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:aa","size":1},
                {"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":"sha256:bb","size":2}]}"#,
        )
        .unwrap();
        assert_eq!(found.blobs().len(), 2);
    }

    #[test]
    fn what_is_no_bundle_says_why() {
        let layer =
            |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"sha256:aa","size":1}}"#);
        let tar = layer("application/vnd.oci.image.layer.v1.tar");
        let many = [tar.as_str(); LAYERS + 1].join(",");
        for (layers, word) in [
            (layer("application/vnd.oci.image.layer.v1.tar+zstd"), "zstd"),
            (
                layer("application/vnd.cncf.helm.chart.content.v1.tar"),
                "helm",
            ),
            (String::new(), "no layers"),
            (many, "Linux container"),
            ([layer(WASM), layer(WASM)].join(","), "not one"),
        ] {
            let json = format!(r#"{{"config":{{"mediaType":"x"}},"layers":[{layers}]}}"#);
            let problem = contents(&json).unwrap_err();
            assert!(problem.contains(word), "{problem}");
        }
        assert!(read(b"{}").is_err());
        assert!(read(b"not json").is_err());
    }

    #[test]
    fn an_index_leads_to_wasm_then_to_this_node() {
        let check = |platforms: &[&str], expected: Result<&[&str], &str>| {
            let entries: Vec<_> = platforms
                .iter()
                .map(|platform| {
                    let (os, architecture) = platform.split_once('/').unwrap();
                    format!(
                        r#"{{"digest":"{platform}","platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#
                    )
                })
                .collect();
            let json = format!(r#"{{"manifests":[{}]}}"#, entries.join(","));
            let Ok(Document::Index(index)) = read(json.as_bytes()) else {
                panic!("{json}")
            };
            match (index.candidates("x86_64"), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(problem), Err(word)) => assert!(problem.contains(word), "{problem}"),
                (found, expected) => panic!("{found:?}, expected {expected:?}"),
            }
        };
        check(
            &["linux/arm64", "linux/amd64", "wasip2/wasm"],
            Ok(&["wasip2/wasm", "linux/amd64"]),
        );
        check(&["linux/arm64", "linux/amd64"], Ok(&["linux/amd64"]));
        check(&["linux/arm64", "unknown/unknown"], Ok(&["linux/arm64"]));
        check(
            &["linux/arm64", "linux/s390x"],
            Err("linux/arm64, linux/s390x"),
        );
    }
}
