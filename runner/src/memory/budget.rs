//! The budget, and what fits into it: how large an instance, how many at once, how much of uploads and
//! connections. Worked out once, at start-up, and refused there when it can never serve a request.

use super::group::{MemoryGroup, machine_bytes};
use super::{Need, ProcessMemory};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the user says of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// The control group's limit, or else the machine's memory.
    #[default]
    Auto,
    /// So many bytes.
    Bytes(u64),
    /// No limit.
    None,
}

/// How much there is.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    /// Bytes; `None` is no limit.
    pub bytes: Option<u64>,
    /// The control group the bytes are of: then everything in the group counts.
    pub group: Option<MemoryGroup>,
}

impl Budget {
    /// What `limit` means on this machine.
    #[must_use]
    pub fn new(limit: MemoryLimit) -> Self {
        match limit {
            MemoryLimit::None => Self::default(),
            MemoryLimit::Bytes(bytes) => Self { bytes: Some(bytes), group: None },
            MemoryLimit::Auto => {
                let group = MemoryGroup::own();
                let limit = group.as_ref().and_then(MemoryGroup::limit);
                Self { bytes: limit.into_iter().chain(machine_bytes()).min(), group }
            }
        }
    }

    /// The same as something to be followed: its control group's limit may be changed while we run.
    #[must_use]
    pub fn followed(&self) -> Followed {
        let seen = AtomicU64::new(self.bytes.unwrap_or(0));
        Followed { start: self.clone(), seen }
    }
}

/// A budget whose control group is looked at again.
#[derive(Debug)]
pub struct Followed {
    start: Budget,
    /// The limit that was seen last, in bytes.
    seen: AtomicU64,
}

impl Followed {
    /// The limit in bytes, if it is another than before.
    #[must_use]
    pub fn change(&self) -> Option<u64> {
        let limit = self.start.group.as_ref()?.limit();
        let limit = limit.into_iter().chain(machine_bytes()).min()?;
        (self.seen.swap(limit, Ordering::Relaxed) != limit).then_some(limit)
    }

    /// The budget where the limit was changed to `limit`, in bytes. A cut below what `one` request is promised,
    /// with all that is promised before any, leaves room for one: how memory is divided is fixed at the start,
    /// and a service that refuses every request for ever is of no use to anybody.
    #[must_use]
    pub fn taken_up(&self, limit: u64, one: u64) -> u64 {
        limit.max(one.min(self.start.bytes.unwrap_or(one)))
    }
}

/// The user's own choices; `None` leaves one to the budget.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// `--max-instance-memory`, in bytes.
    pub instance: Option<u64>,
    /// `--max-concurrency`.
    pub concurrency: Option<usize>,
    /// `--max-body`, in bytes.
    pub max_body: u64,
    /// `--allow-guest-models`, in bytes; 0 is none.
    pub guest_models: u64,
}

/// How the budget is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The runner at rest, with room for its allocator.
    pub runner: u64,
    /// Connections that may be open.
    pub connections: usize,
    /// Bytes the kernel may hold of one connection each way. All together are a part of `pages`.
    pub socket_buffer: u32,
    /// Bytes of request bodies in memory, all together.
    pub uploads: u64,
    /// Bytes left to pages of mapped files, so that weights need not be read again for every layer.
    pub pages: u64,
    /// Linear memory of one instance, in bytes.
    pub instance: u64,
    /// Models that one instance may bring itself, in bytes.
    pub guest_models: u64,
    /// Requests at work at the same time.
    pub concurrency: usize,
}

/// Why a configuration cannot serve a single request, with the sum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct NoRoom {
    budget: u64,
    plan: Plan,
}

/// Linear memory of an instance where nobody says otherwise and there is room.
const INSTANCE: u64 = 64 << 20;
/// The least an instance of a photo's size can do with.
const SMALLEST_INSTANCE: u64 = 12 << 20;
/// The least the host holds for one: the tensor of a photo of 384 × 384 fits.
const SMALLEST_SHARE: u64 = 2 << 20;
/// What a run of a model takes before it has been measured.
pub(crate) const ASSUMED_ACTIVATION: u64 = 16 << 20;
/// What a connection may hold: hyper's buffers of 16 KiB each way, the first bytes of a body, its task.
const CONNECTION: u64 = 64 << 10;
const MOST_CONNECTIONS: usize = 1024;
const FEWEST_CONNECTIONS: usize = 64;
/// Places beyond those: eight of the admin port, and eight of each port for probes.
const MORE_CONNECTIONS: usize = 24;
/// What the kernel may hold of a connection each way, where there is room, and where there is little.
const LARGEST_SOCKET_BUFFER: u32 = 256 << 10;
const SMALLEST_SOCKET_BUFFER: u32 = 32 << 10;
/// Largest bodies in memory together, where there is room.
const UPLOADS: u64 = 4;
/// The allocator's slack and the stacks of our threads.
const SLACK: u64 = 3 << 20;

impl Plan {
    /// Divides `budget` for this process.
    ///
    /// # Errors
    /// [`NoRoom`] where not even one request fits.
    pub fn new(budget: &Budget, overrides: Overrides) -> Result<Self, NoRoom> {
        let runner = ProcessMemory::now().private_bytes.saturating_add(SLACK);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        divide(budget.bytes, runner, cores, overrides)
    }

    /// What is spoken for before any request, pages of mapped files aside.
    #[must_use]
    pub fn fixed(&self) -> u64 {
        let connections = CONNECTION.saturating_mul((self.connections + MORE_CONNECTIONS) as u64);
        [self.runner, connections, self.uploads].into_iter().fold(0, u64::saturating_add)
    }

    /// Bytes of tensors the host holds for one instance at most; and as many for what one call hands over.
    #[must_use]
    pub fn host_share(&self) -> u64 {
        (self.instance / 8).max(SMALLEST_SHARE)
    }

    /// What one instance takes at most, the host's part included.
    fn one(&self) -> u64 {
        self.instance.saturating_add(self.hosts())
    }

    /// What the host holds for one instance at most. A guest's model is there as bytes, as a graph, and
    /// with weights laid out for the engine.
    fn hosts(&self) -> u64 {
        self.host_share().saturating_mul(2).saturating_add(self.guest_models.saturating_mul(3))
    }

    /// What one request is promised, with a model whose runs take `activation` bytes.
    #[must_use]
    pub fn need(&self, activation: u64) -> Need {
        Need { instance: self.one(), activation }
    }
}

fn divide(
    budget: Option<u64>,
    runner: u64,
    cores: usize,
    overrides: Overrides,
) -> Result<Plan, NoRoom> {
    let eighth = budget.map_or(u64::MAX, |bytes| bytes / 8);
    let connections = usize::try_from(eighth / 2 / CONNECTION).unwrap_or(usize::MAX);
    let connections = connections.clamp(FEWEST_CONNECTIONS, MOST_CONNECTIONS);
    // Both ways of all connections fill half of what is left to pages of files.
    let buffer = eighth / 4 / connections as u64;
    let buffer = u32::try_from(buffer).unwrap_or(u32::MAX);
    let mut plan = Plan {
        runner,
        connections,
        socket_buffer: buffer.clamp(SMALLEST_SOCKET_BUFFER, LARGEST_SOCKET_BUFFER),
        uploads: overrides.max_body.saturating_mul(UPLOADS).min(eighth),
        pages: eighth.min(64 << 20),
        instance: overrides.instance.unwrap_or(INSTANCE),
        guest_models: overrides.guest_models,
        concurrency: overrides.concurrency.unwrap_or(cores).max(1),
    };
    let Some(budget) = budget else {
        plan.pages = 0;
        return Ok(plan);
    };
    let left = budget.saturating_sub(plan.fixed() + plan.pages).saturating_sub(ASSUMED_ACTIVATION);
    if overrides.instance.is_none() {
        // Eight tenths are the instance's own, twice a tenth the host's share of it.
        let left = left.saturating_sub(overrides.guest_models.saturating_mul(3));
        let fits = (left / 10 * 8).min(left.saturating_sub(2 * SMALLEST_SHARE)) >> 20 << 20;
        plan.instance = fits.clamp(SMALLEST_INSTANCE, INSTANCE);
    }
    let one = plan.one();
    if one > left {
        return Err(NoRoom { budget, plan });
    }
    if overrides.concurrency.is_none() {
        let room = budget.saturating_sub(plan.fixed() + plan.pages)
            / one.saturating_add(ASSUMED_ACTIVATION);
        plan.concurrency = usize::try_from(room).unwrap_or(cores).clamp(1, cores);
    }
    Ok(plan)
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.plan;
        let connections = CONNECTION * (plan.connections + MORE_CONNECTIONS) as u64;
        let rows = [
            ("the runner itself", plan.runner),
            ("connections", connections),
            ("request bodies", plan.uploads),
            ("pages of mapped files", plan.pages),
            ("one instance (--max-instance-memory)", plan.instance),
            ("what the host holds for it", plan.hosts()),
            ("one run of a model, until measured", ASSUMED_ACTIVATION),
        ];
        let sum = rows.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        writeln!(
            f,
            "the memory limit of {:.1} MiB has no room for a single request:",
            mib(self.budget)
        )?;
        for (name, bytes) in rows {
            writeln!(f, "  {name:40} {:8.1} MiB", mib(bytes))?;
        }
        writeln!(f, "  {:40} {:8.1} MiB", "together", mib(sum))?;
        write!(
            f,
            "Raise --memory-limit or the control group's limit, or lower --max-instance-memory or \
             --max-body."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Overrides, Plan, divide};

    const MIB: u64 = 1 << 20;
    const OVERRIDES: Overrides =
        Overrides { instance: None, concurrency: None, max_body: 16 * MIB, guest_models: 0 };

    fn plan(budget: u64, overrides: Overrides) -> Result<Plan, super::NoRoom> {
        divide(Some(budget), 5 * MIB, 2, overrides)
    }

    #[test]
    fn the_budget_decides_what_nobody_asked_for() {
        let large = plan(2048 * MIB, OVERRIDES).unwrap();
        assert_eq!((large.instance, large.concurrency), (64 * MIB, 2));
        assert_eq!((large.connections, large.uploads), (1024, 64 * MIB));
        let small = plan(64 * MIB, OVERRIDES).unwrap();
        assert_eq!((small.connections, small.uploads, small.pages), (64, 8 * MIB, 8 * MIB));
        assert_eq!((small.concurrency, small.socket_buffer), (1, 32 << 10));
        assert!(2 * 64 * u64::from(small.socket_buffer) <= small.pages);
        assert!((12 * MIB..24 * MIB).contains(&small.instance), "{small:?}");
        assert!(
            small.fixed() + small.pages + small.need(super::ASSUMED_ACTIVATION).instance
                <= 64 * MIB
        );
        let none = divide(None, 5 * MIB, 2, OVERRIDES).unwrap();
        assert_eq!((none.instance, none.concurrency), (64 * MIB, 2));
    }

    #[test]
    fn a_limit_that_is_cut_deeply_leaves_room_for_one_request() {
        let followed = Budget { bytes: Some(512 * MIB), group: None }.followed();
        let one = 200 * MIB;
        for (limit, budget) in [(256, 256), (1024, 1024), (64, 200)] {
            assert_eq!(followed.taken_up(limit * MIB, one), budget * MIB, "{limit}");
        }
        let beyond = followed.taken_up(64 * MIB, 600 * MIB);
        assert_eq!(beyond, 512 * MIB, "what never had room gets none by a cut");
    }

    #[test]
    fn a_budget_without_room_for_one_request_is_refused_with_the_sum() {
        let overridden = Overrides { instance: Some(64 * MIB), ..OVERRIDES };
        let refusal = plan(64 * MIB, overridden).unwrap_err().to_string();
        for part in ["limit of 64.0 MiB", "one instance", "together", "--max-instance-memory"] {
            assert!(refusal.contains(part), "{refusal}");
        }
        assert!(plan(24 * MIB, OVERRIDES).is_err());
    }
}
