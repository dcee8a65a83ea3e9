//! What a host calls in a module: which callbacks it exports, found once per module, and handles to
//! them, made once per instance.

use wasmtime::{
    ExternType, Instance, Module, ModuleExport, Store, TypedFunc, ValType, WasmParams, WasmResults,
};

use crate::error::LoadError;
use crate::state::State;

/// Declares the callbacks: field, export, and how many `i32` go in and come out.
macro_rules! callbacks {
    ($($(#[$doc:meta])* $field:ident: $name:literal, $inputs:tt -> $outputs:tt;)*) => {
        /// A callback, by which calls are counted and named.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[allow(non_camel_case_types, reason = "named as the fields that hold them")]
        pub(crate) enum Callback {
            $($field,)*
            /// Before any callback: `_initialize`, `main`, `_start`.
            entry,
        }

        impl Callback {
            /// All of them, in the order of their discriminants.
            pub(crate) const ALL: &[Self] = &[$(Self::$field,)* Self::entry];

            /// The name of the export.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$field => $name,)*
                    Self::entry => "start",
                }
            }
        }

        /// Which callbacks a module exports.
        #[derive(Clone, Default)]
        pub(crate) struct Exported {
            $(pub(crate) $field: Option<ModuleExport>,)*
        }

        impl Exported {
            /// Looks the callbacks up. One with a signature of its own is refused.
            pub(crate) fn of(module: &Module) -> Result<Self, LoadError> {
                Ok(Self {
                    $($field: callbacks!(@find module, $name, $inputs, $outputs),)*
                })
            }

            /// Their names.
            pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
                [$(self.$field.as_ref().map(|_| $name),)*].into_iter().flatten()
            }
        }

        /// The callbacks of an instance.
        #[derive(Default)]
        pub(crate) struct Callbacks {
            $(pub(crate) $field: callbacks!(@slot $inputs, $outputs),)*
        }

        impl Callbacks {
            pub(crate) fn of(
                exported: &Exported,
                instance: &Instance,
                store: &mut Store<State>,
            ) -> wasmtime::Result<Self> {
                Ok(Self {
                    $($field: callbacks!(@bind exported.$field, instance, store, $inputs, $outputs),)*
                })
            }
        }
    };
    (@find $module:ident, $name:literal, (2 or 3), $outputs:tt) => {
        find($module, $name, &[2, 3], callbacks!(@count $outputs))?
    };
    (@find $module:ident, $name:literal, $inputs:tt, $outputs:tt) => {
        find($module, $name, &[$inputs], callbacks!(@count $outputs))?
    };
    (@count ()) => { 0 };
    (@count u32) => { 1 };
    (@slot 1, $outputs:ty) => { Option<TypedFunc<u32, $outputs>> };
    (@slot 2, $outputs:ty) => { Option<TypedFunc<(u32, u32), $outputs>> };
    (@slot 3, $outputs:ty) => { Option<TypedFunc<(u32, u32, u32), $outputs>> };
    (@slot 5, $outputs:ty) => { Option<TypedFunc<(u32, u32, u32, u32, u32), $outputs>> };
    (@slot (2 or 3), $outputs:ty) => { Option<HeadersCallback> };
    (@bind $export:expr, $instance:ident, $store:ident, (2 or 3), $outputs:ty) => {
        match &$export {
            Some(export) => Some(HeadersCallback::bind(export, $instance, $store)?),
            None => None,
        }
    };
    (@bind $export:expr, $instance:ident, $store:ident, $inputs:tt, $outputs:ty) => {
        match &$export {
            Some(export) => Some(bind(export, $instance, $store)?),
            None => None,
        }
    };
}

callbacks! {
    context_create: "proxy_on_context_create", 2 -> ();
    vm_start: "proxy_on_vm_start", 2 -> u32;
    configure: "proxy_on_configure", 2 -> u32;
    tick: "proxy_on_tick", 1 -> ();
    queue_ready: "proxy_on_queue_ready", 2 -> ();
    request_headers: "proxy_on_request_headers", (2 or 3) -> u32;
    request_body: "proxy_on_request_body", 3 -> u32;
    request_trailers: "proxy_on_request_trailers", 2 -> u32;
    response_headers: "proxy_on_response_headers", (2 or 3) -> u32;
    response_body: "proxy_on_response_body", 3 -> u32;
    response_trailers: "proxy_on_response_trailers", 2 -> u32;
    new_connection: "proxy_on_new_connection", 1 -> u32;
    downstream_data: "proxy_on_downstream_data", 3 -> u32;
    upstream_data: "proxy_on_upstream_data", 3 -> u32;
    downstream_close: "proxy_on_downstream_connection_close", 2 -> ();
    upstream_close: "proxy_on_upstream_connection_close", 2 -> ();
    http_call_response: "proxy_on_http_call_response", 5 -> ();
    grpc_initial_metadata: "proxy_on_grpc_receive_initial_metadata", 3 -> ();
    grpc_receive: "proxy_on_grpc_receive", 3 -> ();
    grpc_trailing_metadata: "proxy_on_grpc_receive_trailing_metadata", 3 -> ();
    grpc_close: "proxy_on_grpc_close", 3 -> ();
    done: "proxy_on_done", 1 -> u32;
    log: "proxy_on_log", 1 -> ();
    delete: "proxy_on_delete", 1 -> ();
}

/// `proxy_on_{request,response}_headers`, whose third parameter came with 0.2.0.
#[derive(Clone)]
pub(crate) enum HeadersCallback {
    /// 0.1.0: context, number of headers.
    Two(TypedFunc<(u32, u32), u32>),
    /// Since 0.2.0: and whether the stream ends with them.
    Three(TypedFunc<(u32, u32, u32), u32>),
}

impl HeadersCallback {
    pub(crate) fn call(
        &self,
        store: &mut Store<State>,
        context: u32,
        headers: u32,
        end_of_stream: bool,
    ) -> wasmtime::Result<u32> {
        match self {
            Self::Two(function) => function.call(store, (context, headers)),
            Self::Three(function) => function.call(store, (context, headers, end_of_stream.into())),
        }
    }

    fn bind(
        export: &ModuleExport,
        instance: &Instance,
        store: &mut Store<State>,
    ) -> wasmtime::Result<Self> {
        match bind(export, instance, store) {
            Ok(function) => Ok(Self::Three(function)),
            Err(_) => bind(export, instance, store).map(Self::Two),
        }
    }
}

/// A handle to an export.
pub(crate) fn bind<P: WasmParams, R: WasmResults>(
    export: &ModuleExport,
    instance: &Instance,
    store: &mut Store<State>,
) -> wasmtime::Result<TypedFunc<P, R>> {
    let function = instance
        .get_module_export(&mut *store, export)
        .and_then(wasmtime::Extern::into_func)
        .ok_or_else(|| wasmtime::Error::msg("an export is not what it was at loading"))?;
    function.typed(&*store)
}

/// The export of that name, where it is a function of so many `i32`.
pub(crate) fn find(
    module: &Module,
    name: &'static str,
    inputs: &[usize],
    outputs: usize,
) -> Result<Option<ModuleExport>, LoadError> {
    let Some(ExternType::Func(signature)) = module.get_export(name) else {
        return Ok(None);
    };
    let only_i32 = signature
        .params()
        .chain(signature.results())
        .all(|value| matches!(value, ValType::I32));
    let fits = only_i32
        && inputs.contains(&signature.params().len())
        && signature.results().len() == outputs;
    if !fits {
        let many = |count: usize| vec!["i32"; count].join(", ");
        let expected: Vec<_> = inputs.iter().map(|count| many(*count)).collect();
        return Err(LoadError::Callback {
            name,
            found: signature.to_string().into(),
            expected: format!("({}) -> ({})", expected.join(") or ("), many(outputs)).into(),
        });
    }
    Ok(module.get_export_index(name))
}
