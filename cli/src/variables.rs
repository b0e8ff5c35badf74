//! Environment variables of the process: those of components reach the components, and of those that nothing
//! reads a warning names the likely one.

use crate::Arguments;
use crate::alike::most_like;
use clap::{Command, CommandFactory};
use skincell::settings::{Settings, VARIABLES};
use skincell_runner::app::{App, AppComponent};
use std::collections::BTreeSet;

/// The variables of this program begin so.
const PREFIX: &str = "SKINCELL_";

/// The component's variable for its own limit of a request body; `--max-body` reads it too.
const MAX_BODY: &str = "SKINCELL_MAX_BODY";

/// The component's variable for the model of requests that name none.
const MODEL: &str = "SKINCELL_MODEL";

/// Gives the variables of [`VARIABLES`] that `process` has to the components with models: they come before
/// the manifest's environment and after `given`, that of `--env`. `max_body` replaces the limit of the
/// components whose manifest sets one.
///
/// Warns of variables that nothing reads. Returns the components' first wrong value, in words.
pub fn apply(
    app: &mut App,
    given: &[(String, String)],
    max_body: Option<u64>,
    process: &[(String, String)],
) -> Option<String> {
    unread(app, given, process).iter().for_each(|warning| tracing::warn!("{warning}"));
    for component in app.components.iter_mut().filter(|component| !component.models.is_empty()) {
        for (name, value) in process {
            let is_read = VARIABLES.iter().any(|(known, ..)| known == name) && name != MAX_BODY;
            if is_read && !is_in(given, name) && !value.trim().is_empty() {
                set(component, name, value);
            }
        }
    }
    if let Some(limit) = max_body.filter(|_| !is_in(given, MAX_BODY)) {
        for component in &mut app.components {
            if is_in(&component.environment, MAX_BODY) {
                set(component, MAX_BODY, &limit.to_string());
            }
        }
    }
    app.components.iter().filter(|component| !component.models.is_empty()).find_map(wrong)
}

/// The variables of this process whose names and values are text.
pub fn of_process() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

fn is_in(variables: &[(String, String)], name: &str) -> bool {
    variables.iter().any(|(known, _)| known == name)
}

/// Sets a component's variable. A model that is not granted is left out with a warning: every request that
/// names none would fail.
fn set(component: &mut AppComponent, name: &str, value: &str) {
    if name == MODEL && !component.models.iter().any(|model| model == value.trim()) {
        let granted = component.models.join(", ");
        tracing::warn!("{MODEL} is {value:?} and has no effect: the models are {granted}");
        return;
    }
    component.environment.retain(|(known, _)| known != name);
    component.environment.push((name.to_owned(), value.to_owned()));
}

/// What is wrong with a component's variables, if something is.
fn wrong(component: &AppComponent) -> Option<String> {
    let variable = |name: &str| {
        let mut variables = component.environment.iter();
        variables.find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    Settings::read(variable).err().map(|error| error.to_string())
}

/// A warning for each variable of the process and of `--env` that begins as those of this program, and that
/// neither the program nor a component reads.
fn unread(app: &App, given: &[(String, String)], process: &[(String, String)]) -> Vec<String> {
    let mut known = of_commands();
    known.extend(VARIABLES.iter().map(|(name, ..)| (*name).to_owned()));
    let manifest = app.components.iter().flat_map(|component| &component.environment);
    // `--env` has set its own in the components already.
    let manifest = manifest.filter(|(name, _)| !is_in(given, name));
    known.extend(manifest.map(|(name, _)| name.clone()));
    let names = process.iter().chain(given).map(|(name, _)| name.as_str());
    let unread = names
        .filter(|name| name.starts_with(PREFIX) && !known.contains(*name) && !is_of_cluster(name));
    let unread: BTreeSet<&str> = unread.collect();
    let advice = |name: &str| match likely(name, &known) {
        Some(likely) => format!("did you mean {likely}?"),
        None => "docs/command-line.md lists the variables".to_owned(),
    };
    unread
        .into_iter()
        .map(|name| format!("nothing reads the variable {name}; {}", advice(name)))
        .collect()
}

/// Kubernetes and Docker set these for a service with the name `skincell`.
fn is_of_cluster(name: &str) -> bool {
    let name = name.strip_prefix(PREFIX).unwrap_or_default();
    name == "PORT" || ["PORT_", "SERVICE_"].iter().any(|prefix| name.starts_with(prefix))
}

/// The known name that is most like `name`, compared without the prefix that all have.
fn likely(name: &str, known: &BTreeSet<String>) -> Option<String> {
    let own = known.iter().filter_map(|known| known.strip_prefix(PREFIX));
    most_like(name.strip_prefix(PREFIX)?, own).map(|own| format!("{PREFIX}{own}"))
}

/// The variables that the flags of all commands read.
fn of_commands() -> BTreeSet<String> {
    fn collect(command: &Command, names: &mut BTreeSet<String>) {
        let read = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
        names.extend(read.map(str::to_owned));
        command.get_subcommands().for_each(|below| collect(below, names));
    }
    let mut names = BTreeSet::new();
    collect(&Arguments::command(), &mut names);
    names
}

#[cfg(test)]
mod tests {
    use super::{apply, unread};
    use skincell_runner::app::{self, Additions, App};
    use std::path::Path;

    const MANIFEST: &str = r#"
spin_manifest_version = 2
[application]
name = "a"
[[trigger.http]]
route = "/..."
component = "looks"
[[trigger.http]]
route = "/other"
component = "other"
[component.looks]
source = "a.wasm"
ai_models = ["skin"]
[component.looks.environment]
SKINCELL_MODEL = "skin"
SKINCELL_MAX_BODY = "16MiB"
ENABLE_GRADCAM = "true"
[component.other]
source = "b.wasm"
[component.other.environment]
SKINCELL_OF_ITS_OWN = "1"
"#;

    fn application(given: &[(String, String)]) -> App {
        let manifest = skincell_runner::manifest::parse(MANIFEST).unwrap();
        let additions = Additions { environment: given.to_vec(), ..Additions::default() };
        app::resolve(manifest, Path::new("/a"), &additions).unwrap()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn value<'a>(app: &'a App, component: usize, name: &str) -> Option<&'a str> {
        let mut variables = app.components[component].environment.iter();
        variables.find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// `SKINCELL_UNFAMILIAR=refuse skincell serve` was ignored.
    #[test]
    fn the_shell_comes_before_the_manifest_and_after_env() {
        let given = pairs(&[("SKINCELL_COLOR", "stored")]);
        let mut app = application(&given);
        let process = pairs(&[
            ("SKINCELL_UNFAMILIAR", "refuse"),
            ("SKINCELL_COLOR", "srgb"),
            ("ENABLE_GRADCAM", "false"),
            ("SKINCELL_MODEL", "some/folder"),
            ("SKINCELL_PAGE", ""),
            ("SKINCELL_MAX_BODY", "1KB"),
        ]);
        assert_eq!(apply(&mut app, &given, Some(1000), &process), None);
        for (name, expected) in [
            ("SKINCELL_UNFAMILIAR", Some("refuse")),
            ("SKINCELL_COLOR", Some("stored")),
            ("ENABLE_GRADCAM", Some("false")),
            ("SKINCELL_MODEL", Some("skin")),
            ("SKINCELL_PAGE", None),
            ("SKINCELL_MAX_BODY", Some("1000")),
        ] {
            assert_eq!(value(&app, 0, name), expected, "{name}");
        }
        assert_eq!(value(&app, 1, "SKINCELL_UNFAMILIAR"), None, "it has no model");
        assert_eq!(value(&app, 1, "SKINCELL_MAX_BODY"), None, "its manifest sets none");
    }

    #[test]
    fn a_wrong_value_is_named_wherever_it_was_set() {
        let wrong = pairs(&[("SKINCELL_UNFAMILIAR", "refuze")]);
        for (given, process) in [(&wrong[..], &[][..]), (&[], &wrong)] {
            let words = apply(&mut application(given), given, None, process).unwrap();
            assert_eq!(words, "SKINCELL_UNFAMILIAR is \"refuze\": set warn or refuse");
        }
    }

    #[test]
    fn a_variable_that_nothing_reads_is_named_with_the_likely_one() {
        let given = pairs(&[("SKINCELL_UNFAMILAR", "refuse"), ("OTHER", "1")]);
        let process = pairs(&[
            ("SKINCELL_MEMORY_LIMITS", "1"),
            ("SKINCELL_XYZ", "1"),
            ("SKINCELL_QUEUE", "1"),
            ("SKINCELL_OF_ITS_OWN", "1"),
            ("SKINCELL_SERVICE_HOST", "10.0.0.1"),
            ("SKINCELL_PORT_80_TCP", "10.0.0.1"),
            ("PATH", "/bin"),
        ]);
        let warnings = unread(&application(&given), &given, &process);
        assert_eq!(
            warnings,
            [
                "nothing reads the variable SKINCELL_MEMORY_LIMITS; did you mean SKINCELL_MEMORY_LIMIT?",
                "nothing reads the variable SKINCELL_UNFAMILAR; did you mean SKINCELL_UNFAMILIAR?",
                "nothing reads the variable SKINCELL_XYZ; docs/command-line.md lists the variables",
            ]
        );
    }
}
