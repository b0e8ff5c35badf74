//! Human-readable sizes.

/// Bytes with a binary unit.
pub(super) fn bytes(count: u64) -> String {
    bytesize::ByteSize::b(count).display().iec().to_string()
}

/// Memory given in kB, as MiB; `?` if the system does not report it.
pub(super) fn kilobytes(count: Option<u64>) -> String {
    count.map_or("?".to_owned(), |kb| format!("{:.1} MiB", kb as f64 / 1024.0))
}
