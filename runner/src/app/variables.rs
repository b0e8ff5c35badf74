//! Application variables: their values, and the templates that use them.
//!
//! The sources, in Spin's order: `--variable`, then `SPIN_VARIABLE_<NAME>` of the process, then `.env` in the
//! current folder, then the manifest's default. A template is text with `{{ name }}` in it. Values are not
//! logged here, because a variable may be a secret. Giving them to guests is left to `sandbox`.

use crate::manifest::Variable;
use crate::manifest::names::LowerSnake;
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::path::Path;

/// The prefix of their names in the environment.
const PREFIX: &str = "SPIN_VARIABLE_";

/// Largest file of values that is read, in bytes: it contains settings, not data.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Values given from outside, by variable name.
#[derive(Clone, Default)]
pub struct Values(BTreeMap<String, String>);

impl Values {
    /// The values of the process's environment and of `.env` in `folder`, if that file exists.
    ///
    /// # Errors
    /// When `.env` cannot be read, or a value is not UTF-8.
    pub fn from_environment(folder: &Path) -> anyhow::Result<Self> {
        let mut values = Self::default();
        let file = folder.join(".env");
        if file.is_file() {
            let text = read(&file)?;
            for pair in dotenvy::from_read_iter(text.as_bytes()) {
                let (name, value) = pair.map_err(|error| malformed(&file, &text, &error))?;
                values.set_prefixed(&name, &value);
            }
        }
        for (name, value) in std::env::vars_os() {
            // Names of variables are ASCII, so names that are not UTF-8 are skipped.
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
                continue;
            };
            let value =
                value.to_str().with_context(|| format!("the value of {name} is not UTF-8"))?;
            values.set_prefixed(name, value);
        }
        Ok(values)
    }

    fn set_prefixed(&mut self, name: &str, value: &str) {
        // As in Spin, which looks for the name in capitals.
        let name = name.strip_prefix(PREFIX);
        if let Some(name) = name.filter(|name| !name.bytes().any(|byte| byte.is_ascii_lowercase()))
        {
            self.0.insert(name.to_ascii_lowercase(), value.to_owned());
        }
    }

    /// Sets values from an argument of `--variable`: `name=value`, `name=@file` (the file's text), or
    /// `@file.json` and `@file.toml` (an object of strings).
    ///
    /// # Errors
    /// For another form, a malformed name, or a file that cannot be read.
    pub fn set(&mut self, argument: &str) -> anyhow::Result<()> {
        if let Some(file) = argument.strip_prefix('@') {
            let values = read_object(Path::new(file)).with_context(|| format!("in {file}"))?;
            self.0.extend(values);
            return Ok(());
        }
        let (name, value) = argument
            .split_once('=')
            .context("write --variable as NAME=VALUE, NAME=@FILE, @FILE.json or @FILE.toml")?;
        let name = String::from(LowerSnake::try_from(name.to_owned())?);
        let value = match value.strip_prefix('@') {
            Some(file) => read(Path::new(file))?,
            None => value.to_owned(),
        };
        self.0.insert(name, value);
        Ok(())
    }

    /// The value of every variable of the application.
    ///
    /// # Errors
    /// For a required variable without a value, or one that is not required and has no default.
    pub(super) fn resolve(
        &self,
        declared: &BTreeMap<LowerSnake, Variable>,
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let mut resolved = BTreeMap::new();
        for (name, variable) in declared {
            if variable.required == variable.default.is_some() {
                bail!("[variables] {name}: give it either `required = true` or a `default`");
            }
            let given = self.0.get(name.as_ref()).or(variable.default.as_ref());
            let value = given.with_context(|| {
                let upper = name.as_ref().to_ascii_uppercase();
                format!(
                    "the variable `{name}` is required; set {PREFIX}{upper}, or give \
                     --variable {name}=VALUE"
                )
            })?;
            resolved.insert(name.to_string(), value.clone());
        }
        Ok(resolved)
    }
}

/// `template`, with every `{{ name }}` replaced by its value.
///
/// # Errors
/// For braces that are not closed, or a name that the application does not declare.
pub(super) fn expand(template: &str, values: &BTreeMap<String, String>) -> anyhow::Result<String> {
    let mut expanded = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after
            .split_once("}}")
            .with_context(|| format!("{template:?} has `{{{{` without `}}}}`"))?;
        let name = name.trim();
        let value = values.get(name).with_context(|| {
            format!("{template:?} uses `{name}`, which [variables] does not declare")
        })?;
        expanded.push_str(before);
        expanded.push_str(value);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Names the line of `.env` that cannot be read, and not what is in it, which may be a secret.
fn malformed(file: &Path, text: &str, error: &dotenvy::Error) -> anyhow::Error {
    let number = match error {
        dotenvy::Error::LineParse(line, _) => text.lines().position(|l| l.trim() == line.trim()),
        _ => None,
    };
    let place = number.map(|at| format!(", line {}", at + 1)).unwrap_or_default();
    anyhow::anyhow!(
        "{}{place}: not NAME=value; a value with spaces or `#` stands in quotes",
        file.display()
    )
}

fn read(file: &Path) -> anyhow::Result<String> {
    let bytes =
        std::fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
    if bytes > MAX_FILE_BYTES {
        bail!("{} has {bytes} bytes; at most {MAX_FILE_BYTES} are read", file.display());
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn read_object(file: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let text = read(file)?;
    let values: BTreeMap<LowerSnake, String> = match file.extension().and_then(|e| e.to_str()) {
        Some("json") => serde_json::from_str(&text)?,
        Some("toml") => toml::from_str(&text)?,
        _ => bail!("a file of variables ends in .json or .toml"),
    };
    Ok(values.into_iter().map(|(name, value)| (name.into(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::{Values, expand};
    use std::collections::BTreeMap;

    #[test]
    fn templates_are_expanded() {
        let values =
            BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "{{".to_owned())]);
        let cases =
            [("", ""), ("x", "x"), ("{{a}}", "1"), ("<{{ a }}-{{b}}>", "<1-{{>"), ("}}", "}}")];
        for (template, expected) in cases {
            assert_eq!(expand(template, &values).unwrap(), expected, "{template}");
        }
        for (template, part) in [("{{ a", "without `}}`"), ("{{ c }}", "does not declare")] {
            let error = expand(template, &values).unwrap_err().to_string();
            assert!(error.contains(part), "{template}: {error}");
        }
    }

    #[test]
    fn values_come_from_arguments_and_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let mut values = Values::default();
        values.set("a=1=2").unwrap();
        values.set(&format!("b=@{}", file("b", "two\nlines"))).unwrap();
        values.set(&format!("@{}", file("v.json", r#"{"c": "3"}"#))).unwrap();
        values.set(&format!("@{}", file("v.toml", "d = \"4\""))).unwrap();
        let expected = [("a", "1=2"), ("b", "two\nlines"), ("c", "3"), ("d", "4")];
        assert_eq!(values.0, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        for bad in ["a", "A=1", "@none.json", "e=@none"] {
            assert!(values.set(bad).is_err(), "{bad}");
        }
        assert!(values.set(&format!("@{}", file("v.yaml", ""))).is_err());
    }

    #[test]
    fn a_file_of_the_environment_is_read_as_in_spin() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(folder.path().join(".env"), text).unwrap();
        write(concat!(
            "SPIN_VARIABLE_DOTENV_A=127.0.0.1 # of this machine\n",
            "export SPIN_VARIABLE_DOTENV_B=\"b c # d\"\n# SPIN_VARIABLE_DOTENV_C=c\n\n",
            "SPIN_VARIABLE_DOTENV_D='${SPIN_VARIABLE_DOTENV_A}'\n",
            "SPIN_VARIABLE_DOTENV_E=${SPIN_VARIABLE_DOTENV_A}:80\n",
            "SPIN_VARIABLE_dotenv_g=small\n",
            "SPIN_VARIABLE_DOTENV_F=\"a\\nb\"\nOTHER=x\n",
        ));
        let values = Values::from_environment(folder.path()).unwrap();
        let found = |name: &str| values.0.get(&format!("dotenv_{name}")).map(String::as_str);
        assert_eq!(found("a"), Some("127.0.0.1"));
        assert_eq!(found("b"), Some("b c # d"));
        assert_eq!(found("c"), None);
        assert_eq!(found("g"), None);
        assert_eq!(found("d"), Some("${SPIN_VARIABLE_DOTENV_A}"));
        assert_eq!(found("e"), Some("127.0.0.1:80"));
        assert_eq!(found("f"), Some("a\nb"));
        write("A=b\nSPIN_VARIABLE_DOTENV_A=\"secret\n");
        let error = Values::from_environment(folder.path()).err().unwrap().to_string();
        assert!(error.contains(".env, line 2") && !error.contains("secret"), "{error}");
    }
}
