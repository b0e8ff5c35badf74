//! The two text formats that Prometheus accepts: OpenMetrics, which it prefers, and its own older one, which
//! all other readers support. What is counted is left to `metrics`.

use http::{HeaderMap, header};
use std::collections::HashSet;

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Prometheus,
}

const OPEN_METRICS: &str = "application/openmetrics-text";

impl Format {
    /// The format that a client accepts.
    pub(crate) fn asked(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        if accept.is_some_and(|accept| accept.contains(OPEN_METRICS)) {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Its media type.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Converts OpenMetrics to Prometheus' older format, in which the family of a counter has the `_total` of its
/// samples, and there are no lines for units and the end.
pub(super) fn older(text: &str) -> String {
    let counters: HashSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut older = String::with_capacity(text.len());
    for line in text.lines() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind), Some(family), Some(rest)) if counters.contains(family) => {
                older.extend(["# ", kind, " ", family, "_total ", rest]);
            }
            _ => older.push_str(line),
        }
        older.push('\n');
    }
    older
}

#[cfg(test)]
mod tests {
    use super::{Format, older};
    use http::{HeaderMap, HeaderValue, header};

    #[test]
    fn the_older_form_names_counters_as_their_samples() {
        let given = "# HELP http_requests Answers.\n# TYPE http_requests counter\n\
                     http_requests_total{status=\"200\"} 1\n# HELP m_bytes Memory.\n\
                     # TYPE m_bytes gauge\n# UNIT m_bytes bytes\nm_bytes 2\n# EOF\n";
        let expected = "# HELP http_requests_total Answers.\n# TYPE http_requests_total counter\n\
                        http_requests_total{status=\"200\"} 1\n# HELP m_bytes Memory.\n\
                        # TYPE m_bytes gauge\nm_bytes 2\n";
        assert_eq!(older(given), expected);
    }

    #[test]
    fn a_scraper_gets_the_form_it_asks_for() {
        let asked = |accept: &'static str| {
            let value = HeaderValue::from_static(accept);
            Format::asked(&HeaderMap::from_iter([(header::ACCEPT, value)]))
        };
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2";
        assert_eq!(asked(prometheus), Format::OpenMetrics);
        assert_eq!(asked("*/*"), Format::Prometheus);
        assert_eq!(Format::asked(&HeaderMap::new()), Format::Prometheus);
    }
}
