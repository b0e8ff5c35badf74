//! Answers to photos: members and values, in all forms of request, from a model that can be computed by hand.
//! Also the page and the other readable paths.

#![allow(clippy::unwrap_used, reason = "a test")]

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Method;
use serde_json::Value;
use skincell_tests::client::{Request, get, part};
use skincell_tests::{App, Runner, colours, photos};
use skincell_vision::photo::{Limits, Photo, decode};

fn predict(query: &str) -> Request {
    Request::predict(query, "image/png", photos::red_and_blue())
}

#[test]
fn probabilities_are_those_computed_by_hand() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    // One uniform colour, so that resampling does not change it.
    let means = [0.8, 0.2, 0.4];
    let photo = photos::png(24, 24, |_, _| means.map(|mean: f32| (mean * 255.0).round() as u8));
    let answer = Request::predict("", "image/png", photo).send(&runner);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    let answer = answer.json();
    assert_eq!(answer["model"], serde_json::json!({"name": "colours", "notice": colours::NOTICE}));
    let per_cent = colours::per_cent(means);
    let mut expected: Vec<(usize, f64)> = per_cent.into_iter().enumerate().collect();
    expected.sort_by(|a, b| b.1.total_cmp(&a.1));
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    for (result, (index, per_cent)) in results.iter().zip(expected) {
        assert_eq!(result["class"], colours::CLASSES[index]);
        assert_eq!(result["index"], index);
        let probability = result["probability"].as_f64().unwrap();
        // Rounding to 4 decimals, and f32 in the engine.
        assert!((probability - per_cent).abs() < 2e-4, "{probability} is not {per_cent}");
    }
    let sum: f64 = results.iter().map(|result| result["probability"].as_f64().unwrap()).sum();
    assert!((sum - 100.0).abs() < 0.1, "{sum}");
    for stage in ["decode", "inference", "heatmap", "total"] {
        assert!(answer["timing_ms"][stage].as_f64().unwrap() >= 0.0, "{stage}");
    }
}

#[test]
fn fields_of_the_request_are_inputs_of_the_model() {
    let app = App::with_tinted_colours();
    let runner = Runner::start(&app, &[]);
    let listed = get(&runner, "/models").json();
    let field = &listed["models"][0]["fields"][0];
    assert_eq!((&field["name"], &field["default"]), (&"tint".into(), &vec![0.0; 3].into()));
    let means = [0.8, 0.2, 0.4];
    let photo = photos::png(24, 24, |_, _| means.map(|mean: f32| (mean * 255.0).round() as u8));
    let text = STANDARD.encode(&photo);
    let json = |fields: &str| {
        let body = format!("{{\"image\": \"{text}\", \"fields\": {fields}}}");
        Request::predict("", "application/json", body)
    };
    let query = "?fields=%7B%22tint%22%3A%5B0%2C0.5%2C0%5D%7D";
    let form = [
        part("name=\"image\"; filename=\"a.png\"", &photo),
        part("name=\"fields\"", b"{\"tint\": [0, 0.5, 0]}"),
    ];
    for (form, request, tint) in [
        ("none", Request::predict("", "image/png", photo.clone()), [0.0; 3]),
        ("a query", Request::predict(query, "image/png", photo.clone()), [0.0, 0.5, 0.0]),
        ("JSON", json("{\"tint\": [0.0, 0.5, 0.0]}"), [0.0, 0.5, 0.0]),
        ("a form", Request::form(&form), [0.0, 0.5, 0.0]),
    ] {
        let answer = request.send(&runner).json();
        let expected = colours::per_cent(std::array::from_fn(|at| means[at] + tint[at]));
        for result in answer["results"].as_array().unwrap_or_else(|| panic!("{form}: {answer}")) {
            let index = usize::try_from(result["index"].as_u64().unwrap()).unwrap();
            let off = result["probability"].as_f64().unwrap() - expected[index];
            assert!(off.abs() < 2e-4, "{form}: {result} is not {}", expected[index]);
        }
        assert!(answer["heatmap_base64"].is_string(), "{form}");
    }
    for (fields, kind, words) in [
        ("{\"age\": 54}", "unknown-field", "tint"),
        ("{\"tint\": [1, 2]}", "bad-field", "3"),
        ("{\"tint\": \"red\"}", "bad-", "fields"),
        ("[1, 2, 3]", "bad-", "fields"),
    ] {
        let answer = json(fields).send(&runner);
        assert_eq!(answer.status, 400, "{fields}");
        let problem = answer.json();
        let found = (problem["type"].as_str().unwrap(), problem["detail"].as_str().unwrap());
        assert!(found.0.contains(kind) && found.1.contains(words), "{fields}: {found:?}");
    }
}

/// The same photo in the forms that various HTTP clients send.
fn as_clients_post(photo: &[u8], text: &str) -> Vec<(&'static str, Request)> {
    let raw = |content_type| Request::predict("", content_type, photo);
    let url_form = |body: String| Request::predict("", "application/x-www-form-urlencoded", body);
    let file = |disposition: &str, content: &[u8]| Request::form(&[part(disposition, content)]);
    let in_boundary = |declared: &str, boundary: &str| {
        let head = "Content-Disposition: form-data; name=\"image\"; filename=\"a.jpg\"";
        let start = format!("--{boundary}\r\n{head}\r\n\r\n");
        let end = format!("\r\n--{boundary}--\r\n");
        let body = [start.as_bytes(), photo, end.as_bytes()].concat();
        Request::predict("", &format!("multipart/form-data; boundary={declared}"), body)
    };
    let bom = format!("\u{feff}{{\"image\": \"{text}\"}}");
    vec![
        ("no type", raw("")),
        ("binary/octet-stream", raw("binary/octet-stream")),
        ("image/jpg", raw("image/jpg")),
        ("image/pjpeg", raw("image/pjpeg")),
        ("curl's type", raw("application/x-www-form-urlencoded")),
        (
            "gzip",
            Request::predict("", "image/jpeg", photos::gzip(&[photo]))
                .header("content-encoding", "gzip"),
        ),
        ("a boundary as Python's", in_boundary("===============12==", "===============12==")),
        ("a boundary of a path", in_boundary("a/b:c=d", "a/b:c=d")),
        ("a quoted boundary", in_boundary("\"a b\"", "a b")),
        ("photo", file("name=\"photo\"; filename=\"a\"", photo)),
        ("image[]", file("name=\"image[]\"; filename=\"a\"", photo)),
        ("files", file("name=files; filename=a.jpg; filename*=utf-8''a.jpg", photo)),
        ("a sole file", file("name=\"attachment\"; filename=\"a\"", photo)),
        ("a name in a name", file("filename=\"name=x; name=y\"; name=\"image\"", photo)),
        ("base64 in a file", file("name=\"image\"; filename=\"a\"", text.as_bytes())),
        (
            "Content-Transfer-Encoding",
            file(
                "name=\"image\"; filename=\"a\"\r\nContent-Transfer-Encoding: base64",
                text.as_bytes(),
            ),
        ),
        ("a form of text", url_form(format!("image={}", text.replace('+', "%2B")))),
        ("a form of text, not escaped", url_form(format!("image=data:image/jpeg;base64,{text}"))),
        (
            "a data URL with a space",
            Request::predict(
                "",
                "application/json",
                serde_json::json!({"image": format!("data:image/jpeg; base64,{text}")}).to_string(),
            ),
        ),
        ("JSON behind a byte order mark", Request::predict("", "application/json", bom)),
    ]
}

#[test]
fn every_form_gives_byte_identical_results() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let photo = photos::fixture("orientation_6.jpg");
    let text = STANDARD.encode(&photo);
    let url_safe = URL_SAFE_NO_PAD.encode(&photo);
    let wrapped: Vec<&str> =
        text.as_bytes().chunks(76).map(|c| str::from_utf8(c).unwrap()).collect();
    let json = |text: &str| serde_json::json!({"image": text}).to_string();
    let as_json = |text: &str| Request::predict("", "application/json", json(text));
    let data_url = format!("data:image/jpeg;base64,{text}");
    let escaped = json(&data_url).replace('/', "\\/");
    let forms = [
        ("raw", Request::predict("", "image/jpeg", &photo[..])),
        ("octets", Request::predict("", "application/octet-stream", &photo[..])),
        ("a file", Request::form(&[part("name=\"image\"; filename=\"a.jpg\"", &photo)])),
        ("the alias", Request::form(&[part("name=\"file\"; filename=\"a.jpg\"", &photo)])),
        ("base64 in a form", Request::form(&[part("name=\"image\"", text.as_bytes())])),
        ("a data URL in a form", Request::form(&[part("name=\"image\"", data_url.as_bytes())])),
        ("base64", as_json(&text)),
        ("base64, wrapped", as_json(&wrapped.join("\r\n"))),
        ("base64, URL-safe and bare", as_json(&url_safe)),
        ("a data URL", as_json(&data_url)),
        ("a data URL with escaped slashes", Request::predict("", "application/json", escaped)),
    ];
    let forms = forms.into_iter().chain(as_clients_post(&photo, &text));
    let mut results = forms.map(|(name, form)| (name, form.send(&runner).results()));
    let (_, first) = results.next().unwrap();
    assert!(first.contains("\"heatmap_base64\":\"iVBOR"), "{first:.200}");
    for (name, result) in results {
        assert_eq!(result, first, "{name}");
    }
}

/// Decodes an overlay and checks that it is a PNG of the model's input size.
fn overlay(png: &[u8]) -> Photo {
    let photo = decode(png, (colours::SIDE, colours::SIDE), &Limits::default()).unwrap();
    assert_eq!((photo.width(), photo.height()), (colours::SIDE, colours::SIDE));
    photo
}

#[test]
fn the_overlay_can_be_requested_as_png_and_shows_the_class() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let asked = |query: &str| predict(query).header("accept", "image/png").send(&runner);
    let whole = asked("");
    assert_eq!(whole.header("content-type"), "image/png");
    assert_eq!(whole.header("x-instance-requests"), "1");
    assert!(whole.header("server-timing").contains("inference;dur="));
    let inline = predict("").send(&runner).json();
    let inline = STANDARD.decode(inline["heatmap_base64"].as_str().unwrap()).unwrap();
    assert_eq!(whole.body, inline, "both forms carry the same picture");

    // The photo's left half is red and its right half blue, so the evidence for red is on the left. The high
    // end of the colour map is dark red, its low end dark blue.
    let green_removed = |class: &str, column: usize| {
        let photo = overlay(&asked(&format!("?class={class}")).body);
        let pixel = photo.pixels()[column * 3..].first_chunk::<3>().copied().unwrap();
        (i32::from(pixel[0]), i32::from(pixel[2]))
    };
    let last = colours::SIDE as usize - 1;
    let (red_left, _) = green_removed("red", 0);
    let (_, blue_right) = green_removed("red", last);
    assert!(red_left > 200 && blue_right > 180, "red is hot on the left: {red_left}, {blue_right}");
    let (red_of_blue, blue_of_blue) = green_removed("blue", last);
    assert!(
        red_of_blue > 40 && blue_of_blue < 180,
        "blue is hot on the right: {red_of_blue}, {blue_of_blue}"
    );
}

#[test]
fn options_are_taken_from_query_form_and_json() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let photo = photos::red_and_blue();
    let text = STANDARD.encode(&photo);
    let asked = [
        predict("?top_k=1&class=blue&gradcam=1"),
        predict("?top_k=1&class=2"),
        Request::form(&[
            part("name=\"top_k\"", b"1"),
            part("name=\"image\"; filename=\"a\"", &photo),
            part("name=\"class\"", b"BLUE"),
        ]),
        Request::predict(
            "",
            "application/json",
            serde_json::json!({"image": text, "top_k": 1, "class": 2}).to_string(),
        ),
        Request::predict(
            "?top_k=3&class=red",
            "application/json",
            serde_json::json!({"image": text, "top_k": "1", "class": "blue"}).to_string(),
        ),
    ];
    for request in asked {
        let answer = request.send(&runner).json();
        assert_eq!(answer["results"].as_array().unwrap().len(), 1);
        assert_eq!(answer["heatmap_class"], "blue");
        assert_eq!(answer["heatmap_basis"], "probability");
    }
    let without = predict("?gradcam=no").send(&runner).json();
    assert_eq!(
        (&without["heatmap_base64"], &without["heatmap_class"]),
        (&Value::Null, &Value::Null)
    );
    assert!(without["heatmap_missing"].as_str().unwrap().contains("gradcam=false"));
    let plain = predict("?model=plain").send(&runner).json();
    assert_eq!(plain["model"]["name"], "plain");
    assert!(plain["heatmap_missing"].as_str().unwrap().contains("left out for this test"));
}

#[test]
fn the_operator_can_switch_heatmaps_off() {
    let app = App::with_colours();
    for (value, shown) in [("false", false), ("0", false), ("no", false), ("yes", true)] {
        let flag = format!("ENABLE_GRADCAM={value}");
        let runner = Runner::start(&app, &["--env", &flag]);
        let answer = predict("?gradcam=true").send(&runner).json();
        assert_eq!(answer["heatmap_base64"].is_string(), shown, "{value}");
        let why = answer["heatmap_missing"].as_str().unwrap_or_default();
        assert_eq!(why.contains("ENABLE_GRADCAM"), !shown, "{value}: {why}");
    }
}

#[test]
fn bad_settings_are_reported() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--env", "SKINCELL_MAX_BODY=lots"]);
    let answer = get(&runner, "/health");
    assert_eq!((answer.problem().as_str(), answer.status), ("bad-settings", 500));
    let runner = Runner::start(&app, &["--env", "SKINCELL_MODEL=gone"]);
    let answer = predict("").send(&runner);
    assert_eq!((answer.problem().as_str(), answer.status), ("unknown-model", 404));
}

#[test]
fn readable_paths_answer_get_and_head() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    assert_eq!(get(&runner, "/health").json(), serde_json::json!({"status": "ok"}));
    let listing = get(&runner, "/models").json();
    assert_eq!(listing["default"], "colours");
    let names: Vec<&str> =
        listing["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["broken", "colours", "misfit", "plain", "private"]);
    let page = get(&runner, "/");
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    for path in ["/", "/page/style.css", "/page/main.js", "/health", "/models"] {
        let whole = get(&runner, path);
        assert_eq!(whole.status, 200, "{path}");
        assert_eq!(whole.header("x-instance-requests"), "1", "{path}");
        let head = Request::new(Method::HEAD, path).send(&runner);
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert_eq!(head.header("content-type"), whole.header("content-type"), "{path}");
    }
}

#[test]
fn a_request_keeps_its_id() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let named = predict("").header("x-request-id", "photo-7").send(&runner);
    assert_eq!(named.header("x-request-id"), "photo-7");
    let refused = predict("?top_k=0").header("x-request-id", "photo-8").send(&runner);
    assert_eq!(refused.json()["request_id"], "photo-8");
}

/// The largest allowed bodies fit an instance of the default size, in every form.
#[test]
fn the_largest_bodies_fit_an_instance() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let bmp = |width: u32, height: u32| {
        let pixels = width * height * 3;
        let mut file = vec![0; 54];
        file[..2].copy_from_slice(b"BM");
        for (at, value) in [(10, 54), (14, 40), (18, width), (22, height), (26, 1 | 24 << 16)] {
            file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        file.resize(54 + pixels as usize, 0x7F);
        file
    };
    // Just under 16 MiB, one raw and one in base64.
    let (raw, encoded) = (bmp(2300, 2430), bmp(2000, 2096));
    let text = serde_json::json!({"image": STANDARD.encode(&encoded)}).to_string();
    assert!(
        (15 << 20..16 << 20).contains(&raw.len()) && (15 << 20..16 << 20).contains(&text.len())
    );
    let forms = [
        ("raw", Request::predict("", "image/bmp", &raw[..])),
        ("a file", Request::form(&[part("name=\"image\"; filename=\"a\"", &raw)])),
        ("base64", Request::predict("", "application/json", &text[..])),
    ];
    for (name, form) in forms {
        let answer = form.send(&runner);
        assert_eq!(answer.status, 200, "{name}: {:.300}", String::from_utf8_lossy(&answer.body));
    }
}
