//! Fetching for the control side.
//!
//! Key sets, modules and images are fetched from where a manifest says, and who writes manifests must
//! not gain the network position of the proxy by it. This room owns the decision which addresses may
//! be dialled ([`AddressPolicy`]), the dialling itself ([`dial`]), both on *resolved* addresses, and
//! plain requests over it ([`Client`]), whose redirects are judged like first requests and whose
//! answers have limits. It refuses to know what is fetched and who asked. The data path does not come
//! by here: backends are what the mesh says they are. Proxies (`HTTPS_PROXY`) are not supported: what
//! they resolve can not be judged.

mod client;
mod dial;
mod error;
mod policy;
mod url;

pub use client::{Client, Fetched, Limits, Request};
pub use dial::{DialError, Refusal, dial};
pub use error::{FetchError, retriable_status};
pub use policy::{AddressPolicy, Reason};
pub use url::Url;
