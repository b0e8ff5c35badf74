//! One request, one instance: a fresh store and linear memory, dropped when the answer is sent.
//!
//! What is more than a moment's work runs on a thread of its own (the runtime's blocking pool), so that
//! neither guest code nor an inference ever holds up the accept loop. What the HTTP server does with the
//! outcome is not decided here.

use super::limits::{MAX_FIELD_BYTES, MAX_HANDLES, MAX_RANDOM_BYTES, MemoryLimiter};
use super::output::{Printing, Stream};
use super::{Compiled, Output, Sandbox, variables};
use crate::admission::Weight;
use crate::app::AppComponent;
use crate::memory::AnswerHold;
use crate::metrics::Metrics;
use crate::nn::{self, Grants, NnState, NnView, Patience};
use crate::own_thread::OwnThread;
use anyhow::Context;
use bytes::Bytes;
use http::{HeaderName, Request, Response, header};
use hyper::body::{Body, Frame, SizeHint};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, ready};
use std::time::Instant;
use tokio::sync::oneshot;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{
    RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

/// Where one component's instances come from.
pub struct Instances {
    sandbox: Sandbox,
    pre: ProxyPre<State>,
    environment: Vec<(String, String)>,
    files: Option<PathBuf>,
    grants: Grants,
    metrics: Arc<Metrics>,
    output: Output,
}

/// An answer whose body may still be coming.
pub type Reply = Response<ReplyBody>;

/// Why an instance gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It was still at work at the deadline.
    #[error("no answer within {0:?}")]
    Deadline(std::time::Duration),
    /// It asked for more memory than it may have, and gave up.
    #[error("the instance asked for {asked} bytes of memory and may have {limit}")]
    OutOfMemory {
        /// Bytes it would have had in all.
        asked: usize,
        /// Bytes it may have.
        limit: usize,
    },
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
            Self::Trap(_) => "trap",
        }
    }
}

/// What one instance owns on the host's side.
struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: NoOutbound,
    nn: NnState,
    table: ResourceTable,
    memory: MemoryLimiter,
}

impl Instances {
    /// Links a component to what it may import: WASI 0.2, incoming HTTP, its variables, and wasi-nn with
    /// `grants`. `files` is the folder it sees at `/`, `output` where it prints.
    ///
    /// # Errors
    /// When the component imports something else, or does not export the HTTP handler.
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
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        nn::add_to_linker(&mut linker, |state: &mut State| NnView {
            state: &mut state.nn,
            table: &mut state.table,
        })?;
        variables::add_to_linker(&mut linker, &component.variables)?;
        let pre = linker
            .instantiate_pre(&compiled.component)
            .and_then(ProxyPre::new)
            .map_err(anyhow::Error::from)
            .context("the component needs an interface that is not offered here")?;
        let files = files.map(Path::to_path_buf);
        let environment = component.environment.clone();
        Ok(Self { sandbox: sandbox.clone(), pre, environment, files, grants, metrics, output })
    }

    /// Lets a fresh instance answer `request`; one of full weight has a thread of its own from the start.
    /// `slot` is given back when the instance is gone.
    ///
    /// Dropping the future, or the reply's body before its end, stops the instance.
    ///
    /// # Errors
    /// [`Failure`], when there is no head of an answer by the deadline.
    pub async fn respond<B>(
        &self,
        request: Request<B>,
        weight: Weight,
        slot: impl Send + 'static,
    ) -> Result<Reply, Failure>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<wasmtime_wasi_http::Error>,
    {
        let timeout = self.sandbox.limits.request_timeout;
        let deadline = Instant::now() + timeout;
        let (send_head, head) = oneshot::channel();
        let (client, client_gone) = oneshot::channel();
        let patience = Arc::new(Patience::until(deadline));
        let leaves = Leave(Arc::clone(&patience));
        let own_thread = OwnThread::default();
        if weight == Weight::Full {
            // What is sent will have to be worked on.
            own_thread.ask();
        }
        let mut store = self.store(deadline, patience, own_thread.clone()).map_err(trap)?;
        let mut http = store.data_mut().http();
        let request = http.new_incoming_request(Scheme::Http, request).map_err(trap)?;
        let outparam = http.new_response_outparam(send_head).map_err(trap)?;
        let pre = self.pre.clone();
        let running = self.sandbox.ticker.running();
        let broken = Arc::new(AtomicBool::new(false));
        let breaks = Arc::clone(&broken);
        let metrics = Arc::clone(&self.metrics);
        metrics.instances_created.inc();
        let work = own_thread.spawn(async move {
            let start = Instant::now();
            let call = async {
                let proxy = pre.instantiate_async(&mut store).await?;
                proxy.wasi_http_incoming_handler().call_handle(&mut store, request, outparam).await
            };
            let outcome = run_until(call, client_gone, deadline).await;
            let used = (store.data().memory.used(), store.data().memory.refused);
            // Said before the store goes and the reply's body ends with it: see `ReplyBody`.
            breaks.store(!matches!(outcome, Outcome::Ended(Ok(()))), Ordering::Release);
            drop((store, running));
            metrics.instances_dropped.inc();
            metrics.stage("instance", start.elapsed());
            drop(slot);
            (outcome, used)
        });
        let in_time = tokio::time::timeout_at(deadline.into(), head).await;
        match in_time.map_err(|_| Failure::Deadline(timeout))? {
            Ok(Ok(response)) => {
                let client = Some(client);
                let hold = None;
                Ok(response.map(|body| ReplyBody { body, client, broken, leaves, hold }))
            }
            Ok(Err(code)) => Err(Failure::Trap(format!("the component answered {code:?}"))),
            Err(_) => {
                // Without an answer the channel closes when the store goes: now the reason is known.
                let (outcome, (_, refused)) = work.await.map_err(trap)?;
                Err(self.explain(outcome, refused))
            }
        }
    }

    fn store(
        &self,
        deadline: Instant,
        patience: Arc<Patience>,
        own_thread: OwnThread,
    ) -> anyhow::Result<Store<State>> {
        let limits = &self.sandbox.limits;
        let mut wasi = WasiCtx::builder();
        wasi.envs(&self.environment);
        let printing = |to: &Stream| Printing { to: to.clone(), own_thread: own_thread.clone() };
        wasi.stdout(printing(&self.output.stdout)).stderr(printing(&self.output.stderr));
        // Files are read where the guest is: a piece of a file costs less than another thread's wake-up. One
        // thread of the runtime has no guests, should a disk stall.
        wasi.allow_blocking_current_thread(true);
        wasi.max_random_size(MAX_RANDOM_BYTES);
        if let Some(files) = &self.files {
            wasi.preopened_dir(files, "/", FsPerms::ReadOnly)?;
        }
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELD_BYTES);
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        let state = State {
            wasi: wasi.build(),
            http,
            hooks: NoOutbound,
            nn: NnState::new(
                self.grants.clone(),
                patience,
                own_thread.clone(),
                limits.max_host_memory as u64,
            ),
            table,
            memory: MemoryLimiter::new(limits.max_instance_memory),
        };
        let mut store = Store::new(&self.sandbox.engine, state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(limits.max_host_memory.saturating_add(limits.max_guest_model));
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            if Instant::now() >= deadline {
                return Ok(UpdateDeadline::Interrupt);
            }
            // Yielding lets `run_until` see that the client has left, and takes the guest elsewhere.
            own_thread.ask();
            Ok(UpdateDeadline::Yield(1))
        });
        Ok(store)
    }

    fn explain(&self, outcome: Outcome, refused: Option<usize>) -> Failure {
        let limits = &self.sandbox.limits;
        match (outcome, refused) {
            (Outcome::Late, _) => Failure::Deadline(limits.request_timeout),
            (Outcome::Ended(Err(_)), Some(asked)) => {
                Failure::OutOfMemory { asked, limit: limits.max_instance_memory }
            }
            (Outcome::Ended(Err(error)), None) => trap(format!("{error:#}")),
            (Outcome::Ended(Ok(())), _) => trap("it ended without an answer"),
            (Outcome::ClientGone, _) => trap("it was stopped: the client left"),
        }
    }
}

fn trap(error: impl ToString) -> Failure {
    Failure::Trap(error.to_string())
}

enum Outcome {
    Ended(wasmtime::Result<()>),
    Late,
    ClientGone,
}

/// Runs guest code until it ends, the deadline passes, or the client leaves (its end of the channel is
/// dropped; a message means that the client has all it wants and the guest may finish in peace).
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

/// A reply's body; dropped before its end, it stops the instance that writes it.
pub struct ReplyBody {
    body: HyperOutgoingBody,
    client: Option<oneshot::Sender<()>>,
    /// Whether the guest failed: then the end of `body` is where it broke off, not its end.
    broken: Arc<AtomicBool>,
    /// Dropped with the body, it keeps the guest from beginning another run of a model.
    #[expect(dead_code, reason = "it is there to be dropped")]
    leaves: Leave,
    /// What the answer takes until the client has read it.
    hold: Option<AnswerHold>,
}

/// Tells an instance that nobody waits for it any more.
struct Leave(Arc<Patience>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() {
            if self.broken.load(Ordering::Acquire) {
                return Poll::Ready(Some(Err(ErrorCode::HttpResponseIncomplete.into())));
            }
            self.let_the_guest_finish();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl ReplyBody {
    /// The most an answer takes on its way, in bytes.
    pub(crate) const BYTES: u64 = (CHUNKS * CHUNK) as u64;

    /// Keeps `hold` until the answer has been read.
    pub(crate) fn holding(mut self, hold: AnswerHold) -> Self {
        self.hold = Some(hold);
        self
    }

    fn let_the_guest_finish(&mut self) {
        if let Some(client) = self.client.take() {
            // The guest may have ended already; then nobody listens, and nobody needs to.
            let _ = client.send(());
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        // hyper does not poll a body whose end it can see.
        if self.body.is_end_stream() {
            self.let_the_guest_finish();
        }
    }
}

/// Pieces of an answer that may be on their way from guest to client, and their size in bytes.
const CHUNKS: usize = 16;
const CHUNK: usize = 32 << 10;

/// No network beyond the request itself: the manifest grants none.
struct NoOutbound;

type Sent = Result<(), wasmtime_wasi_http::Error>;
type OutgoingReply = (Response<WasiBody>, Box<dyn Future<Output = Sent> + Send>);

impl WasiHttpHooks for NoOutbound {
    fn send_request(
        &mut self,
        _request: Request<WasiBody>,
        _options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Sent> + Send>,
    ) -> Box<dyn Future<Output = Result<OutgoingReply, wasmtime_wasi_http::Error>> + Send> {
        Box::new(async { Err(ErrorCode::HttpRequestDenied.into()) })
    }

    /// Room for a whole answer of the usual size, so that a client that reads slowly keeps no instance.
    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        CHUNKS
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        // Connection handling is the server's; everything else is the guest's to say.
        matches!(*name, header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}
