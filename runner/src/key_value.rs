//! The default key-value store of an application: one file, in which every change is a transaction that is on
//! the disk before the call returns. A process that is killed loses nothing that was acknowledged, and the
//! file opens.
//!
//! The sum of keys and values is limited. The interfaces that components import are left to
//! `sandbox::key_value`.

use anyhow::{Context, bail};
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use std::path::Path;

/// The label of the store, as in Spin. Others are defined in Spin's runtime configuration.
pub(crate) const LABEL: &str = "default";
/// The file's name in the folder for the application's state.
const FILE: &str = "skincell-key-value.redb";
/// Longest key, in bytes.
const MAX_KEY: usize = 4 << 10;
/// Bytes that an entry counts besides its key and value.
const ENTRY: u64 = 64;
/// Bytes of pages that the library keeps in memory.
const CACHE: usize = 1 << 20;
/// Bytes of memory of an open store: the pages, and a transaction's.
pub(crate) const STORE: u64 = 4 << 20;

const ENTRIES: TableDefinition<&str, &[u8]> = TableDefinition::new(LABEL);
/// Under the store's label: the sum over its entries, as counted here.
const SUMS: TableDefinition<&str, u64> = TableDefinition::new("bytes");

/// An open store.
pub(crate) struct KeyValueStore {
    database: Database,
    limit: u64,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyValueError {
    /// The key is too long.
    #[error("the key has {0} bytes; the longest has {MAX_KEY}")]
    LongKey(usize),
    /// The value could not be read back.
    #[error("the value has {length} bytes; with this instance's memory the largest has {most}")]
    LargeValue {
        /// Its length in bytes.
        length: usize,
        /// The largest, in bytes.
        most: usize,
    },
    /// The result does not fit the memory that the host holds for the instance.
    #[error("the result exceeds the limit of {0} bytes")]
    LargeResult(usize),
    /// The store would exceed its limit.
    #[error("the store would hold {bytes} bytes; its limit is {limit} (--key-value-limit)")]
    Full {
        /// Bytes it would hold.
        bytes: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The arguments do not fit what is stored.
    #[error("{0}")]
    Refused(&'static str),
    /// The file cannot be used.
    #[error("the store's file cannot be read or written; the service's log has the reason")]
    Failed,
}

macro_rules! failed {
    ($($error:ty),*) => {$(
        impl From<$error> for KeyValueError {
            fn from(error: $error) -> Self {
                tracing::error!("the key-value store failed: {error}");
                Self::Failed
            }
        }
    )*};
}
failed!(redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

type Result<T> = std::result::Result<T, KeyValueError>;

impl KeyValueStore {
    /// Opens the store in `folder`, or makes an empty one; it holds at most `limit` bytes.
    ///
    /// # Errors
    /// When the file cannot be made, is damaged, or is in use by another process.
    pub(crate) fn open(folder: &Path, limit: u64) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let path = folder.join(FILE);
        let opened = Database::builder()
            .set_cache_size(CACHE)
            .set_check_integrity_on_open(true)
            .create(&path);
        let database = match opened {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => bail!(
                "{} is in use by another process; give this one another folder with --state-dir",
                path.display()
            ),
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("cannot open the key-value store {}", path.display())
                });
            }
        };
        let write = database.begin_write()?;
        write.open_table(ENTRIES)?;
        write.open_table(SUMS)?;
        write.commit()?;
        Ok(Self { database, limit })
    }

    /// The value of `key`, of at most `most` bytes.
    pub(crate) fn get(&self, key: &str, most: usize) -> Result<Option<Vec<u8>>> {
        let entries = self.database.begin_read()?.open_table(ENTRIES)?;
        let Some(value) = entries.get(key)? else { return Ok(None) };
        match value.value() {
            value if value.len() > most => Err(KeyValueError::LargeResult(most)),
            value => Ok(Some(value.to_vec())),
        }
    }

    /// The values of `keys`, in their order, of at most `most` bytes together.
    pub(crate) fn get_many(
        &self,
        keys: Vec<String>,
        most: usize,
    ) -> Result<Vec<(String, Option<Vec<u8>>)>> {
        let entries = self.database.begin_read()?.open_table(ENTRIES)?;
        let (mut found, mut left) = (Vec::with_capacity(keys.len()), most);
        for key in keys {
            let value = entries.get(key.as_str())?;
            let length = value.as_ref().map_or(0, |value| value.value().len());
            left = left.checked_sub(length).ok_or(KeyValueError::LargeResult(most))?;
            found.push((key, value.map(|value| value.value().to_vec())));
        }
        Ok(found)
    }

    /// Whether `key` has a value.
    pub(crate) fn exists(&self, key: &str) -> Result<bool> {
        let entries = self.database.begin_read()?.open_table(ENTRIES)?;
        Ok(entries.get(key)?.is_some())
    }

    /// All keys, in order, of at most `most` bytes together.
    pub(crate) fn keys(&self, most: usize) -> Result<Vec<String>> {
        let entries = self.database.begin_read()?.open_table(ENTRIES)?;
        let (mut keys, mut left) = (Vec::new(), most);
        for entry in entries.iter()? {
            let (key, _) = entry?;
            let bytes = key.value().len() + size_of::<String>();
            left = left.checked_sub(bytes).ok_or(KeyValueError::LargeResult(most))?;
            keys.push(key.value().to_owned());
        }
        Ok(keys)
    }

    /// Sets the values of keys, all or none.
    pub(crate) fn set<'a>(
        &self,
        values: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<()> {
        self.change(|entries| {
            let (mut added, mut removed) = (0, 0);
            for (key, value) in values {
                let (more, less) = entries.set(key, value)?;
                (added, removed) = (added + more, removed + less);
            }
            Ok(((), added, removed))
        })
    }

    /// Removes keys, all or none; those that are not there are left out.
    pub(crate) fn delete<'a>(&self, keys: impl IntoIterator<Item = &'a str>) -> Result<()> {
        self.change(|entries| {
            let mut removed = 0;
            for key in keys {
                let value = entries.0.remove(key)?;
                removed += value.map_or(0, |value| size(key, value.value()));
            }
            Ok(((), 0, removed))
        })
    }

    /// Adds `delta` to the number at `key`, 0 if there is none, and returns the sum. As in Spin, a number is
    /// kept as its eight bytes, the lowest first.
    pub(crate) fn increment(&self, key: &str, delta: i64) -> Result<i64> {
        self.change(|entries| {
            let before = match entries.0.get(key)? {
                Some(value) => number(value.value())?,
                None => 0,
            };
            let sum = before.checked_add(delta);
            let sum = sum.ok_or(KeyValueError::Refused("the sum does not fit 64 bits"))?;
            let (added, removed) = entries.set(key, &sum.to_le_bytes())?;
            Ok((sum, added, removed))
        })
    }

    /// Sets the value of `key` if it is still `expected`; returns whether it was.
    pub(crate) fn swap(&self, key: &str, expected: Option<&[u8]>, value: &[u8]) -> Result<bool> {
        self.change(|entries| {
            let current = entries.0.get(key)?.map(|current| Some(current.value()) == expected);
            if !current.unwrap_or(expected.is_none()) {
                return Ok((false, 0, 0));
            }
            let (added, removed) = entries.set(key, value)?;
            Ok((true, added, removed))
        })
    }

    /// Makes a change in one transaction, which is on the disk when this returns. The change says what it
    /// adds and removes, in bytes as counted here. After an error nothing was changed.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Entries<'_>) -> Result<(T, u64, u64)>,
    ) -> Result<T> {
        let write = self.database.begin_write()?;
        let outcome = {
            let mut entries = Entries(write.open_table(ENTRIES)?);
            let (outcome, added, removed) = change(&mut entries)?;
            let mut sums = write.open_table(SUMS)?;
            let before = sums.get(LABEL)?.map_or(0, |sum| sum.value());
            let bytes = before.saturating_add(added).saturating_sub(removed);
            if bytes > self.limit && added > removed {
                return Err(KeyValueError::Full { bytes, limit: self.limit });
            }
            sums.insert(LABEL, bytes)?;
            outcome
        };
        write.commit()?;
        Ok(outcome)
    }
}

/// The entries, in a transaction. Dropped without a commit, it changes nothing.
struct Entries<'a>(redb::Table<'a, &'static str, &'static [u8]>);

impl Entries<'_> {
    /// Sets a value; returns the bytes that this adds and removes.
    fn set(&mut self, key: &str, value: &[u8]) -> Result<(u64, u64)> {
        if key.len() > MAX_KEY {
            return Err(KeyValueError::LongKey(key.len()));
        }
        let before = self.0.insert(key, value)?;
        Ok((size(key, value), before.map_or(0, |before| size(key, before.value()))))
    }
}

/// Bytes that an entry counts.
fn size(key: &str, value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + ENTRY
}

fn number(value: &[u8]) -> Result<i64> {
    let bytes = value.try_into();
    let bytes =
        bytes.map_err(|_| KeyValueError::Refused("the value is not a number of 64 bits"))?;
    Ok(i64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::{ENTRY, KeyValueError, KeyValueStore, MAX_KEY};

    const MOST: usize = 1 << 20;

    fn store(limit: u64) -> (tempfile::TempDir, KeyValueStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = KeyValueStore::open(folder.path(), limit).unwrap();
        (folder, store)
    }

    #[test]
    fn what_was_set_is_there_when_the_file_is_opened_again() {
        let (folder, store) = store(1 << 20);
        store.set([("a", &b"1"[..]), ("b", b"2")]).unwrap();
        store.delete(["b", "none"]).unwrap();
        assert!(KeyValueStore::open(folder.path(), 1).is_err(), "two processes cannot use it");
        drop(store);
        let store = KeyValueStore::open(folder.path(), 1 << 20).unwrap();
        assert_eq!(store.get("a", MOST), Ok(Some(b"1".to_vec())));
        assert_eq!((store.exists("a"), store.exists("b")), (Ok(true), Ok(false)));
        assert_eq!(store.keys(MOST), Ok(vec!["a".to_owned()]));
        let many = store.get_many(vec!["b".to_owned(), "a".to_owned()], MOST).unwrap();
        assert_eq!(many, [("b".to_owned(), None), ("a".to_owned(), Some(b"1".to_vec()))]);
    }

    #[test]
    fn the_sum_of_all_entries_is_limited_and_kept_right() {
        let (folder, store) = store(10 * (ENTRY + 101));
        let value = [7; 100];
        for key in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"] {
            store.set([(key, &value[..])]).unwrap();
            store.set([(key, &value[..])]).unwrap();
        }
        let full = store.set([("x", &value[..])]).unwrap_err();
        assert!(matches!(full, KeyValueError::Full { .. }), "{full}");
        assert_eq!(
            store.set([("0", &b""[..]), ("x", &value[..]), ("y", &value[..])]),
            Err(KeyValueError::Full {
                bytes: 10 * (ENTRY + 101) + 2 * (ENTRY + 1) + 100,
                limit: 10 * (ENTRY + 101)
            })
        );
        assert_eq!(store.get("0", MOST), Ok(Some(value.to_vec())), "all or none");
        store.delete(["0"]).unwrap();
        store.set([("x", &value[..])]).unwrap();
        drop(store);
        let smaller = KeyValueStore::open(folder.path(), 1).unwrap();
        assert!(smaller.set([("z", &b""[..])]).is_err());
        assert_eq!(smaller.set([("x", &b""[..])]), Ok(()), "what shrinks is not refused");
    }

    #[test]
    fn results_and_keys_are_limited() {
        let (_folder, store) = store(1 << 20);
        let long = "k".repeat(MAX_KEY + 1);
        assert_eq!(store.set([(&long[..], &b""[..])]), Err(KeyValueError::LongKey(MAX_KEY + 1)));
        store.set([("a", &[0; 100][..]), ("b", &[0; 100])]).unwrap();
        assert_eq!(store.get("a", 99), Err(KeyValueError::LargeResult(99)));
        let both = || vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(store.get_many(both(), 199), Err(KeyValueError::LargeResult(199)));
        assert!(store.get_many(both(), 200).is_ok());
        assert_eq!(store.keys(1 + size_of::<String>()), Err(KeyValueError::LargeResult(25)));
    }

    #[test]
    fn numbers_are_counted_and_values_swapped() {
        let (_folder, store) = store(1 << 20);
        assert_eq!((store.increment("n", 5), store.increment("n", -7)), (Ok(5), Ok(-2)));
        assert_eq!(store.get("n", MOST), Ok(Some((-2_i64).to_le_bytes().to_vec())));
        store.set([("n", &i64::MAX.to_le_bytes()[..]), ("text", b"one")]).unwrap();
        assert!(store.increment("n", 1).is_err() && store.increment("text", 1).is_err());
        assert_eq!(store.swap("s", None, b"1"), Ok(true));
        assert_eq!(store.swap("s", None, b"2"), Ok(false));
        assert_eq!(store.swap("s", Some(b"1"), b"2"), Ok(true));
    }

    /// Pages of earlier versions are used again, so that the file does not grow with every write.
    #[test]
    fn the_file_does_not_grow_with_the_number_of_writes() {
        let (folder, store) = store(1 << 20);
        let value = vec![1; 64 << 10];
        for number in 0..200 {
            let key = (number % 10).to_string();
            store.set([(&key[..], &value[..])]).unwrap();
        }
        let length = std::fs::metadata(folder.path().join(super::FILE)).unwrap().len();
        assert!(length < 8 << 20, "{length} bytes for 640 KiB of values");
    }
}
