//! Signals: SIGINT and SIGTERM stop the process, SIGHUP makes it check its files. Reactions are left to the
//! caller.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT's number, and SIGTERM's, on every system.
const INTERRUPT: u8 = 2;
const TERMINATE: u8 = 15;

/// Resolves to the signal's number when the process is asked to stop: SIGINT (Ctrl-C) or SIGTERM.
///
/// # Errors
/// When the signal handlers cannot be set up.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = u8>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => INTERRUPT,
            _ = terminate.recv() => TERMINATE,
        }
    })
}

/// SIGHUP: tokens and certificates are read again. Its default action would end the process.
#[derive(Debug)]
pub struct HangUps(Signal);

impl HangUps {
    /// Replaces the default action.
    ///
    /// # Errors
    /// When the signal handler cannot be set up.
    pub fn new() -> std::io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Resolves at the next signal.
    pub(super) async fn next(&mut self) {
        let _ = self.0.recv().await;
    }
}
