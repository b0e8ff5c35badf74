//! An application in a temporary folder: the repository's own `spin.toml`, with test models instead of the
//! real ones, and the misbehaving guest besides the component.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use toml::{Table, Value};

use crate::artifacts::{artifacts, repository, two_inputs, wasi03};
use crate::{colours, damaged, dot};

/// An application whose folder is deleted when this value is dropped.
#[derive(Debug)]
pub struct App {
    folder: TempDir,
}

impl App {
    /// The component with these models mounted, and the guest under `/guest/...`:
    ///
    /// - `colours`, the default: see [`colours`].
    /// - `plain`, granted: `colours` without a Grad-CAM output.
    /// - `private`, mounted, not granted.
    /// - `broken`, granted: its graph is not ONNX.
    /// - `misfit`, granted: its card lists one class too many.
    #[must_use]
    pub fn with_colours() -> Self {
        let (app, models) = Self::with_a_models_folder();
        colours::prepare(&models, "colours");
        copy_model(&models, "plain", |card| {
            card["gradcam"] = serde_json::Value::Null;
            card["gradcam_missing"] = "left out for this test".into();
        });
        copy_model(&models, "private", |_| {});
        copy_model(&models, "broken", |_| {});
        fs::write(models.join("broken/model.onnx"), "not ONNX").expect("the graph is replaced");
        copy_model(&models, "misfit", |card| {
            let classes = card["classes"].as_array_mut().expect("classes");
            classes.push(serde_json::json!({"label": "violet"}));
        });
        let granted = ["colours", "plain", "broken", "misfit"];
        app.write_manifest(&granted, "colours");
        app
    }

    /// The component with one model, which has an input beside the photo: see [`colours::prepare_tinted`].
    #[must_use]
    pub fn with_tinted_colours() -> Self {
        let (app, models) = Self::with_a_models_folder();
        colours::prepare_tinted(&models, "tinted");
        app.write_manifest(&["tinted"], "tinted");
        app
    }

    /// An application with damaged models, all granted; see [`damaged::all`].
    #[must_use]
    pub fn with_damaged_models() -> Self {
        let (app, models) = Self::with_a_models_folder();
        let all = damaged::all();
        damaged::write(&models, &all);
        let names: Vec<&str> = all.iter().map(|damaged| damaged.name.as_str()).collect();
        app.write_manifest(&names, names.first().expect("a damaged model"));
        app
    }

    fn with_a_models_folder() -> (Self, PathBuf) {
        let app = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let models = app.path().join("models");
        fs::create_dir(&models).expect("models/ is made");
        (app, models)
    }

    /// An application with the repository's own models.
    #[must_use]
    pub fn with_own_models() -> Self {
        let app = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        for name in ["skin", "imagenet", "labels"] {
            let (from, to) =
                (repository().join("models").join(name), app.path().join("models").join(name));
            link_files(&from, &to);
        }
        app.write_manifest(&["skin", "imagenet"], "skin");
        app
    }

    /// An application without models, only with the labels and a grant for `skin`: for tests that prepare a
    /// model.
    #[must_use]
    pub fn without_models() -> Self {
        let app = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        fs::create_dir(app.path().join("models")).expect("models/ is made");
        let labels = Path::new("models/labels");
        std::os::unix::fs::symlink(repository().join(labels), app.path().join(labels))
            .expect("models/labels/ is linked");
        app.write_manifest(&["skin"], "skin");
        app
    }

    /// The application `guests/two-inputs`, unrelated to skin, with its model `dot`.
    #[must_use]
    pub fn with_two_inputs() -> Self {
        let app = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        dot::write(&app.path().join("models"), "dot");
        let own = repository().join("tests/guests/two-inputs/spin.toml");
        let own = fs::read_to_string(own).expect("the guest has a spin.toml");
        let mut manifest: Table = own.parse().expect("spin.toml is TOML");
        manifest["component"]["two-inputs"]["source"] = text(two_inputs());
        fs::write(app.path().join("spin.toml"), manifest.to_string()).expect("it is written");
        app
    }

    /// An application of WASI 0.2 at `/a` and of WASI 0.3 at `/b`; `more` is added to its manifest.
    #[must_use]
    pub fn with_both_guests(more: &str) -> Self {
        let newer = wasi03().to_str().expect("paths of tests are UTF-8");
        Self::with_manifest(&format!(
            r#"
            spin_manifest_version = 2
            application = {{ name = "both" }}
            [[trigger.http]]
            route = "/a/..."
            component = {{ source = "GUEST" }}
            [[trigger.http]]
            route = "/b/..."
            component = {{ source = {newer:?} }}
            {more}
            "#
        ))
    }

    /// An application with this manifest, in which `GUEST` stands for the path of the guest.
    #[must_use]
    pub fn with_manifest(manifest: &str) -> Self {
        let app = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let guest = artifacts().guests.to_str().expect("paths of tests are UTF-8");
        fs::write(app.path().join("spin.toml"), manifest.replace("GUEST", guest))
            .expect("it is written");
        app
    }

    /// The folder that holds `spin.toml`.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The repository's manifest with the changes for tests: the paths of the Wasm files, the grants, the
    /// default model, and one more component.
    fn write_manifest(&self, granted: &[&str], default_model: &str) {
        let own = repository().join("spin.toml");
        let own = fs::read_to_string(own).expect("the repository has a spin.toml");
        let mut manifest: Table = own.parse().expect("spin.toml is TOML");
        let built = artifacts();
        let component = &mut manifest["component"]["skincell"];
        component["source"] = text(&built.component);
        component["ai_models"] = granted.to_vec().into();
        component["environment"]["SKINCELL_MODEL"] = default_model.into();
        let mut guest = Table::new();
        guest.insert("source".to_owned(), text(&built.guests));
        guest.insert("ai_models".to_owned(), granted.to_vec().into());
        insert(&mut manifest["component"], "guest", guest);
        let mut trigger = Table::new();
        trigger.insert("route".to_owned(), "/guest/...".into());
        trigger.insert("component".to_owned(), "guest".into());
        let triggers = manifest["trigger"]["http"].as_array_mut().expect("[[trigger.http]]");
        triggers.push(trigger.into());
        fs::write(self.path().join("spin.toml"), manifest.to_string()).expect("it is written");
    }
}

/// Hard-links the files of `from` into the new folder `to`, because mounts do not follow symbolic links out
/// of the application.
fn link_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is made");
    for entry in fs::read_dir(from).expect("the folder is read") {
        let (from, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("an entry");
        // On another file system, the file is copied.
        let linked = fs::hard_link(&from, to.join(&name));
        linked.or_else(|_| fs::copy(&from, to.join(&name)).map(drop)).expect("the file is there");
    }
}

fn text(path: &Path) -> Value {
    path.to_str().expect("paths of tests are UTF-8").into()
}

fn insert(parent: &mut Value, name: &str, table: Table) {
    parent.as_table_mut().expect("a table").insert(name.to_owned(), table.into());
}

/// Copies the model `colours` to `name`, with a changed card.
fn copy_model(models: &Path, name: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let (from, to) = (models.join("colours"), models.join(name));
    fs::create_dir(&to).expect("the folder is made");
    for file in ["model.onnx", "model.onnx.data"] {
        fs::copy(from.join(file), to.join(file)).expect("the file is copied");
    }
    let card = fs::read(from.join("card.json")).expect("a card");
    let mut card: serde_json::Value = serde_json::from_slice(&card).expect("a card is JSON");
    card["name"] = name.into();
    change(&mut card);
    fs::write(to.join("card.json"), card.to_string()).expect("the card is written");
}
