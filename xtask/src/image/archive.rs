//! An OCI image as one file, made from files: no registry, no daemon, and the same bytes every time.
//!
//! Everything that would differ between two runs is fixed: order, owner, times, and the compression's settings. Formats:
//! the OCI image specification 1.0, whose three JSON documents are smaller than a library for them; tar and gzip are
//! `tar` and `flate2`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cache::hex;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Something in the image's file system.
#[derive(Clone, Debug)]
enum Node {
    File { from: PathBuf, mode: u32 },
    Text { bytes: Vec<u8> },
    Link { to: PathBuf },
    Dir,
}

/// What is in an image, by its path without the leading slash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files(BTreeMap<PathBuf, Node>);

/// How an image presents itself.
#[derive(Debug)]
pub(crate) struct About<'a> {
    /// Repository and tag.
    pub(crate) name: &'a str,
    /// Program and arguments.
    pub(crate) entrypoint: &'a [&'a str],
    /// Where programs are looked for.
    pub(crate) path: &'a str,
    /// Labels, by the names of the OCI's annotations.
    pub(crate) labels: &'a [(&'a str, &'a str)],
    /// User and group of the process, as numbers.
    pub(crate) user: &'a str,
    /// Small, or quick to make.
    pub(crate) compression: Compression,
}

impl Files {
    /// A file of this machine; what it may do is kept, what else it is (owner, time) is not.
    pub(crate) fn file(&mut self, at: impl Into<PathBuf>, from: &Path) -> Result<()> {
        let meta = from
            .metadata()
            .with_context(|| format!("cannot read {}", from.display()))?;
        let runs = meta.permissions().mode() & 0o111 != 0;
        self.put(
            at.into(),
            Node::File {
                from: from.to_path_buf(),
                mode: if runs { 0o755 } else { 0o644 },
            },
        );
        Ok(())
    }

    /// A small file with this content.
    pub(crate) fn text(&mut self, at: impl Into<PathBuf>, text: &str) {
        self.put(
            at.into(),
            Node::Text {
                bytes: text.as_bytes().to_vec(),
            },
        );
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, at: impl Into<PathBuf>, to: impl Into<PathBuf>) {
        self.put(at.into(), Node::Link { to: to.into() });
    }

    /// An empty folder, for something to be mounted on.
    pub(crate) fn dir(&mut self, at: impl Into<PathBuf>) {
        self.put(at.into(), Node::Dir);
    }

    fn put(&mut self, at: PathBuf, node: Node) {
        for parent in at
            .ancestors()
            .skip(1)
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            self.0.entry(parent.to_path_buf()).or_insert(Node::Dir);
        }
        self.0.insert(at, node);
    }

    fn write(&self, to: impl Write) -> Result<()> {
        let mut tar = tar::Builder::new(to);
        tar.follow_symlinks(false);
        for (path, node) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(0);
            header.set_mode(0o755);
            match node {
                Node::Dir => {
                    header.set_entry_type(tar::EntryType::Directory);
                    tar.append_data(&mut header, path, io::empty())?;
                }
                Node::Link { to } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    tar.append_link(&mut header, path, to)?;
                }
                Node::Text { bytes } => {
                    header.set_mode(0o644);
                    header.set_size(bytes.len().try_into()?);
                    tar.append_data(&mut header, path, bytes.as_slice())?;
                }
                Node::File { from, mode } => {
                    let file = File::open(from)?;
                    header.set_mode(*mode);
                    header.set_size(file.metadata()?.len());
                    tar.append_data(&mut header, path, file)
                        .with_context(|| format!("cannot pack {}", from.display()))?;
                }
            }
        }
        tar.into_inner()?.flush().map_err(Into::into)
    }
}

/// Writes the image to `to` and returns its digest, by which a cluster can name exactly these bytes.
pub(crate) fn write(to: &Path, files: &Files, about: &About<'_>) -> Result<String> {
    let mut blobs = Blobs::default();
    let mut plain = Vec::new();
    files.write(&mut plain)?;
    let plain_digest = hex(&Sha256::digest(&plain));
    // The header of gzip holds a time and a system: flate2 leaves them empty.
    let mut gzip = GzEncoder::new(Vec::new(), about.compression);
    gzip.write_all(&plain)?;
    let layer = gzip.finish()?;
    let labels: BTreeMap<_, _> = about.labels.iter().copied().collect();
    let layer = blobs.put(LAYER, layer);
    let config = blobs.put(
        CONFIG,
        serde_json::to_vec(&json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "User": about.user,
                "Env": [format!("PATH={}", about.path)],
                "Entrypoint": about.entrypoint,
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{plain_digest}")]},
        }))?,
    );
    let mut manifest = blobs.put(
        MANIFEST,
        serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer], "annotations": labels,
        }))?,
    );
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    let tag = about.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    manifest["annotations"] =
        json!({"io.containerd.image.name": about.name, "org.opencontainers.image.ref.name": tag});
    manifest["platform"] = json!({"architecture": "amd64", "os": "linux"});
    blobs.write(to, &json!({"schemaVersion": 2, "manifests": [manifest]}))?;
    Ok(digest)
}

/// Content by its digest.
#[derive(Debug, Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Keeps some bytes and describes them.
    fn put(&mut self, kind: &str, bytes: Vec<u8>) -> Value {
        let digest = hex(&Sha256::digest(&bytes));
        let about =
            json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len()});
        self.0.insert(digest, bytes);
        about
    }

    fn write(&self, to: &Path, index: &Value) -> Result<()> {
        let mut files = Files::default();
        files.text("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        files.text("index.json", &index.to_string());
        for (digest, bytes) in &self.0 {
            files.put(
                Path::new("blobs/sha256").join(digest),
                Node::Text {
                    bytes: bytes.clone(),
                },
            );
        }
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
        files.write(io::BufWriter::new(file))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    fn image(dir: &Path, name: &str) -> (Vec<u8>, String) {
        fs::write(dir.join("program"), "#!").unwrap();
        fs::set_permissions(dir.join("program"), fs::Permissions::from_mode(0o700)).unwrap();
        let mut files = Files::default();
        files.text("etc/passwd", "root:x:0:0::/:\n");
        files.file("usr/bin/program", &dir.join("program")).unwrap();
        files.link("bin", "usr/bin");
        assert!(
            files.0.contains_key(Path::new("usr/bin")),
            "parents are made"
        );
        let about = About {
            name: "example.test/a:1",
            entrypoint: &["/usr/bin/program"],
            path: "/usr/bin",
            labels: &[("org.opencontainers.image.title", "a")],
            user: "0:0",
            compression: Compression::best(),
        };
        let digest = write(&dir.join(name), &files, &about).unwrap();
        (fs::read(dir.join(name)).unwrap(), digest)
    }

    #[test]
    fn the_same_files_are_the_same_image() {
        let dir = tempfile::tempdir().unwrap();
        let first = image(dir.path(), "one");
        std::thread::sleep(std::time::Duration::from_millis(1100));
        // A later time and another way to be allowed to run are no difference.
        let second = image(dir.path(), "two");
        assert!(first == second);
    }

    #[test]
    fn every_digest_is_that_of_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, digest) = image(dir.path(), "one");
        let mut seen = 0;
        let mut archive = tar::Archive::new(bytes.as_slice());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            let mut content = Vec::new();
            io::copy(&mut entry, &mut content).unwrap();
            if path.starts_with("blobs/sha256") && !content.is_empty() {
                seen += 1;
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                assert_eq!(name, hex(&Sha256::digest(&content)));
            } else if path == Path::new("index.json") {
                assert!(String::from_utf8_lossy(&content).contains(&digest));
            }
        }
        assert_eq!(seen, 3, "manifest, config, layer");
    }
}
