//! Tests the protocol with a model that is computed by hand.

use http::{Request, Response};
use serde_json::{Value, json};

use crate::body::tests::{Chunks, chunks, compressed};
use crate::inference::tests::{Fixed, RedOrBlue, output};
use crate::inference::{Inference, InferenceError};
use crate::models::tests::{card_json, judging_card_json, mounted};
use crate::settings::{Settings, Unfamiliar};

/// The response with the model `skin`: input `photo` UINT8 [1, 4, 4, 3], two classes.
fn ask(request: Request<Chunks>, inference: &impl Inference, gradcam: bool) -> Response<Vec<u8>> {
    let card = card_json("skin");
    let (_folder, settings) = mounted(&[("skin", &card)], Some("skin"));
    let settings = Settings { gradcam, ..settings };
    let (head, source) = request.into_parts();
    crate::answer::finish(&head, crate::route(&head, source, &settings, inference))
}

fn get(path: &str) -> Response<Vec<u8>> {
    ask(Request::get(path).body(chunks(b"", 1)).unwrap(), &RedOrBlue, true)
}

/// `POST /v2/models/skin/infer`, with the length of the JSON declared if `raw` follows it.
fn infer(document: &Value, raw: &[u8]) -> Response<Vec<u8>> {
    let json = document.to_string();
    let mut request = Request::post("/v2/models/skin/infer");
    if !raw.is_empty() {
        request = request.header("inference-header-content-length", json.len());
    }
    let body = [json.as_bytes(), raw].concat();
    ask(request.body(chunks(&body, 7)).unwrap(), &RedOrBlue, true)
}

fn body(response: &Response<Vec<u8>>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

fn red() -> Vec<u8> {
    [255, 0, 0].repeat(16)
}

fn request(data: Value) -> Value {
    json!({"id": "7", "inputs": [
        {"name": "photo", "shape": [1, 4, 4, 3], "datatype": "UINT8", "data": data}]})
}

#[test]
fn the_server_and_its_models_describe_themselves() {
    assert_eq!(body(&get("/v2"))["name"], "skincell");
    assert_eq!(body(&get("/v2/"))["name"], "skincell");
    assert_eq!(body(&get("/v2/health/live")), json!({"live": true}));
    assert_eq!(body(&get("/v2/health/ready")), json!({"ready": true}));
    assert_eq!(body(&get("/v2/models/skin/ready")), json!({"name": "skin", "ready": true}));
    let metadata = body(&get("/v2/models/skin"));
    assert_eq!(metadata, body(&get("/v2/models/skin/versions/1")));
    assert_eq!(
        metadata["inputs"][0],
        json!(
        {"name": "photo", "datatype": "UINT8", "shape": [-1, 4, 4, 3]})
    );
    let outputs: Vec<_> =
        metadata["outputs"].as_array().unwrap().iter().map(|o| &o["name"]).collect();
    assert_eq!(outputs, ["logits", "cam", "probabilities"]);
    let switched_off =
        ask(Request::get("/v2/models/skin").body(chunks(b"", 1)).unwrap(), &RedOrBlue, false);
    assert_eq!(body(&switched_off)["outputs"].as_array().unwrap().len(), 2, "no Grad-CAM");
}

#[test]
fn the_configuration_is_tritons() {
    let config = body(&get("/v2/models/skin/config"));
    assert_eq!(config, body(&get("/v2/models/skin/versions/1/config")));
    assert_eq!(config["max_batch_size"], 16);
    let input = json!([{"name": "photo", "data_type": "TYPE_UINT8", "dims": [4, 4, 3]}]);
    assert_eq!(config["input"], input);
    assert_eq!(config["output"][1]["dims"], json!([2, 2, 2]));
}

#[test]
fn an_unfamiliar_photo_of_a_batch_is_named_where_such_are_refused() {
    let (_folder, settings) = mounted(&[("skin", &judging_card_json("skin"))], Some("skin"));
    let settings = Settings { unfamiliar: Unfamiliar::Refuse, ..settings };
    let outputs = [
        output("logits", &[1, 2], &[4.0, 0.0]),
        output("cam", &[1, 2, 2, 2], &[0.0; 8]),
        output("familiarity", &[1, 1], &[2.0]),
    ];
    let inference = Fixed(Ok(outputs.to_vec()));
    for (rows, photo) in [(1, "the photo is not"), (2, "the photo in row 0 of the batch is not")] {
        let json = batch(rows, &reds(rows)).to_string();
        let request = Request::post("/v2/models/skin/infer").body(chunks(json.as_bytes(), 7));
        let (head, source) = request.unwrap().into_parts();
        let routed = crate::route(&head, source, &settings, &inference);
        let response = crate::answer::finish(&head, routed);
        assert_eq!(response.status(), 422);
        let said = body(&response).to_string();
        assert!(said.contains(photo), "{said}");
    }
}

#[test]
fn every_photo_of_a_batch_is_told_of_and_none_is_familiar_by_what_is_no_number() {
    let (_folder, settings) = mounted(&[("skin", &judging_card_json("skin"))], Some("skin"));
    for (score, expected) in [
        (0.5, "0.500 -1.386 ?1 ?1"),
        (f32::NAN, "999999999999.000 20.000 ?0 ?0"),
        (0.0, "999999999999.000 20.000 ?0 ?0"),
    ] {
        let outputs = [
            output("logits", &[1, 2], &[4.0, 0.0]),
            output("cam", &[1, 2, 2, 2], &[0.0; 8]),
            output("familiarity", &[1, 1], &[score]),
        ];
        let inference = Fixed(Ok(outputs.to_vec()));
        let json = batch(2, &reds(2)).to_string();
        let request = Request::post("/v2/models/skin/infer").body(chunks(json.as_bytes(), 7));
        let (head, source) = request.unwrap().into_parts();
        let routed = crate::route(&head, source, &settings, &inference);
        let response = crate::answer::finish(&head, routed);
        let header = response.headers()["x-answer-certainty"].to_str().unwrap().to_owned();
        assert_eq!(header, format!("\"skin\";reference=99;photos=\"{expected}, {expected}\""));
        let answer = body(&response);
        let mut outputs = answer["outputs"].as_array().unwrap().iter();
        let scores =
            outputs.find(|output| output["name"] == "familiarity").unwrap()["data"].clone();
        assert!(
            scores[0].as_f64().is_some_and(|found| (found <= 1.0) == (score == 0.5)),
            "{scores}"
        );
    }
}

/// A batch of `rows`, each a picture of one colour, red in the first and less so in each one after it.
fn reds(rows: u8) -> Vec<u8> {
    (0..rows).flat_map(|row| [255 - row * 10, 0, 0].repeat(16)).collect()
}

fn batch(rows: u8, data: &[u8]) -> Value {
    json!({"inputs": [
        {"name": "photo", "shape": [rows, 4, 4, 3], "datatype": "UINT8", "data": data}]})
}

#[test]
fn a_batch_is_as_many_single_answers() {
    for rows in [1, 2, 16] {
        let all = reds(rows);
        let answer = body(&infer(&batch(rows, &all), b""));
        let singles: Vec<Value> =
            all.chunks(48).map(|row| body(&infer(&batch(1, row), b""))).collect();
        for (at, output) in answer["outputs"].as_array().unwrap().iter().enumerate() {
            assert_eq!(output["shape"][0], rows, "{output}");
            let data = |answer: &Value| answer["outputs"][at]["data"].as_array().unwrap().clone();
            let joined: Vec<Value> = singles.iter().flat_map(data).collect();
            assert_eq!(output["data"], Value::from(joined), "{output}");
        }
    }
    let mut document = batch(2, &reds(2));
    document["outputs"] = json!([{"name": "logits", "parameters": {"classification": 1}}]);
    let output = &body(&infer(&document, b""))["outputs"][0];
    assert_eq!(output["shape"], json!([2, 1]));
    assert_eq!(output["data"][0], "4.000000:0:Heathy");
    let mut raw = batch(2, &[]);
    raw["inputs"][0].as_object_mut().unwrap().remove("data");
    raw["inputs"][0]["parameters"] = json!({"binary_data_size": 96});
    assert_eq!(body(&infer(&raw, &reds(2))), body(&infer(&batch(2, &reds(2)), b"")));
}

#[test]
fn a_batch_is_limited() {
    for rows in [0, 17] {
        let error = body(&infer(&batch(rows, &reds(rows)), b""))["error"].to_string();
        assert!(error.contains("a batch of up to 16"), "{rows}: {error}");
    }
    let error = body(&infer(&batch(2, &reds(1)), b""))["error"].to_string();
    assert!(error.contains("fewer than the 96"), "{error}");
}

#[test]
fn json_and_raw_tensors_give_the_same_answer() {
    let flat = infer(&request(json!(red())), b"");
    let answer = body(&flat);
    assert_eq!(answer["id"], "7");
    assert_eq!(answer["outputs"][0]["data"], json!([4.0, 0.0]));
    assert_eq!(answer["outputs"][2]["shape"], json!([1, 2]));
    // Logits 4 and 0: softmax 1 / (1 + e^-4).
    let probability = answer["outputs"][2]["data"][0].as_f64().unwrap();
    assert!((probability - 0.982_013_79).abs() < 1e-6, "{probability}");
    let nested = infer(&request(json!([vec![vec![[255, 0, 0]; 4]; 4]])), b"");
    assert_eq!(body(&nested), answer);
    let pixels = infer(&request(json!([red()])), b"");
    assert_eq!(body(&pixels), answer);
    let raw = json!({"id": "7", "inputs": [{"name": "photo", "shape": [1, 4, 4, 3],
        "datatype": "UINT8", "parameters": {"binary_data_size": 48}}]});
    assert_eq!(body(&infer(&raw, &red())), answer);
}

#[test]
fn numbers_nested_against_the_shape_are_refused() {
    let planes = json!([vec![vec![[255; 4]; 4]; 3]]);
    let mut ragged = json!([vec![vec![[255, 0, 0]; 4]; 4]]);
    ragged[0][1] = json!([[255, 0, 0]]);
    ragged[0][0].as_array_mut().unwrap().extend(vec![json!([255, 0, 0]); 3]);
    let mut mixed = json!([vec![vec![[255, 0, 0]; 4]; 4]]);
    mixed[0][0] = json!(7);
    for (wrong, part) in [
        (planes, "a list of 4 where 3 belong"),
        (json!(vec![vec![[255, 0, 0]; 4]; 4]), "a list of 3 where 12 belong"),
        (ragged, "a list of 7 where 4 belong"),
        (mixed, "side by side"),
        (json!([vec![vec![vec![[255, 0, 0]; 1]; 4]; 4]]), "deeper than its shape"),
        (json!([red(), []]), "a list of 0 where 48 belong"),
    ] {
        let response = infer(&request(wrong), b"");
        let error = body(&response)["error"].to_string();
        assert!(response.status() == 400 && error.contains(part), "{error}");
    }
}

#[test]
fn outputs_have_the_requested_form() {
    let mut document = request(json!(red()));
    document["outputs"] = json!([
        {"name": "probabilities", "parameters": {"classification": 1}},
        {"name": "logits", "parameters": {"binary_data": true}},
        {"name": "logits", "parameters": {"binary_data": true, "classification": 2}}]);
    let response = infer(&document, b"");
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    let end: usize =
        response.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let (head, raw) = response.body().split_at(end);
    let answer: Value = serde_json::from_slice(head).unwrap();
    assert_eq!(answer["outputs"][0]["datatype"], "BYTES");
    assert_eq!(answer["outputs"][0]["data"], json!(["0.982014:0:Heathy"]));
    assert_eq!(answer["outputs"][1]["parameters"]["binary_data_size"], 8);
    assert_eq!(raw[..8], [4.0_f32.to_le_bytes(), 0.0_f32.to_le_bytes()].concat());
    assert_eq!(raw[8..12], 17_u32.to_le_bytes());
    assert_eq!(&raw[12..29], b"4.000000:0:Heathy");
}

#[test]
fn invalid_requests_are_refused_in_the_protocols_form() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut document = request(json!(red()));
        change(&mut document);
        document
    };
    let raw = |size: u64| {
        with(&|d| {
            d["inputs"][0].as_object_mut().unwrap().remove("data");
            d["inputs"][0]["parameters"] = json!({"binary_data_size": size});
        })
    };
    let deep = "[".repeat(40) + &"]".repeat(40);
    let deep: Value = serde_json::from_str(&deep).unwrap();
    let cases: [(Value, &[u8], &str); 18] = [
        (json!([]), b"", "cannot be read"),
        (json!({"inputs": []}), b"", "has 0 inputs"),
        (with(&|d| d["inputs"][0]["name"] = "x".into()), b"", "send \"photo\" UINT8 [1, 4, 4, 3]"),
        (with(&|d| d["inputs"][0]["datatype"] = "FP32".into()), b"", "FP32"),
        (
            with(&|d| d["inputs"][0]["shape"] = json!([1, 4, 4, u64::MAX])),
            b"",
            "18446744073709551615",
        ),
        (with(&|d| d["inputs"][0]["shape"] = json!(vec![1; 17])), b"", "at most 16"),
        (with(&|d| d["inputs"] = json!(vec![d["inputs"][0].clone(); 17])), b"", "at most 16"),
        (with(&|d| d["inputs"][0]["data"] = json!(vec![0; 49])), b"", "more numbers"),
        (with(&|d| d["inputs"][0]["data"] = json!(vec![0; 47])), b"", "fewer than the 48"),
        (with(&|d| d["inputs"][0]["data"] = json!([256])), b"", "0 to 255"),
        (with(&|d| d["inputs"][0]["data"] = json!(1)), b"", "a list of numbers"),
        (with(&|d| d["inputs"][0]["data"] = deep.clone()), b"", "deeper than its shape"),
        (
            with(&|d| {
                d["inputs"][0].as_object_mut().unwrap().remove("data");
            }),
            b"",
            "no tensor",
        ),
        (with(&|_| ()), b"x", "twice"),
        (raw(48), &[0; 47], "47 after"),
        (raw(u64::MAX), &[0; 48], "18446744073709551615 bytes"),
        (with(&|d| d["outputs"] = json!([{"name": "x"}])), b"", "\"probabilities\"]"),
        (
            with(&|d| d["outputs"] = json!([{"name": "cam", "parameters": {"classification": 1}}])),
            b"",
            "does not support classification",
        ),
    ];
    for (document, raw, expect) in cases {
        let response = infer(&document, raw);
        assert_eq!(response.status(), 400, "{expect}");
        assert_eq!(response.headers()["content-type"], "application/json");
        let error = body(&response)["error"].as_str().unwrap().to_owned();
        assert!(error.contains(expect), "{error} has no {expect}");
    }
}

#[test]
fn false_headers_are_refused() {
    let json = request(json!(red())).to_string();
    for (name, value) in [
        ("inference-header-content-length", "99999999999999999999"),
        ("inference-header-content-length", "-1"),
        ("inference-header-content-length", "100000"),
        ("content-encoding", "gzip"),
    ] {
        let request = Request::post("/v2/models/skin/infer").header(name, value);
        let request = request.body(chunks(json.as_bytes(), 9)).unwrap();
        assert_eq!(ask(request, &RedOrBlue, true).status(), 400, "{name}: {value}");
    }
}

/// Triton's clients can compress; some clients write a byte order mark.
#[test]
fn a_compressed_request_gives_the_same_answer() {
    let text = format!("\u{feff}{}", request(json!(red())));
    let plain = body(&infer(&request(json!(red())), b""));
    for (name, coding) in [("gzip", "gzip"), ("deflate", "zlib"), ("deflate", "raw")] {
        let bytes = compressed(coding, text.as_bytes());
        let request = Request::post("/v2/models/skin/infer").header("content-encoding", name);
        let request = request.body(chunks(&bytes, 9)).unwrap();
        assert_eq!(body(&ask(request, &RedOrBlue, true)), plain, "{coding}");
    }
}

#[test]
fn wrong_paths_and_methods_are_refused() {
    let cases = [
        ("GET", "/v2/models/gone", 404),
        ("GET", "/v2/models/..", 404),
        ("GET", "/v2/models/skin/versions/2", 404),
        ("GET", "/v2/models/gone/config", 404),
        ("POST", "/v2/models/skin/config", 405),
        ("GET", "/v2/models/skin/stats", 404),
        ("GET", "/v2/models/skin/infer", 405),
        ("POST", "/v2/models/skin", 405),
        ("POST", "/v2/health/live", 405),
        ("GET", "/v22", 404),
    ];
    for (method, path, status) in cases {
        let request = Request::builder().method(method).uri(path).body(chunks(b"", 1)).unwrap();
        let response = ask(request, &RedOrBlue, true);
        assert_eq!(response.status(), status, "{method} {path}");
        assert_eq!(response.headers().contains_key("allow"), status == 405);
    }
}

#[test]
fn a_model_that_the_host_refuses_is_not_ready() {
    let (model, why) = ("skin".to_owned(), "no grant".to_owned());
    let host = Fixed(Err(InferenceError::NotGranted { model, why }));
    let request = Request::get("/v2/models/skin/ready").body(chunks(b"", 1)).unwrap();
    assert_eq!(ask(request, &host, true).status(), 404);
    let cam = output("cam", &[1, 2, 2, 2], &[f32::INFINITY; 8]);
    let broken = Fixed(Ok(vec![output("logits", &[1, 2], &[1.0, 0.0]), cam]));
    let document = super::tests::request(json!(red())).to_string();
    let request = Request::post("/v2/models/skin/infer");
    let request = request.body(chunks(document.as_bytes(), 64)).unwrap();
    assert_eq!(ask(request, &broken, true).status(), 500, "JSON has no infinity");
}
