//! The key of a series: ids and small enums, packed into a few words for hashing.

use std::hash::{Hash, Hasher};

use http::HeaderValue;

use super::labels::{DestinationId, PeerId, WorkloadId};
use crate::flags::ResponseFlags;

/// Which side reports: the `reporter` label.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reporter {
    /// `waypoint`.
    Waypoint,
    /// `source`: a gateway, which is the client of what it reports.
    Gateway,
}

impl Reporter {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Waypoint => "waypoint",
            Self::Gateway => "source",
        }
    }
}

impl From<wayline_model::snapshot::ProxyRole> for Reporter {
    fn from(role: wayline_model::snapshot::ProxyRole) -> Self {
        use wayline_model::snapshot::ProxyRole;
        match role {
            ProxyRole::Waypoint => Self::Waypoint,
            ProxyRole::Gateway => Self::Gateway,
        }
    }
}

/// The `request_protocol` label of HTTP requests. TCP connections are `tcp`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RequestProtocol {
    /// `http`.
    Http,
    /// `grpc`.
    Grpc,
}

impl RequestProtocol {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }

    /// gRPC when the request's content type is `application/grpc` or begins with
    /// `application/grpc+` (gRPC over HTTP/2, "Content-Type"), else HTTP.
    #[must_use]
    pub fn of_content_type(content_type: Option<&HeaderValue>) -> Self {
        let Some(rest) =
            content_type.and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        else {
            return Self::Http;
        };
        match rest.first() {
            None | Some(b'+' | b';') => Self::Grpc,
            Some(_) => Self::Http,
        }
    }
}

/// The `connection_security_policy` label.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SecurityPolicy {
    /// `mutual_tls`: the request came through HBONE.
    MutualTls,
    /// `none`: the client spoke plain text.
    None,
    /// `unknown`: as gateways report it.
    Unknown,
}

impl SecurityPolicy {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// The `grpc_response_status` label: 0 to 16.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct GrpcStatus(u8);

impl GrpcStatus {
    /// What a number that is no gRPC status counts as: 2, UNKNOWN.
    pub const UNKNOWN: Self = Self(2);

    /// A status code; anything above 16 is [`Self::UNKNOWN`], so that a backend can not make
    /// series at will.
    #[must_use]
    pub fn new(code: u32) -> Self {
        match u8::try_from(code) {
            Ok(code @ 0..=16) => Self(code),
            _ => Self::UNKNOWN,
        }
    }

    /// Reads a `grpc-status` header or trailer.
    #[must_use]
    pub fn parse(value: &HeaderValue) -> Self {
        let code = value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok());
        code.map_or(Self::UNKNOWN, Self::new)
    }

    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        self.0
    }
}

/// What tells one request series from another.
#[derive(Clone, Copy, Debug)]
pub struct RequestKey<'a> {
    /// Who reports.
    pub reporter: Reporter,
    /// Who asked. At a gateway: the gateway itself, as Istio has it.
    pub peer: &'a PeerId,
    /// What was asked for.
    pub destination: &'a DestinationId,
    /// Who served; [`super::WorkloadLabels::unknown`] when no endpoint was chosen.
    pub workload: &'a WorkloadId,
    /// Status sent to the client; 0 when it got no response head.
    pub response_code: u16,
    /// Why it ended so.
    pub flags: ResponseFlags,
    /// HTTP or gRPC.
    pub protocol: RequestProtocol,
    /// How the request reached us.
    pub security: SecurityPolicy,
    /// `None` where there was no `grpc-status`; the label is then empty, as in Istio.
    pub grpc_status: Option<GrpcStatus>,
}

/// What tells one TCP series from another.
#[derive(Clone, Copy, Debug)]
pub struct TcpKey<'a> {
    /// Who reports.
    pub reporter: Reporter,
    /// Who connected.
    pub peer: &'a PeerId,
    /// What for.
    pub destination: &'a DestinationId,
    /// Who serves.
    pub workload: &'a WorkloadId,
    /// Why the connection ended so; empty while it is open.
    pub flags: ResponseFlags,
    /// How the connection reached us.
    pub security: SecurityPolicy,
}

/// A key by value. Ids are those of one core.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct PackedKey {
    peer: u32,
    destination: u32,
    workload: u32,
    flags: u32,
    rest: u64,
}

impl PackedKey {
    pub(super) fn of_request(key: &RequestKey<'_>) -> Self {
        const NO_STATUS: u8 = u8::MAX;
        let grpc = key.grpc_status.map_or(NO_STATUS, GrpcStatus::code);
        Self {
            peer: key.peer.0.id,
            destination: key.destination.0.id,
            workload: key.workload.0.id,
            flags: key.flags.bits(),
            rest: u64::from(key.response_code)
                | u64::from(grpc) << 16
                | (key.protocol as u64) << 24
                | (key.security as u64) << 28
                | (key.reporter as u64) << 32,
        }
    }

    pub(super) fn of_tcp(key: &TcpKey<'_>) -> Self {
        Self {
            peer: key.peer.0.id,
            destination: key.destination.0.id,
            workload: key.workload.0.id,
            flags: key.flags.bits(),
            rest: (key.security as u64) << 28 | (key.reporter as u64) << 32,
        }
    }
}

impl Hash for PackedKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.peer) << 32 | u64::from(self.destination));
        state.write_u64(u64::from(self.workload) << 32 | u64::from(self.flags));
        state.write_u64(self.rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_status_is_a_small_number_whatever_the_backend_says() {
        let parse = |text| GrpcStatus::parse(&HeaderValue::from_static(text)).code();
        assert_eq!(parse("0"), 0);
        assert_eq!(parse("16"), 16);
        assert_eq!(parse("17"), 2);
        assert_eq!(parse("-1"), 2);
        assert_eq!(parse("99999999999999999999"), 2);
        assert_eq!(parse(""), 2);
    }

    #[test]
    fn grpc_web_is_not_grpc() {
        let of = |text| RequestProtocol::of_content_type(Some(&HeaderValue::from_static(text)));
        assert_eq!(of("application/grpc"), RequestProtocol::Grpc);
        assert_eq!(of("application/grpc+proto"), RequestProtocol::Grpc);
        assert_eq!(of("application/grpc-web"), RequestProtocol::Http);
        assert_eq!(
            RequestProtocol::of_content_type(None),
            RequestProtocol::Http
        );
    }
}
