//! Warns at the start of models that an application is granted and that are not there.

use crate::alike::most_like;
use skincell_runner::app::App;
use std::path::Path;

/// Logs a warning for each granted model without a folder, with the name that is probably meant. Their
/// requests are answered with an error; the others are served.
pub fn warn(app: &App) {
    for component in &app.components {
        for name in &component.models {
            let folder = component.models_folder.join(name);
            if folder.is_dir() {
                continue;
            }
            let folder = folder.display();
            let advice = match likely(name, &component.models_folder) {
                Some(likely) => format!("did you mean {likely:?}?"),
                None => "`skincell model prepare` makes such a folder".to_owned(),
            };
            tracing::warn!(
                "the granted model {name:?} is not there (no folder {folder}); {advice}"
            );
        }
    }
}

/// The folder in `models` whose name is most like `name`.
fn likely(name: &str, models: &Path) -> Option<String> {
    let folders = std::fs::read_dir(models).ok()?.flatten().filter(|entry| entry.path().is_dir());
    let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
    most_like(name, names)
}

#[cfg(test)]
mod tests {
    use super::likely;

    #[test]
    fn a_misspelt_model_is_recognised() {
        let models = tempfile::tempdir().unwrap();
        for name in ["skin", "imagenet", ".hidden"] {
            std::fs::create_dir(models.path().join(name)).unwrap();
        }
        std::fs::write(models.path().join("skim"), "a file").unwrap();
        assert_eq!(likely("skim", models.path()).as_deref(), Some("skin"));
        assert_eq!(likely("image-net", models.path()).as_deref(), Some("imagenet"));
        assert_eq!(likely("dermatology", models.path()), None);
        assert_eq!(likely("skin", &models.path().join("none")), None);
    }
}
