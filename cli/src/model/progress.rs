//! Shows the current step on one line of the terminal, which the next step overwrites.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A progress line; hidden if standard error is not a terminal.
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

    /// Shows the current step.
    pub(super) fn show(&self, words: &str) {
        self.0.set_message(words.to_owned());
    }

    /// Shows the current step and its progress.
    pub(super) fn show_part(&self, words: &str, done: usize, total: usize) {
        self.0.set_message(format!("{words}, {done} of {total}"));
    }

    /// Clears the line.
    pub(super) fn done(&self) {
        self.0.finish_and_clear();
    }
}
