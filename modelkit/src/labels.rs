//! Parses labels in the forms that training tools write: lines of text, CSV, or JSON. The result is in the
//! order of the scores.
//!
//! | form | written by |
//! |---|---|
//! | `akiec`, optionally with a tab and a display name | hand |
//! | `0 akiec`, from 0 or from 1 | Teachable Machine |
//! | `akiec 0`, with a space or a tab | Places365 and other lists of data sets |
//! | `0,akiec`, `akiec,0`, with or without a heading | spreadsheets |
//! | `"akiec",` | a list copied from a script |
//! | `["akiec", …]`, `{"akiec": 0, …}`, `{"0": "akiec", …}` | `json.dump` of a list or of Keras's
//! `class_indices` |
//! | `{"id2label": {…}}`, `{"label_names": […]}` | transformers, timm |
//! | `{"0": ["n01440764", "tench"], …}` | Keras's `imagenet_class_index.json` |
//! | `{0: 'akiec', …}` | Python's `print`, Ultralytics in the metadata of ONNX files |

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use skincell_vision::card::Class;
use thiserror::Error;

/// Why labels cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LabelsError {
    /// A line has no label.
    #[error("line {line} of the labels is empty; every class needs a label, one per line")]
    Empty {
        /// Its number, from 1.
        line: usize,
    },
    /// Two labels are equal, so that answers would be ambiguous.
    #[error("labels {first} and {second} are both {label:?}; labels must differ")]
    Twice {
        /// The label.
        label: String,
        /// Number of the first of the two, from 1.
        first: usize,
        /// Number of the second.
        second: usize,
    },
    /// The labels' numbers are not 0, 1, 2 and so on.
    #[error(
        "the labels are numbered, but not from 0 to {last}, each once ({problem}); number them in the \
         order of the scores"
    )]
    Numbers {
        /// The expected last number.
        last: usize,
        /// The problem.
        problem: String,
    },
    /// The text is neither UTF-8 nor marked as UTF-16.
    #[error("line {line} of the labels is not UTF-8 text; save the file in the encoding UTF-8")]
    Encoding {
        /// The first such line, from 1.
        line: usize,
    },
    /// The JSON has an unknown form.
    #[error(
        "the labels are JSON of an unknown form ({problem}); use a list of names, an object of names and \
         numbers, or an object with id2label"
    )]
    Json {
        /// The problem.
        problem: String,
    },
}

/// Parses labels in any of these forms. Lines may end in CR LF, a byte order mark may come first, and empty
/// lines at the end are ignored.
///
/// # Errors
/// [`LabelsError`] with the invalid label.
pub fn parse_labels(text: &str) -> Result<Vec<Class>, LabelsError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_end();
    // Old spreadsheets end lines with a carriage return alone.
    let single = text.contains('\r') && !text.contains('\n');
    let text = &if single { text.replace('\r', "\n") } else { text.to_owned() };
    let begins = text.trim_start().chars().next();
    let classes = match begins {
        Some('[' | '{') => json(text)?,
        _ => lines(text)?,
    };
    let mut seen = HashMap::new();
    for (index, class) in classes.iter().enumerate() {
        if class.label.is_empty() {
            return Err(LabelsError::Empty { line: index + 1 });
        }
        if let Some(first) = seen.insert(&class.label, index) {
            let label = class.label.clone();
            return Err(LabelsError::Twice { label, first: first + 1, second: index + 1 });
        }
    }
    Ok(classes)
}

fn class(label: &str, display: Option<&str>) -> Class {
    let display = display.map(str::trim).filter(|d| !d.is_empty()).map(str::to_owned);
    Class { label: label.trim().to_owned(), display }
}

fn lines(text: &str) -> Result<Vec<Class>, LabelsError> {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    if let Some(line) = lines.iter().position(|line| line.trim().is_empty()) {
        return Err(LabelsError::Empty { line: line + 1 });
    }
    if let Some(labels) = numbered(&lines)? {
        return Ok(labels.into_iter().map(|label| class(&label, None)).collect());
    }
    let plain = |line: &&str| match line.split_once('\t') {
        Some((label, display)) => class(label, Some(display)),
        None => class(&unquoted(line), None),
    };
    Ok(lines.iter().map(plain).collect())
}

/// The text of a file of labels: UTF-8, or UTF-16 with a byte order mark, as Windows writes it.
///
/// # Errors
/// [`LabelsError::Encoding`] if it is in another encoding.
pub fn decode_labels(bytes: &[u8]) -> Result<String, LabelsError> {
    let units = |from: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes[2..].as_chunks::<2>();
        let text = String::from_utf16(&pairs.iter().map(|pair| from(*pair)).collect::<Vec<_>>());
        text.ok().filter(|_| rest.is_empty())
    };
    let text = match bytes {
        [0xff, 0xfe, ..] => units(u16::from_le_bytes),
        [0xfe, 0xff, ..] => units(u16::from_be_bytes),
        _ => str::from_utf8(bytes).ok().map(str::to_owned),
    };
    text.ok_or_else(|| {
        let line =
            1 + bytes.utf8_chunks().next().map_or(0, |chunk| chunk.valid().matches('\n').count());
        LabelsError::Encoding { line }
    })
}

/// A label without surrounding quotes and the comma after it.
fn unquoted(text: &str) -> String {
    let text = text.trim();
    let bare = text.strip_suffix(',').unwrap_or(text).trim();
    let within = |quote: char| bare.strip_prefix(quote).and_then(|t| t.strip_suffix(quote));
    match within('"').or_else(|| within('\'')) {
        Some(inner) => inner.replace("\"\"", "\""),
        // Without quotes a final comma is dropped only after a single word; otherwise it may be part of the
        // name.
        None if text.ends_with(',') && !bare.contains(' ') => bare.to_owned(),
        None => text.to_owned(),
    }
}

/// The labels of numbered lines in the order of their numbers; `None` if lines are not numbered.
fn numbered(lines: &[&str]) -> Result<Option<Vec<String>>, LabelsError> {
    let with_comma = |line: &&str| pair(line, [',', ';']);
    let all = |lines: &[&str]| lines.iter().map(with_comma).collect::<Option<Vec<_>>>();
    // A heading names the columns and has no number.
    let pairs = all(lines).or_else(|| {
        let (heading, rest) = lines.split_first()?;
        let columns = heading.split([',', ';']).count() == 2 && with_comma(heading).is_none();
        if columns && !rest.is_empty() { all(rest) } else { None }
    });
    if let Some(pairs) = pairs {
        return in_order(pairs).map(Some);
    }
    let spaced = |line: &&str| {
        let (number, label) = line.trim_start().split_once([' ', ':', '\t'])?;
        Some((number.trim_end_matches(':').parse::<usize>().ok()?, unquoted(label)))
    };
    if let Some(pairs) = lines.iter().map(spaced).collect::<Option<Vec<_>>>() {
        return by_space(pairs);
    }
    let behind = |line: &&str| {
        let (label, number) = line.trim_end().rsplit_once([' ', '\t'])?;
        Some((number.parse::<usize>().ok()?, unquoted(label)))
    };
    let Some(pairs) = lines.iter().map(behind).collect::<Option<Vec<_>>>() else { return Ok(None) };
    // "class 0" and "class 1" are whole names.
    let differ = pairs.iter().map(|(_, label)| label).collect::<HashSet<_>>().len() == pairs.len();
    if differ { by_space(pairs) } else { Ok(None) }
}

/// The labels of lines with a number and a space. Names may begin or end with a number ("1 cent"), so the
/// numbers count only if they are 0, 1, 2 and so on, or 1, 2, 3 and so on, line by line.
///
/// # Errors
/// [`LabelsError::Numbers`] if they are 1, 2, 3 and so on in another order than the lines, because then the
/// order of the scores is not known.
fn by_space(pairs: Vec<(usize, String)>) -> Result<Option<Vec<String>>, LabelsError> {
    let last = pairs.len().saturating_sub(1);
    let mut numbers: Vec<usize> = pairs.iter().map(|(number, _)| *number).collect();
    let in_line = numbers.windows(2).all(|pair| pair[0] < pair[1]);
    numbers.sort_unstable();
    let from_one = numbers.len() > 2 && numbers.iter().enumerate().all(|(i, n)| *n == i + 1);
    if from_one && in_line {
        return Ok(Some(pairs.into_iter().map(|(_, label)| label).collect()));
    }
    if from_one {
        let problem = "they run from 1, and the lines are in another order".to_owned();
        return Err(LabelsError::Numbers { last, problem });
    }
    Ok(in_order(pairs).ok())
}

/// The number and the label of a line of two fields.
fn pair(line: &str, separators: [char; 2]) -> Option<(usize, String)> {
    let (first, second) = line.split_once(separators)?;
    if let Ok(number) = first.trim().parse() {
        return Some((number, unquoted(second)));
    }
    let (first, second) = line.rsplit_once(separators)?;
    Some((second.trim().parse().ok()?, unquoted(first)))
}

fn in_order(mut pairs: Vec<(usize, String)>) -> Result<Vec<String>, LabelsError> {
    let last = pairs.len().saturating_sub(1);
    pairs.sort_by_key(|(number, _)| *number);
    match pairs.iter().enumerate().find(|(index, (number, _))| index != number) {
        None => Ok(pairs.into_iter().map(|(_, label)| label).collect()),
        Some((index, (number, label))) => {
            let problem = format!("{label:?} has number {number} where {index} is expected");
            Err(LabelsError::Numbers { last, problem })
        }
    }
}

/// The labels of a dictionary as Python prints it, `{0: 'akiec', 1: "bcc"}`; `None` for other texts.
fn python_dictionary(text: &str) -> Option<Result<Vec<String>, LabelsError>> {
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        let (number, label) = rest.split_once(':')?;
        let number = number.trim().parse().ok()?;
        let label = label.trim_start();
        let quote = label.chars().next().filter(|c| ['\'', '"'].contains(c))?;
        let label = label.get(1..)?;
        let escaped = |at: usize| label.get(..at).is_some_and(|before| before.ends_with('\\'));
        let (end, _) = label.match_indices(quote).find(|(at, _)| !escaped(*at))?;
        pairs.push((number, label.get(..end)?.replace('\\', "")));
        rest = label.get(end + 1..)?.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Some(in_order(pairs)).filter(|found| !matches!(found, Ok(labels) if labels.is_empty()))
}

fn json(text: &str) -> Result<Vec<Class>, LabelsError> {
    if let Some(labels) = python_dictionary(text) {
        return Ok(labels?.iter().map(|label| class(label, None)).collect());
    }
    // A list as Python prints it has single quotes.
    let value = serde_json::from_str::<Value>(text)
        .or_else(|error| serde_json::from_str(&text.replace('\'', "\"")).map_err(|_| error))
        .map_err(|error| LabelsError::Json { problem: error.to_string() })?;
    let labels = names(&value)?;
    Ok(labels.iter().map(|label| class(label, None)).collect())
}

fn names(value: &Value) -> Result<Vec<String>, LabelsError> {
    let unknown = |problem: String| Err(LabelsError::Json { problem });
    match value {
        Value::Array(list) => {
            let texts =
                list.iter().map(|v| v.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
            texts.map_or_else(|| unknown("a list with members other than names".to_owned()), Ok)
        }
        Value::Object(members) => {
            for inner in [
                "id2label",
                "label_names",
                "class_indices",
                "class_names",
                "classes",
                "labels",
                "names",
            ] {
                if let Some(value @ (Value::Array(_) | Value::Object(_))) = members.get(inner) {
                    return names(value);
                }
            }
            // ImageNet's list has pairs of a WordNet number and a name.
            let name = |v: &Value| match v.as_array().map(Vec::as_slice) {
                Some([_, name]) => name.as_str().map(str::to_owned),
                _ => v.as_str().map(str::to_owned),
            };
            let by_number = members.iter().map(|(k, v)| Some((k.parse().ok()?, name(v)?)));
            let by_name =
                members.iter().map(|(k, v)| Some((usize::try_from(v.as_u64()?).ok()?, k.clone())));
            let pairs = by_number
                .collect::<Option<Vec<(usize, String)>>>()
                .or_else(|| by_name.collect::<Option<Vec<_>>>());
            match pairs {
                Some(pairs) => in_order(pairs),
                None => {
                    let first: Vec<&str> = members.keys().take(3).map(String::as_str).collect();
                    unknown(format!("an object with members such as {}", first.join(", ")))
                }
            }
        }
        _ => unknown("neither a list nor an object".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of(label: &str, display: Option<&str>) -> Class {
        Class { label: label.to_owned(), display: display.map(str::to_owned) }
    }

    #[test]
    fn reads_lines_and_refuses_bad_ones() {
        let cases = [
            ("a\nb\n", Ok(vec![class_of("a", None), class_of("b", None)])),
            ("a\tApple\r\nb\t\r\n\n", Ok(vec![class_of("a", Some("Apple")), class_of("b", None)])),
            ("\u{feff}Heathy\tHealthy", Ok(vec![class_of("Heathy", Some("Healthy"))])),
            ("a\n\nb", Err(LabelsError::Empty { line: 2 })),
            ("a\nb\na", Err(LabelsError::Twice { label: "a".to_owned(), first: 1, second: 3 })),
            ("", Ok(vec![])),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_labels(text), expected, "{text:?}");
        }
    }

    /// The same three classes in every form that training tools write.
    #[test]
    fn every_form_of_file_gives_the_same_labels() {
        for text in [
            "akiec\nbcc\nmole, benign\n",
            "0 akiec\r\n1 bcc\r\n2 mole, benign\r\n",
            "\u{feff}0: akiec\n1: bcc\n2: mole, benign",
            "0,akiec\n1,bcc\n2,\"mole, benign\"",
            "2;\"mole, benign\"\n0;akiec\n1;bcc",
            "index,label\n0,akiec\n1,bcc\n2,\"mole, benign\"\n",
            "akiec,0\nbcc,1\n\"mole, benign\",2",
            "\"akiec\",\n\"bcc\",\n\"mole, benign\",\n",
            "'akiec',\n'bcc',\n'mole, benign'",
            "[\"akiec\", \"bcc\", \"mole, benign\"]",
            "['akiec', 'bcc', 'mole, benign']",
            "{\"bcc\": 1, \"akiec\": 0, \"mole, benign\": 2}",
            "{0: 'akiec', 1: \"bcc\", 2: 'mole, benign'}",
            "{\"0\": \"akiec\", \"2\": \"mole, benign\", \"1\": \"bcc\"}",
            "{\"architectures\": [\"X\"], \"id2label\": {\"0\": \"akiec\", \"1\": \"bcc\", \"2\": \"mole, benign\"}}",
        ] {
            let found =
                parse_labels(text).map(|c| c.into_iter().map(|c| c.label).collect::<Vec<_>>());
            assert_eq!(
                found,
                Ok(["akiec", "bcc", "mole, benign"].map(str::to_owned).to_vec()),
                "{text:?}"
            );
        }
    }

    #[test]
    fn encodings_are_read_or_named() {
        let little = [0xff, 0xfe, b'a', 0, b'\n', 0, 0xe4, 0];
        let big = [0xfe, 0xff, 0, b'a', 0, b'\n', 0, 0xe4];
        for bytes in [&little[..], &big, "a\nä".as_bytes()] {
            assert_eq!(decode_labels(bytes), Ok("a\nä".to_owned()), "{bytes:?}");
        }
        for (bytes, line) in [(&b"a\n\xe4"[..], 2), (&[0xff, 0xfe, b'a'], 1)] {
            assert_eq!(decode_labels(bytes), Err(LabelsError::Encoding { line }), "{bytes:?}");
        }
    }

    #[test]
    fn numbers_that_are_not_those_of_the_classes_are_refused_or_kept_as_text() {
        let names =
            |text| parse_labels(text).map(|c| c.into_iter().map(|c| c.label).collect::<Vec<_>>());
        assert_eq!(names("1 cent\n2 cent"), Ok(vec!["1 cent".to_owned(), "2 cent".to_owned()]));
        let texts = |list: &[&str]| Ok(list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        assert_eq!(names("1 a\n2 b\n3 c"), texts(&["a", "b", "c"]));
        assert!(matches!(names("1 a\n3 b\n2 c"), Err(LabelsError::Numbers { .. })));
        assert_eq!(names("c 2\na 0\nb 1"), texts(&["a", "b", "c"]));
        assert_eq!(names("class 0\nclass 1"), texts(&["class 0", "class 1"]));
        assert_eq!(names("c\t2\na\t0\nb\t1"), texts(&["a", "b", "c"]));
        assert_eq!(names("grade 2\ngrade 3"), texts(&["grade 2", "grade 3"]));
        assert_eq!(names("a\rb\rc"), texts(&["a", "b", "c"]));
        assert_eq!(names("{\"1\": [\"n2\", \"b\"], \"0\": [\"n1\", \"a\"]}"), texts(&["a", "b"]));
        for text in [
            "1,akiec\n2,bcc",
            "0,akiec\n0,bcc",
            "{\"a\": 0, \"b\": 2}",
            "{\"0\": \"a\", \"2\": \"b\"}",
        ] {
            assert!(
                matches!(names(text), Err(LabelsError::Numbers { .. })),
                "{text:?}: {:?}",
                names(text)
            );
        }
        for text in ["[1, 2]", "{\"a\": \"b\"}", "{", "{\"a\": [0]}"] {
            assert!(
                matches!(names(text), Err(LabelsError::Json { .. })),
                "{text:?}: {:?}",
                names(text)
            );
        }
        assert_eq!(names("{0: 'it\\'s', 1: 'b'}"), Ok(vec!["it's".to_owned(), "b".to_owned()]));
        assert!(matches!(names("{0: 'a', 2: 'b'}"), Err(LabelsError::Numbers { .. })));
        let twice = LabelsError::Twice { label: "a".to_owned(), first: 1, second: 2 };
        assert_eq!(names("0 a\n1 a"), Err(twice));
    }
}
