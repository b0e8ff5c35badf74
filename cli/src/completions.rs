//! `skincell completions` and `skincell man`: completion scripts for shells, and manual pages.

use crate::output::out;
use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::path::PathBuf;
use std::process::ExitCode;

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  skincell completions bash > ~/.local/share/bash-completion/completions/skincell
  skincell completions zsh > \"${fpath[1]}/_skincell\"
  skincell completions fish > ~/.config/fish/completions/skincell.fish")]
pub struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints the completion script of the command line `C`.
    pub fn run<C: CommandFactory>(self) -> ExitCode {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut C::command(), "skincell", &mut script);
        out!("{}", String::from_utf8_lossy(&script));
        ExitCode::SUCCESS
    }
}

/// Write manual pages, one for each command, into a folder.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  skincell man ~/.local/share/man/man1 && man skincell-serve")]
pub struct Man {
    /// The folder, which is made if it does not exist.
    folder: PathBuf,
}

impl Man {
    /// Writes the pages of the command line `C`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn run<C: CommandFactory>(self) -> anyhow::Result<ExitCode> {
        let write = || {
            std::fs::create_dir_all(&self.folder)?;
            clap_mangen::generate_to(C::command(), &self.folder)
        };
        write().with_context(|| self.folder.display().to_string())?;
        Ok(ExitCode::SUCCESS)
    }
}
