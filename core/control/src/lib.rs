//! Where knowledge comes from.
//!
//! This room owns the sources of configuration (a folder of manifests today: read, watched, handed
//! to the model's translation, published with file and line of everything that is wrong), of our own
//! certificate and of token issuers' keys that must be fetched. It refuses to know requests: the data path sees what is published here and
//! nothing else; and it refuses to know what an object means, which is the model's.
//!
//! The paved path: [`FolderSource::start`], then its [`Publication`]; [`check`] for a single look.

mod folder;
pub mod identity;
mod jwks;
mod live;
mod publish;
mod written;

pub use folder::{
    Checked, FolderSource, SourceError, VerdictSink, check, check_objects, yaml_value,
};
pub use identity::IdentityFolder;
pub use jwks::{JwksFetcher, JwksKeys};
pub use live::LiveObjects;
pub use publish::Publication;
pub use written::to_yaml;
