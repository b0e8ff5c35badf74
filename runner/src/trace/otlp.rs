//! Encodes traces in OTLP's JSON form: ids in hexadecimal, 64-bit numbers as strings, kinds as numbers.
//! Posting them is left to `export`.

use super::{Span, Trace, TraceSettings};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// `SPAN_KIND_INTERNAL` and `SPAN_KIND_SERVER`.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;

/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// An `ExportTraceServiceRequest`.
pub(super) fn request(settings: &TraceSettings, traces: &[Trace]) -> Value {
    let resource = settings.resource.iter().map(|(key, value)| text(key, value));
    let spans: Vec<Value> = traces.iter().flat_map(spans).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource.collect::<Vec<_>>() },
        "scopeSpans": [{
            "scope": { "name": "skincell-runner", "version": env!("CARGO_PKG_VERSION") },
            "spans": spans,
        }],
    }] })
}

fn spans(trace: &Trace) -> impl Iterator<Item = Value> + '_ {
    let mut attributes =
        vec![text("http.request.method", &trace.method), text("url.path", &trace.path)];
    if let Some(status) = trace.status {
        let value = json!({ "intValue": status.to_string() });
        attributes.push(json!({ "key": "http.response.status_code", "value": value }));
    }
    let named = [("http.route", &trace.route), ("skincell.request_id", &trace.request_id)];
    attributes.extend(named.iter().filter_map(|(key, value)| Some(text(key, value.as_ref()?))));
    let mut root = span(trace, &trace.root, SERVER);
    root["attributes"] = attributes.into();
    // In a server's span, OpenTelemetry counts only the server's own faults as errors, not its clients'.
    if trace.status.is_none_or(|status| status >= 500) {
        root["status"] = json!({ "code": ERROR });
    }
    let stages = trace.stages.iter().map(move |stage| span(trace, stage, INTERNAL));
    std::iter::once(root).chain(stages)
}

fn span(trace: &Trace, span: &Span, kind: u8) -> Value {
    let mut value = json!({
        "traceId": format!("{:032x}", trace.id),
        "spanId": format!("{:016x}", span.id),
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": nanoseconds(span.start),
        "endTimeUnixNano": nanoseconds(span.end),
    });
    if span.parent != 0 {
        value["parentSpanId"] = format!("{:016x}", span.parent).into();
    }
    value
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use super::{Span, Trace, TraceSettings, request};
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_trace_has_the_members_of_otlp() {
        let variable = |name: &str| {
            (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| "http://c:4318".to_owned())
        };
        let settings = TraceSettings::read(variable, "skincell", "1").unwrap().unwrap();
        let span = |name: &str, id, parent| Span {
            name: name.to_owned(),
            id,
            parent,
            start: UNIX_EPOCH + Duration::from_nanos(5),
            end: UNIX_EPOCH + Duration::from_nanos(9),
        };
        let trace = Trace {
            id: 0xab,
            root: span("POST", 1, 0),
            stages: vec![span("decode", 2, 1)],
            method: "POST".to_owned(),
            path: "/predict".to_owned(),
            route: Some("/...".to_owned()),
            request_id: Some("r-1".to_owned()),
            status: Some(503),
        };
        let body = request(&settings, &[trace]);
        let found = &body["resourceSpans"][0];
        assert_eq!(found["resource"]["attributes"][0]["value"]["stringValue"], "skincell");
        let spans = &found["scopeSpans"][0]["spans"];
        assert_eq!(spans[0]["traceId"], "000000000000000000000000000000ab");
        assert_eq!((&spans[0]["kind"], &spans[0]["status"]["code"]), (&2.into(), &2.into()));
        assert!(spans[0].get("parentSpanId").is_none());
        assert_eq!(spans[1]["parentSpanId"], spans[0]["spanId"]);
        assert_eq!(
            (&spans[1]["startTimeUnixNano"], &spans[1]["endTimeUnixNano"]),
            (&"5".into(), &"9".into())
        );
        assert_eq!(spans[0]["attributes"][2]["value"]["intValue"], "503");
    }
}
