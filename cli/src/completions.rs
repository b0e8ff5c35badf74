//! `skincell completions`: prints completion scripts for shells.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io;
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
        clap_complete::generate(self.shell, &mut C::command(), "skincell", &mut io::stdout());
        ExitCode::SUCCESS
    }
}
