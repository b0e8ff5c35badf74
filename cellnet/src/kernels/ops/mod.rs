//! The operators, each divided into tasks for threads, generic over the vectors of `arch`.

pub(super) mod attention;
pub(super) mod conv;
pub(super) mod depthwise;
pub(super) mod elementwise;
pub(super) mod pair;
pub(super) mod panels;
pub(super) mod pool;
pub(super) mod product;
pub(super) mod quantize;
pub(super) mod tokens;
pub(super) mod winograd;
