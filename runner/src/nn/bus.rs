//! Reading a mapped file beyond where somebody has cut it short raises SIGBUS, which ends the process.
//! Here it ends one model: the pages that are gone become zeros, and the model is told that its numbers
//! are worth nothing.
//!
//! Chosen over a verified copy (another 80 MB to write and to cache before the first answer) and over a
//! read lease (only the file's owner may take one). Compositors guard their clients' buffers this way.

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
    let address = unsafe { (*info).si_addr() } as usize;
    for place in &TABLE {
        let end = place.end.load(Ordering::Acquire);
        let start = place.start.load(Ordering::Relaxed);
        if !(start..end).contains(&address) {
            continue;
        }
        let page = address & !(PAGE.load(Ordering::Relaxed) - 1);
        // SAFETY: `mmap` is a bare system call, as a handler may make. The range lies within a mapping
        // of ours that is only ever read and whose guard is dropped before it is unmapped; it stays
        // mapped, with zeros for bytes that no longer exist. Zeros are valid numbers; where an engine
        // takes an index from a mapped constant, it checks it like any other.
        let mapped = unsafe {
            libc::mmap(
                page as *mut libc::c_void,
                end - page,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if mapped != libc::MAP_FAILED {
            place.hit.store(true, Ordering::Release);
            return;
        }
    }
    pass_on(signal, info, context);
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
    use super::{guard, joined};
    use std::os::fd::AsRawFd;

    #[test]
    fn neighbours_are_one_range_and_others_are_not() {
        assert_eq!(joined(vec![(1, 3), (3, 4), (6, 7), (7, 9)]), [(1, 4), (6, 9)]);
        assert!(joined(Vec::new()).is_empty());
    }

    #[test]
    fn a_file_cut_short_under_its_mapping_reads_as_zeros_and_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let length = 64 << 10;
        std::fs::write(file.path(), vec![7; length]).unwrap();
        // SAFETY: a new read-only mapping of an open file; the address is checked below.
        let start = unsafe {
            let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
            libc::mmap(std::ptr::null_mut(), length, read, shared, file.as_file().as_raw_fd(), 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        let guards = guard(&[file.path().canonicalize().unwrap()]);
        assert_eq!((guards.len(), guards[0].bytes()), (1, length as u64));
        let read = |offset: usize| {
            assert!(offset < length);
            // SAFETY: within the mapping made above, which lives until the end of the test.
            unsafe { start.cast::<u8>().add(offset).read_volatile() }
        };
        assert_eq!((read(0), read(length - 1)), (7, 7));
        file.as_file().set_len(4096).unwrap();
        assert!(!guards[0].was_hit());
        assert_eq!((read(0), read(length - 1), read(8192)), (7, 0, 0));
        assert!(guards[0].was_hit());
        drop(guards);
        // SAFETY: the mapping made above, which nobody uses any more.
        unsafe { libc::munmap(start, length) };
    }
}
