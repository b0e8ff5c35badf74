//! The sandbox: compiles a component once and makes a fresh instance of it for every request.
//!
//! `compile` makes machine code (or maps it from the cache), `instance` runs one request, by `wasi02` or
//! `wasi03`, on its `state`; `start` waits for it, and `reply` carries its answer. `limits` bounds it,
//! `ticker` interrupts guest code, `output` takes what it prints, `variables` gives it its configuration, and
//! `key_value` its stores; `absent` stands in for what is not offered. The host memory it causes is counted
//! in `account`. No sockets here: requests come as `http::Request` and answers go as `http::Response`.

mod absent;
mod compile;
mod instance;
mod key_value;
mod limits;
mod output;
mod reply;
mod start;
mod state;
mod ticker;
mod variables;
mod wasi02;
mod wasi03;

pub use compile::{CompileCache, Compiled};
pub use instance::{Failure, Instances};
pub use limits::Limits;
pub use output::{Output, OutputSettings};
pub use reply::{Reply, ReplyBody};

use crate::key_value::KeyValueStore;
use crate::memory::address_space_limit;
use crate::outbound::Outbound;
use crate::threads::Threads;
use anyhow::Context;
use std::sync::Arc;
use ticker::Ticker;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Most core instances, memories and tables of one component: the guest itself, and the small adapters that
/// component tools add around it.
const CORE_INSTANCES: u32 = 64;
const MEMORIES: u32 = 4;
const TABLES: u32 = 16;
/// Stacks of one instance with concurrent calls: one for each of its components that waits in a call, and one
/// to go on with.
const STACKS: u32 = 4;
/// Bytes of a table that are cleared in place for the next instance. Returning its two pages to the system
/// and faulting them in again would interrupt every other core three times for each request instead of once.
const TABLE_BYTES: usize = 16 << 10;

/// wasmtime, set up for this runner, with its ticker and threads.
#[derive(Clone)]
pub struct Sandbox {
    engine: Engine,
    ticker: Ticker,
    /// One thread for each instance that may exist.
    threads: Threads,
    limits: Limits,
    is_concurrent: bool,
    /// What the requests that components send have in common.
    pub(crate) outbound: Arc<Outbound>,
    /// The application's default store, if a component may open it.
    pub(crate) key_value: Option<Arc<KeyValueStore>>,
}

impl Sandbox {
    /// Sets up wasmtime: pooling allocator with one slot per concurrent request, copy-on-write memory
    /// images, epoch interruption. `is_concurrent` lets it run components of WASI 0.3; for others it would
    /// only make every call slower.
    ///
    /// # Errors
    /// When the host cannot reserve the address space for the slots, or cannot start a thread for each.
    pub fn new(limits: Limits, is_concurrent: bool) -> anyhow::Result<Self> {
        let mut config = Config::new();
        config.epoch_interruption(true);
        config.memory_init_cow(true);
        config.wasm_component_model(true);
        config.concurrency_support(is_concurrent);
        config.wasm_component_model_async(is_concurrent);
        config
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(&limits, is_concurrent)));
        let engine = Engine::new(&config)
            .map_err(anyhow::Error::from)
            .with_context(|| match address_space_limit() {
                // Memory is protected by addresses that are reserved around it, gigabytes for each instance.
                Some(limit) => format!(
                    "cannot set up the sandbox in an address space of {} MiB; lift that limit with `ulimit -v \
                     unlimited`, and limit memory with --memory-limit",
                    limit >> 20
                ),
                None => "cannot set up the sandbox; try a smaller --max-concurrency".to_owned(),
            })?;
        let ticker = Ticker::start(engine.clone())?;
        let threads = Threads::start("guest", limits.max_instances)?;
        let outbound = Arc::new(Outbound::new());
        Ok(Self { engine, ticker, threads, limits, is_concurrent, outbound, key_value: None })
    }

    /// The limits of every request.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// As many slots as requests may run at once. An idle slot keeps small tables only: memory that an instance
/// wrote is returned to the system when it is dropped.
fn pool(limits: &Limits, is_concurrent: bool) -> PoolingAllocationConfig {
    let slots = u32::try_from(limits.max_instances).unwrap_or(u32::MAX / CORE_INSTANCES);
    let stacks = if is_concurrent { STACKS } else { 1 };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(CORE_INSTANCES))
        .total_memories(slots.saturating_mul(MEMORIES))
        .total_tables(slots.saturating_mul(TABLES))
        .total_stacks(slots.saturating_mul(stacks))
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_memory_size(limits.max_instance_memory)
        .max_unused_warm_slots(slots)
        .linear_memory_keep_resident(0)
        .table_keep_resident(TABLE_BYTES)
        .async_stack_keep_resident(0);
    pool
}
