//! What is being done right now, on one line of the terminal that the next one overwrites.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A line of progress; nothing where nobody looks.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// An empty line.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} …") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    /// Shows what is being done.
    pub(super) fn show(&self, words: &str) {
        self.0.set_message(words.to_owned());
    }

    /// Shows what is being done, and how far.
    pub(super) fn show_part(&self, words: &str, done: usize, total: usize) {
        self.0.set_message(format!("{words}, {done} of {total}"));
    }

    /// Clears the line.
    pub(super) fn done(&self) {
        self.0.finish_and_clear();
    }
}
