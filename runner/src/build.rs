//! `--build`: runs the build commands that the manifest names, as `spin build` does. Reading the manifest is
//! left to `manifest`.

use crate::app::App;
use anyhow::{Context, bail};
use std::process::Command;

/// Runs the build commands of all components, also of those that no trigger names, each in its `workdir`
/// through the shell.
///
/// Their output goes to this process's standard output and error.
///
/// # Errors
/// When a command cannot be started or fails, with its exit status.
pub fn build(app: &App) -> anyhow::Result<()> {
    for (id, build) in app.builds() {
        let folder = app.folder.join(build.workdir.as_deref().unwrap_or("."));
        for command in build.command.as_slice() {
            eprintln!("Building component {id} with `{command}`");
            let status = shell(command)
                .current_dir(&folder)
                .status()
                .with_context(|| format!("cannot start `{command}` in {}", folder.display()))?;
            if !status.success() {
                bail!("building component {id} failed: `{command}` ended with {status}");
            }
        }
    }
    Ok(())
}

fn shell(command: &str) -> Command {
    let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
    let mut shell = Command::new(shell);
    shell.args([flag, command]);
    shell
}
