//! Sizes, for people.

/// Bytes as people write them.
pub(super) fn bytes(count: u64) -> String {
    bytesize::ByteSize::b(count).display().iec().to_string()
}

/// kB of memory as people write them; `?` where the system does not say.
pub(super) fn kilobytes(count: Option<u64>) -> String {
    count.map_or("?".to_owned(), |kb| format!("{:.1} MiB", kb as f64 / 1024.0))
}
