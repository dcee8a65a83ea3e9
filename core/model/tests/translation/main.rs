//! Manifests in, behaviour of the snapshot out, through the public face only.

mod enrolment;
mod gateways;
mod incremental;
mod policies;
mod resources;
mod routing;
mod upstream;
mod world;
