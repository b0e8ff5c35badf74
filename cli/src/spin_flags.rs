//! Tips for flags of `spin up` that this program does not have, in place of a flag with a similar name, and
//! for a misspelt command after `help`.

use crate::Arguments;
use crate::alike::most_like;
use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Flags of `spin up`, and what to do instead.
const OF_SPIN: [(&[&str], &str); 15] = [
    (
        &["--from-registry", "--insecure", "-k"],
        "applications are not fetched from registries here; name a spin.toml with --from",
    ),
    (
        &["--temp", "--tmp"],
        "files of components are staged in the folder that the variable TMPDIR names",
    ),
    (&["--direct-mounts"], "files of components are always staged here; leave it out"),
    (
        &["--component-id", "-c"],
        "all components are served here; leave it out, or remove the other triggers from spin.toml",
    ),
    (
        &["--cache"],
        "compiled components are kept in the folder of --cache-dir, or nowhere with --disable-cache",
    ),
    (&["--disable-pooling"], "instances always come from a pool here; leave it out"),
    (&["--debug-info"], "components cannot be debugged here; use Spin for that"),
    (
        &["--runtime-config-file"],
        "the runner is configured by flags, such as --variable, --max-instance-memory and --state-dir; it has no \
         stores, databases or providers other than the default key-value store",
    ),
    (
        &["--format"],
        "the address is printed as a line of text; with --quiet, nothing else is. Log lines have --log-format",
    ),
    (
        &[
            "--max-instance-reuse-count",
            "--max-instance-concurrent-reuse-count",
            "--idle-instance-timeout",
        ],
        "every request has an instance of its own here; leave it out",
    ),
    (
        &["--allow-transient-write"],
        "files of components are read-only here; keep what changes in a key-value store",
    ),
    (
        &["--key-value"],
        "the store is filled by components alone here; --key-value-limit is its largest size",
    ),
    (&["--sqlite"], "SQLite is not offered here; run the application on Spin"),
    (
        &["--experimental-wasi-otel"],
        "components cannot send traces of their own here; the variable OTEL_EXPORTER_OTLP_ENDPOINT turns on the \
         runner's",
    ),
    (&["--experimental-wasm-feature"], "the features of Wasm are fixed here; leave it out"),
];

/// Flags that only `skincell up` has, which other commands may be given by mistake.
const OF_UP: [&str; 6] = ["--build", "--from", "--file", "--from-file", "--profile", "--variable"];

/// Flags that other servers have, and the flag that does the same here.
const OF_OTHERS: [(&str, &str); 5] = [
    ("--port", "--listen :PORT"),
    ("--host", "--listen HOST:PORT"),
    ("--bind", "--listen HOST:PORT"),
    ("--address", "--listen HOST:PORT"),
    ("--workers", "--max-concurrency N"),
];

/// Variables of `spin up` that set a flag, and the flag.
const VARIABLES: [(&str, &str); 2] =
    [("RUNTIME_CONFIG_FILE", "--runtime-config-file"), ("SPIN_ALWAYS_BUILD", "--build")];

/// Warns of variables that Spin reads and this program does not. `is_set` says which there are.
pub fn warn_of_variables(is_set: impl Fn(&str) -> bool) {
    for (variable, flag) in VARIABLES.into_iter().filter(|(variable, _)| is_set(variable)) {
        tracing::warn!("the variable {variable} is ignored: {}", instead_of(flag));
    }
}

fn instead_of(flag: &str) -> &'static str {
    let row = OF_SPIN.iter().find(|(flags, _)| flags.contains(&flag));
    row.map_or("give the flag --build instead", |(_, instead)| instead)
}

/// The error with a tip of its own if it is about a flag of `spin up` or of `skincell up`.
pub fn explained(mut error: clap::Error) -> clap::Error {
    let tip = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) if error.kind() == ErrorKind::UnknownArgument => tip(flag),
        _ => None,
    };
    let tip = tip.or_else(|| likely_command(&error));
    if let Some(tip) = tip {
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// The command that is probably meant, where clap suggests none: in `skincell help serv`.
fn likely_command(error: &clap::Error) -> Option<String> {
    let known = [ContextKind::SuggestedSubcommand, ContextKind::Suggested];
    if known.iter().any(|suggested| error.get(*suggested).is_some()) {
        return None;
    }
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand) else {
        return None;
    };
    let commands = Arguments::command();
    let likely = most_like(given, commands.get_subcommands().map(clap::Command::get_name))?;
    Some(format!("a similar command exists: '{likely}'"))
}

fn tip(flag: &str) -> Option<String> {
    if OF_UP.contains(&flag) {
        return Some(format!("{flag} is a flag of `skincell up`, which serves Spin applications"));
    }
    if let Some((_, own)) = OF_OTHERS.iter().find(|(other, _)| *other == flag) {
        return Some(format!("give {own} instead of {flag}"));
    }
    let (_, instead) = OF_SPIN.iter().find(|(flags, _)| flags.contains(&flag))?;
    Some(format!("{flag} is a flag of `spin up` without a meaning here: {instead}"))
}

#[cfg(test)]
mod tests {
    use super::{OF_SPIN, OF_UP, explained};
    use crate::Arguments;
    use clap::{CommandFactory as _, Parser as _};

    fn refusal(arguments: &[&str]) -> String {
        let parsed = Arguments::try_parse_from(["skincell"].iter().chain(arguments));
        explained(parsed.expect_err("it is refused")).to_string()
    }

    #[test]
    fn flags_of_spin_get_a_tip_of_their_own() {
        let flags =
            OF_SPIN.iter().flat_map(|(flags, instead)| flags.iter().map(move |f| (f, instead)));
        for (flag, instead) in flags {
            for command in ["up", "serve"] {
                let refusal = refusal(&[command, flag, "x"]);
                assert!(refusal.contains(instead), "{refusal}");
                assert_eq!(refusal.matches("tip:").count(), 1, "{refusal}");
            }
        }
        for flag in OF_UP {
            let refusal = refusal(&["serve", flag]);
            assert!(refusal.contains("of `skincell up`"), "{refusal}");
            assert_eq!(refusal.matches("tip:").count(), 1, "{refusal}");
        }
        assert!(refusal(&["serve", "--port", "3100"]).contains("give --listen :PORT instead"));
        assert!(refusal(&["help", "serv"]).contains("a similar command exists: 'serve'"));
        assert!(refusal(&["up", "--listne", "x"]).contains("'--listen'"), "others keep theirs");
    }

    #[test]
    fn variables_of_spin_are_told_what_their_flags_are() {
        for (variable, flag) in super::VARIABLES {
            let instead = super::instead_of(flag);
            assert!(instead.contains("--build") || instead.contains("--variable"), "{variable}");
        }
    }

    /// A tip names only flags that there are.
    #[test]
    fn tips_name_flags_of_this_program() {
        let mut command = Arguments::command();
        command.build();
        let up = command.find_subcommand("up").expect("there is `up`");
        let known: Vec<String> =
            up.get_arguments().filter_map(|a| Some(format!("--{}", a.get_long()?))).collect();
        for (flags, instead) in OF_SPIN {
            let words = instead.split(|c: char| !c.is_ascii_lowercase() && c != '-');
            for word in words.filter(|word| word.starts_with("--")) {
                assert!(known.iter().any(|flag| flag == word), "{word}");
            }
            assert!(flags.iter().all(|flag| !known.iter().any(|known| known == flag)), "{flags:?}");
        }
    }
}
