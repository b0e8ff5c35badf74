//! Tests every feature of `spin.toml`: each of `manifests/*.toml` must resolve to the application in the
//! `.json` beside it or give the error in the `.err`.
//!
//! `UPDATE_GOLDENS=1 cargo test -p skincell-runner --test manifests` writes them anew; read the diff. With
//! `SPIN_REPOSITORY=<a checkout of Spin>` Spin's own examples are read as well. Running applications is left
//! out.

#![allow(clippy::unwrap_used, reason = "an error fails the test, with its message")]

use skincell_runner::app::{Additions, Values, load};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests").canonicalize().unwrap()
}

/// Lines `# profile: …` and `# variable: …` in the manifest stand for flags.
fn additions(text: &str) -> Additions {
    let flags = |name: &str| {
        let prefix = format!("# {name}: ");
        text.lines()
            .filter_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let mut variables = Values::default();
    flags("variable").iter().for_each(|argument| variables.set(argument).unwrap());
    Additions { variables, profile: flags("profile").pop(), ..Additions::default() }
}

/// The golden of a manifest: the extension of its file, and the text without this machine's paths.
fn outcome(manifest: &Path) -> (&'static str, String) {
    let text = std::fs::read_to_string(manifest).unwrap();
    let (kind, outcome) = match load(manifest, &additions(&text)) {
        Ok(app) => ("json", serde_json::to_string_pretty(&app).unwrap()),
        Err(error) => ("err", format!("{error:#}")),
    };
    (kind, outcome.trim_end().replace(folder().to_str().unwrap(), "/app") + "\n")
}

#[test]
fn every_manifest_matches_its_golden() {
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let manifests: Vec<_> =
        entries.filter(|p| p.extension().is_some_and(|e| e == "toml")).collect();
    assert!(manifests.len() > 50, "only {} manifests were found", manifests.len());
    for manifest in manifests {
        let (kind, outcome) = outcome(&manifest);
        let other = manifest.with_extension(if kind == "json" { "err" } else { "json" });
        let kept = manifest.with_extension(kind);
        if update {
            std::fs::write(&kept, &outcome).unwrap();
            let _ = std::fs::remove_file(&other);
        }
        assert!(!other.exists(), "{} gave {outcome}", manifest.display());
        assert_eq!(outcome, std::fs::read_to_string(&kept).unwrap(), "{}", manifest.display());
    }
}

/// Spin's examples are read, or refused with the name of a missing capability.
#[test]
fn spins_own_examples_are_read_or_refused_by_name() {
    let Some(repository) = std::env::var_os("SPIN_REPOSITORY") else {
        println!("skipped: SPIN_REPOSITORY is not set to a checkout of Spin");
        return;
    };
    let pattern = Path::new(&repository).join("examples/**/spin.toml");
    let manifests: Vec<_> = glob::glob(pattern.to_str().unwrap()).unwrap().flatten().collect();
    assert!(!manifests.is_empty(), "no examples under {}", pattern.display());
    for manifest in manifests {
        match load(&manifest, &Additions::default()) {
            Ok(app) => println!("{}: read, {} routes", manifest.display(), app.triggers.len()),
            Err(error) => {
                let error = format!("{error:#}");
                assert!(
                    error.contains("not offered here")
                        || error.contains("is not done here")
                        || error.contains("is required")
                        || error.contains("only version 2"),
                    "{error}"
                );
                println!("{error}");
            }
        }
    }
}

/// Functions of the sources, in which tests are looked up.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, text);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(entry).unwrap());
        }
    }
}

/// Every row of the table in `docs/spin.md` names tests, manifests or programs that there are.
#[test]
fn the_table_of_features_names_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut functions = String::new();
    for part in ["runner/src", "tests/cases", "cli/src"] {
        sources(&root.join(part), &mut functions);
    }
    let table = std::fs::read_to_string(root.join("docs/spin.md")).unwrap();
    let table = table.split_once("| shown by |\n").unwrap().1.split_once("\n\n").unwrap().0;
    let mut missing = Vec::new();
    for row in table.lines().skip(1) {
        let shown_by = row.trim_end_matches(" |").rsplit_once(" | ").unwrap().1;
        let names: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test in {row}");
        missing.extend(names.into_iter().filter(|name| match name.rsplit_once('.') {
            Some((_, "toml")) => !folder().join(name).exists(),
            Some(_) => !root.join(name).exists(),
            None => {
                !functions.contains(&format!(" fn {name}()"))
                    && !functions.contains(&format!("\nfn {name}()"))
            }
        }));
    }
    assert!(missing.is_empty(), "{missing:?}");
}
