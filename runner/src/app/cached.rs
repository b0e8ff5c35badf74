//! Components that a manifest names by URL and digest, from the cache that Spin keeps of them. Downloading is
//! left to Spin.

use anyhow::{Context, bail};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// Folders of Spin's cache that may hold a component, in the order in which Spin looks.
const FOLDERS: [&str; 2] = ["wasm", "data"];

/// The file in Spin's cache that has `digest`, `sha256:` and the hexadecimal digits.
///
/// # Errors
/// When the digest is not of that form, or there is no such file with that content.
pub(super) fn cached(url: &str, digest: &str) -> anyhow::Result<PathBuf> {
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    find(caches.as_deref(), url, digest)
}

fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn find(caches: Option<&Path>, url: &str, digest: &str) -> anyhow::Result<PathBuf> {
    let hex =
        digest.strip_prefix("sha256:").filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    let Some(hex) = hex else {
        bail!("the digest {digest:?} is not `sha256:` and hexadecimal digits")
    };
    let files = caches.into_iter().flat_map(|caches| {
        FOLDERS.map(|folder| caches.join("spin/registry").join(folder).join(digest))
    });
    for file in files {
        if !file.is_file() {
            continue;
        }
        let bytes =
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let found = format!("{:x}", Sha256::digest(bytes));
        if !found.eq_ignore_ascii_case(hex) {
            bail!("{} is damaged: its digest is sha256:{found}; delete it", file.display());
        }
        return Ok(file);
    }
    bail!(
        "`source` {url:?} with the digest {digest} is not in Spin's cache, and is not downloaded here; run \
         `spin up` once, which keeps it there, or name a file"
    )
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn a_component_is_taken_from_spins_cache_by_its_digest() {
        let caches = tempfile::tempdir().unwrap();
        let folder = caches.path().join("spin/registry/data");
        std::fs::create_dir_all(&folder).unwrap();
        // The digest of "abc", from FIPS 180-2.
        let digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let found = |digest| find(Some(caches.path()), "https://a.test/a.wasm", digest);
        let missing = found(digest).unwrap_err().to_string();
        assert!(missing.contains("not in Spin's cache"), "{missing}");
        std::fs::write(folder.join(digest), "abc").unwrap();
        assert_eq!(found(digest).unwrap(), folder.join(digest));
        std::fs::write(folder.join(digest), "abd").unwrap();
        let damaged = found(digest).unwrap_err().to_string();
        assert!(damaged.contains("is damaged"), "{damaged}");
        for malformed in ["", "sha256", "sha256:../../../etc/passwd", "md5:00"] {
            assert!(found(malformed).unwrap_err().to_string().contains("hexadecimal"));
        }
    }
}
