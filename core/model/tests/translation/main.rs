//! Manifests in, behaviour of the snapshot out, through the public face only.

#![allow(
    clippy::unwrap_used,
    reason = "a test that finds no value has failed, wherever the question stands"
)]

mod enrolment;
mod gateways;
mod incremental;
mod plugins;
mod policies;
mod resources;
mod routing;
mod statuses;
mod upstream;
mod world;
