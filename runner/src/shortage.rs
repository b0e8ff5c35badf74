//! Simulates shortages in tests: code that starts a thread, opens a file, accepts a connection or maps memory
//! calls this module first.
//!
//! Without the feature `shortage`, as in every release, the calls succeed and cost nothing. With it, the file
//! that `SKINCELL_SHORTAGE` names says which calls fail: `descriptor 3 2` fails the third and fourth call for
//! a descriptor after the file last changed. The errors are the kernel's own.

use std::io;

/// Before a thread is started.
pub(crate) fn thread() -> io::Result<()> {
    ask("thread", libc::EAGAIN)
}

/// Before a file is opened.
pub(crate) fn descriptor() -> io::Result<()> {
    ask("descriptor", libc::EMFILE)
}

/// Before a connection is accepted.
pub(crate) fn accept() -> io::Result<()> {
    ask("accept", libc::EMFILE)
}

/// Before memory is mapped.
pub(crate) fn memory() -> io::Result<()> {
    ask("memory", libc::ENOMEM)
}

#[cfg(not(feature = "shortage"))]
#[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
fn ask(_kind: &str, _error: i32) -> io::Result<()> {
    Ok(())
}

#[cfg(feature = "shortage")]
fn ask(kind: &str, error: i32) -> io::Result<()> {
    if orders::fails(kind) { Err(io::Error::from_raw_os_error(error)) } else { Ok(()) }
}

#[cfg(feature = "shortage")]
mod orders {
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex, PoisonError};

    /// The file of orders, if any.
    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("SKINCELL_SHORTAGE").map(PathBuf::from));

    /// The order that was read last, and the number of calls since.
    static STATE: Mutex<(String, u64)> = Mutex::new((String::new(), 0));

    pub(super) fn fails(kind: &str) -> bool {
        let Some(file) = &*FILE else { return false };
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 != text {
            *state = (text, 0);
        }
        let (text, calls) = &mut *state;
        let Some((first, number)) = order(text, kind) else { return false };
        *calls += 1;
        (first..first + number).contains(calls)
    }

    /// The first call of `kind` that fails, and the number of calls that do.
    fn order(text: &str, kind: &str) -> Option<(u64, u64)> {
        let mut words = text.split_whitespace();
        let is_meant = words.next() == Some(kind);
        let first = words.next()?.parse().ok()?;
        is_meant.then_some((first, words.next()?.parse().ok()?))
    }
}
