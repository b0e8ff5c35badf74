//! Limits of one instance: linear memory, tables, core instances, time. The host's memory for it is limited
//! by its `account`.
//!
//! wasmtime's own defaults are made for trusted components (10,000 instances, a million handles); these are
//! tighter, because components and clients are not trusted.

use crate::memory::TrackedBytes;
use std::path::Path;
use std::time::Duration;
use wasmtime::ResourceLimiter;

/// The limits of every request.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Instances that may exist at the same time; each has a slot in the pool.
    pub max_instances: usize,
    /// Bytes of linear memory, of all memories of an instance together.
    pub max_instance_memory: usize,
    /// Bytes that the host may hold for one instance: tensors, the arguments of one call, the answer.
    pub max_host_memory: usize,
    /// Bytes of models that one instance may load itself, in addition.
    pub max_guest_model: usize,
    /// Wall-clock time of an instance, until the last byte of its answer.
    pub request_timeout: Duration,
}

/// Entries in the handle tables that wasmtime keeps for an instance, 24 bytes each: for its own resources and
/// those of components composed into it, besides the host's.
pub(super) const MAX_COMPONENT_HANDLES: usize = 10_000;
/// Random bytes that an instance may ask for in one call.
pub(super) const MAX_RANDOM_BYTES: u64 = 1 << 20;
/// Bytes of header fields in one map.
pub(super) const MAX_FIELD_BYTES: usize = 64 << 10;

const MAX_CORE_INSTANCES: usize = super::CORE_INSTANCES as usize;
const MAX_MEMORIES: usize = super::MEMORIES as usize;
const MAX_TABLES: usize = super::TABLES as usize;
const MAX_TABLE_ELEMENTS: usize = 20_000;

/// Limits the sum of an instance's memories; wasmtime's own limiter limits each memory separately.
#[derive(Debug)]
pub(super) struct MemoryLimiter {
    limit: usize,
    used: usize,
    /// The same bytes, in the sum over all instances.
    share: TrackedBytes,
    /// The last total size that was refused.
    pub(super) refused: Option<usize>,
}

impl MemoryLimiter {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: 0, share: TrackedBytes::default(), refused: None }
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.used.saturating_add(desired.saturating_sub(current));
        if total > self.limit {
            self.refused = Some(total);
            return Ok(false);
        }
        self.share.grow((total - self.used) as u64);
        self.used = total;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

/// Bytes of an entry in a folder's listing besides its name: the entry, and the name's allocation.
const LISTED: u64 = 96;

/// Size of a listing of the largest folder in `folder`, as the host holds it, in bytes.
///
/// # Errors
/// When a folder cannot be read.
pub(super) fn listing_bytes(folder: &Path) -> std::io::Result<u64> {
    let (mut own, mut largest) = (0_u64, 0_u64);
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        own += entry.file_name().len() as u64 + LISTED;
        if entry.file_type()?.is_dir() {
            largest = largest.max(listing_bytes(&entry.path())?);
        }
    }
    Ok(own.max(largest))
}

#[cfg(test)]
mod tests {
    use super::{MemoryLimiter, listing_bytes};
    use wasmtime::ResourceLimiter;

    #[test]
    fn the_sum_of_all_memories_is_bounded() {
        let mut limiter = MemoryLimiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 41, None).unwrap(), "a second memory counts too");
        assert_eq!((limiter.used, limiter.refused), (60, Some(101)));
        assert!(limiter.memory_growing(60, 100, None).unwrap());
        assert_eq!(limiter.used, 100);
    }

    #[test]
    fn a_listing_is_measured_by_the_largest_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("inner")).unwrap();
        std::fs::write(folder.path().join("inner/name"), "").unwrap();
        std::fs::write(folder.path().join("inner/another"), "").unwrap();
        assert_eq!(listing_bytes(folder.path()).unwrap(), 2 * super::LISTED + 4 + 7);
    }
}
