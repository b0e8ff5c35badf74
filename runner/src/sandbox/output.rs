//! Directs components' standard output and error: to the runner's own, into a file for each component, both,
//! or nowhere.
//!
//! The flags are Spin's: `--quiet`, `--follow`, `--log-dir`. The content is not looked at. Files are only
//! appended to, or emptied at the start on request; rotating them is left to the operator.

use crate::migration::Migration;
use crate::output_queue;
use anyhow::Context as _;
use bytes::Bytes;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// Settings of the output of components.
#[derive(Debug, Clone, Default)]
pub struct OutputSettings {
    /// Whether nothing is shown.
    pub quiet: bool,
    /// Components whose output is shown; empty shows all.
    pub follow: Vec<String>,
    /// The folder of files with each component's output, `<id>_stdout.txt` and `<id>_stderr.txt`.
    pub log_folder: Option<PathBuf>,
    /// Whether those files are emptied first.
    pub truncate: bool,
}

/// Most bytes a component may write at once.
const WRITE: usize = 64 << 10;

/// The two streams of one component.
#[derive(Debug, Clone)]
pub struct Output {
    pub(super) stdout: Stream,
    pub(super) stderr: Stream,
}

/// One stream and its targets.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    show: Option<Target>,
    file: Option<Arc<File>>,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    Stdout,
    Stderr,
}

impl Output {
    /// The streams of the component `id`.
    ///
    /// # Errors
    /// When a file cannot be created.
    pub fn open(settings: &OutputSettings, id: &str) -> anyhow::Result<Self> {
        let followed =
            settings.follow.is_empty() || settings.follow.iter().any(|known| known == id);
        let show = |what| (followed && !settings.quiet).then_some(what);
        let file = |name: &str| -> anyhow::Result<Option<Arc<File>>> {
            let Some(folder) = &settings.log_folder else { return Ok(None) };
            let path = folder.join(format!("{id}_{name}.txt"));
            let open = || {
                std::fs::create_dir_all(folder)?;
                let file = OpenOptions::new().create(true).append(true).open(&path)?;
                if settings.truncate {
                    file.set_len(0)?;
                }
                io::Result::Ok(file)
            };
            let file =
                open().with_context(|| format!("--log-dir: cannot write {}", path.display()))?;
            Ok(Some(Arc::new(file)))
        };
        Ok(Self {
            stdout: Stream { show: show(Target::Stdout), file: file("stdout")? },
            stderr: Stream { show: show(Target::Stderr), file: file("stderr")? },
        })
    }
}

impl Stream {
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match self.show {
            Some(Target::Stdout) => output_queue::stdout().put_patiently(bytes),
            Some(Target::Stderr) => output_queue::stderr().put_patiently(bytes),
            None => {}
        }
        self.file.as_ref().map_or(Ok(()), |file| file.as_ref().write_all(bytes))
    }
}

/// A stream as one instance writes to it: directly, after migrating to a thread that may block.
#[derive(Debug, Clone)]
pub(super) struct Printing {
    pub(super) to: Stream,
    pub(super) migration: Migration,
}

impl IsTerminal for Printing {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Printing {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    /// For WASI 0.3.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Printing {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.migration.may_block() {
            self.migration.request();
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = bytes.get(..WRITE).unwrap_or(bytes);
        Poll::Ready(self.to.write(piece).map(|()| piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Pollable for Printing {
    async fn ready(&mut self) {
        self.migration.migrated().await;
    }
}

impl OutputStream for Printing {
    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.migration.may_block() { WRITE } else { 0 })
    }

    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > self.check_write()? {
            return Err(StreamError::trap("the guest wrote more than check-write allowed"));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.to.write(&bytes).map_err(|error| StreamError::LastOperationFailed(error.into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
}
