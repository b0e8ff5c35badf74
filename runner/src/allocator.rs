//! Sets up glibc's allocator to return freed memory to the system.
//!
//! By default glibc keeps one arena per thread, and raises its threshold for mapped blocks with use. Freed
//! feature maps of megabytes then stay with the thread that had them: 30 MiB after 1,000 photos, where 4 are
//! in use. musl's allocator maps large blocks by itself and needs nothing. Measuring memory is left to
//! `memory`.

/// Number of arenas, for any number of threads: few requests are at work at once.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: libc::c_int = 2;

/// Blocks of at least this size are mapped, and unmapped when freed. Setting it also stops glibc from raising
/// it by itself (`mallopt(3)`, M_MMAP_THRESHOLD).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM_BYTES: libc::c_int = 128 << 10;

/// Sets the allocator's limits. Call it first in `main`, before any thread starts.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_memory_back() {
    let settings = [
        (libc::M_ARENA_MAX, ARENAS),
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES),
        (libc::M_TRIM_THRESHOLD, MAPPED_FROM_BYTES),
    ];
    for (parameter, value) in settings {
        #[expect(unsafe_code, reason = "glibc offers no other way, except an environment variable")]
        // SAFETY: `mallopt` takes two plain integers, keeps no reference to anything of ours, and is
        // thread-safe by its manual page; a parameter it does not know makes it return 0 and do nothing.
        let known = unsafe { libc::mallopt(parameter, value) };
        if known == 0 {
            tracing::warn!(parameter, value, "the allocator does not know this setting");
        }
    }
}

/// Does nothing on other systems.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_memory_back() {}

/// Starts the program again in the same process, with glibc's caches of freed blocks for each thread off.
/// Returns if they are off already or the program cannot be started again; then only more memory is kept.
///
/// Each cache holds up to seven blocks of each small size. They are spread over pages that `malloc_trim` can
/// therefore not return: 1.6 MiB after ten minutes of load, and 0.2 MiB without caches. glibc reads this
/// setting only when a program starts, from an environment variable ("Memory Allocation Tunables" in its
/// manual).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn restart_without_thread_caches() {
    use std::os::unix::process::CommandExt as _;
    const VARIABLE: &str = "GLIBC_TUNABLES";
    const SETTING: &str = "glibc.malloc.tcache_count";
    let given = std::env::var(VARIABLE).unwrap_or_default();
    if given.contains(SETTING) {
        return;
    }
    let separator = if given.is_empty() { "" } else { ":" };
    let tunables = format!("{given}{separator}{SETTING}=0");
    let (Ok(program), mut arguments) = (std::env::current_exe(), std::env::args_os()) else {
        return;
    };
    let mut again = std::process::Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    let error = again.args(arguments).env(VARIABLE, tunables).exec();
    tracing::warn!("the allocator's caches stay on: {error}");
}

/// Does nothing on other systems.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn restart_without_thread_caches() {}

/// Returns the allocator's free memory to the system: after a model was unloaded, or when memory is tight.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn trim() {
    #[expect(unsafe_code, reason = "glibc's own call")]
    // SAFETY: `malloc_trim` takes a number, touches only free memory of the allocator's, and is
    // thread-safe by its manual page.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators return memory by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn trim() {}
