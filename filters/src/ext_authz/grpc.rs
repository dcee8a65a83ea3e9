//! Asking over gRPC: `envoy.service.auth.v3.Authorization/Check`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, TE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use prost::Message;
use wayline_chain::RequestContext;
use wayline_model::CanonicalRequest;
use wayline_model::ext_authz::{ExtAuthzProvider, GrpcCheck};

use super::Shown;
use super::messages::{
    Address, AttributeContext, AttributeRequest, CheckRequest, CheckResponse, HeaderValueOption,
    HttpRequest, OkHttpResponse, Peer, SocketAddress, Struct, Timestamp,
};
use super::metadata::Told;
use super::verdict::{Changes, Denial, Edit, EditName, How, Said};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The call about a request.
pub(super) fn request(
    provider: &ExtAuthzProvider,
    check: &GrpcCheck,
    context: &RequestContext,
    shown: Option<&Shown>,
) -> Option<Request<Bytes>> {
    let check = CheckRequest {
        attributes: Some(attributes((provider, check), context, shown)),
    };
    let length = u32::try_from(check.encoded_len()).ok()?;
    let mut frame = BytesMut::with_capacity(check.encoded_len() + 5);
    frame.put_u8(0);
    frame.put_u32(length);
    check.encode(&mut frame).ok()?;
    // Hundredths are left to the deadline of the call itself.
    let timeout = format!("{}m", provider.settings.timeout.as_millis().min(99_999_999));
    Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{}{CHECK}", provider.authority))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header("grpc-timeout", timeout)
        .body(frame.freeze())
        .ok()
}

/// What came back; an error where it is no answer to the question.
pub(super) fn said(response: &Response<Bytes>, trailers: &HeaderMap) -> Result<Told, String> {
    if response.status() != StatusCode::OK {
        return Err(format!("it answered {}", response.status()));
    }
    let status = trailers
        .get("grpc-status")
        .or_else(|| response.headers().get("grpc-status"));
    if status.is_none_or(|status| status != "0") {
        let text = status.and_then(|status| status.to_str().ok());
        return Err(format!(
            "it answered with gRPC status {}",
            text.unwrap_or("-")
        ));
    }
    let body = response.body();
    let message = match body.get(..5) {
        Some([0, length @ ..]) => {
            let length = length
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            body.get(5..5 + length).ok_or("its answer is cut short")?
        }
        Some(_) => return Err("its answer is compressed".to_owned()),
        None => return Err("it answered nothing".to_owned()),
    };
    let answer =
        CheckResponse::decode(message).map_err(|error| format!("it answered nonsense: {error}"))?;
    let metadata = answer.dynamic_metadata.map(Struct::into_json);
    let metadata = metadata.unwrap_or_default();
    if answer.status.is_none_or(|status| status.code == 0) {
        let said = Said::Allow(changes(answer.ok_response.unwrap_or_default()));
        return Ok((said, metadata));
    }
    let denied = answer.denied_response.unwrap_or_default();
    let code = denied
        .status
        .and_then(|status| u16::try_from(status.code).ok());
    let status = code.filter(|code| (200..600).contains(code));
    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
    let said = Said::Deny(Denial {
        status: status.unwrap_or(StatusCode::FORBIDDEN),
        headers: denied.headers.iter().filter_map(response_edit).collect(),
        body: denied.body.into(),
    });
    Ok((said, metadata))
}

fn changes(answer: OkHttpResponse) -> Changes {
    Changes {
        request: answer.headers.iter().filter_map(request_edit).collect(),
        remove: answer
            .headers_to_remove
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect(),
        response: answer
            .response_headers_to_add
            .iter()
            .filter_map(response_edit)
            .collect(),
        set_params: answer
            .query_parameters_to_set
            .into_iter()
            .map(|param| (param.key, param.value))
            .collect(),
        remove_params: answer.query_parameters_to_remove,
    }
}

/// Replaces unless told to append, and appends only to what is there (`OkHttpResponse.headers`).
fn request_edit(option: &HeaderValueOption) -> Option<Edit> {
    edit(option, How::AppendToPresent)
}

fn response_edit(option: &HeaderValueOption) -> Option<Edit> {
    edit(option, How::Add)
}

fn edit(option: &HeaderValueOption, append: How) -> Option<Edit> {
    let header = option.header.as_ref()?;
    let name = match header.key.as_str() {
        ":method" => EditName::Method,
        ":path" => EditName::Path,
        name => EditName::Header(HeaderName::from_bytes(name.as_bytes()).ok()?),
    };
    let raw = match header.value.is_empty() {
        true => &header.raw_value[..],
        false => header.value.as_bytes(),
    };
    let how = match (&option.append, option.append_action) {
        (Some(append_it), _) if append_it.value => append,
        (_, 1) => How::IfAbsent,
        (_, 3) => How::IfPresent,
        _ => How::Set,
    };
    Some(Edit {
        name,
        value: HeaderValue::from_bytes(raw).ok()?,
        how,
    })
}

fn attributes(
    how: (&ExtAuthzProvider, &GrpcCheck),
    context: &RequestContext,
    shown: Option<&Shown>,
) -> AttributeContext {
    let connection = &*context.connection;
    let request = context.request();
    let principal = connection.identity.as_ref();
    let mut destination = connection.local;
    if let Some(ip) = connection.destination_ip {
        destination = SocketAddr::new(ip, connection.destination_port);
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    AttributeContext {
        source: Some(Peer {
            address: address(connection.source),
            principal: principal.map(|it| it.uri().to_owned()).unwrap_or_default(),
            service: String::new(),
        }),
        destination: Some(Peer {
            address: address(destination),
            ..Peer::default()
        }),
        request: Some(AttributeRequest {
            time: Some(Timestamp {
                seconds: since.as_secs() as i64,
                nanos: since.subsec_nanos() as i32,
            }),
            http: Some(http(how, request, shown)),
        }),
    }
}

fn address(address: SocketAddr) -> Option<Address> {
    Some(Address {
        socket_address: Some(SocketAddress {
            address: address.ip().to_string(),
            port_value: address.port().into(),
        }),
    })
}

fn http(
    (provider, check): (&ExtAuthzProvider, &GrpcCheck),
    request: &CanonicalRequest,
    shown: Option<&Shown>,
) -> HttpRequest {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let header = |name: &str| request.headers.get(name).map(text);
    let size = request.headers.get(CONTENT_LENGTH);
    let size = size.and_then(|size| size.to_str().ok()?.parse().ok());
    let scheme = header("x-forwarded-proto").unwrap_or_else(|| "http".to_owned());
    let mut headers = headers(check, request);
    headers.insert(":scheme".to_owned(), scheme.clone());
    let (mut body, mut raw_body) = (String::new(), Bytes::new());
    if let Some(shown) = shown {
        let as_bytes = provider.settings.body.is_some_and(|body| body.as_bytes);
        if as_bytes {
            raw_body = shown.body.clone();
        } else {
            body = String::from_utf8_lossy(&shown.body).into_owned();
        }
        headers.insert(super::PARTIAL_BODY.to_owned(), shown.is_partial.to_string());
    }
    HttpRequest {
        id: header("x-request-id").unwrap_or_default(),
        method: request.method.to_string(),
        headers,
        path: request.path.as_str().to_owned(),
        host: request.authority.as_str().to_owned(),
        scheme,
        size: size.unwrap_or(-1),
        protocol: match request.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
        .to_owned(),
        body,
        raw_body,
    }
}

/// All lines of a header joined, as one text. None is kept from the provider unless it is to see some only.
fn headers(check: &GrpcCheck, request: &CanonicalRequest) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let shown = check.request_headers.as_ref();
    for (name, value) in &request.headers {
        if shown.is_some_and(|shown| !shown.contains(name.as_str())) {
            continue;
        }
        let separator = if name == http::header::COOKIE {
            "; "
        } else {
            ","
        };
        let value = String::from_utf8_lossy(value.as_bytes());
        all.entry(name.as_str().to_owned())
            .and_modify(|text: &mut String| {
                text.push_str(separator);
                text.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    let own = [
        (":method", request.method.as_str()),
        (":path", request.path.as_str()),
        (":authority", request.authority.as_str()),
    ];
    all.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    all
}
