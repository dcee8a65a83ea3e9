//! Path normalisation in Istio's modes.

use http::Method;
use http::uri::PathAndQuery;

use super::RequestError;

/// MeshConfig `pathNormalization.normalization`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PathNormalization {
    /// As sent, but for the fragment.
    None,
    /// RFC 3986: dot segments, unreserved characters decoded, backslash to slash. Istio's DEFAULT.
    #[default]
    Base,
    /// BASE, then adjacent slashes merged.
    MergeSlashes,
    /// `%2F` and `%5C` decoded, then MERGE_SLASHES.
    DecodeAndMergeSlashes,
}

pub(super) fn canonical(
    _method: &Method,
    sent: &PathAndQuery,
    _mode: PathNormalization,
) -> Result<(PathAndQuery, Option<PathAndQuery>), RequestError> {
    Ok((sent.clone(), None))
}
