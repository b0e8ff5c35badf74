//! Prints by calling WASI directly, in ways that the standard library never does.

use wasi::cli::{stderr::get_stderr, stdout::get_stdout};
use wasi::io::poll::poll;

/// Writes without asking how much it may write; the host must trap.
pub(crate) fn at_once() -> &'static str {
    match get_stdout().write(b"at once\n") {
        Ok(()) => "written",
        Err(_) => "refused",
    }
}

/// Asks how much it may write in every non-blocking way, then writes that much, and finally waits.
pub(crate) fn when_ready() -> &'static str {
    let (out, errors) = (get_stdout(), get_stderr());
    let (out_ready, errors_ready) = (out.subscribe(), errors.subscribe());
    // The results are ignored: the pollables are only polled once and dropped.
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
