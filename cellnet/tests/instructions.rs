//! Compares instruction counts of the kernels with recorded ones, to detect spilled registers at once.
//!
//! `examples/instructions.rs` is built in the release profile and run under valgrind's callgrind with a
//! named back end, so that the counts are the same on every processor. The recorded counts are in
//! `instructions.tsv` beside this file. A count of more than [`MORE`] times the recorded one fails; after
//! an intended change, `SKINCELL_BLESS=1 cargo test -p cellnet --test instructions` records the new ones.
//! Without valgrind (`apt-get install valgrind`) the test is skipped with a printed reason.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Largest accepted ratio to the recorded count: string functions differ a little between C libraries.
const MORE: f64 = 1.01;

/// Instruction counts by back end and case.
type Counts = BTreeMap<(String, String), u64>;

#[test]
fn kernels_take_no_more_instructions_than_they_did() {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: counting instructions needs valgrind");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = example();
    let packed = Command::new(&program).arg("pack").arg(folder.path()).status().unwrap();
    assert!(packed.success(), "packing: {packed}");
    let mut counts = Counts::new();
    for isa in ["avx2", "portable"] {
        counted(&program, folder.path(), isa, &mut counts);
    }
    assert!(!counts.is_empty(), "nothing was counted");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/instructions.tsv");
    if std::env::var_os("SKINCELL_BLESS").is_some() {
        std::fs::write(&path, table(&counts)).unwrap();
        return;
    }
    let failures = compare(&counts, &kept(&path));
    assert!(
        failures.is_empty(),
        "{failures}If this is intended: SKINCELL_BLESS=1 cargo test -p cellnet --test instructions"
    );
}

/// Prints each count beside its recorded one; returns the lines of counts that are too high or new.
fn compare(counts: &Counts, kept: &Counts) -> String {
    let mut failures = String::new();
    for ((isa, case), count) in counts {
        let line = match kept.get(&(isa.clone(), case.clone())) {
            Some(before) => {
                let ratio = *count as f64 / *before as f64;
                let line =
                    format!("{isa}, {case}: {count} instructions, {ratio:.3} x the recorded count");
                if ratio <= MORE {
                    println!("{line}");
                    continue;
                }
                line
            }
            None => format!("{isa}, {case}: {count} instructions, none recorded"),
        };
        writeln!(failures, "{line}").unwrap();
    }
    failures
}

/// Builds the example in the release profile with a child cargo and returns its path.
fn example() -> PathBuf {
    let arguments = ["build", "--release", "--package", "cellnet", "--example", "instructions"];
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).args(["--message-format", "json-render-diagnostics"]);
    let output = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", output.status);
    let messages = String::from_utf8(output.stdout).unwrap();
    let name = Path::new("examples/instructions");
    let mut files = messages.split('"').map(PathBuf::from).filter(|p| p.ends_with(name));
    files.next().expect("cargo prints the path of the built file")
}

/// Counts one run of each case on a back end, unless valgrind's processor lacks it.
fn counted(program: &Path, folder: &Path, isa: &str, counts: &mut Counts) {
    let out = folder.join(format!("callgrind.{isa}"));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--zero-before=*measured*", "--dump-before=*::said"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .arg("run")
        .arg(folder)
        .arg(isa)
        .output()
        .unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    if names.starts_with("no ") {
        println!("skipped: this machine has no {isa}");
        return;
    }
    for (i, case) in names.lines().enumerate() {
        let dump = std::fs::read_to_string(out.with_extension(format!("{isa}.{}", i + 1))).unwrap();
        let totals = dump.lines().find_map(|line| line.strip_prefix("totals: ")).unwrap();
        counts.insert((isa.to_owned(), case.to_owned()), totals.trim().parse().unwrap());
    }
}

fn table(counts: &Counts) -> String {
    let mut text = String::from("isa\tcase\tinstructions\n");
    for ((isa, case), count) in counts {
        writeln!(text, "{isa}\t{case}\t{count}").unwrap();
    }
    text
}

fn kept(path: &Path) -> Counts {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split('\t').map(str::to_owned);
        let (isa, case) = (words.next()?, words.next()?);
        Some(((isa, case), words.next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}
