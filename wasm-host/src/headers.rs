//! Headers and trailers as modules read and edit them: with HTTP/2's pseudo headers in front, and
//! without any say in how messages are framed.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use wayline_chain::RequestContext;
use wayline_model::defence::stands;
use wayline_model::request::Authority;

use crate::pairs;
use crate::state::State;
use crate::status::{Answer, Map, Status};

/// Pseudo headers of requests, in Envoy's order.
pub(crate) const REQUEST_PSEUDO: [&str; 4] = [":authority", ":path", ":method", ":scheme"];

/// The pseudo header of responses.
const STATUS: &str = ":status";

/// One entry.
type Pair<'a> = (&'a [u8], &'a [u8]);

/// A map as it can be read.
pub(crate) struct View<'a> {
    pseudo: [Option<Pair<'a>>; 4],
    headers: &'a HeaderMap,
}

impl<'a> View<'a> {
    /// All entries; repeated ones one by one.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Pair<'a>> + use<'a> {
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        self.pseudo.into_iter().flatten().chain(headers)
    }

    /// The first value of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&'a [u8]> {
        if name.starts_with(':') {
            let mut pseudo = self.pseudo.iter().flatten();
            return pseudo
                .find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()))
                .map(|(_, value)| *value);
        }
        match self.headers.get(name) {
            Some(value) => Some(value.as_bytes()),
            // Envoy has one field for both names.
            None if name.eq_ignore_ascii_case("host") => self.get(":authority"),
            None => None,
        }
    }

    /// Bytes of a pairs encoding.
    pub(crate) fn size(&self) -> usize {
        pairs::size(self.entries())
    }

    fn plain(headers: &'a HeaderMap) -> Self {
        Self {
            pseudo: [None; 4],
            headers,
        }
    }

    fn of_request(context: &'a RequestContext) -> Self {
        let request = context.request();
        let values = [
            request.authority.as_str().as_bytes(),
            request.path.as_str().as_bytes(),
            request.method.as_str().as_bytes(),
            scheme(&request.headers).as_bytes(),
        ];
        let mut pseudo = [None; 4];
        for (place, (name, value)) in pseudo.iter_mut().zip(REQUEST_PSEUDO.iter().zip(values)) {
            *place = Some((name.as_bytes(), value));
        }
        Self {
            pseudo,
            headers: &request.headers,
        }
    }

    fn of_response(status: &'a StatusCode, headers: &'a HeaderMap) -> Self {
        Self {
            pseudo: [
                Some((STATUS.as_bytes(), status.as_str().as_bytes())),
                None,
                None,
                None,
            ],
            headers,
        }
    }
}

/// The scheme by which the client came, as far as it can be known here.
pub(crate) fn scheme(headers: &HeaderMap) -> &'static str {
    match headers.get("x-forwarded-proto").map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        _ => "http",
    }
}

/// A map, where it is in the module's hands.
pub(crate) fn view(state: &State, map: Map) -> Option<View<'_>> {
    let reply = state.callouts.reply.as_ref();
    let exchange = &state.exchange;
    match map {
        Map::CallResponseHeaders => {
            reply.map(|reply| View::of_response(&reply.status, &reply.headers))
        }
        Map::CallResponseTrailers => reply.map(|reply| View::plain(&reply.trailers)),
        Map::GrpcInitialMetadata | Map::GrpcTrailingMetadata => {
            let metadata = state.callouts.metadata.as_ref()?;
            (metadata.0 == map).then(|| View::plain(&metadata.1))
        }
        _ if !state.has_exchange() || exchange.is_connection => None,
        Map::RequestHeaders => Some(View::of_request(&exchange.context)),
        Map::ResponseHeaders => {
            let head = exchange.context.response.as_ref()?;
            Some(View::of_response(&head.status, &head.headers))
        }
        Map::RequestTrailers | Map::ResponseTrailers => {
            let (held, trailers) = exchange.trailers.as_ref()?;
            (*held == map).then(|| View::plain(trailers))
        }
    }
}

/// Whether an edit keeps what is there already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Edit {
    /// Adds one more entry.
    Add,
    /// Removes all entries of the name first.
    Replace,
}

/// Adds or replaces an entry.
pub(crate) fn set(state: &mut State, map: Map, name: &[u8], value: &[u8], edit: Edit) -> Answer {
    if let Some(pseudo) = pseudo_of(name) {
        return set_pseudo(state, map, pseudo, value);
    }
    let name = HeaderName::from_bytes(name).map_err(|_| Status::BadArgument)?;
    let value = HeaderValue::from_bytes(value).map_err(|_| Status::BadArgument)?;
    let headers = editable(state, map)?;
    if is_framing(&name) {
        return Err(Status::BadArgument);
    }
    if name == CONTENT_LENGTH
        && headers.get(CONTENT_LENGTH) != Some(&value)
        && stands("wasm-content-length")
    {
        // The chain says how long a body is, once filters are done with it.
        headers.remove(CONTENT_LENGTH);
        return Ok(());
    }
    let full = (headers.len() >= pairs::MAX_ENTRIES || is_too_much(headers, &value))
        && stands("wasm-map-limits");
    match edit {
        Edit::Add if full => return Err(Status::BadArgument),
        Edit::Add => drop(headers.append(name, value)),
        Edit::Replace if full => return Err(Status::BadArgument),
        Edit::Replace => drop(headers.insert(name, value)),
    }
    Ok(())
}

/// Removes all entries of a name. Pseudo headers stay.
pub(crate) fn remove(state: &mut State, map: Map, name: &[u8]) -> Answer {
    let headers = editable(state, map)?;
    if pseudo_of(name).is_some() {
        return Ok(());
    }
    let Ok(name) = HeaderName::from_bytes(name) else {
        return Ok(());
    };
    if !is_framing(&name) {
        headers.remove(name);
    }
    Ok(())
}

/// Puts these entries in the place of all.
pub(crate) fn replace_all(state: &mut State, map: Map, entries: &[Pair<'_>]) -> Answer {
    let mut edited = HeaderMap::with_capacity(entries.len());
    for (name, value) in entries {
        if pseudo_of(name).is_some() {
            continue;
        }
        let name = HeaderName::from_bytes(name).map_err(|_| Status::BadArgument)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| Status::BadArgument)?;
        if !is_framing(&name) && name != CONTENT_LENGTH {
            edited.append(name, value);
        }
    }
    let headers = editable(state, map)?;
    for kept in [CONTENT_LENGTH, TE, UPGRADE] {
        if let Some(value) = headers.remove(&kept) {
            edited.insert(kept, value);
        }
    }
    *headers = edited;
    for (name, value) in entries {
        if let Some(pseudo) = pseudo_of(name) {
            set_pseudo(state, map, pseudo, value)?;
        }
    }
    Ok(())
}

/// What a name means besides being one.
fn pseudo_of(name: &[u8]) -> Option<&[u8]> {
    if name.first() == Some(&b':') {
        return Some(name);
    }
    name.eq_ignore_ascii_case(HOST.as_str().as_bytes())
        .then_some(b":authority")
}

fn set_pseudo(state: &mut State, map: Map, name: &[u8], value: &[u8]) -> Answer {
    editable(state, map)?;
    let context = &mut state.exchange.context;
    match (map, name) {
        (Map::ResponseHeaders, b":status") => {
            let status = StatusCode::from_bytes(value).map_err(|_| Status::BadArgument)?;
            if status.is_informational() {
                return Err(Status::BadArgument);
            }
            if let Some(head) = &mut context.response {
                head.status = status;
            }
            Ok(())
        }
        (Map::RequestHeaders, b":method") => {
            let method = Method::from_bytes(value).map_err(|_| Status::BadArgument)?;
            if method == Method::CONNECT || value.iter().any(u8::is_ascii_lowercase) {
                return Err(Status::BadArgument);
            }
            if context.request().method != method {
                context.request_mut().method = method;
            }
            Ok(())
        }
        (Map::RequestHeaders, b":path") => {
            let path = PathAndQuery::try_from(value).map_err(|_| Status::BadArgument)?;
            if !value.starts_with(b"/") && value != b"*" && stands("wasm-paths") {
                return Err(Status::BadArgument);
            }
            if context.request().path != path {
                context.request_mut().path = path;
            }
            Ok(())
        }
        (Map::RequestHeaders, b":authority") => {
            let authority = HeaderValue::from_bytes(value)
                .ok()
                .and_then(|text| Authority::parse(text).ok())
                .ok_or(Status::BadArgument)?;
            if context.request().authority != authority {
                context.request_mut().authority = authority;
            }
            Ok(())
        }
        // Where a request goes, and how, is not the module's to say: it may write what is there.
        (Map::RequestHeaders, b":scheme") => Ok(()),
        _ => Err(Status::BadArgument),
    }
}

/// The headers of a map that is in the module's hands and not only to be read.
fn editable(state: &mut State, map: Map) -> Result<&mut HeaderMap, Status> {
    if !state.has_exchange() || state.exchange.is_connection {
        return Err(Status::BadArgument);
    }
    let exchange = &mut state.exchange;
    match map {
        Map::RequestHeaders => Ok(exchange.context.headers_mut()),
        Map::ResponseHeaders => match &mut exchange.context.response {
            Some(head) => Ok(&mut head.headers),
            None => Err(Status::BadArgument),
        },
        Map::RequestTrailers | Map::ResponseTrailers => match &mut exchange.trailers {
            Some((held, trailers)) if *held == map => Ok(trailers),
            _ => Err(Status::BadArgument),
        },
        _ => Err(Status::BadArgument),
    }
}

/// Whether a map would become larger with this value than one may be.
fn is_too_much(headers: &HeaderMap, value: &HeaderValue) -> bool {
    const SMALL: usize = pairs::MAX_BYTES / pairs::MAX_ENTRIES;
    if value.len() <= SMALL {
        return false;
    }
    View::plain(headers).size() + value.len() > pairs::MAX_BYTES
}

/// Headers by which peers agree where a message ends, or what comes after it.
pub(crate) fn is_framing(name: &HeaderName) -> bool {
    if !stands("wasm-framing") {
        return false;
    }
    *name == TRANSFER_ENCODING
        || *name == CONNECTION
        || *name == TE
        || *name == UPGRADE
        || matches!(
            name.as_str(),
            "keep-alive" | "proxy-connection" | "http2-settings"
        )
}
