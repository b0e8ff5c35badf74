//! Sends traces: a thread collects them for a while and posts them. Traces that the collector does not take
//! are dropped, so the service never waits for it. The form of a trace is left to `otlp`.

use super::{Trace, TraceSettings, otlp};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Traces that may wait to be sent, some 2 KiB each.
const WAITING: usize = 1024;
/// Most traces in one post.
const BATCH: usize = 128;

/// A handle of the sending thread.
#[derive(Debug)]
pub(super) struct Exporter {
    thread: Mutex<Option<(SyncSender<Trace>, JoinHandle<()>)>>,
}

impl Exporter {
    pub(super) fn start(settings: Arc<TraceSettings>) -> std::io::Result<Self> {
        let (send, traces) = sync_channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("traces".to_owned())
            .spawn(move || run(&settings, &traces))?;
        Ok(Self { thread: Mutex::new(Some((send, thread))) })
    }

    /// Queues a trace, or drops it if too many wait already.
    pub(super) fn send(&self, trace: Trace) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((sender, _)) = &*thread else { return };
        if let Err(TrySendError::Full(trace)) = sender.try_send(trace) {
            tracing::debug!(trace = trace.id, "a trace was dropped: too many wait to be sent");
        }
    }

    /// Waits until the thread has sent what is queued, but no longer than `timeout`.
    pub(super) fn finish(&self, timeout: Duration) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((sender, thread)) = thread else { return };
        // Once the sender is dropped, the thread sends what is left, and ends.
        drop(sender);
        let deadline = Instant::now() + timeout;
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn run(settings: &TraceSettings, traces: &Receiver<Trace>) {
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(settings.timeout))
        .http_status_as_error(true)
        .max_redirects(0)
        .proxy(None)
        .build()
        .new_agent();
    let mut is_failing = false;
    loop {
        let (batch, is_last) = collect(traces, settings.delay);
        if !batch.is_empty() {
            let posted = post(&agent, settings, &batch);
            // Logged when it changes, not with every batch.
            match (&posted, is_failing) {
                (Err(error), false) => {
                    let (url, lost) = (&settings.url, batch.len());
                    tracing::warn!(
                        "{lost} traces could not be sent to {url} and are lost: {error}"
                    );
                }
                (Ok(()), true) => tracing::info!("traces are sent again to {}", settings.url),
                _ => {}
            }
            is_failing = posted.is_err();
        }
        if is_last {
            return;
        }
    }
}

/// The traces that arrive until the delay has passed or the batch is full, and whether they are the last.
fn collect(traces: &Receiver<Trace>, delay: Duration) -> (Vec<Trace>, bool) {
    let mut batch = Vec::new();
    let deadline = Instant::now() + delay;
    while batch.len() < BATCH {
        match traces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(trace) => batch.push(trace),
            Err(RecvTimeoutError::Timeout) => return (batch, false),
            Err(RecvTimeoutError::Disconnected) => return (batch, true),
        }
    }
    (batch, false)
}

fn post(agent: &ureq::Agent, settings: &TraceSettings, batch: &[Trace]) -> Result<(), ureq::Error> {
    let mut request = agent.post(&settings.url).header("content-type", "application/json");
    for (name, value) in &settings.headers {
        request = request.header(name, value);
    }
    request.send(otlp::request(settings, batch).to_string()).map(drop)
}
