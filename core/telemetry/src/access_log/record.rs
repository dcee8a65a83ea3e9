//! What a line is made of.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, Version};

use wayline_model::authorization::Marks;
use wayline_model::ext_authz::DynamicMetadata;

use crate::flags::ResponseFlags;

/// One finished request, or one finished connection of opaque bytes. Borrows everything; `None`
/// prints as `-` (text) or `null` (JSON).
///
/// Start from [`Record::new`] and set what is known.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// `%START_TIME%`: when the first byte came.
    pub start: SystemTime,
    /// `%DURATION%`: from the first byte in to the last byte out.
    pub duration: Duration,
    /// `%REQUEST_DURATION%`: from the first to the last byte of the request.
    pub request_duration: Option<Duration>,
    /// `%RESPONSE_DURATION%`: from the first byte of the request to the first byte the upstream sent.
    pub response_duration: Option<Duration>,
    /// `%RESPONSE_TX_DURATION%`: from the upstream's first byte to the last byte out.
    pub response_tx_duration: Option<Duration>,
    /// `%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%`: how long the upstream took. Always from here, never
    /// from the header, which the upstream could have made up.
    pub upstream_service_time: Option<Duration>,
    /// `%REQ(:METHOD)%`.
    pub method: Option<&'a Method>,
    /// `%REQ(:SCHEME)%`.
    pub scheme: Option<&'a str>,
    /// `%REQ(:AUTHORITY)%`.
    pub authority: Option<&'a str>,
    /// `%REQ(:PATH)%`: path and query as they went on after rewriting.
    pub path: Option<&'a str>,
    /// `%REQ(X-ENVOY-ORIGINAL-PATH)%`: path and query before a rewrite; `None` when there was none.
    pub original_path: Option<&'a str>,
    /// `%PROTOCOL%`: the version the client spoke.
    pub protocol: Option<Version>,
    /// Headers for `%REQ(..)%`.
    pub request_headers: Option<&'a HeaderMap>,
    /// Headers for `%RESP(..)%`: those sent to the client.
    pub response_headers: Option<&'a HeaderMap>,
    /// Headers for `%TRAILER(..)%`.
    pub response_trailers: Option<&'a HeaderMap>,
    /// `%RESPONSE_CODE%`; 0 when the client got no response head.
    pub response_code: u16,
    /// `%RESPONSE_FLAGS%`.
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`. White space prints as `_`.
    pub details: Option<&'a str>,
    /// `%CONNECTION_TERMINATION_DETAILS%`. White space prints as `_`.
    pub connection_termination: Option<&'a str>,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub upstream_transport_failure: Option<&'a str>,
    /// `%BYTES_RECEIVED%`: body bytes from the client.
    pub bytes_received: u64,
    /// `%BYTES_SENT%`: body bytes to the client.
    pub bytes_sent: u64,
    /// `%UPSTREAM_HOST%`: the endpoint, also when it was reached through HBONE.
    pub upstream_host: Option<SocketAddr>,
    /// `%UPSTREAM_CLUSTER%` and `%UPSTREAM_CLUSTER_RAW%`.
    pub upstream_cluster: Option<&'a str>,
    /// `%UPSTREAM_LOCAL_ADDRESS%`.
    pub upstream_local_address: Option<SocketAddr>,
    /// `%UPSTREAM_REQUEST_ATTEMPT_COUNT%`: 0 when none was made.
    pub upstream_attempts: u32,
    /// `%UPSTREAM_PEER_URI_SAN%`: the identity the endpoint proved.
    pub upstream_identity: Option<&'a str>,
    /// `%DOWNSTREAM_LOCAL_ADDRESS%`: what the client connected to.
    pub downstream_local_address: Option<SocketAddr>,
    /// `%DOWNSTREAM_REMOTE_ADDRESS%`: who connected.
    pub downstream_remote_address: Option<SocketAddr>,
    /// `%DOWNSTREAM_PEER_URI_SAN%`: the identity the client proved.
    pub downstream_identity: Option<&'a str>,
    /// `%DOWNSTREAM_LOCAL_URI_SAN%`: the identity we proved to the client.
    pub downstream_local_identity: Option<&'a str>,
    /// `%REQUESTED_SERVER_NAME%`: the SNI.
    pub requested_server_name: Option<&'a str>,
    /// `%ROUTE_NAME%`.
    pub route_name: Option<&'a str>,
    /// `%DYNAMIC_METADATA(..)%`, as far as servers that were asked set it.
    pub metadata: Option<&'a DynamicMetadata>,
    /// `%DYNAMIC_METADATA(..)%`, as far as policies set it: what those on trial and AUDIT say.
    pub marks: Option<&'a Marks>,
}

impl Record<'_> {
    /// A record of which only the times are known.
    #[must_use]
    pub fn new(start: SystemTime, duration: Duration) -> Self {
        Self {
            start,
            duration,
            request_duration: None,
            response_duration: None,
            response_tx_duration: None,
            upstream_service_time: None,
            method: None,
            scheme: None,
            authority: None,
            path: None,
            original_path: None,
            protocol: None,
            request_headers: None,
            response_headers: None,
            response_trailers: None,
            response_code: 0,
            flags: ResponseFlags::NONE,
            details: None,
            connection_termination: None,
            upstream_transport_failure: None,
            bytes_received: 0,
            bytes_sent: 0,
            upstream_host: None,
            upstream_cluster: None,
            upstream_local_address: None,
            upstream_attempts: 0,
            upstream_identity: None,
            downstream_local_address: None,
            downstream_remote_address: None,
            downstream_identity: None,
            downstream_local_identity: None,
            requested_server_name: None,
            route_name: None,
            metadata: None,
            marks: None,
        }
    }
}
