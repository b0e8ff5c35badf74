//! Counts the host memory that one instance causes: one account for its tensors, header fields, bodies,
//! streams, descriptors and handles, so that no kind of resource evades the limit of another.
//!
//! The account's limit is part of a request's reservation (`memory::Plan`). So the ledger knows it, and an
//! instance that keeps within it never fails for lack of memory.
//!
//! The runner's own resources hold a [`Charge`]. Those of wasmtime-wasi and wasmtime-wasi-http live in the
//! resource table, which is measured whenever a host call accesses it; every host call that makes, grows or
//! uses a resource does so first. If the account is overdrawn, the table is replaced by an empty one: the
//! call traps, and everything in the old table is freed. What a single call may add before that is bounded by
//! the fuel of host calls, which is reserved separately.
//!
//! Sizes that wasmtime does not report are bounded from above; `tests/cases/bad_guests.rs` compares the sum
//! with the kernel's count. Linear memory is limited by `sandbox`.

use crate::memory::TrackedBytes;
use http::HeaderMap;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, ReaddirIterator};
use wasmtime_wasi_http::p2::bindings::http::types::{Method, Scheme};
use wasmtime_wasi_http::p2::body::HostOutgoingBody;
use wasmtime_wasi_http::p2::types::{HostOutgoingRequest, HostOutgoingResponse};
use wasmtime_wasi_http::{FieldMap, p3};

/// Most handles of one instance, of all kinds together.
pub(crate) const MAX_HANDLES: usize = 1_000;
/// Most open files and folders of one instance. All instances together must stay below the process's limit of
/// descriptors.
pub(crate) const MAX_DESCRIPTORS: usize = 100;

/// Number and size, in bytes, of the pieces of a response's body that may be queued between guest and client:
/// room for a whole answer of the usual size, so that a client that reads slowly does not keep the instance.
pub(crate) const CHUNKS: usize = 16;
pub(crate) const CHUNK: usize = 32 << 10;

// Bytes for each resource of a kind. The largest of the many small ones is an error with its chain of causes;
// the table's own entry is 56 bytes, counted three times because the table grows by copying, and 100 with its
// children.
pub(crate) const SMALL: u64 = 1 << 10;
/// A body's queue, counted at its full length because only its two ends know the real one, and the ends.
pub(crate) const BODY: u64 = (CHUNKS * CHUNK) as u64 + END;
/// One end of such a queue, which keeps the queue's blocks of 32 slots of 40 bytes each.
const END: u64 = 4 << 10;
/// A file's stream, which keeps the piece that was read ahead, at most wasmtime-wasi's 64 KiB.
const INPUT: u64 = (64 << 10) + SMALL;
/// The kernel's part of an open file: its `struct file`, and the inode and directory entry that it pins.
const DESCRIPTOR: u64 = 4 << 10;
/// A header field: twice a bucket of the map (104 bytes, and its index), and two allocations.
const FIELD: u64 = 320;
/// Another value of a field: twice its entry, and one allocation.
const VALUE: u64 = 192;

/// The account of one instance.
pub(crate) struct InstanceAccount {
    table: ResourceTable,
    charged: Arc<AtomicU64>,
    limit: u64,
    /// Largest listing of a folder, in bytes: a stream of a listing keeps all of it.
    listing: u64,
    /// Header maps found while the table is measured, by address: several handles may share one.
    maps: Vec<(usize, u64)>,
    overdrawn: Option<Overdrawn>,
}

/// An instance exceeded its account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Overdrawn {
    /// In bytes.
    #[error(
        "the component made the host hold {held} bytes of tensors, bodies, header fields and other \
         resources; its limit is {limit}"
    )]
    Bytes {
        /// Bytes it would have held.
        held: u64,
        /// What it may.
        limit: u64,
    },
    /// In open files.
    #[error("the component held {held} files open; its limit is {limit}")]
    Descriptors {
        /// Files it held open.
        held: usize,
        /// What it may.
        limit: usize,
    },
}

/// Bytes charged to an account, until dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    charged: Arc<AtomicU64>,
    bytes: u64,
    _counted: TrackedBytes,
}

/// Charges an account from where it cannot be seen. The account is checked at the next host call.
#[derive(Debug, Clone)]
pub(crate) struct Tally(Arc<AtomicU64>);

impl Tally {
    /// Charges `bytes`.
    pub(crate) fn charge(&self, bytes: u64) -> Charge {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        let mut counted = TrackedBytes::default();
        counted.grow(bytes);
        Charge { charged: Arc::clone(&self.0), bytes, _counted: counted }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.charged.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A resource with its charge.
#[derive(Debug)]
pub(crate) struct Charged<T> {
    pub(crate) value: T,
    pub(crate) charge: Charge,
}

impl InstanceAccount {
    /// An empty account of `limit` bytes; `listing` is the size of the largest folder's listing that the
    /// instance can see.
    pub(crate) fn new(limit: u64, listing: u64) -> Self {
        Self {
            table: table(MAX_HANDLES),
            charged: Arc::default(),
            limit,
            listing,
            maps: Vec::new(),
            overdrawn: None,
        }
    }

    /// The instance's resources; an empty table if the account is overdrawn.
    pub(crate) fn table(&mut self) -> &mut ResourceTable {
        if self.overdrawn.is_none()
            && let Err(overdrawn) = self.check()
        {
            self.close(overdrawn);
        }
        &mut self.table
    }

    /// Charges `bytes` for a new resource.
    ///
    /// # Errors
    /// [`Overdrawn`]; the account is then closed.
    pub(crate) fn charge(&mut self, bytes: u64) -> Result<Charge, Overdrawn> {
        let held = self.held().bytes.saturating_add(bytes);
        if held > self.limit {
            let overdrawn = Overdrawn::Bytes { held, limit: self.limit };
            self.close(overdrawn);
            return Err(overdrawn);
        }
        Ok(self.tally().charge(bytes))
    }

    /// Bytes that the host may still hold for the instance.
    pub(crate) fn room(&mut self) -> u64 {
        self.limit.saturating_sub(self.held().bytes)
    }

    /// Charges the account elsewhere.
    pub(crate) fn tally(&self) -> Tally {
        Tally(Arc::clone(&self.charged))
    }

    /// Why the account was closed, if it was.
    pub(crate) fn overdrawn(&self) -> Option<Overdrawn> {
        self.overdrawn
    }

    fn check(&mut self) -> Result<(), Overdrawn> {
        let Held { bytes, descriptors } = self.held();
        if bytes > self.limit {
            return Err(Overdrawn::Bytes { held: bytes, limit: self.limit });
        }
        if descriptors > MAX_DESCRIPTORS {
            return Err(Overdrawn::Descriptors { held: descriptors, limit: MAX_DESCRIPTORS });
        }
        Ok(())
    }

    /// Frees everything. The new table knows no handle and has no capacity, so every use of a handle traps.
    fn close(&mut self, overdrawn: Overdrawn) {
        self.overdrawn = Some(overdrawn);
        self.table = table(0);
    }

    fn held(&mut self) -> Held {
        self.maps.clear();
        let mut held = Held { bytes: self.charged.load(Ordering::Relaxed), descriptors: 0 };
        for entry in self.table.iter_mut() {
            held.add(entry, self.listing, &mut self.maps);
        }
        self.maps.sort_unstable();
        self.maps.dedup();
        held.bytes += self.maps.iter().map(|(_, bytes)| bytes).sum::<u64>();
        held
    }
}

fn table(capacity: usize) -> ResourceTable {
    let mut table = ResourceTable::new();
    table.set_max_capacity(capacity);
    table
}

struct Held {
    bytes: u64,
    descriptors: usize,
}

impl Held {
    fn add(&mut self, entry: &mut (dyn Any + Send), listing: u64, maps: &mut Vec<(usize, u64)>) {
        self.bytes += SMALL;
        if let Some(fields) = entry.downcast_ref::<FieldMap>() {
            maps.push(fields_size(fields));
        } else if entry.is::<DynInputStream>() {
            // It may be the stream of a file, which stays open with it.
            self.descriptors += 1;
            self.bytes += INPUT;
        } else if entry.is::<DynOutputStream>() || entry.is::<HostOutgoingBody>() {
            self.bytes += END;
        } else if entry.is::<Descriptor>() {
            self.descriptors += 1;
            self.bytes += DESCRIPTOR;
        } else if entry.is::<ReaddirIterator>() {
            self.bytes += listing;
        } else if let Some(response) = entry.downcast_ref::<p3::Response>() {
            maps.push(fields_size(&response.headers));
        } else if let Some(request) = entry.downcast_ref::<p3::Request>() {
            self.bytes += places(request);
            maps.push(fields_size(&request.headers));
        } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
            self.bytes += response.body.as_ref().map_or(0, |_| BODY);
            maps.push(fields_size(&response.headers));
        } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
            self.bytes += request.body.as_ref().map_or(0, |_| BODY) + texts(request);
            maps.push(fields_size(&request.headers));
        }
    }
}

/// The address of a header map, and its size in bytes.
fn fields_size(fields: &FieldMap) -> (usize, u64) {
    let map: &HeaderMap = fields;
    let names: usize = map.keys().map(|name| name.as_str().len()).sum();
    let values: usize = map.values().map(http::HeaderValue::len).sum();
    let further = map.len().saturating_sub(map.keys_len()) as u64;
    let places = map.keys_len() as u64 * FIELD + further * VALUE;
    (std::ptr::from_ref(map).addr(), places + (names + values) as u64)
}

/// Bytes of an outgoing request's method, scheme, authority and path.
fn texts(request: &HostOutgoingRequest) -> u64 {
    let method = match &request.method {
        Method::Other(method) => method.len(),
        _ => 0,
    };
    let scheme = match &request.scheme {
        Some(Scheme::Other(scheme)) => scheme.len(),
        _ => 0,
    };
    let texts = [&request.authority, &request.path_with_query].into_iter().flatten();
    (method + scheme + texts.map(String::len).sum::<usize>()) as u64
}

/// Bytes of the method, authority and path of a request of WASI 0.3.
fn places(request: &p3::Request) -> u64 {
    let authority = request.authority.as_ref().map_or(0, |authority| authority.as_str().len());
    let path = request.path_with_query.as_ref().map_or(0, |path| path.as_str().len());
    let scheme = request.scheme.as_ref().map_or(0, |scheme| scheme.as_str().len());
    (request.method.as_str().len() + scheme + authority + path) as u64
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, CHUNKS, InstanceAccount, Overdrawn, SMALL};
    use wasmtime_wasi_http::FieldMap;

    const LIMIT: u64 = 1 << 20;

    #[test]
    fn a_charge_is_returned_when_it_is_dropped() {
        let mut account = InstanceAccount::new(LIMIT, 0);
        let first = account.charge(LIMIT - 10).unwrap();
        let refused = account.charge(11).unwrap_err();
        assert_eq!(refused, Overdrawn::Bytes { held: LIMIT + 1, limit: LIMIT });
        drop(first);
        assert!(account.charge(LIMIT).is_ok());
        assert_eq!(account.overdrawn(), Some(refused), "it stays closed");
    }

    #[test]
    fn an_overdrawn_account_has_no_resources() {
        let mut account = InstanceAccount::new(LIMIT, 0);
        let _most = account.charge(LIMIT - 2 * SMALL).unwrap();
        let handles = [(); 3].map(|()| account.table.push(7_u8).unwrap());
        assert!(account.table().get(&handles[0]).is_err());
        assert!(account.table().push(7_u8).is_err());
        assert!(matches!(account.overdrawn(), Some(Overdrawn::Bytes { held, .. }) if held > LIMIT));
    }

    #[test]
    fn a_map_of_fields_that_handles_share_is_counted_once() {
        let mut account = InstanceAccount::new(LIMIT, 0);
        let mut fields = FieldMap::new_mutable(64 << 10);
        let value = http::HeaderValue::from_bytes(&[b'x'; 60_000]).unwrap();
        fields.append_raw(http::HeaderName::from_static("x-long"), value).unwrap();
        fields.set_immutable();
        for _ in 0..100 {
            account.table().push(fields.clone()).unwrap();
        }
        assert_eq!(account.overdrawn(), None);
        for _ in 0..20 {
            let mut own = FieldMap::new_mutable(64 << 10);
            for (name, value) in fields.iter() {
                own.append_raw(name.clone(), value.clone()).unwrap();
            }
            account.table.push(own).unwrap();
        }
        account.table();
        assert!(account.overdrawn().is_some(), "20 maps of 60 KB are more than 1 MiB");
    }

    #[test]
    fn files_have_a_limit_of_their_own() {
        let mut account = InstanceAccount::new(64 << 20, 0);
        for _ in 0..=super::MAX_DESCRIPTORS {
            let stream: super::DynInputStream =
                Box::new(wasmtime_wasi::p2::pipe::MemoryInputPipe::new(bytes::Bytes::new()));
            account.table().push(stream).unwrap();
        }
        account.table();
        assert!(matches!(account.overdrawn(), Some(Overdrawn::Descriptors { held: 101, .. })));
    }

    #[test]
    fn a_body_counts_with_all_it_may_queue() {
        use wasmtime_wasi_http::p2::body::{HostOutgoingBody, StreamContext};
        use wasmtime_wasi_http::p2::types::HostOutgoingResponse;
        let mut account = InstanceAccount::new(LIMIT, 0);
        for _ in 0..2 {
            let (end, body) = HostOutgoingBody::new(StreamContext::Response, None, CHUNKS, CHUNK);
            let (status, headers) = (http::StatusCode::OK, FieldMap::default());
            let response = HostOutgoingResponse { status, headers, body: Some(body) };
            account.table.push(response).unwrap();
            account.table.push(end).unwrap();
        }
        account.table();
        assert!(account.overdrawn().is_some(), "two bodies of 512 KiB are more than 1 MiB");
    }
}
