//! Identifiers by Spin's rules: words of ASCII letters and digits with separators between them.
//!
//! A component's id is kebab-case (`my-app`), a variable's name is lower-case snake_case (`api_key`). A word
//! begins with a letter and does not mix cases. Other names (routes, models, hosts) have other rules and are
//! left out.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};

/// A component's id, kebab-case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Kebab(String);

/// A variable's name, lower-case snake_case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct LowerSnake(String);

/// A label of a key-value store or a database: kebab-case or snake_case.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct StoreLabel(String);

/// A malformed identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// An empty name, or an empty word between two separators.
    #[error("{0:?} has an empty word; write words of letters and digits joined by {1:?}")]
    EmptyWord(String, char),
    /// The wrong separator.
    #[error("{0:?} joins its words with {1:?}; use {2:?}")]
    Separator(String, char, char),
    /// A word that does not begin with a letter.
    #[error("{0:?} has a word that begins with {1:?}; begin each with a letter a-z")]
    Beginning(String, char),
    /// A character that is not allowed.
    #[error("{0:?} contains {1:?}; words have ASCII letters and digits only")]
    Character(String, char),
    /// Upper and lower case in one word, or upper case in a name that must be lower case.
    #[error("{0:?} mixes upper and lower case; write it in lower case")]
    Case(String),
}

impl TryFrom<String> for Kebab {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        check(&text, '-', '_')?;
        Ok(Self(text))
    }
}

impl TryFrom<String> for LowerSnake {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        check(&text, '_', '-')?;
        if text.contains(|c: char| c.is_ascii_uppercase()) {
            return Err(NameError::Case(text));
        }
        Ok(Self(text))
    }
}

impl TryFrom<String> for StoreLabel {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        check(&text, '-', '_').or_else(|error| check(&text, '_', '-').map_err(|_| error))?;
        Ok(Self(text))
    }
}

macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    )*};
}

as_text!(Kebab, LowerSnake, StoreLabel);

/// Checks Spin's rule for identifiers, with `separator` between words; `other` is the separator often
/// confused with it.
fn check(text: &str, separator: char, other: char) -> Result<(), NameError> {
    if text.contains(other) {
        return Err(NameError::Separator(text.to_owned(), other, separator));
    }
    for word in text.split(separator) {
        let Some(first) = word.chars().next() else {
            return Err(NameError::EmptyWord(text.to_owned(), separator));
        };
        if !first.is_ascii_alphabetic() {
            return Err(NameError::Beginning(text.to_owned(), first));
        }
        if let Some(wrong) = word.chars().find(|c| !c.is_ascii_alphanumeric()) {
            return Err(NameError::Character(text.to_owned(), wrong));
        }
        let has = |test: fn(&char) -> bool| word.chars().any(|c| test(&c));
        if has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase) {
            return Err(NameError::Case(text.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Kebab, LowerSnake, NameError, StoreLabel};

    #[test]
    fn names_follow_spins_rules() {
        for good in ["a", "skincell", "my-app2", "MY-app"] {
            assert!(Kebab::try_from(good.to_owned()).is_ok(), "{good}");
        }
        let kebab = |text: &str| Kebab::try_from(text.to_owned()).unwrap_err();
        assert_eq!(kebab(""), NameError::EmptyWord(String::new(), '-'));
        assert_eq!(kebab("a--b"), NameError::EmptyWord("a--b".to_owned(), '-'));
        assert_eq!(kebab("a_b"), NameError::Separator("a_b".to_owned(), '_', '-'));
        assert_eq!(kebab("1-2"), NameError::Beginning("1-2".to_owned(), '1'));
        assert_eq!(kebab("a+b"), NameError::Character("a+b".to_owned(), '+'));
        assert_eq!(kebab("aB"), NameError::Case("aB".to_owned()));
        assert!(LowerSnake::try_from("api_key".to_owned()).is_ok());
        let upper = LowerSnake::try_from("API_key".to_owned()).unwrap_err();
        assert_eq!(upper, NameError::Case("API_key".to_owned()));
        for good in ["default", "my-store", "my_store"] {
            assert!(StoreLabel::try_from(good.to_owned()).is_ok(), "{good}");
        }
        assert!(StoreLabel::try_from("a-b_c".to_owned()).is_err());
    }
}
