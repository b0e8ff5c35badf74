//! Memory: what this process holds (`process`), what it may hold (`group`, `budget`), what it has promised
//! to requests and models (`ledger`), and how close it is to the limit (`gauge`).
//!
//! Private memory decides, because only it is ours alone. Mapped files, weights and code, are counted
//! apart: the kernel takes their pages back when somebody needs them.

mod budget;
mod gauge;
mod group;
mod kept_open;
mod ledger;
mod process;
mod sampled;

pub(crate) use budget::ASSUMED_ACTIVATION;
pub use budget::{Budget, Followed, MemoryLimit, NoRoom, Overrides, Plan};
pub use gauge::{Gauge, Level};
pub use group::MemoryGroup;
pub(crate) use ledger::{AnswerHold, ModelHold, ModelShare};
pub use ledger::{Ledger, Need, Reservation};
pub use process::ProcessMemory;
pub(crate) use sampled::{Sampled, TrackedBytes, sampled};
