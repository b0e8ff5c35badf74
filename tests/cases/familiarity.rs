//! A model that is fitted to photos of one kind says of others that it does not know them, on every engine.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use skincell_tests::client::{Request, get};
use skincell_tests::photos::png;
use skincell_tests::{App, Runner, artifacts, repository};

/// Largest difference of a score between engines.
const DIFFERENCE: f64 = 1e-3;

/// A number from 0 to 1 that says nothing of the others: splitmix64 (Steele, Lea and Flood 2014). Pictures of
/// a plain series would lie between those fitted to, and seem more familiar than further ones are.
fn independent(number: u64) -> f64 {
    let mixed = |z: u64, by: u32, times: u64| (z ^ (z >> by)).wrapping_mul(times);
    let z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = mixed(mixed(z, 30, 0xBF58_476D_1CE4_E5B9), 27, 0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A picture of the kind that is known here: a dark spot on a light, warm ground.
fn spot(number: u32) -> Vec<u8> {
    let part = |of: u32| independent(u64::from(number) * 16 + u64::from(of));
    let (u, v) = (60.0 + 100.0 * part(1), 60.0 + 100.0 * part(2));
    let (radius, light) = (25.0 + 20.0 * part(3), 200.0 + 30.0 * part(4));
    png(220, 220, |x, y| {
        let inside = (f64::from(x) - u).hypot(f64::from(y) - v) - radius;
        let dark = 1.0 / (1.0 + (inside / (3.0 + part(5))).exp());
        let grain = 9.0 * (f64::from(x * 13 + y * 29) * (1.0 + 0.1 * part(6))).sin();
        let shade = light - (80.0 + 30.0 * part(7)) * dark + grain;
        [shade, shade * (0.8 - 0.05 * part(8)), shade * 0.65]
            .map(|level| level.clamp(0.0, 255.0) as u8)
    })
}

fn folder_of(home: &Path, name: &str, pictures: impl Iterator<Item = u32>) -> std::path::PathBuf {
    let folder = home.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for (file, number) in pictures.enumerate() {
        std::fs::write(folder.join(format!("{file:03}.png")), spot(number)).unwrap();
    }
    folder
}

fn familiarize(model: &Path, photos: &Path, flags: &[&str]) -> Output {
    let mut command = Command::new(&artifacts().runner);
    command.args(["model", "familiarize", "--basis", "spots"]).arg(model).args(flags);
    command.arg("--photos").arg(photos).output().unwrap()
}

/// The names of a folder's entries, and the bytes of the card of the model in it.
fn written(model: &Path) -> (Vec<std::ffi::OsString>, Vec<u8>) {
    let all = |folder: &Path| -> Vec<std::ffi::OsString> {
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    let mut names = [all(model), all(model.parent().unwrap())].concat();
    names.sort();
    (names, std::fs::read(model.join("card.json")).unwrap())
}

fn ask(runner: &Runner, photo: Vec<u8>) -> Value {
    let answer = Request::predict("?gradcam=0", "application/octet-stream", photo).send(runner);
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()
}

fn score(answer: &Value) -> f64 {
    answer["familiarity"]["score"].as_f64().unwrap()
}

#[test]
fn photos_of_an_unknown_kind_are_named_so_by_every_engine() {
    let app = App::with_own_models();
    let model = app.path().join("models/skin");
    let photos = folder_of(app.path(), "spots", 0..60);
    let cat = || std::fs::read(repository().join("tests/photos/cat.png")).unwrap();
    std::fs::write(photos.join("cat.png"), cat()).unwrap();
    let output = familiarize(&model, &photos, &["--replace"]);
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert!(out.contains("outlier    cat.png"), "{out}");
    let runners = ["cellnet", "rten"].map(|engine| Runner::start(&app, &["--engine", engine]));
    let mut unfamiliar = 0;
    for number in 100..120 {
        let answers = [0, 1].map(|runner| ask(&runners[runner], spot(number)));
        let difference = (score(&answers[0]) - score(&answers[1])).abs();
        assert!(difference <= DIFFERENCE, "{number}: {difference}");
        let is_familiar = answers.map(|answer| answer["familiarity"]["is_familiar"] == true);
        assert_eq!(is_familiar[0], is_familiar[1]);
        unfamiliar += u32::from(!is_familiar[0]);
    }
    assert!(unfamiliar <= 3, "{unfamiliar} of 20 further spots are unfamiliar");
    for runner in &runners {
        for file in ["cat.png", "clock.png", "coffee.webp"] {
            let photo = std::fs::read(repository().join("tests/photos").join(file)).unwrap();
            let answer = ask(runner, photo);
            let said = &answer["familiarity"];
            assert_eq!(said["is_familiar"], false, "{file}: {said}");
            assert_eq!(said["basis"], "spots");
            assert!(score(&answer) > 1.0 && said["percentile"].as_f64().unwrap() < 5.0, "{said}");
            assert!(!answer["results"].as_array().unwrap().is_empty());
        }
    }
    let strict = Runner::start_with(&app, &[], &[("SKINCELL_UNFAMILIAR", "refuse")]);
    let refused = Request::predict("", "application/octet-stream", cat()).send(&strict);
    assert_eq!(refused.status, 422);
    assert_eq!(refused.json()["type"], "urn:skincell:problem:unfamiliar-photo");
    assert!(refused.json().get("results").is_none());
    assert!(ask(&strict, spot(100))["familiarity"]["is_familiar"] == true);
    let wrong = Runner::start(&app, &["--env", "SKINCELL_UNFAMILIAR=refuze"]);
    let ready = get(&wrong, "/readyz");
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["status"], "SKINCELL_UNFAMILIAR is \"refuze\": set warn or refuse");
    assert_eq!(get(&wrong, "/v2/health/ready").status, 503);
}

#[test]
fn too_few_photos_and_copies_are_refused_with_the_number_that_is_missing() {
    let app = App::with_own_models();
    let model = app.path().join("models/skin");
    let before = written(&model);
    let few = folder_of(app.path(), "few", 0..20);
    let copies = folder_of(app.path(), "copies", (0..40).map(|number| number % 10));
    let one = folder_of(app.path(), "one", std::iter::repeat_n(3, 36));
    let empty = app.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let broken = folder_of(app.path(), "broken", 0..30);
    for file in ["first.jpg", "second.png"] {
        std::fs::write(broken.join(file), b"\xff\xd8\xff no photo").unwrap();
    }
    let apple = folder_of(app.path(), "apple", 0..34);
    std::fs::write(apple.join("last.HEIC"), b"\0\0\0\x18ftypheic").unwrap();
    let unreadable = ["2 of 32 photos cannot be read", "second.png", "at least 5 more are needed"];
    let cases: [(&Path, &[&str]); 6] = [
        (&apple, &["last.HEIC"]),
        (&few, &["photos: 20", "versions: 0", "15 more are needed"]),
        (&copies, &["photos: 40", "versions: 30", "25 more are needed"]),
        (&one, &["34 more are needed"]),
        (&empty, &["holds no photo"]),
        (&broken, &unreadable),
    ];
    for (folder, said) in cases {
        let output = familiarize(&model, folder, &["--replace"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{}", folder.display());
        assert!(said.iter().all(|part| error.contains(part)), "{said:?}: {error}");
        assert_eq!(written(&model), before, "nothing is written");
    }
}

#[test]
fn a_folder_of_another_kind_is_refused_and_nothing_is_written() {
    let app = App::with_own_models();
    let model = app.path().join("models/skin");
    let before = written(&model);
    let within = |name: &str, parts: &[(&str, std::ops::Range<u32>)]| {
        for (part, pictures) in parts {
            folder_of(app.path(), &format!("{name}/{part}"), pictures.clone());
        }
        app.path().join(name)
    };
    let typing = within("typing", &[("eczema", 0..30), ("Warts and so on", 30..60)]);
    // The model takes spots for one or two of its classes, whatever the folder says.
    let card: Value = serde_json::from_slice(&before.1).unwrap();
    let classes = card["classes"].as_array().unwrap().iter().zip(0..);
    let chance: Vec<_> =
        classes.map(|(class, at)| (class["label"].as_str().unwrap(), 6 * at..6 * at + 6)).collect();
    let chance = within("chance", &chance);
    let diverse = folder_of(app.path(), "diverse", 0..0);
    for number in 0..50 {
        std::fs::write(diverse.join(format!("{number}.png")), other(number)).unwrap();
    }
    let plain = folder_of(app.path(), "plain", 0..40);
    let cases: [(&Path, &[&str], &[&str]); 4] = [
        (&typing, &["--replace"], &["\"Warts and so on\" (30 photos)", "\"Eczema Photos\""]),
        (&chance, &["--replace"], &["right on", "labelled photos", "on 14.3 %"]),
        (&diverse, &["--replace"], &["familiarity is not available", "0.95 is needed"]),
        (&plain, &[], &["40 of 40 photos tried are unfamiliar", "840 drawings", "--replace"]),
    ];
    for (folder, flags, said) in cases {
        let output = familiarize(&model, folder, flags);
        let error = String::from_utf8_lossy(&output.stderr);
        println!("{error}");
        assert!(!output.status.success(), "{}", folder.display());
        assert!(said.iter().all(|part| error.contains(part)), "{said:?}: {error}");
        assert_eq!(written(&model), before, "nothing is written");
    }
}

/// Pictures of other kinds: one colour, stripes, tiles or noise.
fn other(number: u32) -> Vec<u8> {
    let hue = |of: u32| f64::from((number * 977 + of * 331) % 256);
    let period = 4 + number % 23;
    png(220, 220, |x, y| {
        let on = match number % 4 {
            0 => true,
            1 => (x / period).is_multiple_of(2),
            2 => (x / period + y / period).is_multiple_of(2),
            _ => (x * 7919 + y * 104_729 + x * y * 13) % 17 < 8,
        };
        let [r, g, b] = [hue(1), hue(2), hue(3)];
        (if on { [r, g, b] } else { [b, r, g] }).map(|level| level as u8)
    })
}

/// The value of a metric with these labels.
fn metric(text: &str, name: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(name));
    found.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
}

#[test]
fn a_folder_with_foreign_photos_is_summed_up_and_counted() {
    let app = App::with_own_models();
    let fitted = folder_of(app.path(), "spots", 0..70);
    let output = familiarize(&app.path().join("models/skin"), &fitted, &["--replace"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mixed = folder_of(app.path(), "mixed", 200..270);
    for number in 0..30 {
        std::fs::write(mixed.join(format!("other-{number}.png")), other(number)).unwrap();
    }
    let classify = |folder: &Path| {
        let mut command = Command::new(&artifacts().runner);
        command.arg("classify").arg(folder).args(["--csv", "--from"]).arg(app.path());
        let output = command.output().unwrap();
        let summary = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{summary}");
        println!("{summary}");
        (String::from_utf8(output.stdout).unwrap(), summary)
    };
    let (rows, summary) = classify(&mixed);
    let unfamiliar = |is_other: bool| {
        let rows = rows.lines().filter(|row| row.contains("other-") == is_other);
        rows.filter(|row| row.contains(",false,")).count()
    };
    let (found, wrong) = (unfamiliar(true), unfamiliar(false));
    assert!(found >= 28 && wrong <= 6, "{found} of 30 found, {wrong} of 70 wrong");
    let counted = format!("{} of 100 ", found + wrong);
    assert!(summary.contains(&counted) && summary.contains("it is not chance"), "{summary}");
    let (_, summary) = classify(&folder_of(app.path(), "further", 400..450));
    assert!(summary.contains("which may be chance"), "{summary}");

    let runner = Runner::start(&app, &[]);
    let mut unknown = 0;
    for number in 0..60 {
        let photo = if number < 20 { other(number) } else { spot(200 + number) };
        let answer = ask(&runner, photo);
        unknown += u32::from(answer["familiarity"]["is_familiar"] == false);
    }
    let text = String::from_utf8(get(&runner, "/metrics").body).unwrap();
    let labels = "{model=\"skin\",verdict=\"unfamiliar\"}";
    assert_eq!(metric(&text, &format!("skincell_answers_total{labels}")), f64::from(unknown));
    assert_eq!(metric(&text, "skincell_familiarity_score_count{model=\"skin\"}"), 60.0);
    let drift = metric(&text, "skincell_familiarity_drift{model=\"skin\"}");
    assert!(drift > 4.0, "a third of the photos are foreign: {drift}");
}
