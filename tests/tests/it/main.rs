//! Black-box tests: `wayline run` on a folder of manifests, real sockets, real Envoy and curl.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attacks;
mod authorization;
mod authorization_same;
mod bodies;
mod certificates;
mod cli;
mod config;
mod cors;
mod drain;
mod edges;
mod ext_authz;
mod external_auth;
mod figures;
mod framing;
mod gateway;
mod grpc;
mod hbone;
mod hbone_out;
mod jwt;
mod mirrors;
mod modules;
mod poison;
mod protocol;
mod retries;
mod routing;
mod sandwich;
mod scene;
mod sessions;
mod shapes;
mod silence;
mod telemetry;
mod timeouts;
mod traces;
#[cfg(feature = "undefended")]
mod undefended;
mod unruly;
mod upgrades;
mod upstream;
mod wasm;
mod wasm_network;
mod wasm_same;
mod zones;
