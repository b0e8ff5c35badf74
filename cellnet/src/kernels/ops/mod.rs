//! The operators, each cut into tasks that threads take, generic over the vectors of `arch`.

pub(super) mod conv;
pub(super) mod depthwise;
pub(super) mod elementwise;
pub(super) mod pair;
pub(super) mod pool;
pub(super) mod product;
pub(super) mod winograd;
