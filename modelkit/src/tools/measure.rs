//! What serving a model costs, measured in this process: time to load, time a photo, memory.
//!
//! Memory is only told apart from what came before in a process that did little else, so the
//! command line starts one of its own for each measurement.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use skincell_engines::Engine;
use skincell_vision::tensor::PhotoTensor;

use crate::tools::served::{Served, ServedError};

/// The cost of one model on one engine. Memory is in kB, as Linux counts it; `None` elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// From nothing to loaded, in milliseconds.
    pub load_ms: f64,
    /// The first photo, which also brings the weights in from the disk cache.
    pub first_ms: f64,
    /// The median of the photos after it.
    pub median_ms: f64,
    /// The fastest of them.
    pub fastest_ms: f64,
    /// Private memory more than before the load, after all photos.
    pub private_kb: Option<u64>,
    /// Pages of files in memory more than before the load: the mapped weights, which the kernel
    /// takes back when it must.
    pub mapped_kb: Option<u64>,
    /// The most memory of both kinds at any time after the load.
    pub peak_kb: Option<u64>,
}

/// Loads a folder, runs each photo `rounds` times, and measures.
///
/// # Errors
/// [`ServedError`] when the engine does not load or run it.
pub fn measure(
    folder: &Path,
    engine: &dyn Engine,
    photos: &[PhotoTensor],
    rounds: usize,
) -> Result<Measured, ServedError> {
    let before = (status("RssAnon"), status("RssFile"));
    let start = Instant::now();
    let served = Served::open(folder, engine)?;
    let load_ms = milliseconds(start);
    reset_peak();
    let mut times = Vec::with_capacity(photos.len() * rounds);
    for _ in 0..rounds {
        for photo in photos {
            let start = Instant::now();
            served.run(photo)?;
            times.push(milliseconds(start));
        }
    }
    let first_ms = times.first().copied().unwrap_or_default();
    let mut later = times.split_off(times.len().min(1));
    later.sort_by(f64::total_cmp);
    let median_ms = later.get(later.len() / 2).copied().unwrap_or(first_ms);
    let fastest_ms = later.first().copied().unwrap_or(first_ms);
    let more = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
    Ok(Measured {
        load_ms,
        first_ms,
        median_ms,
        fastest_ms,
        private_kb: more(status("RssAnon"), before.0),
        mapped_kb: more(status("RssFile"), before.1),
        peak_kb: status("VmHWM"),
    })
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// A line of `/proc/self/status`, in kB.
fn status(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Begins `VmHWM` anew (proc(5), `/proc/pid/clear_refs`).
fn reset_peak() {
    // Where it is not allowed the peak holds the load as well, which is still true.
    let _ = fs::write("/proc/self/clear_refs", "5");
}
