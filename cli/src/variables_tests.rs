//! The table of environment variables in `docs/command-line.md`, made from the flags of all commands and the
//! component's settings. `UPDATE_GOLDENS=1 cargo test -p skincell-cli variables` writes it anew.

use crate::Arguments;
use clap::{Arg, Command, CommandFactory};
use std::collections::BTreeMap;
use std::path::Path;

/// Variables without a flag: name, default, meaning.
const WITHOUT_FLAG: [(&str, &str, &str); 5] = [
    ("NO_COLOR", "", "Set to anything: no colours on a terminal"),
    ("OTEL_…", "no traces", "Where traces are sent, [see there](observability.md#traces)"),
    ("RUST_LOG", "`info`", "Log level, such as `debug` or `skincell_runner=trace`"),
    ("SPIN_VARIABLE_<NAME>", "", "The value of an application's variable, [as in Spin](spin.md)"),
    ("SSL_CERT_FILE", "", "Further roots in PEM for the services that components call"),
];
const FIRST: &str = "<!-- made by cli/src/variables_tests.rs -->\n";
const LAST: &str = "<!-- end -->\n";

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    /// The flag that means the same, or what reads the variable.
    flag: String,
    default: String,
    meaning: String,
}

/// Adds the variables of a command and of those below it. Of several commands with one flag, the first
/// explains it.
fn collect(command: &Command, rows: &mut BTreeMap<String, Row>) {
    for argument in command.get_arguments() {
        let Some(name) = argument.get_env().and_then(|name| name.to_str()) else { continue };
        let row = row(argument);
        let first = rows.entry(name.to_owned()).or_insert_with(|| row.clone());
        assert_eq!(first.flag, row.flag, "{name} belongs to one flag");
    }
    for below in command.get_subcommands() {
        collect(below, rows);
    }
}

fn row(argument: &Arg) -> Row {
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let (help, written) = match help.split_once(" [default: ") {
        Some((help, default)) => (help, default.split(']').next().unwrap_or_default()),
        None => (help.as_str(), ""),
    };
    let values = argument.get_default_values().iter().filter_map(|value| value.to_str());
    let default = values.map(|value| format!("`{value}`")).collect::<Vec<_>>().join(" ");
    Row {
        flag: format!("`--{}`", argument.get_long().expect("a variable belongs to a flag")),
        default: if default.is_empty() { written.to_owned() } else { default },
        meaning: first_sentence(help).replace('|', "\\|"),
    }
}

/// The first sentence of a help text, without its full stop.
fn first_sentence(help: &str) -> &str {
    let end = help.find(". ").or_else(|| help.find(".\n")).unwrap_or(help.len());
    help.get(..end).unwrap_or(help).trim_end_matches('.')
}

fn table() -> String {
    let mut rows = BTreeMap::new();
    collect(&Arguments::command(), &mut rows);
    let component = "a component's environment";
    for (names, reader) in
        [(&skincell::settings::VARIABLES[..], component), (&WITHOUT_FLAG[..], "")]
    {
        for (name, default, meaning) in names {
            let row = Row {
                flag: reader.to_owned(),
                default: (*default).to_owned(),
                meaning: (*meaning).to_owned(),
            };
            match rows.get_mut(*name) {
                Some(flag) => flag.flag = format!("{}, {reader}", flag.flag),
                None => drop(rows.insert((*name).to_owned(), row)),
            }
        }
    }
    let rows = rows.iter().map(|(name, Row { flag, default, meaning })| {
        format!("| `{name}` | {flag} | {default} | {meaning} |\n")
    });
    ["| variable | flag | default | meaning |\n|---|---|---|---|\n", &rows.collect::<String>()]
        .concat()
}

#[test]
fn the_table_of_variables_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/command-line.md");
    let text = std::fs::read_to_string(&path).expect("the page is there");
    let (before, rest) = text.split_once(FIRST).expect("the page has the place of the table");
    let (written, after) = rest.split_once(LAST).expect("the table has an end");
    let table = table();
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, [before, FIRST, &table, LAST, after].concat())
            .expect("it is written");
        return;
    }
    assert_eq!(written, table, "UPDATE_GOLDENS=1 writes it anew");
}
