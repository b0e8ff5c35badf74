//! Lines of a report, gathered before they are printed.

/// Adds a formatted line to a string.
macro_rules! line {
    ($text:expr, $($argument:tt)*) => {{
        $text.push_str(&format!($($argument)*));
        $text.push('\n');
    }};
}

pub(super) use line;
