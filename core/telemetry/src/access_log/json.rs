//! JSON lines: a template object whose strings are patterns.
//!
//! A string that is exactly one operator becomes a typed value (number, string, or null when there
//! is none); any other string stays a string, in which absent values show as `-`.

use serde_json::Value;

use super::escape::Escape;
use super::format::{FormatError, Part, Piece, parse};

/// Istio's default keys, in the order in which they are written.
const DEFAULT: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
];

/// Istio's default object.
pub(super) fn default() -> Result<Vec<Piece>, FormatError> {
    let mut pieces = Pieces::default();
    pieces.object(
        DEFAULT.iter().map(|(key, pattern)| (*key, *pattern)),
        |pieces, pattern| pieces.string(pattern),
    )?;
    Ok(pieces.into_line())
}

/// The user's object. Keys come out in alphabetical order.
pub(super) fn compile(template: &str) -> Result<Vec<Piece>, FormatError> {
    let value: Value =
        serde_json::from_str(template).map_err(|error| FormatError::Json(error.to_string()))?;
    if !value.is_object() {
        return Err(FormatError::Json("it is something else".into()));
    }
    let mut pieces = Pieces::default();
    pieces.value(&value)?;
    Ok(pieces.into_line())
}

/// Pieces in the making; literal text is gathered until an operator comes.
#[derive(Default)]
struct Pieces {
    done: Vec<Piece>,
    literal: Vec<u8>,
}

impl Pieces {
    fn value(&mut self, value: &Value) -> Result<(), FormatError> {
        match value {
            Value::String(pattern) => self.string(pattern),
            Value::Object(members) => self.object(
                members.iter().map(|(key, value)| (key.as_str(), value)),
                Self::value,
            ),
            Value::Array(items) => {
                self.literal.push(b'[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        self.literal.push(b',');
                    }
                    self.value(item)?;
                }
                self.literal.push(b']');
                Ok(())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                self.literal.extend_from_slice(value.to_string().as_bytes());
                Ok(())
            }
        }
    }

    fn object<'a, T>(
        &mut self,
        members: impl Iterator<Item = (&'a str, T)>,
        member: impl Fn(&mut Self, T) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        self.literal.push(b'{');
        for (i, (key, value)) in members.enumerate() {
            if i > 0 {
                self.literal.push(b',');
            }
            self.literal.push(b'"');
            Escape::Json.write(key.as_bytes(), &mut self.literal);
            self.literal.extend_from_slice(b"\":");
            member(self, value)?;
        }
        self.literal.push(b'}');
        Ok(())
    }

    fn string(&mut self, pattern: &str) -> Result<(), FormatError> {
        let mut parts = parse(pattern)?;
        if let [Part::Operator(_)] = parts[..]
            && let Some(Part::Operator(operator)) = parts.pop()
        {
            self.push(Piece::JsonValue(operator));
            return Ok(());
        }
        self.literal.push(b'"');
        for part in parts {
            match part {
                Part::Literal(text) => Escape::Json.write(text.as_bytes(), &mut self.literal),
                Part::Operator(operator) => self.push(Piece::Value(operator, Escape::Json)),
            }
        }
        self.literal.push(b'"');
        Ok(())
    }

    fn push(&mut self, piece: Piece) {
        self.end_literal();
        self.done.push(piece);
    }

    fn end_literal(&mut self) {
        if !self.literal.is_empty() {
            let literal = std::mem::take(&mut self.literal);
            self.done.push(Piece::Literal(literal.into()));
        }
    }

    fn into_line(mut self) -> Vec<Piece> {
        self.literal.push(b'\n');
        self.end_literal();
        self.done
    }
}
