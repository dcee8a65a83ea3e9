//! Reading a response (RFC 9112 §2–§7): its head, how its body is framed, and the body's pieces.
//!
//! It refuses to know sockets: it is given what has arrived.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use http_body::Frame;
use hyper::ext::ReasonPhrase;

use crate::http::head;

/// Fields a head may hold; Envoy's limit, too.
const MAX_FIELDS: usize = 100;

/// Longest head of a response.
const MAX_HEAD: usize = 256 * 1024;

/// Longest chunk size line, extensions included; longest trailer section.
const MAX_CHUNK_LINE: usize = 4 * 1024;
const MAX_TRAILERS: usize = 64 * 1024;

/// The upstream said what is not HTTP/1, or too much of it.
#[derive(Debug)]
pub(super) struct Malformed;

/// A response head, and what follows it.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) body: Body,
    /// Whether the connection may carry another exchange.
    pub(super) keep_alive: bool,
}

/// How the end of a body is told.
#[derive(Debug)]
pub(super) enum Body {
    /// It has ended; the trailers behind it, until they are taken.
    Ended(Option<Box<HeaderMap>>),
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks.
    Chunked(Chunk),
    /// By the end of the connection.
    UntilClose,
}

/// Where in a chunked body the next byte is.
#[derive(Debug)]
pub(super) enum Chunk {
    /// At the start of a chunk size line.
    Size,
    /// So many bytes of chunk data are still to come.
    Data(u64),
    /// At the CRLF behind chunk data.
    End,
    /// In the trailer section, with so many bytes of it seen.
    Trailers(Box<HeaderMap>, usize),
}

/// What comes next of a body.
#[derive(Debug)]
pub(super) enum Next {
    Frame(Frame<Bytes>),
    End,
    /// More has to arrive first.
    More,
}

/// Takes a head from the start of what has arrived; `None` while it is not complete. The first `searched`
/// bytes were looked through before. `bodiless`: the request was one whose answer has no body (HEAD).
/// The header map is made of `spare`.
pub(super) fn head(
    arrived: &mut BytesMut,
    searched: usize,
    bodiless: bool,
    spare: &mut HeaderMap,
) -> Result<Option<Head>, Malformed> {
    let Some(end) = end_of_head(arrived, searched) else {
        return match arrived.len() > MAX_HEAD {
            true => Err(Malformed),
            false => Ok(None),
        };
    };
    let text = arrived.split_to(end).freeze();
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, &text, &mut fields)
        .map_err(|_| Malformed)?;
    if !matches!(status, httparse::Status::Complete(length) if length == end) {
        return Err(Malformed);
    }
    let code = parsed.code.ok_or(Malformed)?;
    let code = StatusCode::from_u16(code).map_err(|_| Malformed)?;
    let is_http11 = parsed.version == Some(1);

    let mut framing = Framing::default();
    let mut headers = std::mem::take(spare);
    headers.reserve(parsed.headers.len());
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
        let value = HeaderValue::from_maybe_shared(text.slice_ref(field.value));
        let value = value.map_err(|_| Malformed)?;
        framing.note(&name, &value)?;
        headers.append(name, value);
    }
    let mut response = Response::new(());
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    if !is_http11 {
        *response.version_mut() = Version::HTTP_10;
    }
    if let Some(reason) = parsed.reason
        && Some(reason) != code.canonical_reason()
    {
        // Whoever writes the answer for the client takes it from here.
        let reason = text.slice_ref(reason.as_bytes());
        let reason = ReasonPhrase::try_from(reason).map_err(|_| Malformed)?;
        response.extensions_mut().insert(reason);
    }
    let bodiless = bodiless
        || code.is_informational()
        || matches!(code, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = framing.body(bodiless, is_http11)?;
    Ok(Some(Head {
        response,
        // HTTP/1.0 knows no kept connections, only an extension by which some mean them.
        keep_alive: is_http11 && !framing.closes && !matches!(body, Body::UntilClose),
        body,
    }))
}

/// What headers say of the message's end.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    /// Whether the last transfer coding is `chunked`; `None` where there is none.
    chunked: Option<bool>,
    closes: bool,
}

impl Framing {
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Malformed> {
        if name == CONTENT_LENGTH {
            // Said twice it counts, if it is the same (RFC 9112 §6.3).
            for length in value.as_bytes().split(|b| *b == b',') {
                let length = decimal(length.trim_ascii())?;
                if self.length.replace(length).is_some_and(|it| it != length) {
                    return Err(Malformed);
                }
            }
        } else if name == TRANSFER_ENCODING {
            self.chunked = Some(tokens(value).last() == Some(true));
        } else if name == CONNECTION {
            let close = |token: &[u8]| token.trim_ascii().eq_ignore_ascii_case(b"close");
            self.closes |= value.as_bytes().split(|b| *b == b',').any(close);
        }
        Ok(())
    }

    /// RFC 9112 §6.3.
    fn body(&self, bodiless: bool, is_http11: bool) -> Result<Body, Malformed> {
        if bodiless {
            return Ok(Body::Ended(None));
        }
        match (self.chunked, self.length) {
            (Some(_), _) if !is_http11 => Err(Malformed),
            (Some(true), _) => Ok(Body::Chunked(Chunk::Size)),
            (Some(false), _) => Ok(Body::UntilClose),
            (None, Some(0)) => Ok(Body::Ended(None)),
            (None, Some(length)) => Ok(Body::Length(length)),
            (None, None) => Ok(Body::UntilClose),
        }
    }
}

/// For each transfer coding whether it is `chunked`.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = bool> {
    let codings = value.as_bytes().split(|b| *b == b',');
    codings.map(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

fn decimal(digits: &[u8]) -> Result<u64, Malformed> {
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    Ok(digits
        .iter()
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// The bytes up to and including the empty line, if there is one.
fn end_of_head(arrived: &[u8], searched: usize) -> Option<usize> {
    // The end of a line, seen before, may turn out to be that of the last one.
    let from = searched.saturating_sub(2);
    memchr::memchr_iter(b'\n', &arrived[from..]).find_map(|at| {
        let behind = from + at + 1;
        match arrived[behind..] {
            [b'\n', ..] => Some(behind + 1),
            [b'\r', b'\n', ..] => Some(behind + 2),
            _ => None,
        }
    })
}

impl Body {
    /// Whether nothing follows any more.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self, Self::Ended(None))
    }

    /// How many bytes are still to come, where that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self {
            Self::Ended(None) => Some(0),
            Self::Length(left) => Some(*left),
            // Whoever is told a length has no place for trailers.
            Self::Ended(Some(_)) | Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Takes the next piece from what has arrived.
    pub(super) fn next(&mut self, arrived: &mut BytesMut) -> Result<Next, Malformed> {
        self.pass_framing(arrived)?;
        let left = match self {
            Self::Ended(None) => return Ok(Next::End),
            Self::Ended(trailers) => {
                let trailers = trailers.take().map_or_else(HeaderMap::new, |it| *it);
                return Ok(Next::Frame(Frame::trailers(trailers)));
            }
            _ if arrived.is_empty() => return Ok(Next::More),
            Self::UntilClose => return Ok(Next::Frame(Frame::data(arrived.split().freeze()))),
            Self::Length(left) | Self::Chunked(Chunk::Data(left)) => left,
            Self::Chunked(_) => return Ok(Next::More),
        };
        let taken = usize::try_from(*left)
            .unwrap_or(usize::MAX)
            .min(arrived.len());
        *left -= taken as u64;
        let data = arrived.split_to(taken).freeze();
        // Whoever gets the last piece shall see that it is.
        self.pass_framing(arrived)?;
        Ok(Next::Frame(Frame::data(data)))
    }

    /// Passes over what is no data, as far as it has arrived.
    fn pass_framing(&mut self, arrived: &mut BytesMut) -> Result<(), Malformed> {
        loop {
            let next = match self {
                Self::Length(0) => Self::Ended(None),
                Self::Chunked(chunk) => match chunk.pass(arrived)? {
                    Some(next) => next,
                    None => return Ok(()),
                },
                Self::Ended(_) | Self::Length(_) | Self::UntilClose => return Ok(()),
            };
            *self = next;
        }
    }
}

impl Chunk {
    /// One step over what is no data; `None` at data, and where more has to arrive.
    fn pass(&mut self, arrived: &mut BytesMut) -> Result<Option<Body>, Malformed> {
        let next = match self {
            Self::Data(0) => Self::End,
            Self::Data(_) => return Ok(None),
            Self::Size => match line(arrived, MAX_CHUNK_LINE)? {
                None => return Ok(None),
                Some(line) => match head::chunk_size(&line).map_err(|_| Malformed)? {
                    0 => Self::Trailers(Box::default(), 0),
                    size => Self::Data(size),
                },
            },
            Self::End => match line(arrived, 0)? {
                None => return Ok(None),
                Some(_) => Self::Size,
            },
            Self::Trailers(trailers, seen) => {
                let Some(line) = line(arrived, MAX_TRAILERS)? else {
                    return Ok(None);
                };
                if line.is_empty() {
                    let trailers = std::mem::take(trailers);
                    return Ok(Some(Body::Ended(
                        (!trailers.is_empty()).then_some(trailers),
                    )));
                }
                *seen += line.len();
                if *seen > MAX_TRAILERS || trailers.len() >= MAX_FIELDS {
                    return Err(Malformed);
                }
                let (name, value) = head::field(&line).map_err(|_| Malformed)?;
                let name = HeaderName::from_bytes(name).map_err(|_| Malformed)?;
                let value = HeaderValue::from_bytes(value).map_err(|_| Malformed)?;
                trailers.append(name, value);
                return Ok(Some(Body::Chunked(Self::Trailers(
                    std::mem::take(trailers),
                    *seen,
                ))));
            }
        };
        Ok(Some(Body::Chunked(next)))
    }
}

/// Takes a line and its CRLF; the line.
fn line(arrived: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, Malformed> {
    let Some(length) = head::line(arrived, limit)
        .map_err(|_| Malformed)?
        .map(<[u8]>::len)
    else {
        return Ok(None);
    };
    let mut line = arrived.split_to(length + 2);
    line.truncate(length);
    Ok(Some(line.freeze()))
}
