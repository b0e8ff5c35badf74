//! Measures the stages of one answer in milliseconds.

use std::time::Instant;

#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;

/// Milliseconds, rounded to hundredths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct Timing {
    /// From the photo's bytes to the input tensor.
    pub decode: f64,
    /// The run of the model, including its first load.
    pub inference: f64,
    /// Heatmap and overlay.
    pub heatmap: f64,
    /// From the request's head to the answer, including the upload.
    pub total: f64,
}

impl Timing {
    /// The value of a `Server-Timing` header, which a browser's developer tools show.
    #[must_use]
    pub fn header(&self) -> String {
        let Self { decode, inference, heatmap, total } = self;
        format!(
            "decode;dur={decode}, inference;dur={inference}, heatmap;dur={heatmap}, total;dur={total}"
        )
    }
}

/// A stopwatch for consecutive stages.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    lap: Instant,
}

impl Clock {
    /// Starts the measurement.
    #[must_use]
    pub fn start() -> Self {
        let now = Instant::now();
        Self { start: now, lap: now }
    }

    /// Milliseconds since the last lap, or the start.
    pub fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let lap = now.duration_since(self.lap);
        self.lap = now;
        milliseconds(lap)
    }

    /// Milliseconds since the start.
    #[must_use]
    pub fn total(&self) -> f64 {
        milliseconds(self.start.elapsed())
    }
}

fn milliseconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laps_add_up_to_the_total() {
        let mut clock = Clock::start();
        std::thread::sleep(std::time::Duration::from_millis(5));
        let first = clock.lap();
        std::thread::sleep(std::time::Duration::from_millis(5));
        let second = clock.lap();
        assert!(first >= 5.0 && second >= 5.0, "{first} {second}");
        assert!(clock.total() + 0.02 >= first + second);
    }
}
