//! The page `/docs`: the API for people, made from `openapi.json` when it is asked for. No script and nothing
//! from elsewhere.

use std::fmt::Write as _;

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use serde_json::Value;

use crate::html::{self, escaped};
use crate::settings::Settings;

/// The methods that the document has, in the order of the page.
const METHODS: [&str; 2] = ["get", "post"];

/// The page for the OpenAPI document `text`.
pub(crate) fn answer(settings: &Settings, text: &[u8]) -> Response<Vec<u8>> {
    let document: Value = serde_json::from_slice(text).unwrap_or_default();
    let mut content = String::from(
        "<p>Every operation of this service, from its description in OpenAPI 3.1: \
         <a href=\"openapi.json\">openapi.json</a>.</p>\n\
         <pre><code>curl -F image=@photo.jpg &lt;address&gt;/predict</code></pre>\n",
    );
    for tag in document["tags"].as_array().into_iter().flatten() {
        let name = tag["name"].as_str().unwrap_or_default();
        let _ = writeln!(content, "<h2>{}</h2>", escaped(string(&tag["description"])));
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            for method in METHODS {
                let operation = &item[method];
                if operation["tags"][0] == name {
                    content += &section(&document, path, method, operation);
                }
            }
        }
    }
    html::page(settings, StatusCode::OK, "The API", &content)
}

/// The answer at `/docs/`, below which the page's links would lead nowhere: that it is at `/docs`, wherever a
/// proxy puts the service.
pub(crate) fn moved() -> Response<Vec<u8>> {
    let mut response = Response::new(Vec::new());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("../docs"));
    response
}

fn section(document: &Value, path: &str, method: &str, operation: &Value) -> String {
    let (method, path) = (method.to_ascii_uppercase(), escaped(path));
    let mut text = format!(
        "<details class=\"panel\"><summary><code>{method} {path}</code> {}</summary>\n",
        escaped(string(&operation["summary"]))
    );
    let parameters: Vec<[String; 2]> = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|parameter| {
            let takes = schema(document, &parameter["schema"]);
            let about = string(&parameter["description"]);
            [string(&parameter["name"]).to_owned(), format!("{about}. {takes}")]
        })
        .collect();
    text += &table("Option", "Meaning", &parameters);
    let body = &operation["requestBody"];
    if body.is_object() {
        let _ = writeln!(text, "<p>{}</p>", escaped(string(&body["description"])));
        text += &table("Body", "Form", &contents(document, &body["content"]));
    }
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        if status == "200" {
            text += &table("Answer", "Form", &contents(document, &response["content"]));
        }
    }
    let problems = operation["responses"].as_object().into_iter().flatten();
    let problems: Vec<[String; 2]> = problems
        .filter(|(status, _)| *status != "200")
        .map(|(status, response)| [status.clone(), string(&response["description"]).to_owned()])
        .collect();
    text += &table("Status", "Reason", &problems);
    text + "</details>\n"
}

fn contents(document: &Value, content: &Value) -> Vec<[String; 2]> {
    let types = content.as_object().into_iter().flatten();
    types.map(|(name, form)| [name.clone(), schema(document, &form["schema"])]).collect()
}

fn table(first: &str, second: &str, rows: &[[String; 2]]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "<table><thead><tr><th scope=\"col\">{first}</th><th scope=\"col\">{second}</th></tr></thead><tbody>\n"
    );
    for [name, about] in rows {
        let (name, about) = (escaped(name), escaped(about));
        let _ =
            writeln!(text, "<tr><th scope=\"row\"><code>{name}</code></th><td>{about}</td></tr>");
    }
    text + "</tbody></table>\n"
}

/// A schema in one line: its type, its values, or its members.
fn schema(document: &Value, schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
        let name = reference.rsplit('/').next().unwrap_or_default();
        let members = target.map(members).unwrap_or_default();
        return if members.is_empty() { name.to_owned() } else { format!("{name}: {members}") };
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(kinds) = schema[key].as_array() {
            let kinds = kinds.iter().map(|kind| self::schema(document, kind));
            // The empty text, which counts as not given, has no words.
            return kinds.filter(|kind| !kind.is_empty()).collect::<Vec<_>>().join(", or ");
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        let values = values.iter().filter(|value| **value != "");
        return values.map(Value::to_string).collect::<Vec<_>>().join(", ");
    }
    match (string(&schema["type"]), string(&schema["format"])) {
        ("array", _) => format!("list of {}", self::schema(document, &schema["items"])),
        ("object", _) => format!("object: {}", members(schema)),
        ("", _) => "anything".to_owned(),
        (kind, "") => kind.to_owned(),
        (kind, format) => format!("{kind} ({format})"),
    }
}

/// The names of an object's members.
fn members(schema: &Value) -> String {
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
