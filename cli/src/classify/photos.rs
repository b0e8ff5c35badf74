//! Finds the photos: named files, and all photos in named folders, sorted by name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use skincell_modelkit::photos::{DECODED, has_extension};

use crate::alike::likely;

/// Photos of these kinds in a folder are sent to the component, which says what to do about each.
const REFUSED: [&str; 4] = ["heic", "heif", "hif", "avif"];

/// Photos of these kinds in a folder are left out: often the camera has made a JPEG beside them.
const LEFT_OUT: [&str; 15] = [
    "tif", "tiff", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf", "pef", "jp2", "jxl",
    "psd", "dcm",
];

/// The photos, and those in folders that are left out because their kind is not read.
#[derive(Debug, Default)]
pub struct Found {
    /// The photos, in the order they were named in, those of a folder by name.
    pub photos: Vec<PathBuf>,
    /// Photos of other kinds.
    pub left_out: Vec<PathBuf>,
}

/// The photos in `named`, with all subfolders, without hidden files. A file that is named itself is always
/// used, and reported if it is not a photo.
///
/// # Errors
/// If a folder has no photos or cannot be read, or if nothing of what is named exists. One missing file of
/// several is not an error here; it is reported with its result.
pub fn find(named: &[PathBuf]) -> anyhow::Result<Found> {
    if let [first, others @ ..] = named
        && named.iter().all(|path| !path.exists())
    {
        let others = match others.len() {
            0 => String::new(),
            others => format!(", and neither does any of the {others} others"),
        };
        if first.as_os_str() == "-" {
            bail!("there is no photo named -; standard input is the photo /dev/stdin");
        }
        let likely = match likely(first) {
            Some(likely) => format!("; did you mean {}?", likely.display()),
            None => String::new(),
        };
        bail!("there is no photo {}{others}{likely}", first.display());
    }
    let mut all = Found::default();
    for path in named {
        if !path.is_dir() {
            all.photos.push(path.clone());
            continue;
        }
        let mut files = BTreeSet::new();
        search(path, &mut files)?;
        let is_sent =
            |file: &PathBuf| has_extension(file, &DECODED) || has_extension(file, &REFUSED);
        let (photos, others): (Vec<_>, Vec<_>) = files.into_iter().partition(is_sent);
        let left_out = others.into_iter().filter(|file| has_extension(file, &LEFT_OUT));
        let left_out: Vec<_> = left_out.collect();
        if photos.is_empty() {
            let others = about(&left_out).map(|about| format!("; {about}")).unwrap_or_default();
            bail!(
                "no photo in {}: expected files with the extensions {}{others}",
                path.display(),
                DECODED.join(", ")
            );
        }
        all.photos.extend(photos);
        all.left_out.extend(left_out);
    }
    Ok(all)
}

/// What to say about photos that are left out: how many of which kinds, one by name, and what to do.
pub fn about(left_out: &[PathBuf]) -> Option<String> {
    let first = left_out.first()?;
    let mut kinds = BTreeMap::new();
    for photo in left_out {
        let kind = photo.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        *kinds.entry(kind).or_insert(0_usize) += 1;
    }
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} .{kind}")).collect();
    Some(format!(
        "left out, because their kind is not read: {} (such as {}); save them as JPEG or PNG",
        kinds.join(", "),
        first.display()
    ))
}

fn search(folder: &Path, found: &mut BTreeSet<PathBuf>) -> anyhow::Result<()> {
    let entries = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // Links to folders are not followed: they may form a cycle. Pipes and devices are left out: reading
        // one may never end.
        if kind.is_dir() {
            search(&path, found)?;
        } else if kind.is_file() || kind.is_symlink() && !is_pipe_or_device(&path) {
            found.insert(path);
        }
    }
    Ok(())
}

/// Whether a link leads to what is neither a file nor missing; a missing file is reported with its result.
fn is_pipe_or_device(link: &Path) -> bool {
    link.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir())
}

#[cfg(test)]
mod tests {
    use super::{about, find};
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
        let found = find(&named).unwrap();
        assert_eq!((found.photos, about(&found.left_out)), (expected.to_vec(), None));
        fs::remove_file(at("b/c/d.webp")).unwrap();
        let error = find(&[at("b")]).unwrap_err().to_string();
        assert!(error.contains("no photo in"), "{error}");
    }

    /// A pipe in a folder was waited for, without end.
    #[test]
    fn pipes_in_folders_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a.png"), "").unwrap();
        let made = std::process::Command::new("mkfifo").arg(at("b.png")).status().unwrap();
        assert!(made.success());
        for (target, link) in [("b.png", "c.png"), ("a.png", "d.png"), ("gone.png", "e.png")] {
            std::os::unix::fs::symlink(at(target), at(link)).unwrap();
        }
        let found = find(&[folder.path().to_owned()]).unwrap();
        assert_eq!(found.photos, ["a.png", "d.png", "e.png"].map(at));
    }

    /// TIFF and JFIF were left out without a word.
    #[test]
    fn photos_of_other_kinds_are_counted_and_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a.jfif", "b.JPE", "c.tiff", "d.TIF", "e.dng", "f.tif", "g.heic", "h.txt"] {
            fs::write(at(name), "").unwrap();
        }
        let found = find(&[folder.path().to_owned()]).unwrap();
        assert_eq!(found.photos, ["a.jfif", "b.JPE", "g.heic"].map(at));
        let words = about(&found.left_out).unwrap();
        assert!(words.contains("1 .dng, 2 .tif, 1 .tiff (such as "), "{words}");
        assert!(words.contains("c.tiff)"), "{words}");
        fs::create_dir(at("only")).unwrap();
        fs::write(at("only/x.tif"), "").unwrap();
        let error = find(&[at("only")]).unwrap_err().to_string();
        assert!(error.contains("1 .tif (such as"), "{error}");
    }
}
