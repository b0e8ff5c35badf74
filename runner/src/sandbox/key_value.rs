//! Gives components their key-value stores: `fermyon:spin/key-value`, which spin-sdk 5 imports,
//! `spin:key-value/key-value`, which spin-sdk 6 and 7 import, and `wasi:keyvalue` (`store`, `batch`,
//! `atomics`), in the versions that Spin itself offers.
//!
//! The store is `crate::key_value`. Reading and writing it blocks, so a guest moves to a thread of its own
//! first.

use super::state::{State, own};
use crate::account::Charge;
use crate::key_value::{KeyValueError, KeyValueStore, LABEL};
use crate::migration::Migration;
use skincell_hosts::HostState;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use wasmtime::StoreContextMut;
use wasmtime::component::{
    ComponentNamedList, ComponentType, Destination, FutureReader, Lift, Linker, LinkerInstance,
    Lower, Resource, ResourceType, StreamProducer, StreamReader, StreamResult,
};

/// Names of the interfaces.
const SPIN: &str = "fermyon:spin/key-value@2.0.0";
const CONCURRENT: &str = "spin:key-value/key-value@3.0.0";
const WASI_STORE: &str = "wasi:keyvalue/store@0.2.0-draft2";
const WASI_BATCH: &str = "wasi:keyvalue/batch@0.2.0-draft2";
const WASI_ATOMICS: &str = "wasi:keyvalue/atomics@0.2.0-draft2";

/// A store that a guest has opened.
struct OpenStore(Arc<KeyValueStore>);

/// `wasi:keyvalue/atomics.cas`: a key of a store, and its value when the handle was made.
struct Cas {
    store: Arc<KeyValueStore>,
    key: String,
    current: Option<Vec<u8>>,
    charge: Charge,
}

/// `key-value.error` of Spin's interfaces.
#[derive(Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum SpinError {
    #[component(name = "store-table-full")]
    StoreTableFull,
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

/// `wasi:keyvalue/store.error`.
#[derive(Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum WasiError {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

/// `wasi:keyvalue/atomics.cas-error`.
#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum CasError {
    #[component(name = "store-error")]
    Store(WasiError),
    #[component(name = "cas-failed")]
    Failed(Resource<Cas>),
}

/// `wasi:keyvalue/store.key-response`.
#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct KeyResponse {
    keys: Vec<String>,
    cursor: Option<String>,
}

/// Why a store was not opened.
enum NotOpened {
    Denied,
    Unknown,
}

type Answer<T> = Result<T, KeyValueError>;

impl From<KeyValueError> for SpinError {
    fn from(error: KeyValueError) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<KeyValueError> for WasiError {
    fn from(error: KeyValueError) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<NotOpened> for SpinError {
    fn from(why: NotOpened) -> Self {
        match why {
            NotOpened::Denied => Self::AccessDenied,
            NotOpened::Unknown => Self::NoSuchStore,
        }
    }
}

impl From<NotOpened> for WasiError {
    fn from(why: NotOpened) -> Self {
        match why {
            NotOpened::Denied => Self::AccessDenied,
            NotOpened::Unknown => Self::NoSuchStore,
        }
    }
}

/// One call: its store, and what it may return.
struct Call {
    store: Arc<KeyValueStore>,
    migration: Migration,
    /// Bytes of a value or of a result.
    most: usize,
}

/// Arguments of a method, the store first.
trait Arguments: ComponentNamedList + Lift + Send + Sync + 'static {
    fn store(&self) -> &Resource<OpenStore>;
}

macro_rules! arguments {
    ($($type:ty),*) => {
        impl Arguments for (Resource<OpenStore>, $($type),*) {
            fn store(&self) -> &Resource<OpenStore> {
                &self.0
            }
        }
    };
}
arguments!();
arguments!(String);
arguments!(String, Vec<u8>);
arguments!(String, i64);
arguments!(Option<String>);
arguments!(Vec<String>);
arguments!(Vec<(String, Vec<u8>)>);

impl State {
    fn open_store(
        &mut self,
        label: &str,
    ) -> wasmtime::Result<Result<Resource<OpenStore>, NotOpened>> {
        if !self.key_value.labels.iter().any(|allowed| allowed == label) {
            return Ok(Err(NotOpened::Denied));
        }
        match self.key_value.store.clone().filter(|_| label == LABEL) {
            Some(store) => Ok(Ok(self.account.table().push(OpenStore(store))?)),
            None => Ok(Err(NotOpened::Unknown)),
        }
    }

    fn call(&mut self, store: &Resource<OpenStore>) -> wasmtime::Result<Call> {
        let store = Arc::clone(&self.account.table().get(store)?.0);
        // Half of what the host may still hold: the library keeps a copy of a result for a moment.
        let most = usize::try_from(self.account.room() / 2)?;
        Ok(Call { store, migration: self.key_value.migration.clone(), most })
    }
}

impl Call {
    /// What `work` gives, once the guest may block.
    async fn run<T>(&self, work: impl FnOnce(&Self) -> Answer<T>) -> Answer<T> {
        self.migration.migrated().await;
        work(self)
    }

    fn set(&self, values: &[(String, Vec<u8>)]) -> Answer<()> {
        match values.iter().map(|(_, value)| value.len()).find(|length| *length > self.most) {
            Some(length) => Err(KeyValueError::LargeValue { length, most: self.most }),
            None => self.store.set(values.iter().map(|(key, value)| (&key[..], &value[..]))),
        }
    }

    fn delete(&self, keys: &[String]) -> Answer<()> {
        self.store.delete(keys.iter().map(String::as_str))
    }

    fn increment(&self, key: &str, delta: i64) -> Answer<i64> {
        self.store.increment(key, delta)
    }
}

/// Offers the stores to components.
pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    let mut spin = linker.instance(SPIN)?;
    add_store::<SpinError>(&mut spin, "store")?;
    method::<_, _, SpinError>(&mut spin, "[method]store.get-keys", |call, (_,)| {
        call.store.keys(call.most)
    })?;
    let mut store = linker.instance(WASI_STORE)?;
    add_store::<WasiError>(&mut store, "bucket")?;
    method::<_, _, WasiError>(&mut store, "[method]bucket.list-keys", |call, (_, cursor)| {
        // As in Spin, all keys come at once, so that there is no cursor to go on from.
        match cursor {
            Some(_) => Err(KeyValueError::Refused("list-keys: a cursor is not supported")),
            None => Ok(KeyResponse { keys: call.store.keys(call.most)?, cursor: None }),
        }
    })?;
    let mut batch = linker.instance(WASI_BATCH)?;
    method::<_, _, WasiError>(&mut batch, "get-many", |call, (_, keys): (_, Vec<String>)| {
        call.store.get_many(keys, call.most)
    })?;
    method::<_, _, WasiError>(
        &mut batch,
        "set-many",
        |call, (_, values): (_, Vec<(String, Vec<u8>)>)| call.set(&values),
    )?;
    method::<_, _, WasiError>(&mut batch, "delete-many", |call, (_, keys): (_, Vec<String>)| {
        call.delete(&keys)
    })?;
    add_atomics(&mut linker.instance(WASI_ATOMICS)?)
}

/// Adds what Spin's interface and WASI's have in common, under the resource's name.
fn add_store<E>(
    instance: &mut LinkerInstance<'_, HostState>,
    resource: &str,
) -> wasmtime::Result<()>
where
    E: ComponentType + Lower + From<KeyValueError> + From<NotOpened> + Send + Sync + 'static,
{
    let open = match resource {
        "bucket" => "open".to_owned(),
        _ => format!("[static]{resource}.open"),
    };
    let name = |method| format!("[method]{resource}.{method}");
    instance.resource(resource, ResourceType::host::<OpenStore>(), |mut store, handle| {
        close::<OpenStore>(own(store.data_mut()), handle)
    })?;
    instance.func_wrap(&open, |mut store, (label,): (String,)| {
        let opened = own(store.data_mut()).open_store(&label)?;
        Ok((opened.map_err(E::from),))
    })?;
    method::<_, _, E>(instance, &name("get"), |call, (_, key): (_, String)| {
        call.store.get(&key, call.most)
    })?;
    method::<_, _, E>(instance, &name("set"), |call, (_, key, value)| call.set(&[(key, value)]))?;
    method::<_, _, E>(instance, &name("delete"), |call, (_, key): (_, String)| {
        call.delete(&[key])
    })?;
    method::<_, _, E>(instance, &name("exists"), |call, (_, key): (_, String)| {
        call.store.exists(&key)
    })
}

/// Adds a method, or a function whose first argument is a store.
fn method<A, T, E>(
    instance: &mut LinkerInstance<'_, HostState>,
    name: &str,
    work: fn(&Call, A) -> Answer<T>,
) -> wasmtime::Result<()>
where
    A: Arguments,
    T: ComponentType + Lower + Send + Sync + 'static,
    E: ComponentType + Lower + From<KeyValueError> + Send + Sync + 'static,
{
    instance.func_wrap_async(name, move |mut store, arguments: A| {
        Box::new(async move {
            let call = own(store.data_mut()).call(arguments.store())?;
            let answer = call.run(|call| work(call, arguments)).await;
            Ok((answer.map_err(E::from),))
        })
    })
}

/// Adds `wasi:keyvalue/atomics`.
fn add_atomics(atomics: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    method::<_, _, WasiError>(atomics, "increment", |call, (_, key, delta): (_, String, _)| {
        call.increment(&key, delta)
    })?;
    atomics.resource("cas", ResourceType::host::<Cas>(), |mut store, handle| {
        close::<Cas>(own(store.data_mut()), handle)
    })?;
    atomics.func_wrap_async(
        "[static]cas.new",
        |mut store, (bucket, key): (Resource<OpenStore>, String)| {
            Box::new(async move {
                let call = own(store.data_mut()).call(&bucket)?;
                let current = call.run(|call| call.store.get(&key, call.most)).await;
                let cas = match current {
                    Ok(current) => Ok(own(store.data_mut()).keep_cas(call.store, key, current)?),
                    Err(error) => Err(WasiError::from(error)),
                };
                Ok((cas,))
            })
        },
    )?;
    atomics.func_wrap("[method]cas.current", |mut store, (cas,): (Resource<Cas>,)| {
        let current = own(store.data_mut()).account.table().get(&cas)?.current.clone();
        Ok((Ok::<_, WasiError>(current),))
    })?;
    atomics.func_wrap_async("swap", |mut store, (cas, value): (Resource<Cas>, Vec<u8>)| {
        Box::new(async move {
            let state = own(store.data_mut());
            let Cas { store: values, key, current, charge } = state.account.table().delete(cas)?;
            let most = usize::try_from(state.account.room() / 2)?;
            let call = Call { store: values, migration: state.key_value.migration.clone(), most };
            let swap = |call: &Call| match value.len() > call.most {
                true => Err(KeyValueError::LargeValue { length: value.len(), most: call.most }),
                false => call.store.swap(&key, current.as_deref(), &value),
            };
            let swapped = match call.run(swap).await {
                Ok(true) => return Ok((Ok(()),)),
                Ok(false) => call.run(|call| call.store.get(&key, call.most)).await,
                Err(error) => Err(error),
            };
            drop(charge);
            Ok((Err(match swapped {
                Ok(now) => CasError::Failed(own(store.data_mut()).keep_cas(call.store, key, now)?),
                Err(error) => CasError::Store(error.into()),
            }),))
        })
    })
}

/// Offers Spin's interface for components of WASI 0.3, whose functions are asynchronous.
pub(super) fn add_concurrent_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    let mut spin = linker.instance(CONCURRENT)?;
    spin.resource("store", ResourceType::host::<OpenStore>(), |mut store, handle| {
        close::<OpenStore>(own(store.data_mut()), handle)
    })?;
    spin.func_wrap_concurrent("[static]store.open", |guest, (label,): (String,)| {
        Box::pin(async move {
            let opened = guest.with(|mut access| own(access.data_mut()).open_store(&label))?;
            Ok((opened.map_err(SpinError::from),))
        })
    })?;
    concurrent_method(&mut spin, "[method]store.get", |call, (_, key): (_, String)| {
        call.store.get(&key, call.most)
    })?;
    concurrent_method(&mut spin, "[method]store.set", |call, (_, key, value)| {
        call.set(&[(key, value)])
    })?;
    concurrent_method(&mut spin, "[method]store.delete", |call, (_, key): (_, String)| {
        call.delete(&[key])
    })?;
    concurrent_method(&mut spin, "[method]store.exists", |call, (_, key): (_, String)| {
        call.store.exists(&key)
    })?;
    spin.func_wrap_concurrent(
        "[method]store.get-keys",
        |guest, arguments: (Resource<OpenStore>,)| {
            Box::pin(async move {
                let call = guest.with(|mut access| own(access.data_mut()).call(&arguments.0))?;
                let keys = call.run(|call| call.store.keys(call.most)).await;
                let (keys, outcome) = match keys {
                    Ok(keys) => (keys, Ok(())),
                    Err(error) => (Vec::new(), Err(SpinError::from(error))),
                };
                guest.with(|mut access| {
                    let bytes =
                        keys.iter().map(|key| key.len() + size_of::<String>()).sum::<usize>();
                    let charge = own(access.data_mut()).account.charge(bytes as u64)?;
                    let keys = Keys { keys: keys.into_iter(), _charge: charge };
                    let keys = StreamReader::new(&mut access, keys)?;
                    let outcome =
                        FutureReader::new(&mut access, async { wasmtime::error::Ok(outcome) })?;
                    Ok(((keys, outcome),))
                })
            })
        },
    )
}

/// Adds an asynchronous method.
fn concurrent_method<A, T>(
    instance: &mut LinkerInstance<'_, HostState>,
    name: &str,
    work: fn(&Call, A) -> Answer<T>,
) -> wasmtime::Result<()>
where
    A: Arguments,
    T: ComponentType + Lower + Send + Sync + 'static,
{
    instance.func_wrap_concurrent(name, move |guest, arguments: A| {
        Box::pin(async move {
            let call = guest.with(|mut access| own(access.data_mut()).call(arguments.store()))?;
            let answer = call.run(|call| work(call, arguments)).await;
            Ok((answer.map_err(SpinError::from),))
        })
    })
}

/// The keys of a store, one at a time, charged until the last was taken.
struct Keys {
    keys: std::vec::IntoIter<String>,
    _charge: Charge,
}

impl<D> StreamProducer<D> for Keys {
    type Item = String;
    type Buffer = Option<String>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        _store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, String, Option<String>>,
        _finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let key = self.keys.next();
        let result = if key.is_some() { StreamResult::Completed } else { StreamResult::Dropped };
        destination.set_buffer(key);
        Poll::Ready(Ok(result))
    }
}

impl State {
    fn keep_cas(
        &mut self,
        store: Arc<KeyValueStore>,
        key: String,
        current: Option<Vec<u8>>,
    ) -> wasmtime::Result<Resource<Cas>> {
        let bytes = key.len() + current.as_ref().map_or(0, Vec::len);
        let charge = self.account.charge(bytes as u64)?;
        Ok(self.account.table().push(Cas { store, key, current, charge })?)
    }
}

fn close<T: 'static>(state: &mut State, handle: u32) -> wasmtime::Result<()> {
    state.account.table().delete(Resource::<T>::new_own(handle)).map(drop).map_err(Into::into)
}
