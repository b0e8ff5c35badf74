//! Finds the photos: named files, and all photos in named folders, sorted by name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Extensions of photos in a folder. A file named on the command line is always used, and reported if it is
/// not a photo.
const ENDINGS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "heic", "avif"];

/// The photos in `named`, with all subfolders, without hidden files.
///
/// # Errors
/// If a folder has no photos or cannot be read. A missing file is not an error here; it is reported with
/// its result.
pub fn find(named: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut photos = Vec::new();
    for path in named {
        if path.is_dir() {
            let mut found = BTreeSet::new();
            search(path, &mut found)?;
            if found.is_empty() {
                bail!(
                    "no photo in {}: expected files with the extensions {}",
                    path.display(),
                    ENDINGS.join(", ")
                );
            }
            photos.extend(found);
        } else {
            photos.push(path.clone());
        }
    }
    Ok(photos)
}

fn search(folder: &Path, found: &mut BTreeSet<PathBuf>) -> anyhow::Result<()> {
    let entries = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // Links to folders are not followed: they may form a cycle.
        if kind.is_dir() {
            search(&path, found)?;
        } else if has_photo_ending(&path) {
            found.insert(path);
        }
    }
    Ok(())
}

fn has_photo_ending(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(ending))
}

#[cfg(test)]
mod tests {
    use super::find;
    use std::fs;

    #[test]
    fn photos_in_folders_are_sorted_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("b/c")).unwrap();
        for name in ["z.JPG", "a.png", "notes.txt", ".hidden.jpg", "b/c/d.webp"] {
            fs::write(at(name), "").unwrap();
        }
        let named = [at("notes.txt"), folder.path().to_owned(), at("gone.jpg")];
        let expected = ["notes.txt", "a.png", "b/c/d.webp", "z.JPG", "gone.jpg"].map(at);
        assert_eq!(find(&named).unwrap(), expected);
        fs::remove_file(at("b/c/d.webp")).unwrap();
        let error = find(&[at("b")]).unwrap_err().to_string();
        assert!(error.contains("no photo in"), "{error}");
    }
}
