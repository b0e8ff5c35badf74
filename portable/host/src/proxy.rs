//! Sends HTTP requests to a component in this process, without sockets or a server.

use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, ResourceType};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Result, Store, format_err,
};
use wasmtime_wasi::{FsPerms, WasiCtx};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;

use crate::state::{State, linker};

/// Defines the interfaces of Spin, configuration and stores, which this host does not implement, so that
/// calling them traps.
fn trap_others(linker: &mut Linker<State>, component: &Component, engine: &Engine) -> Result<()> {
    for (name, import) in component.component_type().imports(engine) {
        let others = ["fermyon:spin/", "wasi:config/", "wasi:keyvalue/"];
        let ComponentItem::ComponentInstance(interface) = import.ty else { continue };
        if !others.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let mut instance = linker.instance(name)?;
        for (item_name, item) in interface.exports(engine) {
            match item.ty {
                ComponentItem::ComponentFunc(_) => instance.func_new(item_name, |_, _, _, _| {
                    Err(format_err!("this host has no variables and no stores"))
                })?,
                ComponentItem::Resource(_) => {
                    instance.resource(item_name, ResourceType::host::<()>(), |_, _| Ok(()))?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Most instances at the same time.
const SLOTS: u32 = 16;

/// A compiled component that answers HTTP requests, and can reach WASI but no network.
pub struct Proxy {
    pre: ProxyPre<State>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").finish_non_exhaustive()
    }
}

/// The state of one instance, which serves one request.
pub struct Instance {
    store: Store<State>,
    pre: ProxyPre<State>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").finish_non_exhaustive()
    }
}

impl Proxy {
    /// Compiles a component. It may import WASI 0.2 and `wasi:http`, and interfaces of Spin, configuration
    /// and stores, which trap when they are called. All others are refused, `wasi:nn` among them: a component
    /// that is accepted has been composed with its provider.
    ///
    /// # Errors
    /// The bytes are not a component, or an import is not satisfied.
    pub fn new(component: &[u8]) -> Result<Self> {
        let mut config = Config::new();
        // Pooling, as in servers: an instance uses a slot that exists already.
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(SLOTS)
            .total_core_instances(SLOTS * 32)
            .total_memories(SLOTS * 4)
            .total_tables(SLOTS * 16)
            .total_stacks(SLOTS)
            .max_core_instances_per_component(64)
            .max_memories_per_component(4)
            .max_tables_per_component(32)
            .max_memory_size(1 << 30);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        let component = Component::from_binary(&engine, component)?;
        let mut linker = linker(&engine)?;
        // With inference from this host, a test would not show that the component was composed.
        let imports = component.component_type();
        let mut imports = imports.imports(&engine);
        if let Some((name, _)) = imports.find(|(name, _)| name.starts_with("wasi:nn/")) {
            return Err(format_err!("it imports {name}, which this host does not have"));
        }
        trap_others(&mut linker, &component, &engine)?;
        Ok(Self { pre: ProxyPre::new(linker.instantiate_pre(&component)?)? })
    }

    /// The state of a fresh instance, which sees `folder`, read-only, as `/`.
    ///
    /// # Errors
    /// The folder cannot be opened.
    pub fn open(&self, folder: &Path) -> Result<Instance> {
        let mut wasi = WasiCtx::builder();
        wasi.inherit_stderr().preopened_dir(folder, "/", FsPerms::ReadOnly)?;
        let store = Store::new(self.pre.engine(), State::new(wasi.build()));
        Ok(Instance { store, pre: self.pre.clone() })
    }

    /// Sends one request to a fresh instance that sees `folder` and is dropped afterwards.
    ///
    /// # Errors
    /// A trap, or an instance that ends without an answer.
    pub async fn ask(
        &self,
        folder: &Path,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>> {
        Ok(self.open(folder)?.ask(request).await?.0)
    }
}

impl Instance {
    /// The answer, and the store, which keeps the instance's memory until it is dropped.
    ///
    /// # Errors
    /// A trap, or an instance that ends without an answer.
    pub async fn ask(
        self,
        request: http::Request<Bytes>,
    ) -> Result<(http::Response<Bytes>, impl Send)> {
        let Self { mut store, pre } = self;
        let request = request.map(|body| {
            Full::new(body).map_err(|never| -> wasmtime_wasi_http::Error { match never {} })
        });
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let (send, head) = tokio::sync::oneshot::channel();
        let out = store.data_mut().http().new_response_outparam(send)?;
        let work = tokio::task::spawn(async move {
            let proxy = pre.instantiate_async(&mut store).await?;
            proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await?;
            Result::<_>::Ok(store)
        });
        let Ok(head) = head.await else {
            work.await??;
            return Err(format_err!("the instance ended without an answer"));
        };
        let (parts, body) = head?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok((http::Response::from_parts(parts, body), work.await??))
    }
}
