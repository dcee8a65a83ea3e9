//! Types and reasons of conditions: those of the Gateway API (apis/v1 `*_types.go`, `shared_types.go`)
//! and of Istio's waypoints (pilot `model/status`). Programs compare them letter by letter.

/// Type: the object was taken.
pub const ACCEPTED: &str = "Accepted";
/// Type: what it asks for is at work.
pub const PROGRAMMED: &str = "Programmed";
/// Type and reason: everything it refers to exists and may be referred to.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// Type: a listener stands against another.
pub const CONFLICTED: &str = "Conflicted";
/// Type: some rules are not served as written, others are.
pub const PARTIALLY_INVALID: &str = "PartiallyInvalid";
/// Type: a service stands behind a waypoint.
pub const WAYPOINT_BOUND: &str = "istio.io/WaypointBound";

/// The parent does not exist, or has no such listener or port.
pub const NO_MATCHING_PARENT: &str = "NoMatchingParent";
/// No listener lets routes of this namespace or kind attach.
pub const NOT_ALLOWED_BY_LISTENERS: &str = "NotAllowedByListeners";
/// Route and listeners have no hostname in common.
pub const NO_MATCHING_LISTENER_HOSTNAME: &str = "NoMatchingListenerHostname";
/// A value that is not supported, or not valid.
pub const UNSUPPORTED_VALUE: &str = "UnsupportedValue";
/// Filters that exclude each other.
pub const INCOMPATIBLE_FILTERS: &str = "IncompatibleFilters";

/// A reference into another namespace that no ReferenceGrant allows.
pub const REF_NOT_PERMITTED: &str = "RefNotPermitted";
/// A reference to a kind that is not supported.
pub const INVALID_KIND: &str = "InvalidKind";
/// A reference to a backend, or a port of one, that does not exist.
pub const BACKEND_NOT_FOUND: &str = "BackendNotFound";

/// Some listeners are not valid.
pub const LISTENERS_NOT_VALID: &str = "ListenersNotValid";
/// An address of a type that can not be bound.
pub const UNSUPPORTED_ADDRESS: &str = "UnsupportedAddress";
/// An address that is not used.
pub const ADDRESS_NOT_USABLE: &str = "AddressNotUsable";
/// Not valid.
pub const INVALID: &str = "Invalid";

/// The listener's port belongs to another.
pub const PORT_UNAVAILABLE: &str = "PortUnavailable";
/// The listener's protocol is not supported.
pub const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
/// Two listeners for the same host and port.
pub const HOSTNAME_CONFLICT: &str = "HostnameConflict";
/// No listener stands against this one.
pub const NO_CONFLICTS: &str = "NoConflicts";
/// Kinds of routes that are not supported.
pub const INVALID_ROUTE_KINDS: &str = "InvalidRouteKinds";

/// The waypoint serves it.
pub const WAYPOINT_ACCEPTED: &str = "WaypointAccepted";
/// The waypoint does not exist, or is none.
pub const WAYPOINT_IS_NOT_READY: &str = "WaypointIsNotReady";
/// The waypoint's listener does not take this namespace.
pub const ATTACHMENT_DENIED: &str = "AttachmentDenied";
/// The waypoint is for the other kind of traffic.
pub const UNSUPPORTED_TRAFFIC_TYPE: &str = "UnsupportedTrafficType";
