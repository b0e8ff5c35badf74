//! Models that `skincell serve` has prepared: `models/<digest>/<name>` in the cache folder. The digest is of
//! the model's files, its labels and all flags, so a changed file or flag is prepared anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use skincell_modelkit::{CARD_FILE, digest};
use skincell_vision::card::is_model_name;

use crate::model::prepare::{PrepareFlags, fingerprint, prepare};

/// Begins the name of a folder in which a model is being prepared.
const DRAFT: &str = ".preparing-";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Digits of a digest that name a folder.
const DIGITS: usize = 32;

/// The name of a model whose file name has no letter that a name may have.
const UNNAMED: &str = "model";

/// A prepared folder for `model`: the one in `cache`, or a new one, which appears there whole or not at all;
/// then `tell` gets the report.
///
/// # Errors
/// The model cannot be prepared, or the cache cannot be written.
pub fn prepared(
    model: &Path,
    flags: &PrepareFlags,
    cache: &Path,
    tell: impl Fn(&str),
) -> anyhow::Result<PathBuf> {
    let name = if flags.name.is_empty() { name_of(model) } else { flags.name.clone() };
    let settings = format!("{} {name}\n{}", env!("CARGO_PKG_VERSION"), fingerprint(model, flags)?);
    let digest = digest(model, &settings).with_context(|| model.display().to_string())?;
    let models = cache.join("models");
    let place = models.join(digest.get(..DIGITS).unwrap_or(&digest));
    let folder = place.join(&name);
    if folder.join(CARD_FILE).exists() {
        return Ok(folder);
    }
    remove_old_drafts(&models);
    tracing::info!(model = %model.display(), "preparing the model, once");
    let draft = fs::create_dir_all(&models)
        .and_then(|()| tempfile::Builder::new().prefix(DRAFT).tempdir_in(&models))
        .with_context(|| format!("cannot prepare a model in {}", models.display()))?;
    prepare(model, &draft.path().join(&name), &folder, false, flags, tell)?;
    match fs::rename(draft.path(), &place) {
        // Another process may have prepared the same model meanwhile.
        Err(_) if folder.join(CARD_FILE).exists() => Ok(folder),
        renamed => {
            renamed.with_context(|| format!("cannot write {}", place.display()))?;
            Ok(folder)
        }
    }
}

/// Removes what a process that was ended while it prepared has left; none prepares for a day.
fn remove_old_drafts(models: &Path) {
    let is_old = |entry: &fs::DirEntry| {
        let age = entry.metadata().and_then(|about| about.modified()).map(|time| time.elapsed());
        age.is_ok_and(|age| age.is_ok_and(|age| age > DAY))
    };
    let drafts = fs::read_dir(models).into_iter().flatten().flatten();
    let drafts = drafts.filter(|entry| entry.file_name().to_string_lossy().starts_with(DRAFT));
    for draft in drafts.filter(is_old) {
        // What cannot be removed is tried again next time.
        let _ = fs::remove_dir_all(draft.path());
    }
}

/// A name for requests from the name of a file: in lower case, with a hyphen for what a name cannot have.
fn name_of(model: &Path) -> String {
    let stem = model.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let plain = |letter: char| match letter {
        'a'..='z' | '0'..='9' | '.' | '_' => letter,
        _ => '-',
    };
    let mut letters: Vec<char> = stem.chars().map(plain).collect();
    letters.dedup_by(|next, before| (*next, *before) == ('-', '-'));
    let name: String = letters.into_iter().take(64).collect();
    let name = name.trim_start_matches(['.', '_', '-']).trim_end_matches('-');
    if is_model_name(name) { name.to_owned() } else { UNNAMED.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::name_of;
    use std::path::Path;

    #[test]
    fn a_file_name_becomes_a_name_for_requests() {
        for (file, expected) in [
            ("dermatology_stage1.keras", "dermatology_stage1"),
            ("models/Skin Model (v2).h5", "skin-model-v2"),
            ("_.onnx", "model"),
            ("Đa.pt2", "a"),
            ("saved", "saved"),
        ] {
            assert_eq!(name_of(Path::new(file)), expected);
        }
        assert_eq!(name_of(Path::new(&"a".repeat(100))).len(), 64);
    }
}
