//! The resource types Wayline reads.

pub mod meta;
pub mod policy;
