//! The resource types Wayline reads.
