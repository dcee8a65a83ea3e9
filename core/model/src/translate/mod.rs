//! Resources in, [`Snapshot`](crate::Snapshot) and findings out.
