//! The admin, status and metrics ports, asked over real sockets.

mod config_dump;
mod pages;
mod readiness;
mod support;
mod switches;
