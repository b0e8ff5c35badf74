//! One request, one instance: a fresh store and linear memory, dropped when the answer is sent.
//!
//! Longer work runs on a thread of the guest's own (`threads`), so that guest code and inference never block
//! the threads of the sockets. Turning the outcome into an HTTP answer is left to `handler`.

use super::limits::{
    MAX_COMPONENT_HANDLES, MAX_FIELD_BYTES, MAX_RANDOM_BYTES, MemoryLimiter, listing_bytes,
};
use super::output::{Printing, Stream};
use super::reply::{CancelOnDrop, HeadSender, Reply, ReplyBody};
use super::start::NoInstance;
use super::state::{Hooks, KeyValue, State, own};
use super::{Compiled, Output, Sandbox, absent, key_value, variables, wasi02, wasi03};
use crate::account::{InstanceAccount, Overdrawn};
use crate::admission::{Permit, Priority};
use crate::app::AppComponent;
use crate::metrics::Metrics;
use crate::migration::Migration;
use crate::nn::{self, Deadline, Grants, NnState, NnView};
use crate::outbound::{AllowedHosts, Caller, Place};
use crate::shortage;
use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request};
use hyper::body::Body;
use skincell_hosts::{HostState, add_wasi02, add_wasi03};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::oneshot;
use wasmtime::component::{Component, Linker};
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder};
use wasmtime_wasi_http::WasiHttpCtx;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

/// Makes the instances of one component.
pub struct Instances {
    sandbox: Sandbox,
    handler: Handler,
    environment: Vec<(String, String)>,
    /// The folder it sees, opened once, so that a request needs no descriptor for it.
    files: WasiFilesystemCtx,
    /// The same folder, duplicated to test whether a descriptor is free.
    folder: Option<File>,
    /// Size of a listing of the largest folder in it, in bytes.
    listing: u64,
    grants: Grants,
    /// Those it may call.
    hosts: Arc<AllowedHosts>,
    /// Labels of the key-value stores it may open.
    stores: Arc<[String]>,
    metrics: Arc<Metrics>,
    output: Output,
}

/// A component's handler of requests, ready to be instantiated.
#[derive(Clone)]
enum Handler {
    /// `wasi:http/incoming-handler`.
    Wasi02(ProxyPre<HostState>),
    /// `wasi:http/handler`.
    Wasi03(ServicePre<HostState>),
}

/// Why an instance gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It was still at work at the deadline.
    #[error("no answer within {0:?}")]
    Deadline(std::time::Duration),
    /// It asked for more memory than it may have, and failed.
    #[error("the instance asked for {asked} bytes of memory; its limit is {limit}")]
    OutOfMemory {
        /// Bytes it would have had in total.
        asked: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// The system had no memory, address space or descriptor for it.
    #[error("{0}")]
    NoInstance(String),
    /// It trapped, panicked, or ended without an answer.
    #[error("the component failed: {0}")]
    Trap(String),
}

impl Failure {
    /// The reason as a metric's label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::OutOfMemory { .. } => "memory",
            Self::NoInstance(_) => "no-instance",
            Self::Trap(_) => "trap",
        }
    }

    /// The reason for the log.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Trap(reason) => reason.clone(),
            other => other.to_string(),
        }
    }
}

impl Instances {
    /// Links a component to the interfaces it may import: WASI 0.2 and 0.3, incoming HTTP, its variables, and
    /// wasi-nn with `grants`. `files` is the folder it sees at `/`, `output` the target of its output.
    ///
    /// # Errors
    /// When the component imports an interface that Spin does not have either, or does not export one HTTP
    /// handler.
    pub fn new(
        sandbox: &Sandbox,
        compiled: &Compiled,
        component: &AppComponent,
        files: Option<&Path>,
        grants: Grants,
        metrics: Arc<Metrics>,
        output: Output,
    ) -> anyhow::Result<Self> {
        let mut linker = Linker::new(&sandbox.engine);
        add_wasi02(&mut linker)?;
        if sandbox.is_concurrent {
            add_wasi03(&mut linker)?;
            variables::add_concurrent_to_linker(&mut linker, &component.variables)?;
            key_value::add_concurrent_to_linker(&mut linker)?;
        }
        nn::add_to_linker(&mut linker, |host: &mut HostState| {
            let State { nn, account, .. } = own(host);
            NnView { state: nn, account }
        })?;
        variables::add_to_linker(&mut linker, &component.variables)?;
        key_value::add_to_linker(&mut linker)?;
        let absent = absent::add_to_linker(&mut linker, &compiled.component)?;
        if !absent.is_empty() {
            tracing::warn!(
                component = component.id,
                "the component imports what is not offered here, and fails if it calls it: {}",
                Vec::from_iter(absent).join(", ")
            );
        }
        let handler = Handler::new(&linker, &compiled.component)?;
        let hosts = component.allowed_outbound_hosts.iter().map(String::as_str);
        let hosts = Arc::new(AllowedHosts::parse(hosts)?);
        let listing = files.map(listing_bytes).transpose()?.unwrap_or(0);
        let folder = files.map(File::open).transpose()?;
        let files = opened(files)?;
        let (sandbox, environment) = (sandbox.clone(), component.environment.clone());
        Ok(Self {
            sandbox,
            handler,
            environment,
            files,
            folder,
            listing,
            grants,
            hosts,
            stores: component.key_value_stores.clone().into(),
            metrics,
            output,
        })
    }

    /// Answers `request` by a fresh instance, which stands at `place`. With a permit of normal priority it
    /// has a thread of its own from the start. `permit` is dropped with the instance.
    ///
    /// Dropping the future, or the reply's body before its end, stops the instance.
    ///
    /// # Errors
    /// [`Failure`], when the head of the answer does not come by the deadline.
    pub(crate) async fn respond<B>(
        &self,
        request: Request<B>,
        permit: Permit,
        place: Place,
    ) -> Result<Reply, Failure>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<wasmtime_wasi_http::Error>,
    {
        self.check_descriptor().map_err(|error| Failure::NoInstance(error.to_string()))?;
        let timeout = self.sandbox.limits.request_timeout;
        let deadline = place.deadline.unwrap_or_else(|| Instant::now() + timeout);
        let place = Place { deadline: Some(deadline), ..place };
        let (send_head, head) = oneshot::channel();
        let (client, client_gone) = oneshot::channel();
        let request_deadline = Arc::new(Deadline::until(deadline));
        let cancel_on_drop = CancelOnDrop(Arc::clone(&request_deadline));
        let migration = Migration::default();
        if permit.priority() == Priority::Normal {
            // A request with a body means longer work.
            migration.request();
        }
        let mut store = self.store(deadline, request_deadline, migration.clone(), place);
        let handler = self.handler.clone();
        let running = self.sandbox.ticker.running();
        let broken = Arc::new(AtomicBool::new(false));
        let breaks = Arc::clone(&broken);
        let late = Arc::new(AfterHead::default());
        let ended = Arc::clone(&late);
        let is_head = request.method() == Method::HEAD;
        let metrics = Arc::clone(&self.metrics);
        metrics.instances_created.inc();
        let work = migration.spawn(&self.sandbox.threads, async move {
            let start = Instant::now();
            let call = handler.call(&mut store, request, send_head);
            let outcome = run_until(call, client_gone, deadline).await;
            let State { memory, account, .. } = own(store.data_mut());
            let used = Used { refused: memory.refused, overdrawn: account.overdrawn() };
            // Stored before the store is dropped, which ends the reply's body: see `ReplyBody`.
            breaks.store(!matches!(outcome, Outcome::Ended(Ok(()))), Ordering::Release);
            drop((store, running));
            ended.failed(&outcome);
            metrics.instances_dropped.inc();
            metrics.stage("instance", start.elapsed());
            drop(permit);
            (outcome, used)
        });
        let in_time = tokio::time::timeout_at(deadline.into(), head).await;
        match in_time.map_err(|_| Failure::Deadline(timeout))? {
            Ok(Ok(response)) if response.status().is_informational() => {
                Err(Failure::Trap(format!(
                    "the component answered with the status {}, after which an answer would follow",
                    response.status().as_u16()
                )))
            }
            Ok(Ok(response)) => {
                late.answered();
                let has_body = !is_head && !matches!(response.status().as_u16(), 204 | 304);
                let reply = |body| ReplyBody::new(body, client, broken, cancel_on_drop);
                Ok(response.map(|body| if has_body { reply(body) } else { reply(body).unread() }))
            }
            Ok(Err(code)) => Err(Failure::Trap(format!("the component answered {code:?}"))),
            Err(_) => {
                // The channel closed without an answer because the guest ended, so the reason is known soon.
                let (outcome, used) = work.await.map_err(|_| trap("the host failed to run it"))?;
                Err(self.explain(outcome, &used))
            }
        }
    }

    fn store(
        &self,
        deadline: Instant,
        request_deadline: Arc<Deadline>,
        migration: Migration,
        place: Place,
    ) -> Store<HostState> {
        let limits = &self.sandbox.limits;
        let mut wasi = WasiCtx::builder();
        wasi.envs(&self.environment);
        let printing = |to: &Stream| Printing { to: to.clone(), migration: migration.clone() };
        wasi.stdout(printing(&self.output.stdout)).stderr(printing(&self.output.stderr));
        wasi.max_random_size(MAX_RANDOM_BYTES);
        // A socket would be a descriptor outside the account, and connecting anywhere is not allowed.
        wasi.allow_tcp(false).allow_udp(false);
        let mut wasi = wasi.build();
        *wasi.filesystem() = self.files.clone();
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELD_BYTES);
        let is_wasi03 = matches!(self.handler, Handler::Wasi03(_));
        let concurrent = if is_wasi03 { wasi03::CONCURRENT_BYTES } else { 0 };
        let account = (limits.max_host_memory as u64).saturating_sub(concurrent);
        let account = InstanceAccount::new(account, self.listing);
        let outbound = Arc::clone(&self.sandbox.outbound);
        let caller = Caller::new(Arc::clone(&self.hosts), outbound, account.tally(), place);
        let own_part = State {
            hooks: Hooks(caller),
            nn: NnState::new(self.grants.clone(), request_deadline, migration.clone()),
            key_value: KeyValue {
                store: self.sandbox.key_value.clone(),
                labels: Arc::clone(&self.stores),
                migration: migration.clone(),
            },
            account,
            memory: MemoryLimiter::new(limits.max_instance_memory),
        };
        let state = HostState { wasi, http, own: Box::new(own_part) };
        let mut store = Store::new(&self.sandbox.engine, state);
        store.limiter(|host| &mut own(host).memory);
        store.set_max_component_handles(MAX_COMPONENT_HANDLES);
        wasi03::limit(&mut store, is_wasi03);
        store.set_hostcall_fuel(limits.max_host_memory.saturating_add(limits.max_guest_model));
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            if Instant::now() >= deadline {
                return Ok(UpdateDeadline::Interrupt);
            }
            // Yielding lets `run_until` notice that the client has disconnected, and lets the guest migrate.
            migration.request();
            Ok(UpdateDeadline::Yield(1))
        });
        store
    }

    /// Checks that a descriptor is free. Without one the component could not open its files, and would take
    /// them for missing.
    fn check_descriptor(&self) -> std::io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        shortage::descriptor()?;
        folder.try_clone().map(drop)
    }

    fn explain(&self, outcome: Outcome, used: &Used) -> Failure {
        let limits = &self.sandbox.limits;
        match (outcome, used.refused) {
            (Outcome::Late, _) => Failure::Deadline(limits.request_timeout),
            (Outcome::Ended(Err(error)), _) if used.overdrawn.is_some() => {
                let why = used.overdrawn.map_or_else(String::new, |why| why.to_string());
                trap(format!("{why}: {error:#}"))
            }
            (Outcome::Ended(Err(_)), Some(asked)) => {
                Failure::OutOfMemory { asked, limit: limits.max_instance_memory }
            }
            (Outcome::Ended(Err(error)), None) if error.is::<NoInstance>() => {
                Failure::NoInstance(format!("{error:#}"))
            }
            (Outcome::Ended(Err(error)), None) => trap(format!("{error:#}")),
            (Outcome::Ended(Ok(())), _) => trap("it ended without an answer"),
            (Outcome::ClientGone, _) => trap("it was stopped: the client disconnected"),
        }
    }
}

impl Handler {
    fn new(linker: &Linker<HostState>, component: &Component) -> anyhow::Result<Self> {
        let (engine, kind) = (component.engine(), component.component_type());
        let is_wasi03 = kind.exports(engine).any(|(name, _)| name.starts_with(wasi03::HANDLER));
        let is_wasi02 = kind.exports(engine).any(|(name, _)| wasi02::is_handler(name));
        if is_wasi03 && is_wasi02 {
            bail!("the component exports HTTP handlers of WASI 0.2 and of 0.3; export one of them");
        }
        if !is_wasi03 && !is_wasi02 {
            let found: Vec<&str> = kind.exports(engine).map(|(name, _)| name).collect();
            bail!(
                "the component exports no HTTP handler of WASI 0.2 or 0.3, but [{}]; build it with Spin's SDK of \
                 version 2 or later for HTTP",
                found.join(", ")
            );
        }
        let pre = linker.instantiate_pre(component);
        let handler = pre.and_then(|pre| match is_wasi03 {
            true => ServicePre::new(pre).map(Self::Wasi03),
            false => ProxyPre::new(pre).map(Self::Wasi02),
        });
        handler
            .map_err(anyhow::Error::from)
            .context("the component imports an interface that is not offered here")
    }

    /// Makes an instance and lets it answer `request`: its head goes to `head`, and the future ends with the
    /// guest.
    async fn call<B>(
        &self,
        store: &mut Store<HostState>,
        request: Request<B>,
        head: HeadSender,
    ) -> wasmtime::Result<()>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<wasmtime_wasi_http::Error>,
    {
        match self {
            Self::Wasi02(pre) => wasi02::call(pre, store, request, head).await,
            Self::Wasi03(pre) => wasi03::call(pre, store, request, head).await,
        }
    }
}

/// The limits that a finished instance ran into.
struct Used {
    refused: Option<usize>,
    overdrawn: Option<Overdrawn>,
}

/// A file system with the folder `files`, if there is one, at `/`.
fn opened(files: Option<&Path>) -> anyhow::Result<WasiFilesystemCtx> {
    let mut wasi = WasiCtxBuilder::new();
    // Files are read on the guest's thread: reading a piece of a file costs less than waking another thread.
    // One thread of the runtime has no guests, in case a disk stalls.
    wasi.allow_blocking_current_thread(true);
    if let Some(files) = files {
        wasi.preopened_dir(files, "/", FsPerms::ReadOnly)?;
    }
    Ok(wasi.build().filesystem().clone())
}

fn trap(error: impl ToString) -> Failure {
    Failure::Trap(error.to_string())
}

enum Outcome {
    Ended(wasmtime::Result<()>),
    Late,
    ClientGone,
}

/// Logs in Spin's words that a component failed after the head of its answer: the client has the answer, or
/// the part of it that was counted as broken. Either may come first, the head's arrival or the failure.
#[derive(Default)]
struct AfterHead(Mutex<(bool, Option<String>)>);

impl AfterHead {
    fn answered(&self) {
        self.tell(|(is_answered, _)| *is_answered = true);
    }

    fn failed(&self, outcome: &Outcome) {
        let why = match outcome {
            Outcome::Ended(Err(error)) => format!("{error:#}"),
            Outcome::Late => "it ran beyond the time limit".to_owned(),
            Outcome::Ended(Ok(())) | Outcome::ClientGone => return,
        };
        self.tell(|(_, failure)| *failure = Some(why));
    }

    fn tell(&self, change: impl FnOnce(&mut (bool, Option<String>))) {
        let mut both = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut both);
        if let (true, Some(why)) = &*both {
            tracing::warn!("component error after response started: {why}");
        }
    }
}

/// Runs guest code until it ends, the deadline passes, or the client disconnects, which drops its end of the
/// channel. A message on the channel means that the client has the whole answer and the guest may finish.
async fn run_until(
    call: impl Future<Output = wasmtime::Result<()>>,
    client_gone: oneshot::Receiver<()>,
    deadline: Instant,
) -> Outcome {
    tokio::pin!(call);
    let late = tokio::time::sleep_until(deadline.into());
    tokio::pin!(late);
    tokio::select! {
        outcome = &mut call => return ended(outcome, deadline),
        () = &mut late => return Outcome::Late,
        gone = client_gone => if gone.is_err() {
            return Outcome::ClientGone;
        },
    }
    tokio::select! {
        outcome = &mut call => ended(outcome, deadline),
        () = &mut late => Outcome::Late,
    }
}

fn ended(outcome: wasmtime::Result<()>, deadline: Instant) -> Outcome {
    match outcome {
        Err(_) if Instant::now() >= deadline => Outcome::Late,
        outcome => Outcome::Ended(outcome),
    }
}
