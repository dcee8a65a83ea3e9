//! Images: names, pull secrets, the registry's protocol (OCI distribution, Docker Registry v2), and the
//! layouts in which modules are found in the wild.
//!
//! Owns how the bytes of a layer are had and that they are those which the manifest names. Refuses to
//! know what is in a layer.

mod challenge;
mod credentials;
mod manifest;
mod reference;
mod registry;

pub(crate) use credentials::Credentials;
pub(crate) use manifest::Content;
pub(crate) use reference::{Reference, Version};
pub(crate) use registry::Registry;
