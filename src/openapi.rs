//! Generates `openapi.json`, the OpenAPI 3.1 description of this service, from the code. The test below
//! compares it with the file, so that the component contains only the text and not the generator.
//!
//! Schemas come from the types that are serialised and parsed, and options from the list used for parsing.
//! Only routes and status codes are written here.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};
use skincell_vision::overlay::Colormap;

use crate::fields::MAX_PHOTOS;
use crate::options::NAMES;
use crate::{answer, models, problem, several, v2};

/// The status codes of problems with a photo, from the component or the runner.
const PHOTO_PROBLEMS: [(&str, &str); 14] = [
    ("400", "The request, its body or an option is malformed"),
    ("403", "The service takes no photos"),
    ("404", "No such model, or none that the host grants"),
    ("406", "Accept excludes JSON, PNG and HTML"),
    ("408", "The body arrived too slowly"),
    ("409", "The overlay was requested and there is none"),
    ("413", "The body, or the memory its photo needs, is too large"),
    ("415", "The form, type or format is not supported"),
    ("422", "The photo is damaged, empty, has too many pixels or is of an unknown kind"),
    ("429", "Too many requests by this client: see Retry-After"),
    ("500", "The model, its card or the service is broken"),
    ("503", "Too busy, or the model cannot be loaded now: see Retry-After"),
    ("504", "The time limit was exceeded"),
    ("401", "A token is required"),
];

/// The status codes of errors under `/v2`.
const INFERENCE_PROBLEMS: [(&str, &str); 9] = [
    ("400", "The request is inconsistent or does not fit the model"),
    ("401", "A token is required"),
    ("403", "The service takes no tensors"),
    ("404", "No such model or version, or none that the host grants"),
    ("413", "The body is too large"),
    ("429", "Too many requests by this client"),
    ("500", "The model or its card is broken"),
    ("503", "Not ready, or too busy"),
    ("504", "The time limit was exceeded"),
];

/// The schemas of answers and of requests, collected as they are referenced.
struct Schemas {
    answers: SchemaGenerator,
    requests: SchemaGenerator,
}

fn document() -> Value {
    let place = |settings: &mut SchemaSettings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    };
    let mut schemas = Schemas {
        answers: SchemaSettings::draft2020_12().with(place).for_serialize().into_generator(),
        requests: SchemaSettings::draft2020_12().with(place).for_deserialize().into_generator(),
    };
    let mut paths = photo_paths(&mut schemas);
    paths.append(&mut inference_paths(&mut schemas));
    let mut components = schemas.answers.take_definitions(true);
    components.append(&mut schemas.requests.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "skincell",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "A photo of skin in, ranked classes and a Grad-CAM heatmap out",
            "description": "Not a medical device. Every request gets a fresh, isolated memory; \
             no photo is stored.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "."}],
        "tags": [
            {"name": "photos", "description": "Photos in, classes and heatmaps out"},
            {"name": "service", "description": "What the service has and how it is"},
            {"name": "inference", "description": "The Open Inference Protocol, version 2: tensors in and out"},
        ],
        // A service may require a token.
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer",
                "description": "One of the tokens in SKINCELL_TOKENS_FILE, if the service has any"}},
        },
    })
}

fn photo_paths(schemas: &mut Schemas) -> Map<String, Value> {
    let prediction = schemas.answers.subschema_for::<answer::PredictResponse<'static>>();
    let several = schemas.answers.subschema_for::<several::SeveralResponse<'static>>();
    let problem =
        json!({"schema": schemas.answers.subschema_for::<problem::ProblemBody<'static>>()});
    let mut responses = problems(&PHOTO_PROBLEMS, "application/problem+json", &problem);
    responses.insert(
        "200".to_owned(),
        json!({"description": "The ranked classes; of several photos, an entry for each. With Accept: image/png \
               the drawn heatmap itself, with text/html a page",
               "content": {"application/json": {"schema": {"anyOf": [prediction, several]}},
                           "image/png": {"schema": picture("image/png")},
                           "text/html": {"schema": {"type": "string"}}}}),
    );
    let parameters: Vec<Value> = NAMES
        .iter()
        .map(|name| {
            let (schema, description) = option(name);
            json!({"name": name, "in": "query", "schema": schema, "description": description})
        })
        .collect();
    let predict = json!({
        "operationId": "predict", "tags": ["photos"],
        "summary": "Rank the classes of a photo, and show why",
        "parameters": parameters,
        "requestBody": {"required": true, "content": photo_forms(), "description":
            "The photo's field or member may also be called file, photo, img, upload, picture, images, \
             files or photos. Several photos are parts of one name in a form, or a list in JSON; each gets its own \
             answer or problem. A form of text (application/x-www-form-urlencoded) may have it as base64. A \
             body may be under Content-Encoding gzip or deflate."},
        "responses": responses,
    });
    let health = schemas.answers.subschema_for::<answer::Health>().to_value();
    let listing = schemas.answers.subschema_for::<models::Listing>().to_value();
    let get = |id: &str, summary: &str, schema: Value| {
        let refused = json!({"description": "A token is required"});
        let content = json!({"application/json": {"schema": schema}});
        json!({"get": {"operationId": id, "summary": summary, "tags": ["service"], "responses": {
            "200": {"description": summary, "content": content}, "401": refused}}})
    };
    Map::from_iter([
        ("/predict".to_owned(), json!({"post": predict})),
        ("/models".to_owned(), get("models", "The models, from their cards", listing)),
        ("/health".to_owned(), get("health", "Whether the component runs", health)),
        ("/docs".to_owned(), {
            let mut item = get("docs", "This document as a page", json!({"type": "string"}));
            let content = item["get"]["responses"]["200"]["content"]["application/json"].take();
            item["get"]["responses"]["200"]["content"] = json!({"text/html": content});
            item
        }),
        ("/openapi.json".to_owned(), get("openapi", "This document", json!({"type": "object"}))),
    ])
}

/// The content types in which a photo is posted.
fn photo_forms() -> Value {
    let several = |image: &Value| json!({"type": "array", "items": image, "minItems": 1, "maxItems": MAX_PHOTOS});
    let members = |image: Value, several: &Value| {
        let image = json!({"anyOf": [image, several]});
        let options = NAMES.iter().map(|name| ((*name).to_owned(), option(name).0));
        let members: Map<String, Value> = options.chain([("image".to_owned(), image)]).collect();
        json!({"type": "object", "required": ["image"], "properties": members})
    };
    let file = picture("image/*");
    let text = json!({"type": "string", "format": "photo-base64", "contentEncoding": "base64",
                      "description": "Base64 of the file, or a data: URL of it"});
    // A photo that is null has a problem of its own.
    let list = several(&json!({"anyOf": [text, {"type": "null"}]}));
    let mut json_form = members(text, &list);
    // In JSON an option may be null, which counts as not given.
    for name in NAMES {
        let schema = json_form["properties"][name].take();
        json_form["properties"][name] = json!({"anyOf": [schema, {"type": "null"}]});
    }
    json_form["additionalProperties"] = false.into();
    json!({
        "multipart/form-data": {"schema": members(file.clone(), &several(&file))},
        // A list is a body too; generators of clients write programs that do not run for it.
        "application/json": {"schema": json_form},
        "application/octet-stream": {"schema": file},
        "image/*": {"schema": file},
    })
}

/// The schema of a picture's bytes. Generators of clients know `format`, OpenAPI 3.1 itself
/// `contentMediaType`.
fn picture(media_type: &str) -> Value {
    json!({"type": "string", "format": "binary", "contentMediaType": media_type})
}

/// An option's schema and description. An empty text counts as not given.
fn option(name: &str) -> (Value, &'static str) {
    let texts = |texts: &[&str]| json!({"type": "string", "enum": texts});
    match name {
        "top_k" => (
            json!({"anyOf": [{"type": "integer", "minimum": 1, "maximum": u32::MAX},
                             {"type": "string", "pattern": "^([1-9][0-9]{0,8})?$"}]}),
            "Number of classes to rank",
        ),
        "gradcam" => (
            json!({"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}, texts(&["true", "1", "yes", "on", "false", "0", "no", "off", ""])]}),
            "Whether to make a heatmap",
        ),
        "heatmap" => (
            texts(&["overlay", "alpha", "maps", ""]),
            "overlay: a PNG over the photo, for the most likely class. alpha: the same without the photo, with \
             transparency. maps: numbers for each of the ranked classes",
        ),
        "colormap" => {
            let mut names = Colormap::ALL.map(Colormap::name).to_vec();
            names.push("");
            (texts(&names), "Colours of a drawn heatmap, jet by default")
        }
        "model" => (
            json!({"anyOf": [{"type": "string", "format": "model-name"}, texts(&[""])]}),
            "The model to use, by its name in /models",
        ),
        "fields" => (
            json!({"anyOf": [{"type": "string", "format": "fields-json"}, texts(&[""])]}),
            "Numbers for the inputs beside the photo, as JSON text: an object of numbers or lists of them by the names \
             that /models lists, such as {\"age\": 54}. In a JSON body the object itself is taken as well. What is \
             left out has the default of /models",
        ),
        _ => (
            json!({"anyOf": [{"type": "string", "format": "class-name"}, texts(&[""]),
                             {"type": "integer", "minimum": 0}]}),
            "The class the heatmap explains, by label, display name or index",
        ),
    }
}

/// Path below `/v2`, name, summary and answer of each operation.
type Operation = (&'static str, &'static str, &'static str, schemars::Schema);

fn operations(answers: &mut SchemaGenerator) -> [Operation; 8] {
    let server = answers.subschema_for::<v2::Server>();
    let live = answers.subschema_for::<v2::Live>();
    let ready = answers.subschema_for::<v2::Ready>();
    let metadata = answers.subschema_for::<v2::Metadata>();
    let model_ready = answers.subschema_for::<v2::ModelReady>();
    let inferred = answers.subschema_for::<v2::Inferred<'static>>();
    let index = answers.subschema_for::<Vec<v2::Indexed>>();
    let config = answers.subschema_for::<v2::Configuration>();
    [
        ("", "server", "Name and version of the server", server),
        ("/health/live", "live", "Whether the server is live", live),
        ("/health/ready", "ready", "Whether all model cards are valid", ready),
        ("/models/{model}", "metadata", "A model's inputs and outputs", metadata),
        ("/models/{model}/ready", "modelReady", "Whether the host can load a model", model_ready),
        ("/models/{model}/config", "config", "A model's configuration, as Triton's", config),
        (
            "/models/{model}/infer",
            "infer",
            "Run a model on its input tensor, or on a batch of up to 16",
            inferred,
        ),
        ("/repository/index", "index", "The models, as Triton lists them", index),
    ]
}

fn inference_paths(schemas: &mut Schemas) -> Map<String, Value> {
    let error = json!({"schema": schemas.answers.subschema_for::<v2::Refusal>()});
    let request = schemas.requests.subschema_for::<v2::InferRequestBody<'static>>().to_value();
    let path = |(path, id, summary, schema): Operation| {
        let mut responses = problems(&INFERENCE_PROBLEMS, "application/json", &error);
        let mut content = json!({"application/json": {"schema": schema}});
        let mut operation = json!({"operationId": id, "summary": summary, "tags": ["inference"]});
        if id == "infer" {
            content["application/octet-stream"] =
                json!({"schema": {"type": "string", "format": "binary"}});
            operation["requestBody"] = json!({"required": true, "description":
                "Raw tensors may follow the JSON, whose length is in Inference-Header-Content-Length",
                "content": {"application/json": {"schema": request}}});
        }
        if id == "ready" {
            let not_ready = json!({"description": "Not ready", "content": content});
            responses.insert("503".to_owned(), not_ready);
        }
        responses.insert("200".to_owned(), json!({"description": summary, "content": content}));
        operation["responses"] = responses.into();
        let method = if matches!(id, "infer" | "index") { "post" } else { "get" };
        let mut item = json!({method: operation});
        if path.contains("{model}") {
            item["parameters"] = json!([{"name": "model", "in": "path", "required": true,
                                         "schema": {"type": "string", "format": "model-name"}}]);
        }
        (format!("/v2{path}"), item)
    };
    operations(&mut schemas.answers).into_iter().map(path).collect()
}

fn problems(rows: &[(&str, &str)], media_type: &str, content: &Value) -> Map<String, Value> {
    rows.iter()
        .map(|(status, description)| {
            let response = json!({"description": description, "content": {media_type: content}});
            ((*status).to_owned(), response)
        })
        .collect()
}

/// `SKINCELL_BLESS=1 cargo test -p skincell openapi` rewrites the file.
#[test]
fn the_file_is_what_the_code_generates() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/openapi.json");
    let made = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os("SKINCELL_BLESS").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap();
    assert!(kept == made, "src/openapi.json is out of date: run again with SKINCELL_BLESS=1");
}
