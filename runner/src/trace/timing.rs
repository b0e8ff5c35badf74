//! Parses `Server-Timing`: the stages that an answer reports, in order. Placing them in time is left to
//! `trace`.

use std::time::Duration;

/// Most stages read, and the longest name, in characters, because the application may send any text.
const MOST: usize = 16;
const LONGEST_NAME: usize = 32;

/// Longest duration of a stage; longer ones are cut to it.
const LONGEST: Duration = Duration::from_secs(3600);

/// Names and durations. Entries without a duration are left out, and so is `total`, which is not a stage.
pub(super) fn stages(header: &str) -> Vec<(String, Duration)> {
    header.split(',').filter_map(stage).take(MOST).collect()
}

fn stage(metric: &str) -> Option<(String, Duration)> {
    let mut parts = metric.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty() && *name != "total")?;
    let milliseconds = parts.find_map(|part| part.strip_prefix("dur="))?;
    let milliseconds: f64 = milliseconds.trim_matches('"').parse().ok()?;
    let took = Duration::try_from_secs_f64(milliseconds / 1e3).ok()?.min(LONGEST);
    Some((name.chars().take(LONGEST_NAME).collect(), took))
}

#[cfg(test)]
mod tests {
    use super::stages;
    use std::time::Duration;

    #[test]
    fn stages_have_a_name_and_a_duration() {
        let found =
            stages("decode;dur=1.5, cache;desc=\"hit\", inference;desc=x;dur=24, total;dur=30");
        let expected = [("decode", 1_500), ("inference", 24_000)];
        let expected =
            expected.map(|(name, micros)| (name.to_owned(), Duration::from_micros(micros)));
        assert_eq!(found, expected);
        for nothing in ["", "a;dur=-1", "a;dur=NaN", "a;dur=inf", ";dur=1", "a;dur="] {
            assert!(stages(nothing).is_empty(), "{nothing}");
        }
        assert_eq!(stages(&"a;dur=1,".repeat(99)).len(), 16);
    }
}
