//! The digest of a model's files, by which a prepared copy is found again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use skincell_onnx::{external, outline, regular};

/// The SHA-256 of everything that a model consists of, followed by `settings`, as 64 hexadecimal digits: of
/// a file, and of the files that an ONNX graph names for its weights; or of all files below a folder. Names
/// count too.
///
/// # Errors
/// A file cannot be read.
pub fn digest(model: &Path, settings: &str) -> io::Result<String> {
    let mut hasher = Sha256::new();
    for (name, path) in files(model)? {
        let length = fs::metadata(&path)?.len();
        hasher.update(format!("{} {name} {length}\n", name.len()));
        io::copy(&mut regular::open(&path)?, &mut hasher)?;
    }
    hasher.update(settings);
    Ok(format!("{:x}", hasher.finalize()))
}

/// The names and paths of a model's files, in order.
fn files(model: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    if model.is_dir() {
        let mut found = Vec::new();
        below(model, model, &mut found)?;
        found.sort_unstable();
        return Ok(found);
    }
    // The name does not matter, only its kind: it decides how the file is read.
    let kind = model.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let mut found = vec![(kind.clone(), model.to_owned())];
    if kind == "onnx" {
        let graph = regular::read(model)?;
        // A file that is no ONNX graph is refused when it is prepared.
        for name in outline::check(&graph).map(|outline| outline.data_files).unwrap_or_default() {
            if let Ok(path) = external::resolve(model, name) {
                found.push((name.to_owned(), path));
            }
        }
    }
    Ok(found)
}

fn below(root: &Path, folder: &Path, found: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            below(root, &path, found)?;
        } else {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            found.push((name, path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::digest;
    use std::fs;

    #[test]
    fn every_file_of_a_folder_and_the_settings_count() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            digest(folder.path(), "").unwrap()
        };
        let digests = [
            write("saved_model.pb", "a"),
            write("variables/variables.index", "b"),
            write("variables/variables.index", "c"),
            digest(folder.path(), "d").unwrap(),
        ];
        for (at, one) in digests.iter().enumerate() {
            assert_eq!(one.len(), 64);
            assert!(!digests[..at].contains(one), "{at}");
        }
        assert_eq!(digest(folder.path(), "").unwrap(), digests[2], "the same again");
    }

    #[test]
    fn a_file_counts_by_its_content_and_kind() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two, other] = ["a.keras", "b.keras", "a.h5"].map(|name| {
            fs::write(folder.path().join(name), "weights").unwrap();
            digest(&folder.path().join(name), "").unwrap()
        });
        assert_eq!(one, two);
        assert_ne!(one, other);
        assert!(digest(&folder.path().join("none.onnx"), "").is_err());
    }
}
