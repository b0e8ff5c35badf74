//! Bearer tokens (RFC 6750). Several are valid at once, so that one can replace another.
//!
//! They are kept as SHA-256 digests. A request's token is compared with all of them in constant time, so the
//! time of a refusal does not tell how close a guess was.

use super::Watched;
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use subtle::{Choice, ConstantTimeEq};

type Fingerprint = [u8; 32];

/// The tokens that are accepted.
#[derive(Debug)]
pub struct Tokens {
    known: RwLock<Vec<Fingerprint>>,
    file: Option<Watched>,
}

/// Shortest token, in characters: shorter ones can be guessed.
const SHORTEST: usize = 16;

/// Why a tokens file cannot be used, or a request's token is refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the tokens in {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not a token.
    #[error(
        "line {line} of {path} is not a token: write one of at least {SHORTEST} letters, digits or -._~+/= \
         on each line, such as `openssl rand -hex 32` makes"
    )]
    NoToken {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
    },
    /// The file is empty.
    #[error("{0} holds no token, so every request would be refused: write one on each line")]
    Empty(PathBuf),
    /// A request without a token.
    #[error("this service requires a token; send it as `Authorization: Bearer …`")]
    Missing,
    /// A request with a token that is not among them.
    #[error("this token is not valid here; ask the operator of the service for one")]
    Unknown,
}

impl Tokens {
    /// Reads the tokens in a file: one on each line; empty lines and those that begin with `#` do not
    /// count.
    ///
    /// # Errors
    /// [`TokenError`], with the line that is not a token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let file = Watched::new(path);
        let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
        let content = file.content().map_err(unreadable)?;
        file.is_new(&content);
        Ok(Self { known: RwLock::new(parse(&content, path)?), file: Some(file) })
    }

    #[cfg(test)]
    pub(super) fn of(tokens: &[&str]) -> Self {
        let known = tokens.iter().map(|token| fingerprint(token)).collect();
        Self { known: RwLock::new(known), file: None }
    }

    /// Reads the file again if it has changed. A file that cannot be used changes nothing, and is logged.
    pub(super) fn refresh(&self) {
        let Some(file) = &self.file else { return };
        // A missing file is not a change: it is being replaced, or was removed by mistake.
        let Ok(content) = file.content() else { return };
        if !file.is_new(&content) {
            return;
        }
        match parse(&content, file.path()) {
            Ok(read) => {
                tracing::info!(tokens = read.len(), "the tokens were read again");
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = read;
            }
            Err(error) => tracing::error!("the tokens stay as they were: {error}"),
        }
    }

    /// Whether a request's head carries one of the tokens.
    ///
    /// # Errors
    /// [`TokenError::Missing`] or [`TokenError::Unknown`].
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), TokenError> {
        let given = headers.get(header::AUTHORIZATION).ok_or(TokenError::Missing)?;
        let (scheme, token) =
            given.to_str().ok().and_then(|v| v.split_once(' ')).unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(TokenError::Missing);
        }
        let given = fingerprint(token.trim());
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().fold(Choice::from(0), |found, one| found | one.ct_eq(&given));
        if bool::from(found) { Ok(()) } else { Err(TokenError::Unknown) }
    }
}

fn parse(content: &[u8], path: &Path) -> Result<Vec<Fingerprint>, TokenError> {
    // Bytes that are not UTF-8 are replaced by a character that tokens cannot contain.
    let text = String::from_utf8_lossy(content);
    let mut known = Vec::new();
    for (line, token) in (1..).zip(text.lines().map(str::trim)) {
        if token.is_empty() || token.starts_with('#') {
            continue;
        }
        if !is_token(token) {
            return Err(TokenError::NoToken { path: path.to_owned(), line });
        }
        known.push(fingerprint(token));
    }
    if known.is_empty() { Err(TokenError::Empty(path.to_owned())) } else { Ok(known) }
}

/// The characters of RFC 6750's `b64token`.
fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    text.len() >= SHORTEST && text.bytes().all(allowed)
}

fn fingerprint(token: &str) -> Fingerprint {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::{TokenError, Tokens};
    use http::{HeaderMap, HeaderValue, header};
    use std::fs;

    fn bearer(token: &str) -> HeaderMap {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[test]
    fn a_file_is_read_again_when_it_changed_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        fs::write(&path, "# of the website\nfirst-token-of-mine\n\n  second-token-of-mine  \n")
            .unwrap();
        let tokens = Tokens::read(&path).unwrap();
        let opens = |token| tokens.check(&bearer(token)).is_ok();
        assert!(opens("first-token-of-mine") && opens("second-token-of-mine"));
        assert!(!opens("first-token-of-min") && !opens("# of the website") && !opens(""));
        fs::write(&path, "third-token-of-mine\n").unwrap();
        tokens.refresh();
        assert!(opens("third-token-of-mine") && !opens("first-token-of-mine"));
        fs::write(&path, "short\n").unwrap();
        tokens.refresh();
        assert!(opens("third-token-of-mine"), "an unusable file changes nothing");
    }

    #[test]
    fn files_without_a_usable_token_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        assert!(matches!(Tokens::read(&path), Err(TokenError::Unreadable { .. })));
        fs::write(&path, "# none\n").unwrap();
        assert!(matches!(Tokens::read(&path), Err(TokenError::Empty(_))));
        for wrong in ["short", "with blanks in the token", "nöt-ascii-but-long-enough"] {
            fs::write(&path, format!("first-token-of-mine\n{wrong}\n")).unwrap();
            let error = Tokens::read(&path).unwrap_err();
            assert!(matches!(error, TokenError::NoToken { line: 2, .. }), "{error}");
        }
    }

    #[test]
    fn other_authorization_counts_as_a_missing_token() {
        let tokens = Tokens::of(&["first-token-of-mine"]);
        let basic = HeaderValue::from_static("Basic first-token-of-mine");
        let basic = HeaderMap::from_iter([(header::AUTHORIZATION, basic)]);
        assert!(matches!(tokens.check(&basic), Err(TokenError::Missing)));
        assert!(matches!(tokens.check(&HeaderMap::new()), Err(TokenError::Missing)));
        assert!(matches!(tokens.check(&bearer("other")), Err(TokenError::Unknown)));
    }
}
