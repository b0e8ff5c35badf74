//! Survives the truncation of a mapped model file. Reading a page beyond the file's new end raises SIGBUS,
//! which by default ends the process. This handler replaces such pages by zeros instead, and marks the
//! model's results as invalid. Reloading the model is left to `model`.
//!
//! Rejected alternatives: a verified copy (another 80 MB to write and to cache before the first answer), and
//! a read lease (only the file's owner may take one). Compositors guard their clients' buffers in this way.
//!
//! # Why this is sound
//!
//! - *Which pages.* The handler replaces exactly the page whose read has just failed, and only if that page
//!   lies in a registered range of a model or, while a model is being loaded and its ranges are not known
//!   yet, in any file that has shrunk (`BUS_ADRERR`). The other codes of a read are of pages with damaged
//!   memory. Pages that can still be read are never touched, and no code can rely on the content of a page
//!   that cannot be read.
//! - *Whose mapping.* The thread that faulted is in the middle of a read, so it borrows the mapping, and the
//!   mapping outlives the handler: it cannot have been unmapped and replaced. A stale entry of the table,
//!   seen for a moment by another thread, can therefore mark the wrong model at worst, but never replace the
//!   wrong page.
//! - *What is read.* Engines read weights as plain numbers, for which zero bytes are valid; the data that
//!   controls them (plans, graphs, shapes) was parsed into private memory at the load, with checks that hold
//!   for any bytes. Another process writing to a mapped file is outside of what Rust can promise, with or
//!   without this handler; the file's stamp is compared after every run (`files`), so that no such result
//!   becomes an answer.
//! - *What a handler may do.* It reads atomics, makes one system call and stores atomics: no allocation, no
//!   lock. `errno` may change only if `mmap` fails, and then the process ends.
//! - *Other faults.* A SIGBUS from elsewhere is passed to the handler installed before, such as wasmtime's or
//!   Rust's own, or to the default action.

#![allow(
    unsafe_code,
    reason = "signal handlers and the mappings they repair have no safe interface"
)]

use crate::shortage;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Most mappings guarded at the same time; a warning reports further ones.
const SLOTS: usize = 128;

struct Slot {
    taken: AtomicBool,
    start: AtomicUsize,
    end: AtomicUsize,
    hit: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        hit: AtomicBool::new(false),
    }
}; SLOTS];

/// A guarded mapping, until dropped. Drop it before the mapping.
pub(super) struct Guard {
    slot: &'static Slot,
    bytes: u64,
}

impl Guard {
    /// Whether a truncated page was read.
    pub(super) fn was_hit(&self) -> bool {
        self.slot.hit.load(Ordering::Acquire)
    }

    /// Size of the mapping, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn new(start: usize, end: usize) -> Option<Self> {
        let free = |slot: &&Slot| {
            let taken = &slot.taken;
            taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let Some(slot) = TABLE.iter().find(free) else {
            tracing::warn!("{SLOTS} mappings are guarded already; a further one is not");
            return None;
        };
        slot.hit.store(false, Ordering::Relaxed);
        slot.start.store(start, Ordering::Relaxed);
        // Stored last: until then the range is empty and matches no address.
        slot.end.store(end, Ordering::Release);
        Some(Self { slot, bytes: (end - start) as u64 })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.slot.end.store(0, Ordering::Release);
        self.slot.taken.store(false, Ordering::Release);
    }
}

/// The kernel's list of this process's mappings.
const MAPS: &str = "/proc/self/maps";

/// A file whose mappings should be guarded.
pub(super) struct Guarded {
    /// Its path, with symbolic links resolved.
    pub(super) path: PathBuf,
    /// Its inode number, which it keeps when its name is given to another file.
    pub(super) inode: u64,
    /// The device of that number.
    pub(super) device: u64,
}

/// Guards every mapping of these files in this process.
///
/// # Errors
/// When the process's mappings cannot be read, for example because no descriptor is left.
pub(super) fn guard(files: &[Guarded]) -> io::Result<Vec<Guard>> {
    if !install() {
        return Ok(Vec::new());
    }
    shortage::descriptor()?;
    let maps = std::fs::read(MAPS).map_err(|error| {
        let why = "mapped weights are guarded by it: mount /proc in this root";
        io::Error::new(error.kind(), format!("{MAPS}: {error}; {why}"))
    })?;
    let mappings = maps.split(|byte| *byte == b'\n').filter_map(Mapping::parse);
    let wanted = mappings.filter(|mapping| files.iter().any(|file| mapping.is_of(file)));
    let bounds = wanted.map(|mapping| mapping.bounds).collect();
    Ok(joined(bounds).into_iter().filter_map(|(s, e)| Guard::new(s, e)).collect())
}

/// A line of `/proc/self/maps` (`proc_pid_maps(5)`): `start-end perms offset major:minor inode  path`, read
/// as bytes, since a path need not be UTF-8.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    bounds: (usize, usize),
    device: (u64, u64),
    inode: u64,
    path: &'a [u8],
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let mut text = || std::str::from_utf8(fields.next()?).ok();
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = text()?.split_once('-')?;
        let (_permissions, _offset) = (text()?, text()?);
        let (major, minor) = text()?.split_once(':')?;
        let inode = text()?.parse().ok()?;
        let path = fields.next()?.trim_ascii_start();
        let address = |text| usize::try_from(hex(text)?).ok();
        let bounds = (address(start)?, address(end)?);
        let device = (hex(major)?, hex(minor)?);
        (bounds.0 < bounds.1).then_some(Self { bounds, device, inode, path })
    }

    /// Compares by inode number, or else by path: some file systems (btrfs, overlayfs) show another device
    /// number here than `stat` does.
    fn is_of(&self, file: &Guarded) -> bool {
        let device = (libc::major(file.device).into(), libc::minor(file.device).into());
        if self.inode == file.inode && self.device == device {
            return true;
        }
        // The kernel escapes newlines in paths like this, and nothing else.
        let newline = |byte: &u8| if *byte == b'\n' { b"\\012".to_vec() } else { vec![*byte] };
        let name: Vec<u8> = file.path.as_os_str().as_bytes().iter().flat_map(newline).collect();
        self.path == name
    }
}

/// Merges adjacent ranges: ONNX Runtime maps each tensor of a file separately, hundreds side by side.
fn joined(bounds: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    let mut joined: Vec<(usize, usize)> = Vec::new();
    for (start, end) in bounds {
        match joined.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => joined.push((start, end)),
        }
    }
    joined
}

/// Loads in progress, and truncated pages read during loads.
static LOADS: AtomicUsize = AtomicUsize::new(0);
static TRUNCATED_READS: AtomicUsize = AtomicUsize::new(0);

/// A load in progress: its mappings are not registered yet, but are guarded too.
pub(super) struct Loading {
    reads_before: usize,
}

impl Loading {
    pub(super) fn begin() -> Self {
        install();
        LOADS.fetch_add(1, Ordering::AcqRel);
        Self { reads_before: TRUNCATED_READS.load(Ordering::Acquire) }
    }

    /// Whether a truncated page was read since the load began, by this load or another at the same time.
    pub(super) fn met_a_cut(&self) -> bool {
        TRUNCATED_READS.load(Ordering::Acquire) != self.reads_before
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        LOADS.fetch_sub(1, Ordering::AcqRel);
    }
}

static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static PAGE: AtomicUsize = AtomicUsize::new(4096);

/// Installs the handler, once. Returns whether it is installed.
fn install() -> bool {
    static DONE: OnceLock<bool> = OnceLock::new();
    *DONE.get_or_init(|| {
        // SAFETY: `sysconf` takes a number and returns one.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        PAGE.store(usize::try_from(page).unwrap_or(4096), Ordering::Relaxed);
        // SAFETY: both are plain structures for which all zeros are valid; they are filled below, and
        // by the kernel.
        let (mut action, mut previous): (libc::sigaction, libc::sigaction) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        action.sa_sigaction = on_bus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: `on_bus` has the signature that SA_SIGINFO requires and calls only functions allowed in a
        // handler; the pointers are to live local structures.
        let outcome = unsafe {
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous)
        };
        if outcome != 0 || PREVIOUS.set(previous).is_err() {
            return false;
        }
        // SAFETY: as above; the previous handler is stored by now.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) == 0 }
    })
}

/// Replaces a truncated page of a guarded file by zeros; passes any other fault on.
extern "C" fn on_bus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid `info` to a handler set with SA_SIGINFO.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    let is_in = |slot: &&Slot| {
        let end = slot.end.load(Ordering::Acquire);
        (slot.start.load(Ordering::Relaxed)..end).contains(&address)
    };
    let hit = TABLE.iter().find(is_in);
    let is_loading = LOADS.load(Ordering::Acquire) > 0 && code == libc::BUS_ADRERR;
    if (hit.is_some() || is_loading) && replace_by_zeros(address) {
        match hit {
            Some(slot) => slot.hit.store(true, Ordering::Release),
            None => {
                TRUNCATED_READS.fetch_add(1, Ordering::AcqRel);
            }
        }
        return;
    }
    pass_on(signal, info, context);
}

/// Replaces the page at `address`, which cannot be read. Returns whether that worked.
fn replace_by_zeros(address: usize) -> bool {
    let size = PAGE.load(Ordering::Relaxed);
    let page = address & !(size - 1);
    // SAFETY: `mmap` is a bare system call, as a handler may make. The top of the file argues why this page
    // may be replaced.
    let mapped = unsafe {
        libc::mmap(
            page as *mut libc::c_void,
            size,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    mapped != libc::MAP_FAILED
}

fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    let previous = PREVIOUS.get();
    let handler = previous.filter(|previous| previous.sa_flags & libc::SA_SIGINFO != 0);
    match handler.map(|previous| previous.sa_sigaction) {
        Some(address) if address != libc::SIG_DFL && address != libc::SIG_IGN => {
            // SAFETY: the address came from `sigaction` with SA_SIGINFO set, so it is a handler of this
            // signature.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(address) };
            handler(signal, info, context);
        }
        _ => {
            // SAFETY: setting the default action is allowed in a handler; the fault is raised again, and ends
            // the process as it would have without this handler.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Guarded, Loading, Mapping, guard, joined};
    use std::ffi::OsStr;
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    const LENGTH: usize = 64 << 10;

    #[test]
    fn adjacent_ranges_are_merged_and_others_are_not() {
        assert_eq!(joined(vec![(1, 3), (3, 4), (6, 7), (7, 9)]), [(1, 4), (6, 9)]);
        assert!(joined(Vec::new()).is_empty());
    }

    #[test]
    fn a_mapping_is_parsed_with_any_path() {
        let line =
            b"7f00-7f08 r--p 00001000 fd:1a 42                   /a b/\xff\\012.cell (deleted)";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!((mapping.bounds, mapping.device), ((0x7f00, 0x7f08), (0xfd, 0x1a)));
        assert_eq!((mapping.inode, mapping.path), (42, &b"/a b/\xff\\012.cell (deleted)"[..]));
        assert_eq!(Mapping::parse(b"no mapping"), None);
    }

    /// A file of sevens, and its mapping.
    fn mapped() -> (tempfile::NamedTempFile, *mut libc::c_void) {
        mapped_as(OsStr::new("sevens"))
    }

    /// The same, under a name that ends in `name`.
    fn mapped_as(name: &OsStr) -> (tempfile::NamedTempFile, *mut libc::c_void) {
        let file = tempfile::Builder::new().suffix(name).tempfile().unwrap();
        std::fs::write(file.path(), vec![7; LENGTH]).unwrap();
        // SAFETY: a new read-only mapping of an open file; the address is checked below.
        let start = unsafe {
            let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
            libc::mmap(std::ptr::null_mut(), LENGTH, read, shared, file.as_file().as_raw_fd(), 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        (file, start)
    }

    fn read(start: *mut libc::c_void, offset: usize) -> u8 {
        assert!(offset < LENGTH);
        // SAFETY: within a mapping made above, which lives until the end of its test.
        unsafe { start.cast::<u8>().add(offset).read_volatile() }
    }

    fn guarded(file: &tempfile::NamedTempFile) -> Guarded {
        let data = file.as_file().metadata().unwrap();
        let path = file.path().canonicalize().unwrap();
        Guarded { path, inode: data.ino(), device: data.dev() }
    }

    fn unmap(start: *mut libc::c_void) {
        // SAFETY: a mapping made above, which is no longer used.
        unsafe { libc::munmap(start, LENGTH) };
    }

    #[test]
    fn a_file_truncated_while_it_is_loaded_reads_as_zeros_too() {
        let (file, start) = mapped();
        let loading = Loading::begin();
        assert_eq!(read(start, LENGTH - 1), 7);
        file.as_file().set_len(0).unwrap();
        assert_eq!((read(start, 0), read(start, LENGTH - 1)), (0, 0));
        assert!(loading.met_a_cut());
        unmap(start);
    }

    #[test]
    fn a_file_truncated_under_its_mapping_reads_as_zeros_and_is_reported() {
        let (file, start) = mapped();
        let guards = guard(&[guarded(&file)]).unwrap();
        assert_eq!((guards.len(), guards[0].bytes()), (1, LENGTH as u64));
        assert_eq!((read(start, 0), read(start, LENGTH - 1)), (7, 7));
        file.as_file().set_len(4096).unwrap();
        assert!(!guards[0].was_hit());
        assert_eq!([0, LENGTH - 1, 8192].map(|at| read(start, at)), [7, 0, 0]);
        assert!(guards[0].was_hit());
        drop(guards);
        unmap(start);
    }

    /// Regression: a mapping whose path was not UTF-8 turned the guard off for every model.
    #[test]
    fn files_with_names_that_are_not_utf8_are_guarded() {
        let names = [&b"\xff\xfe.cell"[..], b"new\nline.cell", b" with spaces ", b"plain"];
        let files = names.map(|name| mapped_as(OsStr::from_bytes(name)));
        for (file, start) in &files {
            for by_number in [true, false] {
                let mut wanted = guarded(file);
                match by_number {
                    true => wanted.path = Path::new("/moved").into(),
                    false => wanted.inode = 0,
                }
                let guards = guard(&[wanted]).unwrap();
                assert_eq!(guards.len(), 1, "{:?}, by number: {by_number}", file.path());
            }
            let guards = guard(&[guarded(file)]).unwrap();
            file.as_file().set_len(0).unwrap();
            assert_eq!(read(*start, 0), 0);
            assert!(guards[0].was_hit());
        }
        files.into_iter().for_each(|(_file, start)| unmap(start));
    }

    /// A replacement may happen between the load of a model and its guard.
    #[test]
    fn a_file_that_was_replaced_since_it_was_mapped_is_guarded() {
        let (file, start) = mapped();
        let wanted = guarded(&file);
        let other = tempfile::NamedTempFile::new().unwrap();
        std::fs::rename(other.path(), file.path()).unwrap();
        let guards = guard(&[wanted]).unwrap();
        file.as_file().set_len(0).unwrap();
        assert_eq!((guards.len(), read(start, 0)), (1, 0));
        unmap(start);
    }
}
