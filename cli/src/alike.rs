//! The name that is probably meant by a misspelt one.

/// How alike two names must be, 0 to 1, for one to be suggested for the other.
const ALIKE: f64 = 0.7;

/// The one of `names` that is most like `name`, if any is like it.
pub fn most_like<N: AsRef<str>>(name: &str, names: impl Iterator<Item = N>) -> Option<N> {
    let scored = names.map(|found| (strsim::jaro_winkler(name, found.as_ref()), found));
    let likely = scored.filter(|(score, _)| *score >= ALIKE);
    likely.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, found)| found)
}
