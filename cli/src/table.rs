//! Formats a photo's classes as bars of text.

use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

/// Columns of a full bar.
const BAR: usize = 24;

/// The ranked classes of one answer, with the model's notice.
pub fn answer(photo: &Path, answer: &Value) -> String {
    let mut text = photo.display().to_string();
    let familiarity = &answer["familiarity"];
    if familiarity["is_familiar"] == Value::Bool(false) {
        let score = familiarity["score"].as_f64().unwrap_or_default();
        let basis = familiarity["basis"].as_str().unwrap_or("the photos of its training");
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n  UNFAMILIAR: not like {basis}, which this model knows ({score:.2} times the limit); do not \
             rely on these classes"
        );
    } else if answer["is_certain"] == Value::Bool(false) {
        let _ = write!(text, "\n  not sure: no class is probable enough");
    }
    for result in answer["results"].as_array().into_iter().flatten() {
        let percent = result["probability"].as_f64().unwrap_or(0.0);
        let label = ["display", "class"].iter().find_map(|key| result[key].as_str()).unwrap_or("?");
        let filled = (percent / 100.0 * BAR as f64).round().clamp(0.0, BAR as f64) as usize;
        let bar = format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled));
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

    #[test]
    fn an_unfamiliar_photo_is_said_to_be_so_before_its_classes() {
        let results = json!([{ "class": "Warts", "probability": 99.9 }]);
        let familiarity = json!({ "score": 1.861, "is_familiar": false, "basis": "840 drawings" });
        let given = json!({ "results": results, "familiarity": familiarity, "is_certain": false });
        let text = answer(Path::new("a.jpg"), &given);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("  UNFAMILIAR: not like 840 drawings"), "{text}");
        assert!(lines[1].contains("1.86 times") && lines[2].ends_with("Warts"), "{text}");
        let given = json!({ "results": results, "is_certain": false });
        assert!(answer(Path::new("a.jpg"), &given).contains("\n  not sure"));
    }
}
