//! The name that is probably meant by a misspelt one.

use std::path::{Path, PathBuf};

/// How alike two names must be, 0 to 1, for one to be suggested for the other.
const ALIKE: f64 = 0.7;

/// The one of `names` that is most like `name`, if any is like it.
pub fn most_like<N: AsRef<str>>(name: &str, names: impl Iterator<Item = N>) -> Option<N> {
    let scored = names.map(|found| (strsim::jaro_winkler(name, found.as_ref()), found));
    let likely = scored.filter(|(score, _)| *score >= ALIKE);
    likely.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, found)| found)
}

/// That nothing is at `path`, with the most similar path in its folder; `None` if something is there.
pub fn missing(path: &Path) -> Option<String> {
    if path.exists() {
        return None;
    }
    Some(does_not_exist(path, likely(path)))
}

/// That nothing is at `path`, and what is probably meant.
pub fn does_not_exist(path: &Path, likely: Option<PathBuf>) -> String {
    let shown = path.display();
    match likely {
        Some(likely) => format!("{shown} does not exist; did you mean {}?", likely.display()),
        None => format!("{shown} does not exist"),
    }
}

/// The path in the folder of `path` whose name is most like its own.
pub fn likely(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let here = if folder == Path::new("") { Path::new(".") } else { folder };
    let entries = here.read_dir().ok()?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    most_like(path.file_name()?.to_str()?, names).map(|likely| folder.join(likely))
}
