//! What the system asks of the process: to stop, or to look at its files again.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Resolves when the process is asked to stop: SIGINT (Ctrl-C) or SIGTERM.
///
/// # Errors
/// When the signal handlers cannot be set up.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// SIGHUP, which by default would end the process: tokens and certificates are to be read again.
#[derive(Debug)]
pub struct HangUps(Signal);

impl HangUps {
    /// From now on the process is not ended by it.
    ///
    /// # Errors
    /// When the signal handler cannot be set up.
    pub fn new() -> std::io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Resolves at the next one.
    pub(super) async fn next(&mut self) {
        let _ = self.0.recv().await;
    }
}
