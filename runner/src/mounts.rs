//! The files that a component sees: those that its manifest lists under `files`, staged in one folder that is
//! mounted read-only at `/`.
//!
//! Patterns follow Spin's loader (`crates/loader/src/local.rs`), see [`Staging::pattern`]. Unlike Spin, this
//! module reaches nothing outside the application's folder, not even through symbolic links. Files are
//! hard-linked if the file system supports it, and copied otherwise.

use crate::app::AppComponent;
use crate::manifest::{Files, Mount};
use anyhow::{Context, bail};
use glob::Pattern;
use std::path::{Component, Path, PathBuf};
use tempfile::TempDir;

/// A staged folder, removed when dropped.
#[derive(Debug)]
pub(crate) struct Stage(TempDir);

impl Stage {
    /// The folder to mount at `/`.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Stages the files of `component`, whose manifest lies in `folder`; `None` if it lists none.
///
/// # Errors
/// When a pattern is malformed, a named file does not exist, a path or symbolic link leaves the manifest's
/// folder, or a file cannot be staged.
pub(crate) fn stage(component: &AppComponent, folder: &Path) -> anyhow::Result<Option<Stage>> {
    if component.files.is_empty() && component.placed_files.is_empty() {
        return Ok(None);
    }
    // A container image built from scratch has no /tmp.
    let temporary = std::env::temp_dir();
    let root = std::fs::create_dir_all(&temporary)
        .and_then(|()| TempDir::with_prefix("skincell-files-"))
        .with_context(|| format!("cannot make a folder for files in {}", temporary.display()))?;
    let staging = Staging {
        folder,
        excluded: patterns(&component.exclude_files)?,
        unmounted: patterns(&component.unmounted_files)?,
        root: root.path(),
    };
    for files in &component.files {
        match files {
            Files::Pattern(pattern) => staging.pattern(pattern),
            Files::Mount(mount) => staging.mount(mount),
        }
        .context("in files")?;
    }
    for mount in &component.placed_files {
        let source = Path::new(&mount.source);
        staging.place(source, &mount.destination, source).context("in files")?;
    }
    Ok(Some(Stage(root)))
}

fn patterns(texts: &[String]) -> anyhow::Result<Vec<Pattern>> {
    let parse =
        |text: &String| Pattern::new(text).with_context(|| format!("in exclude_files: {text:?}"));
    texts.iter().map(parse).collect()
}

struct Staging<'a> {
    /// The application's.
    folder: &'a Path,
    /// Spin's `exclude_files`: applied to what a pattern or a folder matches, not to files that are named.
    excluded: Vec<Pattern>,
    /// The runner's own exclusions: applied to everything.
    unmounted: Vec<Pattern>,
    /// The folder in which the component's files are staged.
    root: &'a Path,
}

impl Staging<'_> {
    /// Spin's rules: a name that exists is that file, or everything below that folder; anything else must be
    /// a glob pattern, whose `*` stays within a folder and matches hidden files. Of the matches, only regular
    /// files and links to regular files are taken.
    fn pattern(&self, pattern: &str) -> anyhow::Result<()> {
        let plain = inside(pattern)?;
        if pattern == "." || pattern.ends_with("/.") {
            bail!(
                "{pattern:?} ends in the current folder; write the pattern {pattern}/**/* instead"
            );
        }
        if pattern == ".." || pattern.ends_with("/..") {
            bail!(
                "{pattern:?} ends in a parent folder; write source and destination, or {pattern}/**/*"
            );
        }
        let path = self.folder.join(pattern);
        if path.is_dir() {
            // Spin puts the files of a folder under its name twice: `a/x` of `files = ["a"]` at `/a/a/x`.
            return self.tree(&path, self.folder, &plain, self.folder);
        }
        if path.exists() {
            return self.file(&path, &plain, self.folder);
        }
        if Pattern::escape(pattern) == pattern {
            return match self.is_unmounted(&plain) {
                true => Ok(()),
                false => bail!("{pattern:?} does not exist, and is not a pattern"),
            };
        }
        let whole = format!("{}/{pattern}", Pattern::escape(&self.folder.to_string_lossy()));
        self.glob(&whole, self.folder, Path::new(""), self.folder)
    }

    fn mount(&self, mount: &Mount) -> anyhow::Result<()> {
        self.place(&self.folder.join(&mount.source), &mount.destination, self.folder)
    }

    /// Stages a file, or everything below a folder, at `destination`; all of it must lie inside `limit`.
    fn place(&self, source: &Path, destination: &str, limit: &Path) -> anyhow::Result<()> {
        if !destination.starts_with('/') {
            bail!("the destination {destination:?} must begin with a slash");
        }
        let inside = inside(destination.trim_start_matches('/'))?;
        if !source.exists() {
            bail!("{} does not exist", source.display());
        }
        require_within(source, limit)?;
        match source.is_dir() {
            true => self.tree(source, source, &inside, limit),
            false => self.file(source, &inside, limit),
        }
    }

    /// Stages everything below `source` at `inside`, under its path relative to `prefix`.
    fn tree(
        &self,
        source: &Path,
        prefix: &Path,
        inside: &Path,
        limit: &Path,
    ) -> anyhow::Result<()> {
        let whole = format!("{}/**/*", Pattern::escape(&source.to_string_lossy()));
        // An empty folder is there, too.
        let target = self.root.join(inside);
        std::fs::create_dir_all(&target).with_context(|| {
            format!("cannot make the folder {:?}", format!("/{}", inside.display()))
        })?;
        self.glob(&whole, prefix, inside, limit)
    }

    fn glob(&self, whole: &str, prefix: &Path, inside: &Path, limit: &Path) -> anyhow::Result<()> {
        for found in glob::glob(whole).with_context(|| format!("in the pattern {whole:?}"))? {
            let found = found?;
            // Dangling links, folders and pipes are skipped.
            let path = found.strip_prefix(self.folder).unwrap_or(&found);
            let is_excluded = self.excluded.iter().any(|pattern| pattern.matches_path(path));
            if found.is_file() && !is_excluded {
                self.file(&found, &inside.join(found.strip_prefix(prefix)?), limit)?;
            }
        }
        Ok(())
    }

    /// Stages one file at `inside`.
    fn file(&self, source: &Path, inside: &Path, limit: &Path) -> anyhow::Result<()> {
        if self.is_unmounted(source.strip_prefix(self.folder).unwrap_or(source)) {
            return Ok(());
        }
        let real = require_within(source, limit)?;
        let stage = || {
            let target = self.root.join(inside);
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            if target.is_dir() {
                bail!(
                    "{:?} is not a valid destination file name",
                    format!("/{}", inside.display())
                );
            }
            Ok(link_or_copy(&real, &target)?)
        };
        stage().with_context(|| format!("cannot stage {} for the component", source.display()))
    }

    fn is_unmounted(&self, path: &Path) -> bool {
        self.unmounted.iter().any(|pattern| pattern.matches_path(path))
    }
}

/// The path of `source` with symbolic links resolved, if it lies in the folder `limit`.
fn require_within(source: &Path, limit: &Path) -> anyhow::Result<PathBuf> {
    let real =
        source.canonicalize().with_context(|| format!("cannot find {}", source.display()))?;
    let limit = limit.canonicalize()?;
    if !real.starts_with(&limit) {
        bail!(
            "{} leads to {}, outside the application's folder; only what lies inside is mounted",
            source.display(),
            real.display()
        );
    }
    Ok(real)
}

/// `source` must not be a symbolic link: a hard link to a relative one would point nowhere.
fn link_or_copy(source: &Path, target: &Path) -> std::io::Result<()> {
    if !source.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    // Of two entries for one destination the later one counts. Writing into the earlier one would change its
    // source, to which it is a link.
    match std::fs::remove_file(target) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match std::fs::hard_link(source, target) {
        Err(_) => std::fs::copy(source, target).map(drop),
        Ok(()) => Ok(()),
    }
}

/// The path without `.` and `..`. Refuses paths that are absolute or rise above the folder they start in.
fn inside(path: &str) -> anyhow::Result<PathBuf> {
    let mut plain = PathBuf::new();
    for part in Path::new(path).components() {
        let stays = match part {
            Component::Normal(name) => {
                plain.push(name);
                true
            }
            Component::CurDir => true,
            Component::ParentDir => plain.pop(),
            Component::RootDir | Component::Prefix(_) => false,
        };
        if !stays {
            bail!("{path:?} leaves the application's folder; only paths inside it are mounted");
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::{Stage, stage};
    use crate::app::AppComponent;
    use crate::manifest::{Files, Mount};
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    fn component(files: Vec<Files>, exclude: &[&str]) -> AppComponent {
        AppComponent {
            id: "c".into(),
            source: PathBuf::new(),
            embedded: None,
            environment: Vec::new(),
            variables: std::collections::BTreeMap::new(),
            files,
            placed_files: Vec::new(),
            exclude_files: exclude.iter().map(|s| (*s).to_owned()).collect(),
            unmounted_files: Vec::new(),
            key_value_stores: Vec::new(),
            allowed_outbound_hosts: Vec::new(),
            models: Vec::new(),
            models_folder: PathBuf::new(),
            open: Vec::new(),
            routes: Vec::new(),
            dependencies: Vec::new(),
            build: None,
        }
    }

    fn pattern(text: &str) -> Vec<Files> {
        vec![Files::Pattern(text.into())]
    }

    fn mount(source: &str, destination: &str) -> Vec<Files> {
        vec![Files::Mount(Mount { source: source.into(), destination: destination.into() })]
    }

    /// A folder with these files in it, each with its own name as its text.
    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        folder
    }

    fn staged(stage: &Stage) -> BTreeSet<String> {
        let all = glob::glob(&format!("{}/**/*", stage.path().display())).unwrap().flatten();
        let files = all.filter(|path| path.is_file());
        let name = |path: PathBuf| path.strip_prefix(stage.path()).unwrap().display().to_string();
        files.map(name).collect()
    }

    fn names(files: Vec<Files>, exclude: &[&str], folder: &Path) -> BTreeSet<String> {
        staged(&stage(&component(files, exclude), folder).unwrap().unwrap())
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn refusal(files: Vec<Files>, folder: &Path) -> String {
        format!("{:#}", stage(&component(files, &[]), folder).unwrap_err())
    }

    #[test]
    fn paths_that_stay_inside_are_taken_and_empty_folders_are_there() {
        let folder = folder(&["f.txt", "s/x"]);
        assert_eq!(names(pattern("s/../f.txt"), &[], folder.path()), set(&["f.txt"]));
        assert_eq!(names(mount("s", "//x//y"), &[], folder.path()), set(&["x/y/x"]));
        assert_eq!(names(mount("s", "/x/../y"), &[], folder.path()), set(&["y/x"]));
        std::fs::create_dir(folder.path().join("void")).unwrap();
        let stage = stage(&component(mount("void", "/data"), &[]), folder.path()).unwrap().unwrap();
        assert!(stage.path().join("data").is_dir());
        for outside in ["/../x", "/x/../../y"] {
            let error = refusal(mount("s", outside), folder.path());
            assert!(error.contains("leaves the application's folder"), "{error}");
        }
    }

    /// The expected files are those of Spin's loader.
    #[test]
    fn patterns_match_what_they_match_in_spin() {
        let all = ["s/a.txt", "s/.hidden", "s/secret/deep/key.txt", "s/secret/x.pem", "t/b.txt"];
        let folder = folder(&all);
        let cases: [(&str, &[&str], &[&str]); 8] = [
            ("s/*", &[], &["s/a.txt", "s/.hidden"]),
            ("s/**/*", &[], &all[..4]),
            ("**/*", &["s/secret/*", "*.pem"], &["s/a.txt", "s/.hidden", "t/b.txt"]),
            ("*/*.txt", &[], &["s/a.txt", "t/b.txt"]),
            ("s/a.tx?", &["*/a.txt"], &[]),
            ("s/a.txt", &["s/a.txt"], &["s/a.txt"]),
            ("t", &[], &["t/t/b.txt"]),
            ("nothing/*", &[], &[]),
        ];
        for (files, exclude, expected) in cases {
            assert_eq!(names(pattern(files), exclude, folder.path()), set(expected), "{files}");
        }
        let error = refusal(pattern("nope.txt"), folder.path());
        assert!(error.contains("\"nope.txt\" does not exist"), "{error}");
    }

    #[test]
    fn mounts_are_staged_and_exclusions_left_out() {
        let folder = folder(&["models/skin/card.json", "models/skin/model.onnx", "models/a.txt"]);
        let whole = names(mount("models", "/data"), &["*.onnx"], folder.path());
        assert_eq!(whole, set(&["data/skin/card.json", "data/a.txt"]));
        let one = names(mount("models/a.txt", "/b.txt"), &["*"], folder.path());
        assert_eq!(one, set(&["b.txt"]));
        let all = names(mount(".", "/"), &[], folder.path());
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn files_that_the_runner_leaves_out_need_not_exist() {
        let folder = folder(&["models/skin/card.json", "models/skin/model.onnx"]);
        let files = ["models/skin/*", "models/skin/model.cell", "models/skin/model.onnx"];
        let files = files.map(|text| Files::Pattern(text.into())).to_vec();
        let mut component = component(files, &[]);
        component.unmounted_files = vec!["models/*/model.*".into()];
        let stage = stage(&component, folder.path()).unwrap().unwrap();
        assert_eq!(staged(&stage), set(&["models/skin/card.json"]));
    }

    #[test]
    fn a_destination_is_a_file_once_and_the_later_entry_counts() {
        let folder = folder(&["f.txt", "s/x", "other"]);
        let mut files = pattern("s/*");
        files.extend(mount("f.txt", "/s"));
        for (files, name) in [(mount("f.txt", "/"), "\"/\""), (files, "\"/s\"")] {
            let error = refusal(files, folder.path());
            assert!(
                error.contains(&format!("{name} is not a valid destination file name")),
                "{error}"
            );
        }
        let twice = ["f.txt", "other"].iter().flat_map(|source| mount(source, "/d")).collect();
        let stage = stage(&component(twice, &[]), folder.path()).unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(stage.path().join("d")).unwrap(), "other");
        assert_eq!(std::fs::read_to_string(folder.path().join("f.txt")).unwrap(), "f.txt");
    }

    /// Opening a pipe blocks until it has a writer, in the middle of a request.
    #[test]
    fn a_pipe_is_not_staged() {
        let folder = folder(&["a.txt"]);
        let made = std::process::Command::new("mkfifo").arg(folder.path().join("pipe")).status();
        assert!(made.unwrap().success());
        assert_eq!(names(pattern("*"), &[], folder.path()), set(&["a.txt"]));
        let error = refusal(pattern("pipe"), folder.path());
        assert!(error.contains("pipe for the component: it is not a regular file"), "{error}");
    }

    #[test]
    fn nothing_outside_the_folder_is_reached() {
        let folder = folder(&["a.txt"]);
        for text in ["../*", "/etc/passwd", "a/../../b"] {
            let error = refusal(pattern(text), folder.path());
            assert!(error.contains("leaves the application's folder"), "{text}: {error}");
        }
        for source in ["/etc", "/etc/passwd", "..", "../"] {
            let error = refusal(mount(source, "/data"), folder.path());
            assert!(error.contains("outside the application's folder"), "{source}: {error}");
        }
    }

    #[test]
    fn a_symbolic_link_is_followed_inside_the_folder_and_not_out_of_it() {
        let folder = folder(&["a/b.txt", "c/x"]);
        symlink("../a/b.txt", folder.path().join("c/inside")).unwrap();
        symlink("nowhere", folder.path().join("c/dangling")).unwrap();
        assert_eq!(names(pattern("c/*"), &[], folder.path()), set(&["c/inside", "c/x"]));
        symlink("/etc/passwd", folder.path().join("c/out")).unwrap();
        symlink("/etc", folder.path().join("etc")).unwrap();
        let all = [pattern("c/*"), pattern("c/out"), pattern("etc/passwd"), pattern("etc/pass*")];
        for files in
            all.into_iter().chain([mount("c", "/c"), mount("etc", "/e"), mount("c/out", "/o")])
        {
            let error = refusal(files.clone(), folder.path());
            assert!(error.contains("outside the application's folder"), "{files:?}: {error}");
        }
        let left_out = names(pattern("c/*"), &["c/out"], folder.path());
        assert_eq!(left_out, set(&["c/inside", "c/x"]), "excluded files need not lie inside");
    }
}
