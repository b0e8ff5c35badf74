//! Prints results on standard output. A reader that has closed the pipe, as `head` does, ends the program
//! quietly, and any other failure ends it with a message; `println!` would panic in both cases.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write as _};

/// Prints a text.
macro_rules! out {
    ($($text:tt)*) => { $crate::output::print(format_args!($($text)*)) };
}

/// Prints a text and the end of its line.
macro_rules! outln {
    () => { $crate::output::print(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::print(format_args!("{}\n", format_args!($($text)*))) };
}

pub(crate) use {out, outln};

/// What [`out`] and [`outln`] call.
pub fn print(text: Arguments<'_>) {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("error: cannot print: {error}");
            std::process::exit(1);
        }
    }
}
