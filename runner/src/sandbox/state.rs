//! The runner's part of the state of one instance, and what wasmtime's WASI and HTTP hosts may do with it.

use super::limits::MemoryLimiter;
use crate::account::{CHUNK, CHUNKS, InstanceAccount};
use crate::key_value::KeyValueStore;
use crate::migration::Migration;
use crate::nn::NnState;
use crate::outbound::{Caller, Connection};
use http::{HeaderName, Request, Response, header};
use skincell_hosts::{HostState, Own};
use std::any::Any;
use std::sync::Arc;
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::{Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks};

/// The runner's part of the state of one instance.
pub(super) struct State {
    pub(super) hooks: Hooks,
    pub(super) nn: NnState,
    pub(super) key_value: KeyValue,
    pub(super) account: InstanceAccount,
    pub(super) memory: MemoryLimiter,
}

/// The key-value stores of one instance.
pub(super) struct KeyValue {
    /// The default store, if any component of the application may open it.
    pub(super) store: Option<Arc<KeyValueStore>>,
    /// Labels that this component may open.
    pub(super) labels: Arc<[String]>,
    pub(super) migration: Migration,
}

/// Sends an instance's requests, and sets the rules of header fields and bodies.
pub(super) struct Hooks(pub(super) Caller);

type Sent = Result<(), Error>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _consumed: Box<dyn Future<Output = Sent> + Send>,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Connection), Error>> + Send> {
        Box::new(self.0.clone().send(request, options.unwrap_or_default()))
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        CHUNKS
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        is_forbidden(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(is_forbidden)
    }
}

/// Headers of connection handling belong to the server; the guest may set all others.
fn is_forbidden(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE)
}

impl Own for State {
    fn table(&mut self) -> &mut ResourceTable {
        self.account.table()
    }

    fn http(&mut self) -> (&mut ResourceTable, &mut dyn WasiHttpHooks) {
        (self.account.table(), &mut self.hooks)
    }
}

/// The runner's part of a state.
#[allow(clippy::expect_used, reason = "no other type is ever put there")]
pub(super) fn own(host: &mut HostState) -> &mut State {
    let own: &mut dyn Any = &mut *host.own;
    own.downcast_mut().expect("`Instances::store` makes every state")
}
