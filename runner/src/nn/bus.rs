//! Reading a mapped file beyond where somebody has cut it short raises SIGBUS, which ends the process.
//! Here it ends one model: the pages that are gone become zeros, and the model is told that its numbers
//! are worth nothing.
//!
//! Chosen over a verified copy (another 80 MB to write and to cache before the first answer) and over a
//! read lease (only the file's owner may take one). Compositors guard their clients' buffers this way.
//!
//! # Why this is sound
//!
//! - *What is mapped where.* The handler replaces exactly the one page whose read has just failed, and
//!   only where that page belongs to a model: to a registered range, or, while a model is being loaded
//!   and its ranges are not known yet, to any file that has shrunk (`BUS_ADRERR`). No page that can still
//!   be read is ever touched. A page that cannot be read has nobody who could rely on what it holds.
//! - *Whose it is.* The thread that faulted is in the middle of a read, so it borrows the mapping, and
//!   the mapping outlives the handler: nobody can have unmapped it and put something else there. A stale
//!   entry of the table, seen for a moment by another thread, can therefore name the wrong model at
//!   worst, never the wrong page.
//! - *What is read.* Engines read weights as plain numbers, for which zero bytes are valid; what steers
//!   them (plans, graphs, shapes) was parsed into private memory at the load, with checks that hold for
//!   any bytes. That another process writes to a mapped file is outside of what Rust can promise, with
//!   or without this handler; the file's stamp is compared after every run (`files`), so that such numbers
//!   are not answered.
//! - *What a handler may do.* It reads atomics, makes one system call and stores atomics: no allocation,
//!   no lock. `errno` may change only where `mmap` fails, and then the process ends.
//! - *Everybody else.* A SIGBUS that is not ours goes to whoever was there before, such as wasmtime's
//!   handler or Rust's own, or to the default action.

#![allow(
    unsafe_code,
    reason = "signal handlers and the mappings they repair have no safe interface"
)]

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Mappings that can be guarded at the same time; further ones are not, and a warning says so.
const PLACES: usize = 128;

struct Place {
    taken: AtomicBool,
    start: AtomicUsize,
    end: AtomicUsize,
    hit: AtomicBool,
}

static TABLE: [Place; PLACES] = [const {
    Place {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        hit: AtomicBool::new(false),
    }
}; PLACES];

/// A guarded mapping, until this is dropped. Drop it before the mapping.
pub(super) struct Guard {
    place: &'static Place,
    bytes: u64,
}

impl Guard {
    /// Whether something that is gone was read.
    pub(super) fn was_hit(&self) -> bool {
        self.place.hit.load(Ordering::Acquire)
    }

    /// Size of the mapping.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn new(start: usize, end: usize) -> Option<Self> {
        let free = |place: &&Place| {
            let taken = &place.taken;
            taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let Some(place) = TABLE.iter().find(free) else {
            tracing::warn!("{PLACES} mappings are guarded already; one more is not");
            return None;
        };
        place.hit.store(false, Ordering::Relaxed);
        place.start.store(start, Ordering::Relaxed);
        // Last: an empty range holds no address.
        place.end.store(end, Ordering::Release);
        Some(Self { place, bytes: (end - start) as u64 })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.place.end.store(0, Ordering::Release);
        self.place.taken.store(false, Ordering::Release);
    }
}

/// Guards every mapping of these files in this process.
pub(super) fn guard(paths: &[PathBuf]) -> Vec<Guard> {
    if !install() {
        return Vec::new();
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let ranges = maps.lines().filter_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let path = rest.get(rest.find('/')?..)?;
        paths.iter().any(|wanted| wanted.as_os_str() == path).then_some(range)
    });
    let bounds = ranges.filter_map(|range| {
        let (start, end) = range.split_once('-')?;
        Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
    });
    let bounds = bounds.filter(|(start, end)| start < end).collect();
    joined(bounds).into_iter().filter_map(|(s, e)| Guard::new(s, e)).collect()
}

/// Neighbouring ranges as one: ONNX Runtime maps each tensor of a file by itself, hundreds side by side.
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

/// Loads under way, and reads beyond a cut that were met meanwhile.
static LOADS: AtomicUsize = AtomicUsize::new(0);
static CUTS_MET: AtomicUsize = AtomicUsize::new(0);

/// While a model is loaded: what it maps is not registered yet, and is guarded all the same.
pub(super) struct Loading {
    cuts_before: usize,
}

impl Loading {
    pub(super) fn begin() -> Self {
        install();
        LOADS.fetch_add(1, Ordering::AcqRel);
        Self { cuts_before: CUTS_MET.load(Ordering::Acquire) }
    }

    /// Whether something that is gone was read since, by this load or by another at the same time.
    pub(super) fn met_a_cut(&self) -> bool {
        CUTS_MET.load(Ordering::Acquire) != self.cuts_before
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        LOADS.fetch_sub(1, Ordering::AcqRel);
    }
}

static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static PAGE: AtomicUsize = AtomicUsize::new(4096);

/// Sets the handler up, once; whether it is there.
fn install() -> bool {
    static DONE: OnceLock<bool> = OnceLock::new();
    *DONE.get_or_init(|| {
        // SAFETY: `sysconf` takes a number and gives one.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        PAGE.store(usize::try_from(page).unwrap_or(4096), Ordering::Relaxed);
        // SAFETY: both are plain structures for which all zeros are valid; they are filled below, and
        // by the kernel.
        let (mut action, mut previous): (libc::sigaction, libc::sigaction) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        action.sa_sigaction = on_bus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: `on_bus` has the signature that SA_SIGINFO asks for and calls only what is allowed in
        // a handler; the pointers are to live structures of ours.
        let outcome = unsafe {
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous)
        };
        if outcome != 0 || PREVIOUS.set(previous).is_err() {
            return false;
        }
        // SAFETY: as above; whoever was there before is known to the handler by now.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) == 0 }
    })
}

/// Puts zeros where a guarded file has ended; anything else is for whoever was there before.
extern "C" fn on_bus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid `info` to a handler set with SA_SIGINFO.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    let is_in = |place: &&Place| {
        let end = place.end.load(Ordering::Acquire);
        (place.start.load(Ordering::Relaxed)..end).contains(&address)
    };
    let hit = TABLE.iter().find(is_in);
    let is_loading = LOADS.load(Ordering::Acquire) > 0 && code == libc::BUS_ADRERR;
    if (hit.is_some() || is_loading) && put_zeros(address) {
        match hit {
            Some(place) => place.hit.store(true, Ordering::Release),
            None => {
                CUTS_MET.fetch_add(1, Ordering::AcqRel);
            }
        }
        return;
    }
    pass_on(signal, info, context);
}

/// Replaces the page at `address`, which cannot be read; whether that worked.
fn put_zeros(address: usize) -> bool {
    let size = PAGE.load(Ordering::Relaxed);
    let page = address & !(size - 1);
    // SAFETY: `mmap` is a bare system call, as a handler may make. Why this page may be replaced is said
    // at the top of the file.
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
            // very signature.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(address) };
            handler(signal, info, context);
        }
        _ => {
            // SAFETY: setting the default action is allowed in a handler; the fault is met again, and
            // ends the process as it would have without us.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Loading, guard, joined};
    use std::os::fd::AsRawFd;

    const LENGTH: usize = 64 << 10;

    #[test]
    fn neighbours_are_one_range_and_others_are_not() {
        assert_eq!(joined(vec![(1, 3), (3, 4), (6, 7), (7, 9)]), [(1, 4), (6, 9)]);
        assert!(joined(Vec::new()).is_empty());
    }

    /// A file of sevens, mapped.
    fn mapped() -> (tempfile::NamedTempFile, *mut libc::c_void) {
        let file = tempfile::NamedTempFile::new().unwrap();
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

    fn unmap(start: *mut libc::c_void) {
        // SAFETY: a mapping made above, which nobody uses any more.
        unsafe { libc::munmap(start, LENGTH) };
    }

    #[test]
    fn a_file_cut_short_while_it_is_loaded_reads_as_zeros_too() {
        let (file, start) = mapped();
        let loading = Loading::begin();
        assert_eq!(read(start, LENGTH - 1), 7);
        file.as_file().set_len(0).unwrap();
        assert_eq!((read(start, 0), read(start, LENGTH - 1)), (0, 0));
        assert!(loading.met_a_cut());
        unmap(start);
    }

    #[test]
    fn a_file_cut_short_under_its_mapping_reads_as_zeros_and_is_told() {
        let (file, start) = mapped();
        let guards = guard(&[file.path().canonicalize().unwrap()]);
        assert_eq!((guards.len(), guards[0].bytes()), (1, LENGTH as u64));
        assert_eq!((read(start, 0), read(start, LENGTH - 1)), (7, 7));
        file.as_file().set_len(4096).unwrap();
        assert!(!guards[0].was_hit());
        assert_eq!([0, LENGTH - 1, 8192].map(|at| read(start, at)), [7, 0, 0]);
        assert!(guards[0].was_hit());
        drop(guards);
        unmap(start);
    }
}
