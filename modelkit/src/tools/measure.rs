//! `model measure`: the cost of serving a model, measured in this process: time to load, time per photo,
//! memory.
//!
//! Memory freed by earlier work would be reused and not counted, so the command line starts a new process for
//! each measurement. Results are not compared; [`crate::check`] does that.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use skincell_engines::Engine;
use skincell_vision::tensor::PhotoTensor;

use crate::tools::served::{Served, ServedError};

/// The cost of one model on one engine. Memory is in kB of 1024 bytes, as Linux reports it; `None` on other
/// systems.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Time to load the model, in milliseconds.
    pub load_ms: f64,
    /// Time of the first photo, in milliseconds; it includes mapping the weights from the disk cache.
    pub first_ms: f64,
    /// Median time of the later photos, in milliseconds.
    pub median_ms: f64,
    /// Shortest time of the later photos, in milliseconds.
    pub fastest_ms: f64,
    /// Growth of private memory (`RssAnon`) from before the load to after all photos.
    pub private_kb: Option<u64>,
    /// The same growth of file pages in memory (`RssFile`): the mapped weights, which the kernel can drop
    /// when memory is short.
    pub mapped_kb: Option<u64>,
    /// Largest resident memory of the process after the load, of both kinds.
    pub peak_kb: Option<u64>,
}

/// Loads a folder, runs each photo `rounds` times, and measures.
///
/// # Errors
/// [`ServedError`] if the engine cannot load or run it.
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

/// A value in `/proc/self/status`, in kB.
fn status(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Sets `VmHWM`, the peak, back to the present memory (proc(5), `/proc/pid/clear_refs`).
fn reset_peak() {
    // If this is not allowed, the peak includes the load.
    let _ = fs::write("/proc/self/clear_refs", "5");
}
