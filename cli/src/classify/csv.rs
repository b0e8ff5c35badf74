//! Answers as CSV (RFC 4180): one row per photo, three columns per class, then whether the photo is familiar
//! and a class certain, if the model tells, and its heatmap's file.

use std::path::Path;

use serde_json::Value;

/// The first row, for `top_k` classes.
pub fn header(top_k: usize) -> String {
    let mut row = vec!["photo".to_owned(), "error".to_owned()];
    for rank in 1..=top_k {
        row.extend([format!("class_{rank}"), format!("percent_{rank}"), format!("display_{rank}")]);
    }
    row.extend(["familiarity", "is_familiar", "is_certain", "heatmap"].map(str::to_owned));
    row.join(",") + "\r\n"
}

/// The row of one photo: its classes with their percentages, and what the answer, if only the header of a
/// refusal, says of the photo, and the file that holds its heatmap; or the error, which is empty without one.
pub fn row(
    photo: &Path,
    answer: &Value,
    heatmap: Option<&Path>,
    error: &str,
    top_k: usize,
) -> String {
    let mut row = vec![field(&photo.display().to_string()), field(error)];
    let mut results = answer["results"].as_array().into_iter().flatten();
    for _ in 0..top_k {
        let result = results.next();
        let text = |name: &str| result.map(|result| &result[name]);
        row.push(field(text("class").and_then(Value::as_str).unwrap_or_default()));
        row.push(text("probability").map(Value::to_string).unwrap_or_default());
        row.push(field(text("display").and_then(Value::as_str).unwrap_or_default()));
    }
    let familiarity = &answer["familiarity"];
    let judgement = [&familiarity["score"], &familiarity["is_familiar"], &answer["is_certain"]];
    let said = |value: &Value| if value.is_null() { String::new() } else { value.to_string() };
    row.extend(judgement.map(said));
    row.push(heatmap.map(|path| field(&path.display().to_string())).unwrap_or_default());
    row.join(",") + "\r\n"
}

/// A field, quoted if necessary. Text that a spreadsheet would run as a formula gets an apostrophe, because
/// file names are untrusted.
fn field(text: &str) -> String {
    let guarded = match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    };
    match guarded.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", guarded.replace('"', "\"\"")),
        false => guarded,
    }
}

#[cfg(test)]
mod tests {
    use super::{header, row};
    use serde_json::{Value, json};
    use std::path::Path;

    #[test]
    fn rows_have_as_many_fields_as_the_header() {
        assert_eq!(
            header(2),
            "photo,error,class_1,percent_1,display_1,class_2,percent_2,display_2,familiarity,is_familiar,is_certain,heatmap\r\n"
        );
        let answer = json!({"results": [{"class": "Warts, \"viral\"", "probability": 98.5,
            "display": "Mụn cóc"}],
            "familiarity": {"score": 1.86, "is_familiar": false}});
        let refused =
            json!({"familiarity": {"score": 1.86, "is_familiar": false}, "is_certain": false});
        let cases = [
            (
                "a b.jpg",
                &answer,
                Some("out/a b.png"),
                "",
                "a b.jpg,,\"Warts, \"\"viral\"\"\",98.5,Mụn cóc,,,,1.86,false,,out/a b.png\r\n",
            ),
            (
                "=1+1.jpg",
                &Value::Null,
                None,
                "broken: again",
                "'=1+1.jpg,broken: again,,,,,,,,,,\r\n",
            ),
            (
                "cat.jpg",
                &refused,
                None,
                "unfamiliar",
                "cat.jpg,unfamiliar,,,,,,,1.86,false,false,\r\n",
            ),
        ];
        for (photo, answer, heatmap, error, expected) in cases {
            assert_eq!(row(Path::new(photo), answer, heatmap.map(Path::new), error, 2), expected);
        }
    }
}
