//! The memory budget, and the plan that divides it: the size and number of instances, and the memory of
//! uploads and connections. The plan is made once, at the start, which fails if no request would ever fit.
//! Keeping to it is left to `ledger`.

use super::group::{MemoryGroup, machine_bytes};
use super::{Need, ProcessMemory};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// The memory limit that the user chose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// The control group's limit, or else the machine's memory.
    #[default]
    Auto,
    /// This many bytes.
    Bytes(u64),
    /// No limit.
    None,
}

/// The memory budget.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    /// Bytes; `None` is no limit.
    pub bytes: Option<u64>,
    /// This process's control group, if the limit was not given: then all memory of the group counts.
    pub group: Option<MemoryGroup>,
}

impl Budget {
    /// The budget for `limit` on this machine.
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

    /// The budget as one to follow: its control group's limit may change while the process runs.
    #[must_use]
    pub fn followed(&self) -> Followed {
        let seen = AtomicU64::new(self.bytes.unwrap_or(0));
        Followed { start: self.clone(), seen }
    }
}

/// A budget whose control group's limit is read again.
#[derive(Debug)]
pub struct Followed {
    start: Budget,
    /// The limit read last, in bytes.
    seen: AtomicU64,
}

impl Followed {
    /// The limit in bytes, if it has changed.
    #[must_use]
    pub fn change(&self) -> Option<u64> {
        let limit = self.start.group.as_ref()?.limit();
        let limit = limit.into_iter().chain(machine_bytes()).min()?;
        (self.seen.swap(limit, Ordering::Relaxed) != limit).then_some(limit)
    }

    /// The budget in bytes after the limit was changed to `limit`. At least `one` bytes, the need of one
    /// request with all fixed reservations, unless the first budget was smaller: the plan cannot change while
    /// the process runs, and with less the service would refuse every request.
    #[must_use]
    pub fn taken_up(&self, limit: u64, one: u64) -> u64 {
        limit.max(one.min(self.start.bytes.unwrap_or(one)))
    }
}

/// What the user's flags and the application decide; `None` leaves the choice to the plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// `--max-instance-memory`, in bytes.
    pub instance: Option<u64>,
    /// `--max-concurrency`.
    pub concurrency: Option<usize>,
    /// `--max-body`, in bytes.
    pub max_body: u64,
    /// `--http1-max-buf-size`, in bytes.
    pub max_head: u32,
    /// `--allow-guest-models`, in bytes; 0 allows none.
    pub guest_models: u64,
    /// Bytes of memory of an open key-value store; 0 without one.
    pub key_value: u64,
}

/// Memory of all models of an application, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelNeeds {
    /// Private memory of all together, when loaded.
    pub private: u64,
    /// The largest peak of a run.
    pub run: u64,
}

/// How the budget is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of the runner itself when idle, with slack for its allocator, and of its key-value store.
    pub runner: u64,
    /// Most open connections.
    pub connections: usize,
    /// Longest head of a request, in bytes: target and fields together. A connection buffers as much in each
    /// direction.
    pub max_head: u32,
    /// Bytes that the kernel may buffer for one connection, in each direction. All of them together are part
    /// of `pages`.
    pub socket_buffer: u32,
    /// Bytes of request bodies in memory, all together.
    pub uploads: u64,
    /// Bytes left to cached pages of mapped files, so that weights need not be read from disk for every
    /// layer.
    pub pages: u64,
    /// Linear memory of one instance, in bytes.
    pub instance: u64,
    /// Models that one instance may load from its own bytes, in bytes.
    pub guest_models: u64,
    /// Requests at work at the same time.
    pub concurrency: usize,
    /// For a budget so small that fewer connections and smaller bodies leave just room for one request: what
    /// its models need, which the plan then includes.
    pub models: Option<ModelNeeds>,
}

/// The budget has no room for a single request. The message shows the sum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct NoRoom {
    budget: u64,
    plan: Plan,
}

/// Default linear memory of an instance.
const INSTANCE: u64 = 64 << 20;
/// The smallest linear memory in which an instance can process a photo.
const SMALLEST_INSTANCE: u64 = 12 << 20;
/// The smallest host share of an instance: the tensor of a photo of 384 × 384 fits.
const SMALLEST_SHARE: u64 = 2 << 20;
/// The assumed peak of a model's run, until one was measured.
pub(crate) const ASSUMED_ACTIVATION: u64 = 16 << 20;
/// Memory of a connection without its two buffers: the first bytes of a body, its task.
const CONNECTION: u64 = 32 << 10;
const MOST_CONNECTIONS: usize = 1024;
const FEWEST_CONNECTIONS: usize = 64;
/// Connections in a budget that has no room for a request beside [`FEWEST_CONNECTIONS`].
const SMALL_CONNECTIONS: usize = 16;
/// Further connections: eight of the admin port, and eight more of either port, which answer probes only.
const MORE_CONNECTIONS: usize = 24;
/// The kernel's buffer of a connection in each direction: with a large budget, and with a small one.
const LARGEST_SOCKET_BUFFER: u32 = 256 << 10;
const SMALLEST_SOCKET_BUFFER: u32 = 32 << 10;

/// Bytes set aside for cached pages and socket buffers: an eighth of the budget if that is less, and twice
/// the socket buffers if they need more.
const PAGES: u64 = 64 << 20;
/// Bodies of the largest size that fit in memory together, if the budget is large.
const UPLOADS: u64 = 4;
/// Fewest bytes of request bodies, all together.
const SMALLEST_UPLOADS: u64 = 1 << 20;
/// The allocator's slack and the stacks of the runner's threads.
const SLACK: u64 = 3 << 20;

impl Plan {
    /// Divides `budget` for this process. If it has no room for a request so, it is divided again for one
    /// request at a time, with what `models` tells of the models' memory.
    ///
    /// # Errors
    /// [`NoRoom`] if not even one request fits.
    pub fn new(
        budget: &Budget,
        overrides: Overrides,
        models: impl FnOnce() -> ModelNeeds,
    ) -> Result<Self, NoRoom> {
        let runner = ProcessMemory::now().private_bytes.saturating_add(SLACK);
        let runner = runner.saturating_add(overrides.key_value);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        match (divide(budget.bytes, runner, cores, overrides), budget.bytes) {
            (Err(_), Some(bytes)) => divide_small(bytes, runner, overrides, models()),
            (plan, _) => plan,
        }
    }

    /// Bytes reserved before any request, without pages of mapped files.
    #[must_use]
    pub fn fixed(&self) -> u64 {
        [self.runner, self.connections_bytes(), self.uploads]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Bytes of all connections.
    fn connections_bytes(&self) -> u64 {
        connection(self.max_head).saturating_mul((self.connections + MORE_CONNECTIONS) as u64)
    }

    /// Most bytes of tensors that the host holds for one instance; one call may add as many again.
    #[must_use]
    pub fn host_share(&self) -> u64 {
        (self.instance / 8).max(SMALLEST_SHARE)
    }

    /// Most bytes of one instance, including the host's share.
    fn one(&self) -> u64 {
        self.instance.saturating_add(self.host_bytes())
    }

    /// Most bytes that the host holds for one instance. A guest's model exists three times: as bytes, as a
    /// graph, and as weights in the engine's layout.
    fn host_bytes(&self) -> u64 {
        self.host_share().saturating_mul(2).saturating_add(self.guest_models.saturating_mul(3))
    }

    /// The reservation of one request whose model's runs take `activation` bytes.
    #[must_use]
    pub fn need(&self, activation: u64) -> Need {
        Need { instance: self.one(), activation }
    }
}

/// Bytes of one connection, with a buffer of `max_head` bytes in each direction.
fn connection(max_head: u32) -> u64 {
    CONNECTION + 2 * u64::from(max_head)
}

/// Divides a budget: first what is fixed (the runner, connections, bodies, pages), then one instance, as
/// large as is left and allowed, then as many more of them as there are cores.
fn divide(
    budget: Option<u64>,
    runner: u64,
    cores: usize,
    overrides: Overrides,
) -> Result<Plan, NoRoom> {
    let eighth = budget.map_or(u64::MAX, |bytes| bytes / 8);
    let connections = eighth / 2 / connection(overrides.max_head);
    let connections = usize::try_from(connections).unwrap_or(usize::MAX);
    let connections = connections.clamp(FEWEST_CONNECTIONS, MOST_CONNECTIONS);
    // The buffers of all connections, in both directions, take at most half of `pages`, unless there are the
    // fewest connections with the smallest buffers.
    let buffer = eighth / 4 / connections as u64;
    let buffer = u32::try_from(buffer).unwrap_or(u32::MAX);
    let buffer = buffer.clamp(SMALLEST_SOCKET_BUFFER, LARGEST_SOCKET_BUFFER);
    let buffers = 2 * connections as u64 * u64::from(buffer);
    let mut plan = Plan {
        runner,
        connections,
        max_head: overrides.max_head,
        socket_buffer: buffer,
        uploads: overrides.max_body.saturating_mul(UPLOADS).min(eighth),
        pages: eighth.min(PAGES.max(2 * buffers)),
        instance: overrides.instance.unwrap_or(INSTANCE),
        guest_models: overrides.guest_models,
        concurrency: overrides.concurrency.unwrap_or(cores).max(1),
        models: None,
    };
    let Some(budget) = budget else {
        plan.pages = 0;
        return Ok(plan);
    };
    let left = budget.saturating_sub(plan.fixed() + plan.pages).saturating_sub(ASSUMED_ACTIVATION);
    plan.instance = instance(left, overrides);
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

/// The linear memory of an instance that has `left` bytes with the host's memory for it.
fn instance(left: u64, overrides: Overrides) -> u64 {
    overrides.instance.unwrap_or_else(|| {
        // Eight tenths are the instance's own memory, twice one tenth is the host's share.
        let left = left.saturating_sub(overrides.guest_models.saturating_mul(3));
        let fits = (left / 10 * 8).min(left.saturating_sub(2 * SMALLEST_SHARE)) >> 20 << 20;
        fits.clamp(SMALLEST_INSTANCE, INSTANCE)
    })
}

/// Divides a small budget for one request at a time: few connections, and for bodies what the smallest
/// instance leaves, at most an eighth. `pages` are not set apart, because a request that runs alone may use
/// them (see [`super::Ledger`]).
fn divide_small(
    budget: u64,
    runner: u64,
    overrides: Overrides,
    models: ModelNeeds,
) -> Result<Plan, NoRoom> {
    let mut plan = Plan {
        runner,
        connections: SMALL_CONNECTIONS,
        max_head: overrides.max_head,
        socket_buffer: SMALLEST_SOCKET_BUFFER,
        uploads: 0,
        pages: budget / 8,
        instance: overrides.instance.unwrap_or(SMALLEST_INSTANCE),
        guest_models: overrides.guest_models,
        concurrency: overrides.concurrency.unwrap_or(1).max(1),
        models: Some(models),
    };
    let taken = plan.fixed().saturating_add(models.private).saturating_add(models.run);
    let left = budget.saturating_sub(taken);
    let most = overrides.max_body.saturating_mul(UPLOADS).min(budget / 8);
    plan.uploads = left.saturating_sub(plan.one()).max(SMALLEST_UPLOADS).min(most);
    let left = left.saturating_sub(plan.uploads);
    plan.instance = instance(left, overrides);
    if plan.one() > left {
        return Err(NoRoom { budget, plan });
    }
    Ok(plan)
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.plan;
        let models = plan.models.unwrap_or(ModelNeeds { private: 0, run: ASSUMED_ACTIVATION });
        let rows = [
            ("the runner itself", plan.runner),
            ("connections", plan.connections_bytes()),
            ("request bodies", plan.uploads),
            ("one instance (--max-instance-memory)", plan.instance),
            ("the host's memory for it", plan.host_bytes()),
            ("models, without their files", models.private),
            ("one run of a model", models.run),
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
            "Raise --memory-limit or the control group's limit, or lower --max-instance-memory, or pack the \
             model for cellnet (skincell model pack), whose runs take less."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, ModelNeeds, Overrides, Plan, divide, divide_small};

    const MIB: u64 = 1 << 20;
    const OVERRIDES: Overrides = Overrides {
        instance: None,
        concurrency: None,
        max_body: 16 * MIB,
        max_head: 16 << 10,
        guest_models: 0,
        key_value: 0,
    };

    fn plan(budget: u64, overrides: Overrides) -> Result<Plan, super::NoRoom> {
        divide(Some(budget), 5 * MIB, 2, overrides)
    }

    #[test]
    fn the_budget_decides_what_the_user_left_open() {
        let large = plan(2048 * MIB, OVERRIDES).unwrap();
        assert_eq!((large.instance, large.concurrency), (64 * MIB, 2));
        assert_eq!((large.connections, large.uploads), (1024, 64 * MIB));
        for budget in [1 << 10, 2 << 10, 8 << 10, 64 << 10] {
            let plan = plan(budget * MIB, OVERRIDES).unwrap();
            let buffers = 2 * plan.connections as u64 * u64::from(plan.socket_buffer);
            assert!(2 * buffers <= plan.pages, "{budget} MiB: {plan:?}");
        }
        let small = plan(64 * MIB, OVERRIDES).unwrap();
        assert_eq!((small.connections, small.uploads, small.pages), (64, 8 * MIB, 8 * MIB));
        assert_eq!((small.concurrency, small.socket_buffer), (1, 32 << 10));
        assert!(2 * 64 * u64::from(small.socket_buffer) <= small.pages);
        assert!((12 * MIB..24 * MIB).contains(&small.instance), "{small:?}");
        assert!(
            small.fixed() + small.pages + small.need(super::ASSUMED_ACTIVATION).instance
                <= 64 * MIB
        );
        let long_heads = plan(64 * MIB, Overrides { max_head: 48 << 10, ..OVERRIDES }).unwrap();
        assert_eq!(long_heads.fixed() - small.fixed(), (64 + 24) * 2 * (32 << 10));
        let none = divide(None, 5 * MIB, 2, OVERRIDES).unwrap();
        assert_eq!((none.instance, none.concurrency), (64 * MIB, 2));
    }

    #[test]
    fn a_small_budget_is_divided_for_one_request_with_its_models() {
        let models = ModelNeeds { private: MIB, run: 5 * MIB };
        let small = |budget: u64, models| divide_small(budget, 5 * MIB, OVERRIDES, models);
        let sum = |plan: &Plan, models: ModelNeeds| {
            plan.fixed() + plan.need(models.run).instance + models.private + models.run
        };
        let tight = small(32 * MIB, models).unwrap();
        assert_eq!((tight.connections, tight.instance, tight.concurrency), (16, 12 * MIB, 1));
        assert_eq!((tight.uploads, sum(&tight, models)), (5 * MIB / 2, 32 * MIB));
        let roomy = small(48 * MIB, models).unwrap();
        assert_eq!((roomy.uploads, roomy.instance), (6 * MIB, 22 * MIB));
        assert!(sum(&roomy, models) <= 48 * MIB);
        let unknown = ModelNeeds { run: super::ASSUMED_ACTIVATION, ..models };
        let refusal = small(32 * MIB, unknown).unwrap_err().to_string();
        for part in ["one run of a model", "16.0 MiB", "41.5 MiB", "model pack"] {
            assert!(refusal.contains(part), "{refusal}");
        }
    }

    #[test]
    fn a_limit_that_is_cut_deeply_leaves_room_for_one_request() {
        let followed = Budget { bytes: Some(512 * MIB), group: None }.followed();
        let one = 200 * MIB;
        for (limit, budget) in [(256, 256), (1024, 1024), (64, 200)] {
            assert_eq!(followed.taken_up(limit * MIB, one), budget * MIB, "{limit}");
        }
        let beyond = followed.taken_up(64 * MIB, 600 * MIB);
        assert_eq!(beyond, 512 * MIB, "a cut gives no room to a request that never had it");
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
