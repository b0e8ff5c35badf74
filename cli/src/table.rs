//! Formats a photo's classes as bars of text.

use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

/// Columns of a full bar.
const BAR: usize = 24;

/// The ranked classes of one answer, with the model's notice.
pub fn answer(photo: &Path, answer: &Value) -> String {
    let mut text = photo.display().to_string();
    for result in answer["results"].as_array().into_iter().flatten() {
        let percent = result["probability"].as_f64().unwrap_or(0.0);
        let label = ["display", "class"].iter().find_map(|key| result[key].as_str()).unwrap_or("?");
        let filled = (percent / 100.0 * BAR as f64).round().clamp(0.0, BAR as f64) as usize;
        let bar = format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled));
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {bar} {percent:5.1} %  {label}");
    }
    if let Some(notice) = answer["model"]["notice"].as_str().filter(|notice| !notice.is_empty()) {
        let _ = write!(text, "\n  {notice}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::answer;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn bar_lengths_are_proportional_to_probabilities() {
        let given = json!({
            "model": { "notice": "drawings only" },
            "results": [
                { "class": "Heathy", "display": "Healthy", "probability": 75.0 },
                { "class": "Eczema Photos", "probability": 25.0 },
            ],
        });
        let expected = "a.jpg\n  ██████████████████░░░░░░  75.0 %  Healthy\
            \n  ██████░░░░░░░░░░░░░░░░░░  25.0 %  Eczema Photos\n  drawings only";
        assert_eq!(answer(Path::new("a.jpg"), &given), expected);
    }
}
