//! Properties: Envoy's attributes in Envoy's encodings, and who calls.
//!
//! A path is segments joined by NUL. Numbers are eight bytes, little endian; a bool is one byte; times
//! are nanoseconds; maps are pairs; everything else is text. What we do not know is not found, never
//! made up.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, Version};
use serde_json::Value;
use wayline_chain::Connection;
use wayline_model::ext_authz::DynamicMetadata;
use wayline_model::workload::Workload;

use crate::certificate;
use crate::headers::{self, scheme};
use crate::pairs;
use crate::place::Place;
use crate::state::{Exchange, State};
use crate::status::{Answer, Map, Status};

/// Values of filter state that one exchange may carry, and their bytes.
const MAX_VALUES: usize = 256;
const MAX_BYTES: usize = 1 << 20;

/// Writes the value at a path, if there is one.
pub(crate) fn read(state: &State, path: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut segments = path.split(|byte| *byte == 0);
    let first = std::str::from_utf8(segments.next()?).ok()?;
    let rest: Vec<&str> = segments
        .map(std::str::from_utf8)
        .collect::<Result<_, _>>()
        .ok()?;
    let out = &mut Out(out);
    let known = match (first, &rest[..]) {
        ("plugin_name", []) => out.text(&state.plugin.name),
        ("plugin_root_id", []) => out.text(&state.plugin.root_id),
        ("plugin_vm_id", []) => out.text(""),
        ("listener_direction", []) | ("xds", ["listener_direction"]) => out.int(INBOUND),
        ("node", rest) | ("xds", ["node", rest @ ..]) => node(place(state)?, rest, out),
        _ => of_exchange(state, first, &rest, out),
    };
    known.or_else(|| stored(state, path, first, &rest, out))
}

/// Stores a value under a name of filter state.
pub(crate) fn store(state: &mut State, name: &[u8], value: &[u8]) -> Answer {
    let values = match state.exchange() {
        Ok(exchange) => &mut exchange.context.filter_state,
        Err(_) => &mut state.properties,
    };
    let value = Bytes::copy_from_slice(value);
    let bytes: usize = values
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes + name.len() + value.len() > MAX_BYTES {
        return Err(Status::BadArgument);
    }
    if let Some(known) = values.iter_mut().find(|(known, _)| **known == *name) {
        known.1 = value;
        return Ok(());
    }
    if values.len() >= MAX_VALUES {
        return Err(Status::BadArgument);
    }
    values.push((name.into(), value));
    Ok(())
}

/// Envoy's `TrafficDirection`.
const INBOUND: i64 = 1;

/// Where values are written to.
struct Out<'a>(&'a mut Vec<u8>);

impl Out<'_> {
    fn text(&mut self, text: &str) -> Option<()> {
        self.bytes(text.as_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.0.extend_from_slice(bytes);
        Some(())
    }

    fn int(&mut self, value: i64) -> Option<()> {
        self.bytes(&value.to_le_bytes())
    }

    fn size(&mut self, value: usize) -> Option<()> {
        self.int(i64::try_from(value).ok()?)
    }

    fn bool(&mut self, value: bool) -> Option<()> {
        self.bytes(&[value.into()])
    }
}

/// What was stored: under the whole path, or as filter state by name.
fn stored(state: &State, path: &[u8], first: &str, rest: &[&str], out: &mut Out<'_>) -> Option<()> {
    let name = match (first, rest) {
        ("filter_state" | "upstream_filter_state", [name]) => name.as_bytes().to_vec(),
        _ => [b"wasm.", path].concat(),
    };
    let of_exchange = exchange(state).map(|exchange| &exchange.context.filter_state);
    let values = of_exchange.into_iter().flatten();
    let value = values
        .chain(&state.properties)
        .find(|(known, _)| **known == *name)?;
    out.bytes(&value.1)
}

fn of_exchange(state: &State, first: &str, rest: &[&str], out: &mut Out<'_>) -> Option<()> {
    let exchange = exchange(state)?;
    let context = &exchange.context;
    let connection = &*context.connection;
    let routed = context.routed.as_ref();
    match (first, rest) {
        ("request" | "response", _) if exchange.is_connection => None,
        ("request", [name, rest @ ..]) => request(state, exchange, name, rest, out),
        ("response", [name, rest @ ..]) => response(state, exchange, name, rest, out),
        ("connection", [name]) => of_connection(state, connection, name, out),
        ("source", [name]) => source(connection, name, out),
        ("destination", [name]) => address(destination(connection), name, out),
        ("connection_id", []) => of_connection(state, connection, "id", out),
        ("upstream", ["request_attempt_count"]) => out.int(routed?.attempts.into()),
        ("upstream", [name]) => address(routed?.address?, name, out),
        ("metadata", ["filter_metadata", path @ ..]) => {
            metadata(context.metadata.as_deref()?, path, out)
        }
        ("route_name", []) | ("xds", ["route_name"]) => out.text(&routed?.route),
        ("cluster_name", []) | ("xds", ["cluster_name"]) => out.text(&routed?.cluster),
        ("filter_state", ["io.istio.peer_principal"]) => {
            out.text(connection.identity.as_ref()?.uri())
        }
        ("filter_state", ["downstream_peer", name]) => {
            workload(connection.workload.as_deref()?, name, out)
        }
        _ => None,
    }
}

/// What servers that were asked told: numbers are eight bytes of floating point, as Envoy's are.
fn metadata(all: &DynamicMetadata, path: &[&str], out: &mut Out<'_>) -> Option<()> {
    let (namespace, keys) = path.split_first()?;
    let mut found = all.get(*namespace)?;
    for key in keys {
        found = found.get(*key)?;
    }
    match found {
        Value::String(text) => out.text(text),
        Value::Bool(flag) => out.bool(*flag),
        Value::Number(number) => out.bytes(&number.as_f64()?.to_le_bytes()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn exchange(state: &State) -> Option<&Exchange> {
    let exchange = &state.exchange;
    state.has_exchange().then_some(exchange)
}

fn place(state: &State) -> Option<&Place> {
    state.stream().map(|stream| &*stream.place)
}

fn request(
    state: &State,
    exchange: &Exchange,
    name: &str,
    rest: &[&str],
    out: &mut Out<'_>,
) -> Option<()> {
    let context = &exchange.context;
    let request = context.request();
    let header = |name: &str| Some(request.headers.get(name)?.as_bytes());
    match (name, rest) {
        ("path", []) => out.text(request.path.as_str()),
        ("url_path", []) => out.text(request.path()),
        ("host", []) => out.text(request.authority.as_str()),
        ("scheme", []) => out.text(scheme(&request.headers)),
        ("method", []) => out.text(request.method.as_str()),
        ("query", []) => out.text(request.query().unwrap_or_default()),
        ("protocol", []) => out.text(match request.version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_11 => "HTTP/1.1",
            _ => "HTTP/2",
        }),
        ("referer", []) => out.bytes(header("referer")?),
        ("useragent", []) => out.bytes(header("user-agent")?),
        ("id", []) => out.bytes(header("x-request-id")?),
        ("headers", rest) => map(state, Map::RequestHeaders, rest, out),
        ("headers_bytes", []) => out.size(bytes_of(state, Map::RequestHeaders)?),
        ("time", []) => out.int(nanoseconds(
            SystemTime::now() - state.stream()?.began.elapsed(),
        )),
        ("duration", []) => {
            exchange.bytes?;
            let took = state.stream()?.began.elapsed();
            out.int(i64::try_from(took.as_nanos()).ok()?)
        }
        ("size", []) => out.int(request_size(exchange)),
        ("total_size", []) => {
            let head = i64::try_from(bytes_of(state, Map::RequestHeaders)?).ok()?;
            out.int(head + request_size(exchange))
        }
        _ => None,
    }
}

/// Bytes of the body as far as they are known.
fn request_size(exchange: &Exchange) -> i64 {
    let announced = || length(&exchange.context.request().headers);
    let bytes = exchange.bytes.map_or_else(announced, |bytes| bytes.0);
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn response(
    state: &State,
    exchange: &Exchange,
    name: &str,
    rest: &[&str],
    out: &mut Out<'_>,
) -> Option<()> {
    match (name, rest) {
        ("code_details", []) => return out.text(exchange.context.details.as_ref()?),
        ("flags", []) => return out.int(exchange.context.flags.into()),
        ("backend_latency", []) => {
            exchange.bytes?;
            let routed = exchange.context.routed.as_ref()?;
            routed.address?;
            let took = routed.since.elapsed().as_nanos();
            return out.int(i64::try_from(took).ok()?);
        }
        _ => {}
    }
    let head = exchange.context.response.as_ref()?;
    let size = || {
        let bytes = exchange
            .bytes
            .map_or_else(|| length(&head.headers), |bytes| bytes.1);
        i64::try_from(bytes).unwrap_or(i64::MAX)
    };
    match (name, rest) {
        ("code", []) => out.int(head.status.as_u16().into()),
        ("grpc_status", []) => {
            let trailers = exchange.trailers.as_ref().map(|(_, trailers)| trailers);
            let mut maps = [Some(&head.headers), trailers].into_iter().flatten();
            let status = maps.find_map(|map| map.get("grpc-status"))?;
            out.int(status.to_str().ok()?.parse().ok()?)
        }
        ("headers", rest) => map(state, Map::ResponseHeaders, rest, out),
        ("trailers", rest) => map(state, Map::ResponseTrailers, rest, out),
        ("headers_bytes", []) => out.size(bytes_of(state, Map::ResponseHeaders)?),
        ("size", []) => out.int(size()),
        ("total_size", []) => {
            let head = i64::try_from(bytes_of(state, Map::ResponseHeaders)?).ok()?;
            out.int(head + size())
        }
        _ => None,
    }
}

fn length(headers: &HeaderMap) -> u64 {
    let length = headers.get(http::header::CONTENT_LENGTH);
    length
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .unwrap_or(0)
}

/// A map, or the values of one of its names joined by commas.
fn map(state: &State, map: Map, rest: &[&str], out: &mut Out<'_>) -> Option<()> {
    let view = headers::view(state, map)?;
    match rest {
        [] => {
            let start = out.0.len();
            out.0.resize(start + view.size(), 0);
            if out.0.len() > start {
                pairs::write(&mut out.0[start..], || view.entries());
            }
            Some(())
        }
        [name] => {
            let name = name.to_ascii_lowercase();
            let mut values = view
                .entries()
                .filter(|(known, _)| *known == name.as_bytes())
                .map(|(_, value)| value);
            out.bytes(values.next()?)?;
            values.try_for_each(|value| {
                out.bytes(b",")?;
                out.bytes(value)
            })
        }
        _ => None,
    }
}

/// Bytes of names and values.
fn bytes_of(state: &State, map: Map) -> Option<usize> {
    let view = headers::view(state, map)?;
    Some(
        view.entries()
            .map(|(name, value)| name.len() + value.len())
            .sum(),
    )
}

fn of_connection(
    state: &State,
    connection: &Connection,
    name: &str,
    out: &mut Out<'_>,
) -> Option<()> {
    let held = connection.certificate.as_deref();
    match name {
        "id" => out.int(connection.id.cast_signed()),
        // The mesh speaks no other.
        "tls_version" if connection.mutual_tls => out.text("TLSv1.3"),
        "subject_peer_certificate" => out.text(&certificate::subject(held?)?),
        "dns_san_peer_certificate" => out.text(&certificate::dns_name(held?)?),
        "sha256_peer_certificate_digest" => out.text(&certificate::digest(held?)),
        "peer_certificate" => out.text(&certificate::pem(held?)),
        "mtls" => out.bool(connection.mutual_tls),
        "requested_server_name" => out.text(connection.sni.as_ref()?),
        "uri_san_peer_certificate" => out.text(connection.identity.as_ref()?.uri()),
        "uri_san_local_certificate" if connection.mutual_tls => {
            out.text(place(state)?.proxy.as_ref()?.identity.uri())
        }
        _ => None,
    }
}

/// Where it came from, and who that is: the latter is ours, Envoy has no names for it.
fn source(connection: &Connection, name: &str, out: &mut Out<'_>) -> Option<()> {
    let identity = connection.identity.as_ref();
    match name {
        "principal" => out.text(identity?.principal()),
        "namespace" => out.text(identity?.namespace()),
        "service_account" => out.text(identity?.service_account()),
        "trust_domain" => out.text(identity?.trust_domain().as_str()),
        "workload" => out.text(&connection.workload.as_ref()?.workload_name),
        _ => address(connection.source, name, out),
    }
}

fn destination(connection: &Connection) -> SocketAddr {
    match connection.destination_ip {
        Some(ip) => SocketAddr::new(ip, connection.destination_port),
        None => connection.local,
    }
}

fn address(address: SocketAddr, name: &str, out: &mut Out<'_>) -> Option<()> {
    match name {
        "address" => out.text(&address.to_string()),
        "port" => out.int(address.port().into()),
        _ => None,
    }
}

/// The fields of Istio's peer object.
fn workload(workload: &Workload, name: &str, out: &mut Out<'_>) -> Option<()> {
    out.text(match name {
        "name" => &workload.name,
        "namespace" => &workload.namespace,
        "workload" => &workload.workload_name,
        "cluster" => &workload.cluster,
        "service" => &workload.canonical_name,
        "revision" => &workload.canonical_revision,
        "app" => &workload.app,
        "version" => &workload.version,
        "identity" => workload.identity.uri(),
        _ => return None,
    })
}

/// The proxy as istiod would name it.
fn node(place: &Place, path: &[&str], out: &mut Out<'_>) -> Option<()> {
    let proxy = place.proxy.as_ref()?;
    match path {
        ["id"] => out.text(&format!(
            "waypoint~{}.{}~{}.svc",
            proxy.name, proxy.namespace, proxy.namespace
        )),
        ["user_agent_name"] => out.text("wayline"),
        ["user_agent_version"] => out.text(env!("CARGO_PKG_VERSION")),
        ["cluster"] => out.text(&format!("{}.{}", proxy.name, proxy.namespace)),
        ["metadata", name] => out.text(match *name {
            "NAME" | "WORKLOAD_NAME" => &proxy.name,
            "NAMESPACE" => &proxy.namespace,
            "CLUSTER_ID" => place.cluster_id.as_ref()?,
            "SERVICE_ACCOUNT" => proxy.identity.service_account(),
            "MESH_ID" => proxy.identity.trust_domain().as_str(),
            _ => return None,
        }),
        _ => None,
    }
}

/// Since 1970.
fn nanoseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
