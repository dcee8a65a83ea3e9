//! Exchanges through chains of scripted filters.

mod bodies;
mod driven;
mod order;
mod probe;
mod replies;
