//! Memory of this process by the kernel's count, private (anonymous) memory separate from mapped files: only
//! private memory cannot be reclaimed. Control groups are left to `group`.

use super::kept_open::KeptOpen;
use serde::Serialize;
use std::path::Path;
use std::sync::OnceLock;

/// Memory of this process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ProcessMemory {
    /// Anonymous pages (RssAnon).
    pub private_bytes: u64,
    /// Pages of mapped files (RssFile): weights and code, shared and reclaimable.
    pub mapped_bytes: u64,
    /// All resident pages.
    pub resident_bytes: u64,
    /// The largest `resident_bytes` so far (VmHWM).
    pub peak_resident_bytes: u64,
}

impl ProcessMemory {
    /// Reads the figures of this process; zeros if the system has no `/proc`.
    #[must_use]
    pub fn now() -> Self {
        static STATUS: OnceLock<Option<KeptOpen>> = OnceLock::new();
        let status = STATUS.get_or_init(|| KeptOpen::new(Path::new("/proc/self/status")).ok());
        let text = status.as_ref().and_then(|status| status.read().ok());
        text.map_or_else(Self::default, |text| Self::parse(&text))
    }

    /// Parses the text of `/proc/<pid>/status`.
    #[must_use]
    pub fn parse(status: &str) -> Self {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.trim_start_matches(':').split_whitespace().next()?.parse().ok()?;
            kib.checked_mul(1024)
        };
        Self {
            private_bytes: field("RssAnon").unwrap_or(0),
            mapped_bytes: field("RssFile").unwrap_or(0),
            resident_bytes: field("VmRSS").unwrap_or(0),
            peak_resident_bytes: field("VmHWM").unwrap_or(0),
        }
    }
}

/// The largest address space that this process may have, in bytes (`ulimit -v`), if it is limited.
#[must_use]
pub fn address_space_limit() -> Option<u64> {
    limited(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

/// The soft limit of the address space in the text of `/proc/<pid>/limits`.
fn limited(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{ProcessMemory, limited};

    #[test]
    fn a_limit_of_the_address_space_is_read() {
        let text = |soft: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max address space         {soft:<20} unlimited            bytes     \n"
            )
        };
        assert_eq!(limited(&text("4294967296")), Some(4 << 30));
        assert_eq!(limited(&text("unlimited")), None);
    }

    #[test]
    fn the_kernels_text_is_read() {
        let text = "Name:\tskincell\nVmHWM:\t   2048 kB\nVmRSS:\t 30 kB\nRssAnon:\t 10 kB\nRssFile:\t20 kB\n";
        let expected = ProcessMemory {
            private_bytes: 10 << 10,
            mapped_bytes: 20 << 10,
            resident_bytes: 30 << 10,
            peak_resident_bytes: 2 << 20,
        };
        assert_eq!(ProcessMemory::parse(text), expected);
        assert_eq!(ProcessMemory::parse("nonsense"), ProcessMemory::default());
    }
}
