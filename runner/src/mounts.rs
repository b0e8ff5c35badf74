//! The files a component sees: what its manifest lists under `files`, gathered into one folder that
//! is mounted read-only at `/`.
//!
//! Like Spin, patterns keep their relative path and nothing outside the manifest's folder is reached.
//! Files are hard-linked where the file system can, copied where it cannot.

use crate::app::AppComponent;
use crate::manifest::{Files, Mount};
use anyhow::{Context, bail};
use glob::{MatchOptions, Pattern};
use std::path::{Component, Path, PathBuf};
use tempfile::TempDir;

/// A staged folder, removed when dropped.
#[derive(Debug)]
pub(crate) struct Stage(TempDir);

/// Spin's rules: `*` stays within a folder, and does not match hidden files.
const MATCH: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

impl Stage {
    /// The folder to mount at `/`.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Gathers the files of `component`; `None` where it lists none.
///
/// # Errors
/// A malformed pattern, a path that leaves the manifest's folder, or a file that cannot be staged.
pub(crate) fn stage(component: &AppComponent, folder: &Path) -> anyhow::Result<Option<Stage>> {
    if component.files.is_empty() {
        return Ok(None);
    }
    // An image from nothing has no /tmp.
    let temporary = std::env::temp_dir();
    let root = std::fs::create_dir_all(&temporary)
        .and_then(|()| TempDir::with_prefix("skincell-files-"))
        .with_context(|| format!("cannot make a folder for files in {}", temporary.display()))?;
    let excluded = component
        .exclude_files
        .iter()
        .map(|p| Pattern::new(p).with_context(|| format!("in exclude_files: {p:?}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for files in &component.files {
        match files {
            Files::Pattern(pattern) => stage_pattern(pattern, folder, &excluded, root.path()),
            Files::Mount(mount) => stage_mount(mount, folder, &excluded, root.path()),
        }?;
    }
    Ok(Some(Stage(root)))
}

fn stage_pattern(
    pattern: &str,
    folder: &Path,
    excluded: &[Pattern],
    root: &Path,
) -> anyhow::Result<()> {
    require_inside(pattern)?;
    let escaped = Pattern::escape(&folder.to_string_lossy());
    let whole = format!("{escaped}/{pattern}");
    for found in glob::glob_with(&whole, MATCH).with_context(|| format!("in files: {pattern:?}"))? {
        let found = found?;
        let relative = found.strip_prefix(folder)?;
        stage_tree(&found, relative, relative, excluded, root)?;
    }
    Ok(())
}

fn stage_mount(
    mount: &Mount,
    folder: &Path,
    excluded: &[Pattern],
    root: &Path,
) -> anyhow::Result<()> {
    let Some(inside) = mount.destination.strip_prefix('/') else {
        bail!("in files: the destination {:?} must begin with a slash", mount.destination);
    };
    require_inside(inside)?;
    let source = folder.join(&mount.source);
    if !source.exists() {
        bail!("in files: {} does not exist", source.display());
    }
    stage_tree(&source, Path::new(&mount.source), Path::new(inside), excluded, root)
}

/// Stages a file or a whole folder at `inside`, leaving out what is excluded by its manifest path.
fn stage_tree(
    source: &Path,
    manifest_path: &Path,
    inside: &Path,
    excluded: &[Pattern],
    root: &Path,
) -> anyhow::Result<()> {
    if excluded.iter().any(|pattern| pattern.matches_path_with(manifest_path, MATCH)) {
        return Ok(());
    }
    let target = root.join(inside);
    if source.is_dir() {
        for entry in std::fs::read_dir(source)? {
            let name = entry?.file_name();
            let (from, path) = (source.join(&name), manifest_path.join(&name));
            stage_tree(&from, &path, &inside.join(&name), excluded, root)?;
        }
        return Ok(());
    }
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    link_or_copy(source, &target)
        .with_context(|| format!("cannot stage {} for the component", source.display()))
}

fn link_or_copy(source: &Path, target: &Path) -> std::io::Result<()> {
    // The link target must be the file itself: a link to a symbolic link would point nowhere.
    let source = source.canonicalize()?;
    if !source.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    match std::fs::hard_link(&source, target) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => std::fs::copy(&source, target).map(drop),
        Ok(()) => Ok(()),
    }
}

fn require_inside(path: &str) -> anyhow::Result<()> {
    let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
    if PathBuf::from(path).components().all(plain) {
        return Ok(());
    }
    bail!("in files: {path:?} leaves the application's folder; only paths inside it are mounted")
}

#[cfg(test)]
mod tests {
    use super::stage;
    use crate::app::AppComponent;
    use crate::manifest::{Files, Mount};
    use std::path::PathBuf;

    fn component(files: Vec<Files>, exclude: &[&str]) -> AppComponent {
        AppComponent {
            id: "c".into(),
            source: PathBuf::new(),
            environment: Vec::new(),
            variables: std::collections::BTreeMap::new(),
            files,
            exclude_files: exclude.iter().map(|s| (*s).to_owned()).collect(),
            models: Vec::new(),
            models_folder: PathBuf::new(),
            open: Vec::new(),
            dependencies: Vec::new(),
            build: None,
        }
    }

    #[test]
    fn patterns_and_mounts_are_staged_and_exclusions_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["models/skin/card.json", "models/skin/model.onnx", "models/old/card.json"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let mount = Mount { source: "models/skin".into(), destination: "/data".into() };
        let files = vec![Files::Pattern("models/*/card.json".into()), Files::Mount(mount)];
        let stage = stage(&component(files, &["models/old/*"]), folder.path()).unwrap().unwrap();
        let there = |name: &str| stage.path().join(name).exists();
        assert!(there("models/skin/card.json") && there("data/model.onnx"));
        assert!(!there("models/skin/model.onnx") && !there("models/old/card.json"));
    }

    /// To open one waits for whoever writes it, in the middle of a request.
    #[test]
    #[cfg(unix)]
    fn a_pipe_is_not_staged() {
        let folder = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo").arg(folder.path().join("pipe")).status();
        assert!(made.unwrap().success());
        let files = vec![Files::Pattern("*".into())];
        let error = stage(&component(files, &[]), folder.path()).unwrap_err();
        assert!(format!("{error:#}").contains("pipe for the component: it is no regular file"));
    }

    #[test]
    fn nothing_outside_the_folder_is_reached() {
        let folder = tempfile::tempdir().unwrap();
        for pattern in ["../*", "/etc/passwd", "a/../../b"] {
            let files = vec![Files::Pattern(pattern.into())];
            let error = stage(&component(files, &[]), folder.path()).unwrap_err();
            assert!(format!("{error:#}").contains("leaves the application's folder"), "{pattern}");
        }
    }
}
