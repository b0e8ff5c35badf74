//! Components that a manifest names by URL and digest: from the cache that Spin keeps of them, or fetched
//! into it. What is in the cache is checked each time.

use crate::outbound::fetch;
use anyhow::{Context, bail, ensure};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of Spin's cache that may hold a component, in the order in which Spin looks. What is fetched goes
/// into the first, as in Spin.
const FOLDERS: [&str; 2] = ["wasm", "data"];

/// The file in Spin's cache that has `digest`, `sha256:` and the hexadecimal digits; it is fetched from `url`
/// if there is none.
///
/// # Errors
/// When the digest is not of that form, or no file with that content can be had.
pub(super) fn cached(url: &str, digest: &str) -> anyhow::Result<PathBuf> {
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    let registry = caches.map(|caches| caches.join("spin/registry"));
    find(registry.as_deref(), url, digest)
}

fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn find(registry: Option<&Path>, url: &str, digest: &str) -> anyhow::Result<PathBuf> {
    let hex = digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    let Some(hex) = hex else {
        bail!("the digest {digest:?} is not `sha256:` and 64 hexadecimal digits")
    };
    let registry = registry.context("neither HOME nor XDG_CACHE_HOME says where a cache may be")?;
    let file = FOLDERS.map(|folder| registry.join(folder).join(digest));
    let Some(file) = file.iter().find(|file| file.is_file()) else {
        return download(&registry.join(FOLDERS[0]), url, digest, hex)
            .with_context(|| format!("`source` {url:?} is not in Spin's cache"));
    };
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let found = format!("{:x}", Sha256::digest(bytes));
    if !found.eq_ignore_ascii_case(hex) {
        bail!("{} is damaged: its digest is sha256:{found}; delete it", file.display());
    }
    Ok(file.clone())
}

/// Fetches a file into `folder`, where it appears only if its content has the digest.
fn download(folder: &Path, url: &str, digest: &str, hex: &str) -> anyhow::Result<PathBuf> {
    tracing::info!(url, "downloading a component");
    let no_folder = || format!("cannot write to {}", folder.display());
    fs::create_dir_all(folder).with_context(no_folder)?;
    let mut part = tempfile::NamedTempFile::new_in(folder).with_context(no_folder)?;
    let size = fetch(url, part.as_file_mut())?;
    let found = format!("{:x}", Sha256::digest(fs::read(part.path())?));
    ensure!(
        found.eq_ignore_ascii_case(hex),
        "{url} gives {size} bytes with the digest sha256:{found}, and the manifest says {digest}; nothing was \
         kept"
    );
    let file = folder.join(digest);
    part.persist(&file).with_context(no_folder)?;
    tracing::info!(url, bytes = size, file = %file.display(), "kept for later starts");
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::find;
    use std::fs;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    /// The digest of "abc", from FIPS 180-2.
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    /// Answers as many requests as there are answers, and returns the address and the requests' first lines.
    fn server<const N: usize>(answers: [&'static str; N]) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let serve = move || {
            let answer = |text: &str| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                stream.write_all(text.as_bytes()).unwrap();
                String::from_utf8(head).unwrap().lines().next().unwrap_or_default().to_owned()
            };
            answers.map(answer).to_vec()
        };
        (address, std::thread::spawn(serve))
    }

    fn names(folder: &std::path::Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_component_is_taken_from_spins_cache_by_its_digest() {
        let registry = tempfile::tempdir().unwrap();
        let folder = registry.path().join("data");
        fs::create_dir_all(&folder).unwrap();
        let found = |digest| find(Some(registry.path()), "http://127.0.0.1:1/a.wasm", digest);
        fs::write(folder.join(ABC), "abc").unwrap();
        assert_eq!(found(ABC).unwrap(), folder.join(ABC));
        fs::write(folder.join(ABC), "abd").unwrap();
        let damaged = found(ABC).unwrap_err().to_string();
        assert!(damaged.contains("is damaged"), "{damaged}");
        for malformed in ["", "sha256", "sha256:00", "sha256:../../../etc/passwd", "md5:00"] {
            assert!(found(malformed).unwrap_err().to_string().contains("hexadecimal"));
        }
    }

    #[test]
    fn a_component_that_is_not_there_is_fetched_and_kept() {
        let registry = tempfile::tempdir().unwrap();
        let (address, requests) = server([
            "HTTP/1.1 302 Found\r\nlocation: /b.wasm?c=d\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
        ]);
        let url = format!("{address}/a.wasm");
        let file = find(Some(registry.path()), &url, ABC).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"abc");
        assert_eq!(requests.join().unwrap(), ["GET /a.wasm HTTP/1.1", "GET /b.wasm?c=d HTTP/1.1"]);
        // Nobody answers any more.
        assert_eq!(find(Some(registry.path()), &url, ABC).unwrap(), file);
    }

    #[test]
    fn what_is_not_the_component_is_refused_and_not_kept() {
        let registry = tempfile::tempdir().unwrap();
        for (answer, part) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabd", "the manifest says"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc", "cannot download"),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "404 Not Found"),
            ("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", "without saying where"),
            ("HTTP/1.1 302 Found\r\nlocation: file:///etc/passwd\r\n\r\n", "names no host"),
        ] {
            let (address, requests) = server([answer]);
            let error = find(Some(registry.path()), &format!("{address}/a.wasm"), ABC).unwrap_err();
            assert!(format!("{error:#}").contains(part), "{error:#}");
            requests.join().unwrap();
            assert!(names(&registry.path().join("wasm")).is_empty());
        }
        let nobody = find(Some(registry.path()), "http://127.0.0.1:1/a.wasm", ABC).unwrap_err();
        assert!(format!("{nobody:#}").contains("cannot download"), "{nobody:#}");
    }
}
