//! Where the control side may connect to.
//!
//! Key sets, modules and images are fetched from where a manifest says, and who writes manifests must
//! not gain the network position of the proxy by it. This room owns the decision which addresses may
//! be dialled ([`AddressPolicy`]) and the dialling itself ([`dial`]), both on *resolved* addresses. It
//! refuses to know what is fetched and who asked. The data path does not come by here: backends are
//! what the mesh says they are.

mod dial;
mod policy;

pub use dial::{DialError, Refusal, dial};
pub use policy::{AddressPolicy, Reason};
