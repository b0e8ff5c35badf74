//! Memory: what this process holds (`process`, `sampled`), what it may hold (`group`, `budget`), what it has
//! reserved for requests and models (`ledger`), and how close it is to the limit (`gauge`). Waiting for
//! memory is left to `admission`, loading and unloading models to `nn`.
//!
//! Private memory decides, because the kernel cannot reclaim it. Mapped files, weights and code, are counted
//! separately: the kernel takes their pages back when it needs them.

mod budget;
mod gauge;
mod group;
mod kept_open;
mod ledger;
mod process;
mod sampled;

pub(crate) use budget::ASSUMED_ACTIVATION;
pub use budget::{Budget, Followed, MemoryLimit, ModelNeeds, NoRoom, Overrides, Plan};
pub use gauge::{Gauge, Level};
pub use group::MemoryGroup;
pub(crate) use ledger::{AnswerHold, ModelHold, ModelShare};
pub use ledger::{Ledger, Need, Reservation};
pub use process::{ProcessMemory, address_space_limit};
pub(crate) use sampled::{Sampled, TrackedBytes, sampled};
