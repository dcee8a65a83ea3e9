//! Command operators: `%NAME(ARGUMENT):LENGTH%` as one value of a [`Record`].

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use http::header::HOST;
use http::{HeaderMap, HeaderName, Version};
use serde_json::Value;
use wayline_model::authorization::Marks;
use wayline_model::defence::stands;
use wayline_model::ext_authz::{DynamicMetadata, METADATA_NAMESPACE};

use super::escape::Escape;
use super::format::FormatError;
use super::record::Record;
use super::time::TimeFormat;
use crate::metrics::GrpcStatus;

/// Bytes of a line that a path, or anything else that peers send, takes where the format names no length
/// (Envoy cuts nothing).
const LONGEST_PATH: usize = 2048;
const LONGEST_VALUE: usize = 1024;

/// One operator, ready to be written.
#[derive(Clone, Debug)]
pub(super) enum Operator {
    StartTime(TimeFormat),
    Request(Choice<RequestField>),
    RequestWithoutQuery(Choice<RequestField>),
    Response(Choice<ResponseField>),
    Trailer(Choice<HeaderName>),
    Protocol,
    ResponseCode,
    ResponseFlags,
    Details,
    ConnectionTermination,
    UpstreamTransportFailure,
    BytesReceived,
    BytesSent,
    Duration,
    RequestDuration,
    ResponseDuration,
    ResponseTxDuration,
    UpstreamHost(Part),
    UpstreamCluster,
    UpstreamLocalAddress(Part),
    UpstreamAttempts,
    UpstreamIdentity,
    DownstreamLocalAddress(Part),
    DownstreamRemoteAddress(Part),
    DownstreamIdentity,
    DownstreamLocalIdentity,
    RequestedServerName,
    RouteName,
    GrpcStatus,
    GrpcStatusNumber,
    Hostname(Box<str>),
    Mark(MarkField),
    Metadata(Box<[Box<str>]>),
}

/// `FIRST?SECOND` with the most bytes to show.
#[derive(Clone, Debug)]
pub(super) struct Choice<F> {
    first: F,
    second: Option<F>,
    length: usize,
}

/// Where `%REQ(..)%` looks.
#[derive(Clone, Debug)]
pub(super) enum RequestField {
    Method,
    Scheme,
    Authority,
    Path,
    OriginalPath,
    Header(HeaderName),
}

/// Where `%RESP(..)%` looks.
#[derive(Clone, Debug)]
pub(super) enum ResponseField {
    Status,
    ServiceTime,
    Header(HeaderName),
}

/// Which part of an address is shown.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Whole,
    Address,
    Port,
}

/// Metadata of Envoy's RBAC filter under Istio, which is all there is of metadata here.
#[derive(Clone, Copy, Debug)]
pub(super) enum MarkField {
    DenyResult,
    DenyRule,
    AllowResult,
    AllowRule,
    /// Whether an AUDIT policy marks it.
    Audit,
}

impl Operator {
    /// The operator of a name, its argument in parentheses and its length after a colon.
    pub(super) fn parse(
        name: &str,
        argument: Option<&str>,
        length: Option<usize>,
    ) -> Result<Self, FormatError> {
        let length = match (name, length) {
            ("REQ" | "REQ_WITHOUT_QUERY" | "RESP" | "TRAILER", length) => {
                length.unwrap_or(usize::MAX)
            }
            (_, None) => usize::MAX,
            (_, Some(_)) => return Err(FormatError::argument(name, "it takes no length")),
        };
        if let Some(operator) = Self::with_argument(name, argument, length)? {
            return Ok(operator);
        }
        let Some(operator) = Self::named(name) else {
            return Err(FormatError::UnknownOperator(name.to_owned()));
        };
        match argument {
            None => Ok(operator),
            Some(_) => Err(FormatError::argument(name, "it takes no argument")),
        }
    }

    fn with_argument(
        name: &str,
        argument: Option<&str>,
        length: usize,
    ) -> Result<Option<Self>, FormatError> {
        let given = || argument.ok_or_else(|| FormatError::argument(name, "it names no header"));
        Ok(Some(match name {
            "START_TIME" => Self::StartTime(TimeFormat::compile(argument.unwrap_or_default())?),
            "REQ" => Self::Request(Choice::parse(given()?, length, RequestField::parse)?),
            "REQ_WITHOUT_QUERY" => {
                Self::RequestWithoutQuery(Choice::parse(given()?, length, RequestField::parse)?)
            }
            "RESP" => Self::Response(Choice::parse(given()?, length, ResponseField::parse)?),
            "TRAILER" => Self::Trailer(Choice::parse(given()?, length, header)?),
            "DYNAMIC_METADATA" => metadata(argument.unwrap_or_default())?,
            _ => return Ok(None),
        }))
    }

    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "PROTOCOL" => Self::Protocol,
            "RESPONSE_CODE" => Self::ResponseCode,
            "RESPONSE_FLAGS" => Self::ResponseFlags,
            "RESPONSE_CODE_DETAILS" => Self::Details,
            "CONNECTION_TERMINATION_DETAILS" => Self::ConnectionTermination,
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => Self::UpstreamTransportFailure,
            "BYTES_RECEIVED" => Self::BytesReceived,
            "BYTES_SENT" => Self::BytesSent,
            "DURATION" => Self::Duration,
            "REQUEST_DURATION" => Self::RequestDuration,
            "RESPONSE_DURATION" => Self::ResponseDuration,
            "RESPONSE_TX_DURATION" => Self::ResponseTxDuration,
            "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Self::UpstreamHost(Part::Whole),
            "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Self::UpstreamHost(Part::Address),
            "UPSTREAM_REMOTE_PORT" => Self::UpstreamHost(Part::Port),
            "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Self::UpstreamCluster,
            "UPSTREAM_LOCAL_ADDRESS" => Self::UpstreamLocalAddress(Part::Whole),
            "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::UpstreamLocalAddress(Part::Address),
            "UPSTREAM_LOCAL_PORT" => Self::UpstreamLocalAddress(Part::Port),
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Self::UpstreamAttempts,
            "UPSTREAM_PEER_URI_SAN" => Self::UpstreamIdentity,
            "DOWNSTREAM_LOCAL_ADDRESS" => Self::DownstreamLocalAddress(Part::Whole),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::DownstreamLocalAddress(Part::Address),
            "DOWNSTREAM_LOCAL_PORT" => Self::DownstreamLocalAddress(Part::Port),
            "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => {
                Self::DownstreamRemoteAddress(Part::Whole)
            }
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT"
            | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
                Self::DownstreamRemoteAddress(Part::Address)
            }
            "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => {
                Self::DownstreamRemoteAddress(Part::Port)
            }
            "DOWNSTREAM_PEER_URI_SAN" => Self::DownstreamIdentity,
            "DOWNSTREAM_LOCAL_URI_SAN" => Self::DownstreamLocalIdentity,
            "REQUESTED_SERVER_NAME" => Self::RequestedServerName,
            "ROUTE_NAME" => Self::RouteName,
            "GRPC_STATUS" => Self::GrpcStatus,
            "GRPC_STATUS_NUMBER" => Self::GrpcStatusNumber,
            "HOSTNAME" => Self::Hostname(hostname()),
            _ => return None,
        })
    }

    /// Whether JSON shows it as it is written: a number, or true and false.
    pub(super) fn is_bare(&self) -> bool {
        matches!(
            self,
            Self::ResponseCode
                | Self::BytesReceived
                | Self::BytesSent
                | Self::Duration
                | Self::RequestDuration
                | Self::ResponseDuration
                | Self::ResponseTxDuration
                | Self::UpstreamAttempts
                | Self::GrpcStatusNumber
                | Self::Mark(MarkField::Audit)
                | Self::UpstreamHost(Part::Port)
                | Self::UpstreamLocalAddress(Part::Port)
                | Self::DownstreamLocalAddress(Part::Port)
                | Self::DownstreamRemoteAddress(Part::Port)
        )
    }

    /// Writes the value and says whether there is one. Without one, nothing is written.
    pub(super) fn write(&self, record: &Record<'_>, escape: Escape, out: &mut Vec<u8>) -> bool {
        let text = |value: Option<&str>, out: &mut Vec<u8>| write_text(value, escape, out);
        match self {
            Self::StartTime(format) => {
                format.write(record.start, out);
                true
            }
            Self::Request(choice) => choice.write(out, |field, length, out| {
                field.write(record, length, false, escape, out)
            }),
            Self::RequestWithoutQuery(choice) => choice.write(out, |field, length, out| {
                field.write(record, length, true, escape, out)
            }),
            Self::Response(choice) => choice.write(out, |field, length, out| {
                field.write(record, length, escape, out)
            }),
            Self::Trailer(choice) => choice.write(out, |name, length, out| {
                write_header(record.response_trailers, name, length, escape, out)
            }),
            Self::Protocol => text(record.protocol.and_then(protocol_name), out),
            Self::ResponseCode => number(record.response_code.into(), out),
            Self::ResponseFlags => write_flags(record, out),
            Self::Details => write_word(record.details, escape, out),
            Self::ConnectionTermination => write_word(record.connection_termination, escape, out),
            Self::UpstreamTransportFailure => text(record.upstream_transport_failure, out),
            Self::BytesReceived => number(record.bytes_received, out),
            Self::BytesSent => number(record.bytes_sent, out),
            Self::Duration => write_millis(Some(record.duration), out),
            Self::RequestDuration => write_millis(record.request_duration, out),
            Self::ResponseDuration => write_millis(record.response_duration, out),
            Self::ResponseTxDuration => write_millis(record.response_tx_duration, out),
            Self::UpstreamHost(part) => part.write(record.upstream_host, out),
            Self::UpstreamCluster => text(record.upstream_cluster, out),
            Self::UpstreamLocalAddress(part) => part.write(record.upstream_local_address, out),
            Self::UpstreamAttempts => number(record.upstream_attempts.into(), out),
            Self::UpstreamIdentity => text(record.upstream_identity, out),
            Self::DownstreamLocalAddress(part) => part.write(record.downstream_local_address, out),
            Self::DownstreamRemoteAddress(part) => {
                part.write(record.downstream_remote_address, out)
            }
            Self::DownstreamIdentity => text(record.downstream_identity, out),
            Self::DownstreamLocalIdentity => text(record.downstream_local_identity, out),
            Self::RequestedServerName => text(record.requested_server_name, out),
            Self::RouteName => text(record.route_name, out),
            Self::GrpcStatus => {
                let name = grpc_status(record).and_then(|status| grpc_name(status.code()));
                text(name, out)
            }
            Self::GrpcStatusNumber => {
                grpc_status(record).is_some_and(|status| number(status.code().into(), out))
            }
            Self::Mark(field) => field.write(record.marks, escape, out),
            Self::Metadata(path) => write_metadata(record.metadata, path, escape, out),
            Self::Hostname(name) => text(Some(name).filter(|n| !n.is_empty()).map(|n| &**n), out),
        }
    }
}

impl<F> Choice<F> {
    fn parse(
        argument: &str,
        length: usize,
        field: impl Fn(&str) -> Result<F, FormatError>,
    ) -> Result<Self, FormatError> {
        let (first, second) = match argument.split_once('?') {
            Some((first, second)) => (first, Some(field(second)?)),
            None => (argument, None),
        };
        Ok(Self {
            first: field(first)?,
            second,
            length,
        })
    }

    fn write(&self, out: &mut Vec<u8>, write: impl Fn(&F, usize, &mut Vec<u8>) -> bool) -> bool {
        if write(&self.first, self.length, out) {
            return true;
        }
        let second = self.second.as_ref();
        second.is_some_and(|second| write(second, self.length, out))
    }
}

impl RequestField {
    fn parse(name: &str) -> Result<Self, FormatError> {
        Ok(match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":scheme" => Self::Scheme,
            ":authority" => Self::Authority,
            ":path" => Self::Path,
            "x-envoy-original-path" => Self::OriginalPath,
            _ => match header(name)? {
                HOST => Self::Authority,
                name => Self::Header(name),
            },
        })
    }

    fn write(
        &self,
        record: &Record<'_>,
        length: usize,
        without_query: bool,
        escape: Escape,
        out: &mut Vec<u8>,
    ) -> bool {
        let value = match self {
            Self::Method => record.method.map(|method| method.as_str()),
            Self::Scheme => record.scheme,
            Self::Authority => record.authority,
            Self::Path => record.path,
            Self::OriginalPath => record.original_path,
            Self::Header(name) => {
                return write_header(record.request_headers, name, length, escape, out);
            }
        };
        let Some(mut value) = value else {
            return false;
        };
        if without_query {
            value = value.split_once('?').map_or(value, |(path, _)| path);
        }
        let longest = match self {
            Self::Path | Self::OriginalPath => LONGEST_PATH,
            _ => LONGEST_VALUE,
        };
        write_cut(value.as_bytes(), length, longest, escape, out);
        true
    }
}

impl ResponseField {
    fn parse(name: &str) -> Result<Self, FormatError> {
        Ok(match name.to_ascii_lowercase().as_str() {
            ":status" => Self::Status,
            "x-envoy-upstream-service-time" => Self::ServiceTime,
            _ => Self::Header(header(name)?),
        })
    }

    fn write(&self, record: &Record<'_>, length: usize, escape: Escape, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Status => record.response_code != 0 && number(record.response_code.into(), out),
            Self::ServiceTime => write_millis(record.upstream_service_time, out),
            Self::Header(name) => write_header(record.response_headers, name, length, escape, out),
        }
    }
}

/// What servers tell is found by namespace and keys; what policies say has names of its own.
fn metadata(argument: &str) -> Result<Operator, FormatError> {
    let path: Box<[Box<str>]> = argument.split(':').map(Into::into).collect();
    match path.first() {
        Some(namespace) if **namespace == *METADATA_NAMESPACE => Ok(Operator::Metadata(path)),
        _ => MarkField::parse(argument).map(Operator::Mark),
    }
}

/// Text as it is, everything else as JSON (Envoy).
fn write_metadata(
    all: Option<&DynamicMetadata>,
    path: &[Box<str>],
    escape: Escape,
    out: &mut Vec<u8>,
) -> bool {
    let mut keys = path.iter();
    let first = all.zip(keys.next());
    let mut found = first.and_then(|(all, namespace)| all.get(&**namespace));
    for key in keys {
        found = found.and_then(|value| value.get(&**key));
    }
    match found {
        None => false,
        Some(Value::String(text)) => write_text(Some(text), escape, out),
        Some(other) => write_text(Some(&other.to_string()), escape, out),
    }
}

impl MarkField {
    fn parse(argument: &str) -> Result<Self, FormatError> {
        Ok(match argument {
            "envoy.filters.http.rbac:istio_dry_run_deny_shadow_engine_result" => Self::DenyResult,
            "envoy.filters.http.rbac:istio_dry_run_deny_shadow_effective_policy_id" => {
                Self::DenyRule
            }
            "envoy.filters.http.rbac:istio_dry_run_allow_shadow_engine_result" => Self::AllowResult,
            "envoy.filters.http.rbac:istio_dry_run_allow_shadow_effective_policy_id" => {
                Self::AllowRule
            }
            "envoy.common:access_log_hint" => Self::Audit,
            _ => {
                let known = "of metadata it shows what Istio's dry runs say \
                    (envoy.filters.http.rbac:istio_dry_run_{deny,allow}_shadow_{engine_result,effective_policy_id}) \
                    envoy.common:access_log_hint, and what is in envoy.filters.http.ext_authz";
                return Err(FormatError::argument("DYNAMIC_METADATA", known));
            }
        })
    }

    fn write(self, marks: Option<&Marks>, escape: Escape, out: &mut Vec<u8>) -> bool {
        let Some(marks) = marks else {
            return false;
        };
        let verdict = match self {
            Self::DenyResult | Self::DenyRule => marks.dry_run_deny.as_ref(),
            Self::AllowResult | Self::AllowRule => marks.dry_run_allow.as_ref(),
            Self::Audit => {
                let is_marked: &[u8] = match marks.audited {
                    Some(_) => b"true",
                    None => b"false",
                };
                if marks.is_audit_asked {
                    out.extend_from_slice(is_marked);
                }
                return marks.is_audit_asked;
            }
        };
        let Some(verdict) = verdict else {
            return false;
        };
        match self {
            Self::DenyRule | Self::AllowRule => {
                let rule = verdict.rule().map(ToString::to_string);
                write_text(rule.as_deref(), escape, out)
            }
            _ if verdict.is_allowed() => write_text(Some("allowed"), escape, out),
            _ => write_text(Some("denied"), escape, out),
        }
    }
}

impl Part {
    fn write(self, address: Option<SocketAddr>, out: &mut Vec<u8>) -> bool {
        let Some(address) = address else {
            return false;
        };
        // Writing to a Vec can not fail.
        let _ = match self {
            Self::Whole => write!(out, "{address}"),
            Self::Address => write!(out, "{}", address.ip()),
            Self::Port => write!(out, "{}", address.port()),
        };
        true
    }
}

fn header(name: &str) -> Result<HeaderName, FormatError> {
    HeaderName::try_from(name).map_err(|_| FormatError::Header(name.to_owned()))
}

fn write_header(
    headers: Option<&HeaderMap>,
    name: &HeaderName,
    length: usize,
    escape: Escape,
    out: &mut Vec<u8>,
) -> bool {
    let Some(value) = headers.and_then(|headers| headers.get(name)) else {
        return false;
    };
    write_cut(value.as_bytes(), length, LONGEST_VALUE, escape, out);
    true
}

/// Writes what a peer sent: as much as the format says, or where it says nothing, as keeps a line one
/// that is read.
fn write_cut(value: &[u8], length: usize, longest: usize, escape: Escape, out: &mut Vec<u8>) {
    match value.get(..length) {
        Some(shortened) => escape.write(shortened, out),
        None if length < usize::MAX || !stands("log-lengths") => escape.write(value, out),
        None => escape.write_at_most(value, longest, out),
    }
}

fn write_text(value: Option<&str>, escape: Escape, out: &mut Vec<u8>) -> bool {
    let Some(value) = value else {
        return false;
    };
    escape.write(value.as_bytes(), out);
    true
}

fn write_word(value: Option<&str>, escape: Escape, out: &mut Vec<u8>) -> bool {
    let Some(value) = value else {
        return false;
    };
    escape.write_word(value, out);
    true
}

fn write_flags(record: &Record<'_>, out: &mut Vec<u8>) -> bool {
    if record.flags.is_empty() {
        // A dash in JSON, too: no flag is an answer, not a missing one.
        out.push(b'-');
    }
    for (i, flag) in record.flags.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(flag.short_name().as_bytes());
    }
    true
}

fn write_millis(duration: Option<Duration>, out: &mut Vec<u8>) -> bool {
    let millis = duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    millis.is_some_and(|millis| number(millis, out))
}

fn number(value: u64, out: &mut Vec<u8>) -> bool {
    // Writing to a Vec can not fail.
    let _ = write!(out, "{value}");
    true
}

fn protocol_name(version: Version) -> Option<&'static str> {
    Some(match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => return None,
    })
}

fn grpc_status(record: &Record<'_>) -> Option<GrpcStatus> {
    const GRPC_STATUS: &str = "grpc-status";
    let of = |headers: Option<&HeaderMap>| {
        let value = headers?.get(GRPC_STATUS)?;
        Some(GrpcStatus::parse(value))
    };
    of(record.response_trailers).or_else(|| of(record.response_headers))
}

fn grpc_name(code: u8) -> Option<&'static str> {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    NAMES.get(usize::from(code)).copied()
}

/// The machine's name, which in a cluster is the Pod's; empty where it can not be told.
fn hostname() -> Box<str> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .unwrap_or_default();
    name.trim().into()
}
