//! Tests the main path from request to response with a model that is computed by hand ([`RedOrBlue`]). It
//! covers cases that end-to-end tests cannot reach or reach more slowly.

use http::{Request, Response};

use crate::body::tests::{Chunks, chunks};
use crate::inference::tests::{Fixed, RedOrBlue, output};
use crate::inference::{Inference, InferenceError};
use crate::models::tests::{card_json, judging_card_json, mounted};
use crate::settings::{Settings, Unfamiliar};

/// A 4×4 BMP, all of one colour.
fn bmp(red: u8, green: u8, blue: u8) -> Vec<u8> {
    let mut file = vec![0; 54];
    file[..2].copy_from_slice(b"BM");
    for (at, value) in [(10, 54), (14, 40), (18, 4), (22, 4), (26, 1), (28, 24)] {
        file[at] = value;
    }
    file.extend([blue, green, red].repeat(16));
    file
}

fn post(path: &str, content_type: &str, body: &[u8]) -> Request<Chunks> {
    let request = Request::post(path).header("content-type", content_type);
    request.body(chunks(body, 13)).unwrap()
}

/// The response, with the models `skin` and `plain` (without Grad-CAM) mounted.
fn ask(request: Request<Chunks>, inference: &impl Inference) -> Response<Vec<u8>> {
    ask_with(request, inference, |settings| settings)
}

fn ask_with(
    request: Request<Chunks>,
    inference: &impl Inference,
    change: impl FnOnce(Settings) -> Settings,
) -> Response<Vec<u8>> {
    let mut plain: serde_json::Value = serde_json::from_str(&card_json("plain")).unwrap();
    plain["gradcam"] = serde_json::Value::Null;
    plain["gradcam_missing"] = "its head has an Erfc".into();
    let (skin, plain) = (card_json("skin"), plain.to_string());
    let (_folder, settings) = mounted(&[("skin", &skin), ("plain", &plain)], Some("skin"));
    let (head, source) = request.into_parts();
    crate::answer::finish(&head, crate::route(&head, source, &change(settings), inference))
}

fn json(response: &Response<Vec<u8>>) -> serde_json::Value {
    serde_json::from_slice(response.body()).unwrap()
}

/// The `type` of a problem, without the common prefix.
fn problem(response: &Response<Vec<u8>>) -> String {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let body = json(response);
    assert_eq!(body["status"], response.status().as_u16());
    body["type"].as_str().unwrap().strip_prefix("urn:skincell:problem:").unwrap().to_owned()
}

#[test]
fn a_red_photo_is_class_0() {
    let response = ask(post("/predict", "image/bmp", &bmp(255, 0, 0)), &RedOrBlue);
    assert_eq!(response.status(), 200);
    let answer = json(&response);
    // Logits 4 and 0: softmax 1 / (1 + e^-4) = 0.982014.
    assert_eq!(answer["results"][0]["class"], "Heathy");
    assert_eq!(answer["results"][0]["probability"], 98.2014);
    assert_eq!(answer["results"][1]["probability"], 1.7986);
    assert_eq!(answer["heatmap_class"], "Heathy");
    assert_eq!(answer["heatmap_basis"], "probability");
    assert!(answer.get("heatmap_missing").is_none());
    assert!(answer["timing_ms"]["total"].as_f64().unwrap() > 0.0);
    assert!(response.headers()["server-timing"].to_str().unwrap().contains("inference;dur="));
}

#[test]
fn the_overlay_shows_where_the_class_is() {
    let mut request = post("/predict?class=%C3%89czema", "image/bmp", &bmp(0, 0, 255));
    request.headers_mut().insert("accept", "image/png".parse().unwrap());
    let response = ask(request, &RedOrBlue);
    assert_eq!(response.headers()["content-type"], "image/png");
    let limits = skincell_vision::photo::Limits::default();
    let overlay = skincell_vision::photo::decode(response.body(), (4, 4), &limits).unwrap();
    assert_eq!((overlay.width(), overlay.height()), (4, 4));
    let red = |index: usize| overlay.pixels()[index * 3];
    assert!(red(15) > red(0), "class 1 is bottom right: {:?}", overlay.pixels());
}

#[test]
fn options_change_the_answer() {
    let photo = bmp(255, 0, 0);
    let answer = |query: &str| {
        json(&ask(post(&format!("/predict?{query}"), "image/bmp", &photo), &RedOrBlue))
    };
    assert_eq!(answer("top_k=1")["results"].as_array().unwrap().len(), 1);
    assert_eq!(answer("top_k=100")["results"].as_array().unwrap().len(), 2);
    assert_eq!(answer("class=1")["heatmap_class"], "Éczema");
    let maps = answer("heatmap=maps&class=1");
    assert_eq!(maps["heatmap_base64"], serde_json::Value::Null);
    assert_eq!(maps["heatmap_class"], "Éczema");
    assert_eq!(maps["heatmap_maps"][0]["values"], serde_json::json!([0.0, 0.0, 0.0, 1.0]));
    assert_eq!(maps["heatmap_maps"][1]["index"], 0);
    let without = answer("gradcam=no");
    assert_eq!(without["heatmap_base64"], serde_json::Value::Null);
    assert_eq!(without["heatmap_class"], serde_json::Value::Null);
    assert_eq!(without["heatmap_missing"], "the request says gradcam=false");
    let plain = answer("model=plain");
    assert_eq!(plain["model"]["name"], "plain");
    assert!(plain["heatmap_missing"].as_str().unwrap().contains("Erfc"));
    let off =
        ask_with(post("/predict?gradcam=true", "image/bmp", &photo), &RedOrBlue, |settings| {
            Settings { gradcam: false, ..settings }
        });
    assert!(json(&off)["heatmap_missing"].as_str().unwrap().contains("ENABLE_GRADCAM"));
}

#[test]
fn every_form_gives_the_same_results() {
    let photo = bmp(200, 10, 90);
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &photo);
    let part = |value: &[u8]| {
        let head = b"--b\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\n";
        [head, value, b"\r\n--b--\r\n"].concat()
    };
    let requests = [
        post("/predict", "image/bmp", &photo),
        post("/predict", "application/octet-stream", &photo),
        post("/predict", "multipart/form-data; boundary=b", &part(&photo)),
        post("/predict", "multipart/form-data; boundary=b", &part(base64.as_bytes())),
        post("/predict", "application/json", format!("{{\"image\": \"{base64}\"}}").as_bytes()),
        post(
            "/predict",
            "application/json",
            format!("{{\"image\": \"data:image/jpeg;base64,{base64}\"}}").as_bytes(),
        ),
    ];
    let mut answers = requests.into_iter().map(|request| {
        let mut answer = json(&ask(request, &RedOrBlue));
        answer.as_object_mut().unwrap().remove("timing_ms");
        answer.to_string()
    });
    let first = answers.next().unwrap();
    assert!(first.contains("iVBOR"), "{first}");
    assert!(answers.all(|answer| answer == first));
}

/// A request with a `Content-Encoding`.
fn under(coding: &'static str, path: &str, body: &[u8]) -> Request<Chunks> {
    let mut request = post(path, "image/bmp", body);
    request.headers_mut().insert("content-encoding", coding.parse().unwrap());
    request
}

#[test]
fn an_unsupported_encoding_is_answered_with_the_supported_ones() {
    for path in ["/predict", "/v2/models/skin/infer"] {
        let response = ask(under("zstd", path, b"photo"), &RedOrBlue);
        assert_eq!(response.status(), 415, "{path}");
        assert_eq!(response.headers()["accept-encoding"], "gzip, deflate, identity", "{path}");
        assert!(str::from_utf8(response.body()).unwrap().contains("zstd"), "{path}");
    }
}

#[test]
fn every_problem_has_its_type() {
    let photo = bmp(1, 2, 3);
    let mut png_only = post("/predict?gradcam=0", "image/bmp", &photo);
    png_only.headers_mut().insert("accept", "image/png".parse().unwrap());
    let mut png_of_maps = post("/predict?heatmap=maps", "image/bmp", &photo);
    png_of_maps.headers_mut().insert("accept", "image/png".parse().unwrap());
    let mut text_only = post("/predict", "image/bmp", &photo);
    text_only.headers_mut().insert("accept", "text/plain".parse().unwrap());
    let cases = [
        (post("/predict", "image/bmp", b""), 400, "no-body"),
        (post("/predict", "image/bmp", b"not a photo"), 415, "not-an-image"),
        (post("/predict", "image/jpeg", b"\0\0\0\x18ftypheic\0\0\0\0"), 415, "heic"),
        (post("/predict", "image/bmp", &photo[..60]), 422, "truncated-image"),
        (post("/predict", "image/bmp", &vec![b'x'; 2 << 20]), 413, "body-too-large"),
        (under("gzip", "/predict", &photo), 400, "bad-content-encoding"),
        (under("br", "/predict", &photo), 415, "unsupported-content-encoding"),
        (post("/predict?model=x", "image/bmp", &photo), 404, "unknown-model"),
        (post("/predict?class=x", "image/bmp", &photo), 400, "unknown-class"),
        (post("/predict?class=x&gradcam=0", "image/bmp", &photo), 400, "unknown-class"),
        (png_only, 409, "no-heatmap"),
        (png_of_maps, 409, "no-heatmap"),
        (text_only, 406, "not-acceptable"),
        (post("/elsewhere", "image/bmp", &photo), 404, "unknown-path"),
        (post("/health", "image/bmp", &photo), 405, "method-not-allowed"),
        (Request::get("/predict").body(chunks(b"", 1)).unwrap(), 405, "method-not-allowed"),
    ];
    for (request, status, expect) in cases {
        let response = ask(request, &RedOrBlue);
        assert_eq!((problem(&response).as_str(), response.status().as_u16()), (expect, status));
    }
}

#[test]
fn each_error_of_the_host_has_its_own_problem() {
    let (model, why) = ("skin".to_owned(), "busy".to_owned());
    let same = || (model.clone(), why.clone());
    let granted = |(model, why)| InferenceError::NotGranted { model, why };
    let unavailable = |(model, why)| InferenceError::Unavailable { model, why };
    let timeout = |(model, why)| InferenceError::Timeout { model, why };
    let failed = |(model, why)| InferenceError::Failed { model, why };
    let cases = [
        (Err(granted(same())), 404, "model-not-granted"),
        (Err(unavailable(same())), 503, "model-unavailable"),
        (Err(timeout(same())), 504, "inference-timeout"),
        (Err(failed(same())), 500, "inference-failed"),
        (Ok(Vec::new()), 500, "model-mismatch"),
        (Ok(outputs(f32::NAN, 0.0)), 500, "inference-failed"),
    ];
    for (host, status, expect) in cases {
        let response = ask(post("/predict", "image/bmp", &bmp(1, 2, 3)), &Fixed(host));
        assert_eq!((problem(&response).as_str(), response.status().as_u16()), (expect, status));
    }
}

#[test]
fn classes_are_answered_without_an_invalid_heatmap() {
    let host = Fixed(Ok(outputs(1.0, f32::INFINITY)));
    let answer = json(&ask(post("/predict", "image/bmp", &bmp(1, 2, 3)), &host));
    assert_eq!(answer["results"][0]["class"], "Heathy");
    assert_eq!(answer["heatmap_base64"], serde_json::Value::Null);
    assert!(answer["heatmap_missing"].as_str().unwrap().contains("not finite"));
}

fn outputs(logit: f32, cam: f32) -> Vec<crate::inference::OutputTensor> {
    vec![output("logits", &[1, 2], &[logit, 0.0]), output("cam", &[1, 2, 2, 2], &[cam; 8])]
}

#[test]
fn bad_settings_are_reported_first() {
    let request = Request::get("/health").body(chunks(b"", 1)).unwrap();
    let broken = |name: &str| (name == "SKINCELL_MAX_BODY").then(|| "lots".to_owned());
    assert_eq!(problem(&crate::respond(request, broken, &RedOrBlue)), "bad-settings");
}

#[test]
fn readable_resources_are_served() {
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/page/main.js", "text/javascript; charset=utf-8"),
        ("/page/example-1.jpg", "image/jpeg"),
        ("/docs", "text/html; charset=utf-8"),
        ("/health", "application/json"),
        ("/models", "application/json"),
    ] {
        for method in ["GET", "HEAD"] {
            let request = Request::builder().method(method).uri(path).body(chunks(b"", 1)).unwrap();
            let response = ask(request, &Fixed(Ok(Vec::new())));
            assert_eq!(response.status(), 200, "{method} {path}");
            assert_eq!(response.headers()["content-type"], content_type);
            assert_eq!(response.body().is_empty(), method == "HEAD", "{method} {path}");
        }
    }
}

/// It was a 404.
#[test]
fn the_api_page_with_a_slash_leads_to_the_one_without() {
    let request = Request::get("/docs/").body(chunks(b"", 1)).unwrap();
    let response = ask(request, &Fixed(Ok(Vec::new())));
    assert_eq!(response.status(), 308);
    assert_eq!(response.headers()["location"], "../docs");
}

/// The answer of a model that judges itself, with this familiarity score and first logit.
fn judged(
    score: f32,
    logit: f32,
    accept: &'static str,
    unfamiliar: Unfamiliar,
) -> Response<Vec<u8>> {
    let cam = output("cam", &[1, 2, 2, 2], &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    let logits = output("logits", &[1, 2], &[logit, 0.0]);
    let score = output("familiarity", &[1, 1], &[score]);
    let mut request = post("/predict", "image/bmp", &bmp(255, 0, 0));
    request.headers_mut().insert("accept", accept.parse().unwrap());
    let (_folder, settings) = mounted(&[("skin", &judging_card_json("skin"))], Some("skin"));
    let (head, source) = request.into_parts();
    let settings = Settings { unfamiliar, ..settings };
    let inference = Fixed(Ok(vec![logits, cam, score]));
    crate::answer::finish(&head, crate::route(&head, source, &settings, &inference))
}

/// Bars stood beside the classes of an unfamiliar photo, as if they were an answer.
#[test]
fn the_page_has_bars_for_familiar_photos_only() {
    let bars = |score| {
        let response = judged(score, 4.0, "text/html", Unfamiliar::Warn);
        String::from_utf8(response.into_body()).unwrap().matches("<meter").count()
    };
    assert_eq!((bars(1.0), bars(std::f32::consts::E)), (2, 0));
}

#[test]
fn every_form_of_answer_says_whether_it_is_certain() {
    let answer = |score, logit, accept, unfamiliar| {
        let response = judged(score, logit, accept, unfamiliar);
        let header = response.headers()["x-answer-certainty"].to_str().unwrap().to_owned();
        (response.status().as_u16(), header)
    };
    let e = std::f32::consts::E;
    let strange = "\"skin\";score=2.718;deviation=2.000;reference=99;is_familiar=?0;is_certain=?0";
    let cases = [
        (1.0, 4.0, "0.000", "?1", "?1"),
        (1.0, 1.0, "0.000", "?1", "?0"),
        (1.0 / e, 4.0, "-1.999", "?1", "?1"),
    ];
    for (score, logit, deviation, familiar, certain) in cases {
        let expected = format!(
            "\"skin\";score={score:.3};deviation={deviation};reference=99;is_familiar={familiar};\
             is_certain={certain}"
        );
        for accept in ["application/json", "image/png"] {
            assert_eq!(answer(score, logit, accept, Unfamiliar::Warn), (200, expected.clone()));
        }
    }
    assert_eq!(answer(e, 4.0, "image/png", Unfamiliar::Warn), (200, strange.to_owned()));
    assert_eq!(answer(e, 4.0, "*/*", Unfamiliar::Refuse), (422, strange.to_owned()));
    let (_, header) = answer(f32::INFINITY, 4.0, "*/*", Unfamiliar::Warn);
    assert!(header.starts_with("\"skin\";score=999999999999.000;deviation=20.000;"), "{header}");
}

#[test]
fn the_header_of_several_photos_tells_of_each() {
    let card = judging_card_json("skin");
    let (_folder, settings) = mounted(&[("skin", &card)], Some("skin"));
    let photo = bmp(255, 0, 0);
    let body = files(&[("a.bmp", &photo), ("b.txt", b"no photo"), ("c.bmp", &photo)]);
    for (unfamiliar, logit, own) in [
        (Unfamiliar::Warn, 4.0, "2.718 2.000 ?0 ?0"),
        (Unfamiliar::Refuse, 4.0, "2.718 2.000 ?0 ?0"),
    ] {
        let cam = output("cam", &[1, 2, 2, 2], &[0.0; 8]);
        let logits = output("logits", &[1, 2], &[logit, 0.0]);
        let score = output("familiarity", &[1, 1], &[std::f32::consts::E]);
        let request = post("/predict", "multipart/form-data; boundary=b", &body);
        let (head, source) = request.into_parts();
        let settings = Settings { unfamiliar, ..settings.clone() };
        let inference = Fixed(Ok(vec![logits, cam, score]));
        let response =
            crate::answer::finish(&head, crate::route(&head, source, &settings, &inference));
        let header = response.headers()["x-answer-certainty"].to_str().unwrap().to_owned();
        assert_eq!(header, format!("\"skin\";reference=99;photos=\"{own}, {own}\""));
    }
}

/// A form with these files in the field `photos`.
fn files(names: &[(&str, &[u8])]) -> Vec<u8> {
    let part = |(name, bytes): &(&str, &[u8])| {
        let head = format!(
            "--b\r\nContent-Disposition: form-data; name=\"photos\"; filename=\"{name}\"\r\n\r\n"
        );
        [head.as_bytes(), bytes, b"\r\n"].concat()
    };
    [names.iter().flat_map(part).collect::<Vec<u8>>().as_slice(), b"--b--\r\n"].concat()
}

#[test]
fn each_of_several_photos_has_its_answer_or_its_problem() {
    let (red, blue) = (bmp(255, 0, 0), bmp(0, 0, 255));
    let body = files(&[("red", &red), ("torn", &red[..60]), ("empty", b""), ("blue", &blue)]);
    let response = ask(post("/predict", "multipart/form-data; boundary=b", &body), &RedOrBlue);
    assert_eq!(response.status(), 200);
    let answer = json(&response);
    assert_eq!((&answer["answered"], &answer["refused"]), (&2.into(), &2.into()));
    let entries = answer["photos"].as_array().unwrap();
    let files: Vec<_> = entries.iter().map(|entry| entry["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["red", "torn", "empty", "blue"]);
    for (at, photo) in [(0, &red), (3, &blue)] {
        let mut alone = json(&ask(post("/predict", "image/bmp", photo), &RedOrBlue));
        let mut together = entries[at]["prediction"].clone();
        for answer in [&mut alone, &mut together] {
            answer.as_object_mut().unwrap().remove("timing_ms");
        }
        assert_eq!(alone, together);
        assert!(entries[at].get("problem").is_none());
    }
    let kinds: Vec<_> = entries[1..3].iter().map(|entry| &entry["problem"]["type"]).collect();
    assert_eq!(
        kinds,
        ["urn:skincell:problem:truncated-image", "urn:skincell:problem:missing-image"]
    );
    assert!(entries[1].get("prediction").is_none());
}

#[test]
fn a_json_list_is_answered_in_order() {
    let text =
        |photo: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, photo);
    let photos = serde_json::json!([text(&bmp(0, 0, 255)), null, "?", text(&bmp(255, 0, 0))]);
    let body = serde_json::json!({"images": photos, "gradcam": false, "top_k": 1});
    let response =
        ask(post("/predict", "application/json", body.to_string().as_bytes()), &RedOrBlue);
    let answer = json(&response);
    let entries = answer["photos"].as_array().unwrap();
    let class = |at: usize| &entries[at]["prediction"]["results"][0]["index"];
    let status = |at: usize| &entries[at]["problem"]["status"];
    assert_eq!((class(0), class(3)), (&1.into(), &0.into()));
    assert_eq!((status(1), status(2)), (&400.into(), &400.into()));
}

#[test]
fn a_problem_of_the_model_is_that_of_the_whole_request() {
    let body = files(&[("a", &bmp(1, 2, 3)), ("b", &bmp(1, 2, 3))]);
    let request = || post("/predict", "multipart/form-data; boundary=b", &body);
    let (model, why) = ("skin".to_owned(), "busy".to_owned());
    let host = Fixed(Err(InferenceError::Unavailable { model, why }));
    assert_eq!(problem(&ask(request(), &host)), "model-unavailable");
    let mut picture = request();
    picture.headers_mut().insert("accept", "image/png".parse().unwrap());
    assert_eq!(problem(&ask(picture, &RedOrBlue)), "no-heatmap");
}

#[test]
fn a_browser_without_scripts_gets_a_page() {
    let page = |body: &[u8]| {
        let mut request = post("/predict", "multipart/form-data; boundary=b", body);
        let accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        request.headers_mut().insert("accept", accept.parse().unwrap());
        let response = ask(request, &RedOrBlue);
        assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
        let policy = response.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'"), "{policy}");
        (response.status().as_u16(), String::from_utf8(response.into_body()).unwrap())
    };
    let red = bmp(255, 0, 0);
    let (status, text) = page(&files(&[("red", &red)]));
    assert_eq!(status, 200);
    for part in
        ["Healthy</th><td>98.2 %", "data:image/png;base64,iVBOR", "No medical device.", "<form"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let (status, text) = page(&files(&[("red", &red), ("<i>.png", b"words")]));
    assert_eq!(status, 200);
    assert!(
        text.contains("&lt;i&gt;.png") && text.contains("Not a photo in a known format"),
        "{text}"
    );
    let (status, text) = page(&files(&[("words.png", b"words")]));
    assert_eq!(status, 415);
    assert!(text.contains("Not a photo in a known format") && text.contains("<form"), "{text}");
}

#[test]
fn the_heatmap_alone_is_transparent() {
    let mut request = post("/predict?heatmap=alpha&colormap=viridis", "image/bmp", &bmp(255, 0, 0));
    request.headers_mut().insert("accept", "image/png".parse().unwrap());
    let response = ask(request, &RedOrBlue);
    assert_eq!(response.headers()["content-type"], "image/png");
    // The colour type in the header of a PNG: 6 is RGB with alpha.
    assert_eq!(response.body()[25], 6);
    let json = json(&ask(post("/predict?heatmap=alpha", "image/bmp", &bmp(255, 0, 0)), &RedOrBlue));
    assert!(json["heatmap_base64"].as_str().unwrap().starts_with("iVBOR"));
}

#[test]
fn the_api_page_has_every_operation() {
    let request = Request::get("/docs").body(chunks(b"", 1)).unwrap();
    let response = ask(request, &Fixed(Ok(Vec::new())));
    let text = String::from_utf8(response.into_body()).unwrap();
    let document: serde_json::Value = serde_json::from_slice(crate::OPENAPI).unwrap();
    let paths = document["paths"].as_object().unwrap();
    for (path, item) in paths {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let heading = format!("<code>{} {path}</code>", method.to_ascii_uppercase());
            assert!(text.contains(&heading), "{heading}");
        }
    }
    assert!(text.contains("viridis") && text.contains("heatmap_base64"), "options and members");
}
