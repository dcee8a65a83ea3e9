//! A strict reading of an HTTP/1 request head (RFC 9112 §2–§6): only what the guard must know, which is
//! where the message ends, and that no other parser could think otherwise.

use wayline_model::defence::stands;

/// Fields a head may hold.
const MAX_FIELDS: usize = 100;

/// Longest method, in bytes.
const MAX_METHOD: usize = 32;

/// A head that is complete.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Head {
    /// Bytes up to and including the empty line.
    pub(crate) length: usize,
    /// What follows.
    pub(crate) body: BodyFraming,
}

/// How the length of a request body is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BodyFraming {
    /// Neither Content-Length nor Transfer-Encoding.
    None,
    /// Content-Length.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum HeadError {
    /// A line does not end in CRLF.
    #[error("a line does not end in CRLF")]
    LineEnd,
    /// The request line is not `METHOD SP target SP HTTP/1.x`.
    #[error("the request line is malformed")]
    RequestLine,
    /// A field line is not `name: value`.
    #[error("a header line is malformed")]
    Field,
    /// The length of the body can be read in two ways.
    #[error("Content-Length and Transfer-Encoding leave the length of the body open")]
    Framing,
    /// The Host header is missing, or there are several.
    #[error("there is not exactly one Host header")]
    Host,
    /// CONNECT: requests make no tunnels here, and what follows one is not HTTP.
    #[error("CONNECT is not offered here")]
    Connect,
    /// A chunk is malformed.
    #[error("a chunk of the body is malformed")]
    Chunk,
    /// Too long, or too many fields.
    #[error("the head is longer than 60 KiB or has more than 100 fields")]
    TooLarge,
    /// The request line does not end.
    #[error("the request line is longer than 60 KiB")]
    TargetTooLong,
    /// It did not come in time.
    #[error("the head took too long")]
    TooSlow,
}

impl HeadError {
    /// The status that answers it.
    pub(crate) fn status(self) -> http::StatusCode {
        match self {
            Self::TooLarge => http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => http::StatusCode::URI_TOO_LONG,
            Self::TooSlow => http::StatusCode::REQUEST_TIMEOUT,
            _ => http::StatusCode::BAD_REQUEST,
        }
    }

    /// `%RESPONSE_CODE_DETAILS%` in the log.
    pub(crate) fn details(self) -> &'static str {
        match self {
            Self::LineEnd => "http1.line_end",
            Self::RequestLine => "http1.request_line",
            Self::Field => "http1.invalid_header",
            Self::Framing => "http1.ambiguous_framing",
            Self::Host => "http1.host",
            Self::Connect => "request.connect",
            Self::Chunk => "http1.invalid_chunk",
            Self::TooLarge => "http1.head_too_large",
            Self::TargetTooLong => "http1.target_too_long",
            Self::TooSlow => "request_header_timeout",
        }
    }
}

/// Parses a head from the start of `bytes`; `None` when it is not complete yet.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Head>, HeadError> {
    let first = line(bytes, super::guard::MAX_HEAD).map_err(|error| match error {
        HeadError::TooLarge => HeadError::TargetTooLong,
        error => error,
    })?;
    let Some(first) = first else {
        return Ok(None);
    };
    let version = request_line(first)?;
    let mut at = first.len() + 2;
    let mut fields = 0;
    let mut hosts = 0;
    let mut length: Option<u64> = None;
    let mut chunked = false;
    loop {
        let Some(next) = line(&bytes[at..], super::guard::MAX_HEAD)? else {
            return Ok(None);
        };
        at += next.len() + 2;
        if next.is_empty() {
            break;
        }
        fields += 1;
        if fields > MAX_FIELDS {
            return Err(HeadError::TooLarge);
        }
        let (name, value) = field(next)?;
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => hosts += 1,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let told_before = length.replace(decimal(value)?).is_some();
                if told_before && stands("framing") {
                    return Err(HeadError::Framing);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let sound = !chunked && version == 1 && value.eq_ignore_ascii_case(b"chunked");
                if !sound && stands("framing") {
                    return Err(HeadError::Framing);
                }
                chunked = true;
            }
            _ => {}
        }
    }
    if (hosts > 1 || (hosts == 0 && version == 1)) && stands("host-count") {
        return Err(HeadError::Host);
    }
    let body = match (length, chunked) {
        (Some(_), true) if stands("framing") => return Err(HeadError::Framing),
        (Some(_), true) => BodyFraming::Chunked,
        (Some(length), false) => BodyFraming::Length(length),
        (None, true) => BodyFraming::Chunked,
        (None, false) => BodyFraming::None,
    };
    Ok(Some(Head { length: at, body }))
}

/// The first line of `bytes` without its CRLF; `None` when it is not complete and within `limit`.
pub(crate) fn line(bytes: &[u8], limit: usize) -> Result<Option<&[u8]>, HeadError> {
    let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
        return if bytes.len() > limit {
            Err(HeadError::TooLarge)
        } else {
            Ok(None)
        };
    };
    if end > limit {
        return Err(HeadError::TooLarge);
    }
    match &bytes[end..] {
        [b'\r', b'\n', ..] => Ok(Some(&bytes[..end])),
        [b'\r'] => Ok(None),
        _ => Err(HeadError::LineEnd),
    }
}

/// Splits `name: value`; the value without white space around it.
pub(crate) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), HeadError> {
    let colon = memchr::memchr(b':', line).ok_or(HeadError::Field)?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.is_empty() || !is_token(name) {
        return Err(HeadError::Field);
    }
    // memchr found no CR or LF; of the rest only HTAB is a control character a value may hold. Looked at
    // to its end, because that is done many bytes at a time.
    let control = |found, b: &u8| found | ((*b < 0x20) & (*b != b'\t')) | (*b == 0x7f);
    if value.iter().fold(false, control) {
        return Err(HeadError::Field);
    }
    Ok((name, value))
}

/// The size in a chunk's first line: 1 to 15 hexadecimal digits, then nothing or an extension.
pub(crate) fn chunk_size(line: &[u8]) -> Result<u64, HeadError> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if digits == 0 || digits > 15 {
        return Err(HeadError::Chunk);
    }
    match line[digits..].trim_ascii_start() {
        [] | [b';', ..] => {}
        _ => return Err(HeadError::Chunk),
    }
    if line[digits..]
        .iter()
        .any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f)
    {
        return Err(HeadError::Chunk);
    }
    Ok(line[..digits].iter().fold(0, |size, digit| {
        size * 16 + u64::from((*digit as char).to_digit(16).unwrap_or(0))
    }))
}

/// Checks a request line; answers the minor version.
fn request_line(line: &[u8]) -> Result<u8, HeadError> {
    let method = line.iter().position(|b| *b == b' ');
    let (Some(method), Some(version)) = (method, line.len().checked_sub(VERSION.len())) else {
        return Err(HeadError::RequestLine);
    };
    let (Some(target), method) = (line.get(method + 1..version), &line[..method]) else {
        return Err(HeadError::RequestLine);
    };
    // A target holds no space, so that there are three parts and no more.
    let fits = !method.is_empty()
        && method.len() <= MAX_METHOD
        && is_token(method)
        && !target.is_empty()
        && !target
            .iter()
            .fold(false, |found, b| found | (*b <= 0x20) | (*b == 0x7f));
    if method == b"CONNECT" {
        return Err(HeadError::Connect);
    }
    match &line[version..] {
        b" HTTP/1.1" if fits => Ok(1),
        b" HTTP/1.0" if fits => Ok(0),
        _ => Err(HeadError::RequestLine),
    }
}

/// What ends a request line.
const VERSION: &[u8] = b" HTTP/1.1";

/// RFC 9110 §5.6.2.
fn is_token(name: &[u8]) -> bool {
    name.iter().all(|b| TOKEN[usize::from(*b)])
}

/// Which bytes a token may hold.
static TOKEN: [bool; 256] = {
    let mut token = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        token[byte] = matches!(byte as u8, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+'
            | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z');
        byte += 1;
    }
    token
};

/// A length: 1 to 18 digits and nothing else.
fn decimal(value: &[u8]) -> Result<u64, HeadError> {
    let sound = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    if !sound && stands("framing") {
        return Err(HeadError::Framing);
    }
    let digits = value.iter().filter(|b| b.is_ascii_digit()).take(18);
    Ok(digits.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}
