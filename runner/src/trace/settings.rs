//! Reads OpenTelemetry's environment variables for traces. Those for metrics and logs are ignored.

use percent_encoding::percent_decode_str;
use std::time::Duration;

/// Where traces are sent, and which requests are traced.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// The URL to which traces are posted.
    pub(super) url: String,
    /// Header fields of each post, such as a collector's key.
    pub(super) headers: Vec<(String, String)>,
    /// Resource attributes, such as `service.name`.
    pub(super) resource: Vec<(String, String)>,
    pub(super) sampler: Sampler,
    /// Longest time of one post.
    pub(super) timeout: Duration,
    /// How long spans are collected before they are sent.
    pub(super) delay: Duration,
}

/// A variable with an unsupported value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceSettingsError {
    /// An encrypted endpoint, or one that is not a URL.
    #[error(
        "{name}={value}: traces are sent over http:// only, to a collector on this machine or in this \
         network that passes them on; set a URL such as http://127.0.0.1:4318"
    )]
    Endpoint {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// An unsupported protocol.
    #[error(
        "{name}={value}: only the protocol http/json is supported, which collectors accept on port 4318"
    )]
    Protocol {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A malformed value.
    #[error("{name}={value}: write {form}")]
    Value {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// The form it must have.
        form: &'static str,
    },
}

/// Chooses the requests that are traced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampler {
    /// Whether the client's own choice counts.
    by_parent: bool,
    /// The share of all other requests, 0 to 1.
    share: f64,
}

impl Sampler {
    /// Whether to trace a request of this trace, given its client's choice, if any.
    pub(super) fn samples(self, parent: Option<bool>, trace: u128) -> bool {
        match parent.filter(|_| self.by_parent) {
            Some(choice) => choice,
            // Decided by the trace id, so that all services of a trace decide alike.
            None => ((trace & u128::from(u64::MAX)) as f64) < self.share * u64::MAX as f64,
        }
    }
}

type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

impl TraceSettings {
    /// Reads them with `variable` as the environment; `None` if no collector is named or the SDK is disabled.
    /// `name` and `version` are the application's.
    ///
    /// # Errors
    /// [`TraceSettingsError`] for a value that is not supported.
    pub fn read(
        variable: impl Fn(&str) -> Option<String>,
        name: &str,
        version: &str,
    ) -> Result<Option<Self>, TraceSettingsError> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let is_disabled = set("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let exporter = set("OTEL_TRACES_EXPORTER");
        let Some(url) =
            endpoint(&set)?.filter(|_| !is_disabled && exporter.as_deref() != Some("none"))
        else {
            return Ok(None);
        };
        const PROTOCOLS: [&str; 2] =
            ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
        for name in PROTOCOLS {
            if let Some(value) = set(name).filter(|value| value != "http/json") {
                return Err(TraceSettingsError::Protocol { name, value });
            }
        }
        let headers =
            set("OTEL_EXPORTER_OTLP_TRACES_HEADERS").or(set("OTEL_EXPORTER_OTLP_HEADERS"));
        let mut resource = pairs(&set("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default());
        if let Some(name) = set("OTEL_SERVICE_NAME") {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".to_owned(), name));
        }
        for (key, value) in [("service.name", name), ("service.version", version)] {
            if !resource.iter().any(|(known, _)| known == key) {
                resource.push((key.to_owned(), value.to_owned()));
            }
        }
        Ok(Some(Self {
            url,
            headers: pairs(&headers.unwrap_or_default()),
            resource,
            sampler: sampler(&set)?,
            timeout: milliseconds(&set, "OTEL_EXPORTER_OTLP_TIMEOUT", 10_000)?,
            delay: milliseconds(&set, "OTEL_BSP_SCHEDULE_DELAY", 5_000)?,
        }))
    }
}

/// The URL for traces: their own endpoint as given, or a path below the endpoint of all signals.
fn endpoint(set: Variable<'_>) -> Result<Option<String>, TraceSettingsError> {
    const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let (name, value) = match (set(TRACES), set(ALL)) {
        (Some(value), _) => (TRACES, value),
        (None, Some(value)) => (ALL, value),
        (None, None) => return Ok(None),
    };
    let is_address = value.starts_with("http://") && value.parse::<http::Uri>().is_ok();
    if !is_address {
        return Err(TraceSettingsError::Endpoint { name, value });
    }
    if name == TRACES {
        return Ok(Some(value));
    }
    Ok(Some(format!("{}/v1/traces", value.trim_end_matches('/'))))
}

fn sampler(set: Variable<'_>) -> Result<Sampler, TraceSettingsError> {
    const NAME: &str = "OTEL_TRACES_SAMPLER";
    const SHARE: &str = "OTEL_TRACES_SAMPLER_ARG";
    let value = set(NAME).unwrap_or_else(|| "parentbased_always_on".to_owned());
    let (by_parent, kind) = match value.strip_prefix("parentbased_") {
        Some(kind) => (true, kind),
        None => (false, value.as_str()),
    };
    let share = match kind {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => {
            let value = set(SHARE).unwrap_or_else(|| "1".to_owned());
            let share = value.parse().ok().filter(|share| (0.0..=1.0).contains(share));
            share.ok_or(TraceSettingsError::Value {
                name: SHARE,
                value,
                form: "a share from 0 to 1",
            })?
        }
        _ => {
            let form =
                "always_on, always_off or traceidratio, optionally with the prefix parentbased_";
            return Err(TraceSettingsError::Value { name: NAME, value, form });
        }
    };
    // A ratio of 1 must sample `u64::MAX` too.
    Ok(Sampler { by_parent, share: if share >= 1.0 { f64::INFINITY } else { share } })
}

fn milliseconds(
    set: Variable<'_>,
    name: &'static str,
    default: u64,
) -> Result<Duration, TraceSettingsError> {
    let Some(value) = set(name) else { return Ok(Duration::from_millis(default)) };
    let parsed = value.trim().parse::<u64>().ok().filter(|millis| *millis > 0);
    let form = "milliseconds above 0";
    parsed.map(Duration::from_millis).ok_or(TraceSettingsError::Value { name, value, form })
}

/// Parses `key=value,key=value`, percent-encoded; malformed pairs are left out.
fn pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decoded(key), decoded(value)))
        .filter(|(key, _)| !key.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{TraceSettings, TraceSettingsError};
    use std::time::Duration;

    fn read(set: &[(&str, &str)]) -> Result<Option<TraceSettings>, TraceSettingsError> {
        let find = |name: &str| set.iter().find(|(known, _)| *known == name);
        TraceSettings::read(
            |name| find(name).map(|(_, value)| (*value).to_owned()),
            "skincell",
            "1",
        )
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/");

    #[test]
    fn off_unless_a_collector_is_named() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).unwrap(), None);
        assert_eq!(read(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")]).unwrap(), None);
        assert_eq!(read(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]).unwrap(), None);
        let found = read(&[ENDPOINT]).unwrap().unwrap();
        assert_eq!(found.url, "http://127.0.0.1:4318/v1/traces");
        assert_eq!((found.timeout, found.delay), (Duration::from_secs(10), Duration::from_secs(5)));
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:9/in");
        assert_eq!(read(&[ENDPOINT, own]).unwrap().unwrap().url, "http://collector:9/in");
    }

    #[test]
    fn resource_attributes_and_headers_are_read() {
        let found = read(&[
            ENDPOINT,
            ("OTEL_SERVICE_NAME", "clinic"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x,place=H%C3%A0%20N%E1%BB%99i,broken"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%2Cb, x=y"),
        ]);
        let found = found.unwrap().unwrap();
        let has =
            |key: &str, value: &str| found.resource.contains(&(key.to_owned(), value.to_owned()));
        assert!(
            has("service.name", "clinic") && has("service.version", "1") && has("place", "Hà Nội")
        );
        assert_eq!(found.resource.len(), 3);
        assert_eq!(
            found.headers,
            [("api-key", "a,b"), ("x", "y")].map(|(k, v)| (k.into(), v.into()))
        );
    }

    #[test]
    fn unsupported_values_are_refused() {
        for wrong in [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ] {
            let error = read(&[ENDPOINT, wrong]).unwrap_err().to_string();
            assert!(error.starts_with(wrong.0), "{error}");
        }
    }

    #[test]
    fn samplers_follow_the_client_or_take_their_share() {
        let sampler = |kind: &str, share: &str| {
            let set = [ENDPOINT, ("OTEL_TRACES_SAMPLER", kind), ("OTEL_TRACES_SAMPLER_ARG", share)];
            read(&set).unwrap().unwrap().sampler
        };
        let (low, high) = (1_u128, u128::MAX);
        let default = read(&[ENDPOINT]).unwrap().unwrap().sampler;
        assert!(default.samples(None, high) && !default.samples(Some(false), high));
        assert!(sampler("always_on", "").samples(Some(false), high));
        assert!(!sampler("parentbased_always_off", "").samples(None, low));
        let half = sampler("parentbased_traceidratio", "0.5");
        assert!(
            half.samples(None, low) && !half.samples(None, high) && half.samples(Some(true), high)
        );
    }
}
