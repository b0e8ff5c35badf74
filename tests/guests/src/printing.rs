//! Printing by WASI's own calls, in ways that the standard library never does it.

use wasi::cli::{stderr::get_stderr, stdout::get_stdout};
use wasi::io::poll::poll;

/// Writes without having asked how much it may: the host has to end it.
pub(crate) fn at_once() -> &'static str {
    match get_stdout().write(b"at once\n") {
        Ok(()) => "written",
        Err(_) => "refused",
    }
}

/// Asks in every way that does not wait, and then writes what it may, waiting for that in the end.
pub(crate) fn when_ready() -> &'static str {
    let (out, errors) = (get_stdout(), get_stderr());
    let (out_ready, errors_ready) = (out.subscribe(), errors.subscribe());
    // Whether they are is not asked: one that is polled once and dropped has waited for nothing.
    out_ready.ready();
    errors_ready.ready();
    poll(&[&out_ready, &errors_ready]);
    loop {
        match out.check_write() {
            Ok(0) => out_ready.block(),
            Ok(_) => break,
            Err(_) => return "refused",
        }
    }
    match out.write(b"when ready\n") {
        Ok(()) => "written",
        Err(_) => "refused",
    }
}
