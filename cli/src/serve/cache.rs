//! Models that `skincell serve` has prepared: `models/<digest>/<name>` in the cache folder. The digest is of
//! the model's files, its labels and all flags, so a changed file or flag is prepared anew.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use skincell_modelkit::{CARD_FILE, digest};
use skincell_vision::card::is_model_name;
use tempfile::TempDir;

use crate::model::prepare::{Place, PrepareFlags, fingerprint, prepare};

/// Begins the name of a folder in which a model is being prepared.
const DRAFT: &str = ".preparing-";

/// A file in such a folder that its process keeps locked.
const LOCK: &str = ".lock";

/// The age from which a draft without a lock is abandoned: a process makes the lock right after the folder.
const MINUTE: Duration = Duration::from_secs(60);

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
    let draft = Draft::new(&models)
        .with_context(|| format!("cannot prepare a model in {}", models.display()))?;
    let output = draft.path().join(&name);
    let into = Place { output: &output, shown: &folder, scratch: draft.path(), force: false };
    prepare(model, &into, flags, tell)?;
    draft.end().with_context(|| format!("cannot write {}", models.display()))?;
    match fs::rename(draft.path(), &place) {
        // Another process may have prepared the same model meanwhile.
        Err(_) if folder.join(CARD_FILE).exists() => Ok(folder),
        renamed => {
            renamed.with_context(|| format!("cannot write {}", place.display()))?;
            Ok(folder)
        }
    }
}

/// A folder in which this process prepares a model. Whatever ends the process, its lock ends too.
struct Draft {
    folder: TempDir,
    /// Open while the folder is worked in.
    _lock: File,
}

impl Draft {
    fn new(models: &Path) -> io::Result<Self> {
        fs::create_dir_all(models)?;
        let folder = tempfile::Builder::new().prefix(DRAFT).tempdir_in(models)?;
        let lock = File::create(folder.path().join(LOCK))?;
        // On a file system without locks this fails, and so does the attempt of others to take the lock: then
        // abandoned drafts stay.
        let _ = lock.try_lock();
        Ok(Self { folder, _lock: lock })
    }

    /// Removes the lock, so that the folder can be taken as it is.
    fn end(&self) -> io::Result<()> {
        fs::remove_file(self.path().join(LOCK))
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes what processes have left that were ended while they prepared.
fn remove_old_drafts(models: &Path) {
    let is_left = |draft: &Path| {
        let changed = fs::metadata(draft).and_then(|about| about.modified());
        let is_old = changed.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > MINUTE));
        is_old
            && match File::open(draft.join(LOCK)) {
                Ok(lock) => lock.try_lock().is_ok(),
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            }
    };
    let drafts = fs::read_dir(models).into_iter().flatten().flatten();
    let drafts = drafts.filter(|entry| entry.file_name().to_string_lossy().starts_with(DRAFT));
    for draft in drafts.map(|entry| entry.path()).filter(|draft| is_left(draft)) {
        // What cannot be removed is tried again next time.
        let _ = fs::remove_dir_all(draft);
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
    use super::{DRAFT, Draft, LOCK, MINUTE, name_of, remove_old_drafts};
    use std::fs::{self, File};
    use std::path::Path;
    use std::time::SystemTime;

    #[test]
    fn what_ended_processes_left_is_removed_and_nothing_else() {
        let models = tempfile::tempdir().unwrap();
        let (mine, fresh) =
            (Draft::new(models.path()).unwrap(), Draft::new(models.path()).unwrap());
        let [ended, unlocked] = ["a", "b"].map(|end| models.path().join(format!("{DRAFT}{end}")));
        for left in [&ended, &unlocked] {
            fs::create_dir(left).unwrap();
        }
        File::create(ended.join(LOCK)).unwrap();
        let finished = models.path().join("0123");
        fs::create_dir(&finished).unwrap();
        for folder in [mine.path(), &ended, &unlocked, &finished] {
            File::open(folder).unwrap().set_modified(SystemTime::now() - 2 * MINUTE).unwrap();
        }
        remove_old_drafts(models.path());
        let left = [mine.path(), fresh.path(), &finished, &ended, &unlocked].map(Path::exists);
        assert_eq!(left, [true, true, true, false, false]);
    }

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
