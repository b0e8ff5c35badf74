//! Waits for a new instance, and tells a shortage of the host from a trap of the component.

use crate::shortage;

/// A trap during the component's own start is its failure; any other error is a shortage of the host.
#[derive(Debug, thiserror::Error)]
#[error("there is no room for an instance now")]
pub(super) struct NoInstance;

/// Waits for a new instance.
pub(super) async fn instance<T>(
    instantiate: impl Future<Output = wasmtime::Result<T>>,
) -> wasmtime::Result<T> {
    shortage::memory().map_err(|error| wasmtime::Error::from(error).context(NoInstance))?;
    instantiate.await.map_err(|error| match error.is::<wasmtime::Trap>() {
        true => error,
        false => error.context(NoInstance),
    })
}
