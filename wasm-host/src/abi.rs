//! The names by which modules and hosts know each other: Proxy-Wasm 0.1.0 to 0.2.1 as Envoy plays
//! it, and WASI preview 1. Names only; what they do is not known here.

use std::fmt;

use serde::{Serialize, Serializer};

/// A version of the Proxy-Wasm ABI, in the order in which they appeared.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum AbiVersion {
    /// 0.1.0 of February 2020.
    V0_1_0,
    /// 0.2.0; the Go SDKs declare it.
    V0_2_0,
    /// 0.2.1; the Rust and C++ SDKs declare it.
    V0_2_1,
}

impl AbiVersion {
    /// The version that an export of this name declares.
    pub(crate) fn declared_by(export: &str) -> Option<Self> {
        match export {
            "proxy_abi_version_0_1_0" => Some(Self::V0_1_0),
            "proxy_abi_version_0_2_0" => Some(Self::V0_2_0),
            "proxy_abi_version_0_2_1" => Some(Self::V0_2_1),
            _ => None,
        }
    }
}

impl fmt::Display for AbiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_2_1 => "0.2.1",
        })
    }
}

impl Serialize for AbiVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where host functions are imported from.
pub(crate) const HOST: &str = "env";

/// Both names of WASI preview 1; a quarter of the modules in the wild use the older one.
pub(crate) const WASI: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];

/// Functions by which a host gets memory from a module, preferred first.
pub(crate) const ALLOCATORS: [&str; 2] = ["proxy_on_memory_allocate", "malloc"];

/// Host functions of all versions, and what Envoy adds to them.
pub(crate) const HOST_FUNCTIONS: &[&str] = &[
    "emscripten_notify_memory_growth",
    "envoy_resolve_dns",
    "proxy_add_header_map_value",
    "proxy_call_foreign_function",
    "proxy_clear_route_cache",
    "proxy_close_stream",
    "proxy_continue_request",
    "proxy_continue_response",
    "proxy_continue_stream",
    "proxy_define_metric",
    "proxy_dequeue_shared_queue",
    "proxy_done",
    "proxy_enqueue_shared_queue",
    "proxy_get_buffer_bytes",
    "proxy_get_buffer_status",
    "proxy_get_configuration",
    "proxy_get_current_time_nanoseconds",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_size",
    "proxy_get_header_map_value",
    "proxy_get_log_level",
    "proxy_get_metric",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_get_status",
    "proxy_grpc_call",
    "proxy_grpc_cancel",
    "proxy_grpc_close",
    "proxy_grpc_send",
    "proxy_grpc_stream",
    "proxy_http_call",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_record_metric",
    "proxy_register_shared_queue",
    "proxy_remove_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_resolve_shared_queue",
    "proxy_send_local_response",
    "proxy_set_buffer_bytes",
    "proxy_set_effective_context",
    "proxy_set_header_map_pairs",
    "proxy_set_property",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
    "pthread_equal",
];

/// Functions of WASI preview 1.
pub(crate) const WASI_FUNCTIONS: &[&str] = &[
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// How many functions a host offers, by name.
pub(crate) const FUNCTIONS: usize = HOST_FUNCTIONS.len() + WASI_FUNCTIONS.len();

/// The number of a function that is offered, below [`FUNCTIONS`].
pub(crate) fn number_of(module: &str, name: &str) -> Option<usize> {
    let position = |names: &[&str]| names.iter().position(|known| *known == name);
    if module == HOST {
        return position(HOST_FUNCTIONS);
    }
    Some(HOST_FUNCTIONS.len() + position(WASI_FUNCTIONS)?)
}

/// Their names, by number.
pub(crate) fn functions() -> impl Iterator<Item = &'static str> {
    HOST_FUNCTIONS.iter().chain(WASI_FUNCTIONS).copied()
}

/// What a host calls when something happens; each is optional.
pub(crate) const CALLBACKS: &[&str] = &[
    "envoy_on_resolve_dns",
    "envoy_on_stats_update",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_done",
    "proxy_on_downstream_connection_close",
    "proxy_on_downstream_data",
    "proxy_on_foreign_function",
    "proxy_on_grpc_close",
    "proxy_on_grpc_receive",
    "proxy_on_grpc_receive_initial_metadata",
    "proxy_on_grpc_receive_trailing_metadata",
    "proxy_on_http_call_response",
    "proxy_on_log",
    "proxy_on_new_connection",
    "proxy_on_queue_ready",
    "proxy_on_request_body",
    "proxy_on_request_headers",
    "proxy_on_request_metadata",
    "proxy_on_request_trailers",
    "proxy_on_response_body",
    "proxy_on_response_headers",
    "proxy_on_response_metadata",
    "proxy_on_response_trailers",
    "proxy_on_tick",
    "proxy_on_upstream_connection_close",
    "proxy_on_upstream_data",
    "proxy_on_vm_start",
    "proxy_validate_configuration",
];
