//! Formats: a pattern read once, a list of pieces written for each line.

use wayline_model::mesh::{AccessLogEncoding, AccessLogSettings};

use super::escape::Escape;
use super::json;
use super::operator::Operator;
use super::record::Record;

/// Istio's default text line (`EnvoyTextLogFormat`).
const DEFAULT_TEXT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% ",
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n",
);

/// The longest pattern accepted, in bytes.
const MAX_LENGTH: usize = 64 * 1024;

/// How one line looks. Compiled once, shared by all cores.
#[derive(Clone, Debug)]
pub struct AccessLogFormat {
    pieces: Vec<Piece>,
}

impl AccessLogFormat {
    /// Compiles what MeshConfig says: encoding, and the user's format or Istio's default. An empty
    /// format is Istio's default, as in Istio.
    ///
    /// # Errors
    /// When the format does not parse or names an operator we do not have. Callers report the
    /// error as a finding and go on with the last good format or [`Self::default_for`].
    pub fn compile(settings: &AccessLogSettings) -> Result<Self, FormatError> {
        let Some(format) = settings.format.as_deref().filter(|text| !text.is_empty()) else {
            return Self::default_for(settings.encoding);
        };
        if format.len() > MAX_LENGTH {
            return Err(FormatError::TooLong(format.len()));
        }
        match settings.encoding {
            AccessLogEncoding::Text => Self::text(format),
            AccessLogEncoding::Json => Ok(Self {
                pieces: json::compile(format)?,
            }),
        }
    }

    /// Istio's default format of an encoding.
    ///
    /// # Errors
    /// Never for the formats we ship; the signature is that of [`Self::compile`].
    pub fn default_for(encoding: AccessLogEncoding) -> Result<Self, FormatError> {
        match encoding {
            AccessLogEncoding::Text => Self::text(DEFAULT_TEXT),
            AccessLogEncoding::Json => Ok(Self {
                pieces: json::default()?,
            }),
        }
    }

    /// Appends one line, with its line end. Allocates nothing but room in `out`.
    pub fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            piece.write(record, out);
        }
    }

    fn text(pattern: &str) -> Result<Self, FormatError> {
        let mut pieces: Vec<Piece> = parse(pattern)?
            .into_iter()
            .map(|part| match part {
                Part::Literal(text) => Piece::Literal(text.into_bytes().into()),
                Part::Operator(operator) => Piece::Value(operator, Escape::Text),
            })
            .collect();
        let ends_line =
            matches!(pieces.last(), Some(Piece::Literal(text)) if text.ends_with(b"\n"));
        if !ends_line {
            pieces.push(Piece::Literal(b"\n".as_slice().into()));
        }
        Ok(Self { pieces })
    }
}

/// Why an access log format is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FormatError {
    /// An operator Wayline does not have.
    #[error(
        "accessLogFormat: the operator %{0}% is not supported: remove it, or use one of Envoy's \
         request, response, address, duration and byte-count operators"
    )]
    UnknownOperator(String),
    /// An operator with an argument or length it can not take.
    #[error("accessLogFormat: %{operator}%: {reason}")]
    Argument {
        /// The operator's name.
        operator: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// What stands in `%REQ(..)%`, `%RESP(..)%` or `%TRAILER(..)%` can not be a header.
    #[error("accessLogFormat: `{0}` is not a header name")]
    Header(String),
    /// The argument of `%START_TIME(..)%` is no strftime pattern.
    #[error("accessLogFormat: %START_TIME({pattern})%: {reason}")]
    Time {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A `%` that begins no operator.
    #[error(
        "accessLogFormat: at byte {at}: {reason}; an operator is %NAME%, %NAME(ARGUMENT)% or \
         %NAME(ARGUMENT):LENGTH%, and a per cent sign is written %%"
    )]
    Syntax {
        /// Where, counted from 0.
        at: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// With JSON encoding the format must be a JSON object.
    #[error("accessLogFormat: with accessLogEncoding JSON it must be a JSON object: {0}")]
    Json(String),
    /// The format is too long.
    #[error("accessLogFormat: it has {0} bytes, at most 65536 are read")]
    TooLong(usize),
}

impl FormatError {
    pub(super) fn argument(operator: &str, reason: &'static str) -> Self {
        Self::Argument {
            operator: operator.to_owned(),
            reason,
        }
    }
}

/// One thing to write.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// Bytes as they are.
    Literal(Box<[u8]>),
    /// A value within text or within a JSON string; `-` when there is none.
    Value(Operator, Escape),
    /// A JSON value of its own: number, true or false, string or null.
    JsonValue(Operator),
}

impl Piece {
    fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Literal(bytes) => out.extend_from_slice(bytes),
            Self::Value(operator, escape) => {
                if !operator.write(record, *escape, out) {
                    out.push(b'-');
                }
            }
            Self::JsonValue(operator) if operator.is_bare() => {
                if !operator.write(record, Escape::Json, out) {
                    out.extend_from_slice(b"null");
                }
            }
            Self::JsonValue(operator) => {
                let start = out.len();
                out.push(b'"');
                if operator.write(record, Escape::Json, out) {
                    out.push(b'"');
                } else {
                    out.truncate(start);
                    out.extend_from_slice(b"null");
                }
            }
        }
    }
}

/// A pattern's parts.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Literal(String),
    Operator(Operator),
}

/// Splits a pattern into literals and operators. Neighbouring literals are one.
pub(super) fn parse(pattern: &str) -> Result<Vec<Part>, FormatError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = pattern;
    while let Some(start) = rest.find('%') {
        literal.push_str(&rest[..start]);
        let at = pattern.len() - rest.len() + start;
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let (operator, after) = parse_operator(rest, at)?;
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal)));
        }
        parts.push(Part::Operator(operator));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

/// Reads `NAME%`, `NAME(ARGUMENT)%`, `NAME(ARGUMENT):LENGTH%` and what follows.
fn parse_operator(text: &str, at: usize) -> Result<(Operator, &str), FormatError> {
    let syntax = |reason| FormatError::Syntax { at, reason };
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    if name.is_empty() {
        return Err(syntax("no operator name follows the per cent sign"));
    }
    let mut argument = None;
    if let Some(after) = rest.strip_prefix('(') {
        let (inside, after) = after
            .split_once(')')
            .ok_or_else(|| syntax("a parenthesis is not closed"))?;
        argument = Some(inside);
        rest = after;
    }
    let mut length = None;
    if let Some(after) = rest.strip_prefix(':') {
        let (digits, _) = after
            .split_once('%')
            .ok_or_else(|| syntax("the operator is not closed"))?;
        let parsed = digits.parse().ok();
        length = Some(parsed.ok_or_else(|| syntax("the length is not a number"))?);
        rest = &after[digits.len()..];
    }
    let rest = rest
        .strip_prefix('%')
        .ok_or_else(|| syntax("the operator is not closed"))?;
    Ok((Operator::parse(name, argument, length)?, rest))
}
