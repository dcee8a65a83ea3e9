//! What a contestant is configured for, whoever it is.

/// What stands between a client and the backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Setup {
    /// How requests come in.
    pub door: Door,
    /// How they go out.
    pub upstream: Upstream,
    /// Whether the 10 rules of [`crate::policy`] are enforced.
    pub rules: bool,
    /// Routes at the service, of which requests take the last one; at least 1.
    pub routes: usize,
    /// Policies at the service beyond the rules, none of which matches.
    pub policies: usize,
    /// The Wasm module that is plugged in, if any.
    pub module: Option<Module>,
    /// Whether [`crate::token::TOKEN`] is verified.
    pub token: bool,
}

/// A Wasm module.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Module {
    /// `examples/filters/add-header`, which sets one header of every answer; at the gateway.
    OneHeader,
    /// One that computes for ever where the path begins with [`crate::POISON_PATH`]; at a second service,
    /// [`crate::POISONED_AUTHORITY`].
    Poison,
}

/// How requests come in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Door {
    /// At a gateway's port, HTTP/1.1 or HTTP/2 with prior knowledge as the client likes.
    Plain,
    /// Through a waypoint's HBONE port.
    Hbone,
}

/// How requests go out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Upstream {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/1.1 through the HBONE entrance of a captured pod.
    Hbone,
}

impl Setup {
    /// One route from HTTP/1.1 to HTTP/1.1 and no policy.
    pub const PLAIN: Self = Self {
        door: Door::Plain,
        upstream: Upstream::Http1,
        rules: false,
        routes: 1,
        policies: 0,
        module: None,
        token: false,
    };
}
