//! The filter contract: what a filter is told, what it may answer, and the runner that takes one
//! exchange through a chain of them; beside it the same for the bytes of a connection ([`network`]).
//!
//! This room owns [`Filter`] and [`StreamFilter`], phases and their order, the request context, the
//! port [`Callout`] by which filters reach out, and the runner. It refuses to know sockets, codecs,
//! configuration sources and Wasm: native filters live in `wayline-filters`, the proxy-wasm host in
//! `wayline-wasm-host`, and the data path that drives a chain in `wayline-proxy`.
//!
//! A filter is a step function. It is given an event, may read and edit, and answers [`Step`]. Nothing
//! in here is `Send`: an exchange lives and dies on one core.

pub mod bench;
pub mod body;
pub mod callout;
pub mod chain;
pub mod context;
mod exchange;
pub mod filter;
mod flow;
pub mod network;
pub mod runner;

pub use body::{BodyError, FilteredRequest, FilteredResponse};
pub use callout::{
    Callout, CalloutBody, CalloutError, CalloutFuture, CalloutRequest, CalloutStream, NoCallout,
    OpenFuture, Task,
};
pub use chain::{Chain, Opened, Started};
pub use context::{Connection, RequestContext, RequestFacts, Routed};
pub use filter::{
    Begin, Direction, Filter, FilterSource, Held, LocalReply, Needs, Phase, Placed, ResponseHead,
    Scope, Step, StreamFilter, Summary,
};
pub use network::{
    Closer, ConnectionContext, ConnectionFilter, NetworkBegin, NetworkChain, NetworkEnd,
    NetworkFilter, NetworkRun, NetworkStep, PlacedNetwork,
};
pub use runner::{ChainRun, Interrupt, Outcome};
