//! Trace context in headers: W3C Trace Context, B3 in several headers, B3 in one.
//!
//! Reading is strict: what is malformed, or there twice, was not said. Writing replaces what the
//! provider asks for, and whatever else carries the same trace, so that two headers of one request
//! never name different callers.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use wayline_model::tracing::TraceHeaders;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// W3C Trace Context, trace-flags: the caller recorded its span.
const FLAG_SAMPLED: u8 = 0x01;

/// W3C Trace Context level 2, trace-flags: the trace id is random. Kept, never set.
const FLAG_RANDOM: u8 = 0x02;

/// Longest `tracestate` that is reported with a span (W3C Trace Context §3.3.1.5).
const MAX_TRACE_STATE: usize = 512;

/// Id of a trace, of 128 bits; one of 64 bits has zeros above.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct TraceId(NonZeroU128);

/// Id of a span.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SpanId(NonZeroU64);

impl TraceId {
    /// An id, unless it is zero.
    #[must_use]
    pub fn new(id: u128) -> Option<Self> {
        NonZeroU128::new(id).map(Self)
    }

    /// Its bytes, most significant first.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    /// B3 writes ids of 64 bits as such.
    fn is_short(self) -> bool {
        self.0.get() >> 64 == 0
    }
}

impl SpanId {
    /// An id, unless it is zero.
    #[must_use]
    pub fn new(id: u64) -> Option<Self> {
        NonZeroU64::new(id).map(Self)
    }

    /// Its bytes, most significant first.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

/// As B3 and Zipkin write it: 16 digits where they suffice, else 32.
impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = if self.is_short() { 16 } else { 32 };
        write!(f, "{:0width$x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a caller said about the trace.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Incoming {
    /// The trace and the caller's span.
    pub caller: Option<(TraceId, SpanId)>,
    /// Whether the caller records it; `None` leaves that to us.
    pub sampled: Option<bool>,
    /// B3's debug flag: recorded, and marked so.
    pub debug: bool,
    random: bool,
    carriers: Carriers,
}

/// Headers that carry one trace.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Carriers {
    w3c: bool,
    b3: bool,
    b3_single: bool,
}

impl Carriers {
    fn asked_for(headers: TraceHeaders) -> Self {
        Self {
            w3c: matches!(headers, TraceHeaders::W3c | TraceHeaders::B3AndW3c),
            b3: matches!(headers, TraceHeaders::B3 | TraceHeaders::B3AndW3c),
            b3_single: false,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            w3c: self.w3c || other.w3c,
            b3: self.b3 || other.b3,
            b3_single: self.b3_single || other.b3_single,
        }
    }
}

impl Incoming {
    /// Reads what a request carries. The provider's own format counts first; of the B3 formats the
    /// single header does, as its specification has it.
    #[must_use]
    pub fn read(headers: &HeaderMap, ours: TraceHeaders) -> Self {
        let (w3c, single, multi) = (w3c(headers), b3_single(headers), b3_multi(headers));
        let order = match ours {
            TraceHeaders::W3c => [w3c, single, multi],
            TraceHeaders::B3 | TraceHeaders::B3AndW3c => [single, multi, w3c],
        };
        let said = order.into_iter().flatten();
        let chosen = said.clone().find(|it| it.caller.is_some());
        // A bare decision ("do not sample") comes without a trace.
        let Some(chosen) = chosen.or_else(|| said.clone().next()) else {
            return Self::default();
        };
        let same_trace = said.filter(|other| other.trace() == chosen.trace());
        same_trace.fold(chosen, |all, other| Self {
            carriers: all.carriers.and(other.carriers),
            // Only B3 can say it.
            debug: all.debug || (other.debug && all.sampled == Some(true)),
            ..all
        })
    }

    fn trace(&self) -> Option<TraceId> {
        self.caller.map(|(trace, _)| trace)
    }
}

/// The span we make: its place in the trace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SpanContext {
    /// The trace.
    pub trace_id: TraceId,
    /// Our span.
    pub span_id: SpanId,
    /// The caller's span; `None` where the trace begins with us.
    pub parent: Option<SpanId>,
    /// Whether the span is recorded.
    pub sampled: bool,
    /// B3's debug flag.
    pub debug: bool,
    random: bool,
    carriers: Carriers,
}

impl SpanContext {
    /// A child of the caller's span, or the first of a new trace with an id of 64 or 128 bits.
    pub fn new(
        incoming: &Incoming,
        sampled: bool,
        short_trace_ids: bool,
        mut random: impl FnMut() -> u64,
    ) -> Self {
        // A generator that gives zero for ever would hang a loop here.
        let mut some = || NonZeroU64::new(random()).unwrap_or(NonZeroU64::MIN);
        let (trace_id, parent) = match incoming.caller {
            Some((trace_id, caller)) => (trace_id, Some(caller)),
            None if short_trace_ids => (TraceId(some().into()), None),
            None => {
                let high = NonZeroU128::from(some()).get() << 64;
                (TraceId(NonZeroU128::from(some()) | high), None)
            }
        };
        Self {
            trace_id,
            span_id: SpanId(some()),
            parent,
            sampled,
            debug: incoming.debug,
            random: incoming.random,
            carriers: incoming.carriers,
        }
    }

    /// Makes the headers name our span as the caller's.
    pub fn write(&self, headers: &mut HeaderMap, ours: TraceHeaders) {
        let carriers = self.carriers.and(Carriers::asked_for(ours));
        if carriers.w3c {
            if !self.carriers.w3c {
                // It belongs to a trace that ends here.
                headers.remove(&TRACESTATE);
            }
            headers.insert(TRACEPARENT, self.traceparent());
        }
        if carriers.b3 {
            self.write_b3(headers);
        }
        if carriers.b3_single {
            headers.insert(B3, self.b3());
        }
    }

    fn traceparent(&self) -> HeaderValue {
        let flags = u8::from(self.sampled) * FLAG_SAMPLED + u8::from(self.random) * FLAG_RANDOM;
        let mut text = Text::<55>::new();
        text.push(b"00-");
        text.push_hex::<32>(self.trace_id.0.get());
        text.push(b"-");
        text.push_hex::<16>(self.span_id.0.get().into());
        text.push(b"-");
        text.push_hex::<2>(flags.into());
        text.value()
    }

    fn write_b3(&self, headers: &mut HeaderMap) {
        headers.insert(B3_TRACE_ID, self.b3_trace_id().value());
        headers.insert(B3_SPAN_ID, span_text(self.span_id).value());
        match self.parent {
            Some(parent) => headers.insert(B3_PARENT_ID, span_text(parent).value()),
            None => headers.remove(&B3_PARENT_ID),
        };
        if self.debug {
            headers.insert(B3_FLAGS, HeaderValue::from_static("1"));
        }
        // Debug implies it, but Envoy reads nothing else.
        let sampled = if self.sampled { "1" } else { "0" };
        headers.insert(B3_SAMPLED, HeaderValue::from_static(sampled));
    }

    fn b3(&self) -> HeaderValue {
        let mut text = Text::<68>::new();
        text.push(self.b3_trace_id().as_bytes());
        text.push(b"-");
        text.push_hex::<16>(self.span_id.0.get().into());
        text.push(match (self.debug, self.sampled) {
            (true, _) => b"-d",
            (false, true) => b"-1",
            (false, false) => b"-0",
        });
        if let Some(parent) = self.parent {
            text.push(b"-");
            text.push_hex::<16>(parent.0.get().into());
        }
        text.value()
    }

    fn b3_trace_id(&self) -> Text<32> {
        let mut text = Text::new();
        if self.trace_id.is_short() {
            text.push_hex::<16>(self.trace_id.0.get());
        } else {
            text.push_hex::<32>(self.trace_id.0.get());
        }
        text
    }
}

/// The `tracestate` that goes with a trace, for its span; `None` when there is none or it is longer
/// than anybody must keep. The header itself passes as it is.
#[must_use]
pub fn trace_state(headers: &HeaderMap, context: &SpanContext) -> Option<Box<str>> {
    if !context.carriers.w3c {
        return None;
    }
    let mut joined = String::new();
    for value in headers.get_all(&TRACESTATE) {
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(value.to_str().ok()?);
        if joined.len() > MAX_TRACE_STATE {
            return None;
        }
    }
    (!joined.is_empty()).then(|| joined.into())
}

fn span_text(id: SpanId) -> Text<16> {
    let mut text = Text::new();
    text.push_hex::<16>(id.0.get().into());
    text
}

fn w3c(headers: &HeaderMap) -> Option<Incoming> {
    let text = only(headers, &TRACEPARENT)?;
    let (version, rest) = split(text, 2)?;
    let (trace_id, rest) = split(rest, 32)?;
    let (span_id, rest) = split(rest, 16)?;
    let (flags, rest) = match rest.len() {
        2 => (rest, None),
        _ => split(rest, 2).map(|(flags, rest)| (flags, Some(rest)))?,
    };
    // A later version may say more; this one may not.
    if version == b"ff" || (version == b"00" && rest.is_some()) {
        return None;
    }
    lower_hex(version)?;
    let flags = lower_hex(flags)? as u8;
    Some(Incoming {
        caller: Some((
            TraceId::new(lower_hex(trace_id)?)?,
            SpanId::new(lower_hex(span_id)? as u64)?,
        )),
        sampled: Some(flags & FLAG_SAMPLED != 0),
        debug: false,
        random: flags & FLAG_RANDOM != 0,
        carriers: Carriers {
            w3c: true,
            ..Carriers::default()
        },
    })
}

fn b3_single(headers: &HeaderMap) -> Option<Incoming> {
    let text = only(headers, &B3)?;
    let carriers = Carriers {
        b3_single: true,
        ..Carriers::default()
    };
    let of = |decision: Decision| Incoming {
        sampled: Some(decision.sampled),
        debug: decision.debug,
        carriers,
        ..Incoming::default()
    };
    if let Some(decision) = decision(text) {
        return Some(of(decision));
    }
    let mut parts = text.split(|byte| *byte == b'-');
    let caller = Some((trace_id(parts.next()?)?, span_id(parts.next()?)?));
    let said = match parts.next() {
        None => Incoming {
            carriers,
            ..Incoming::default()
        },
        Some(flag) => of(decision(flag)?),
    };
    if let Some(parent) = parts.next() {
        span_id(parent)?;
    }
    parts
        .next()
        .is_none()
        .then_some(Incoming { caller, ..said })
}

fn b3_multi(headers: &HeaderMap) -> Option<Incoming> {
    let debug = only(headers, &B3_FLAGS) == Some(b"1");
    let sampled = match only(headers, &B3_SAMPLED) {
        Some(b"1" | b"true") => Some(true),
        Some(b"0" | b"false") => Some(false),
        _ => None,
    };
    let caller = only(headers, &B3_TRACE_ID)
        .and_then(trace_id)
        .zip(only(headers, &B3_SPAN_ID).and_then(span_id));
    let sampled = if debug { Some(true) } else { sampled };
    (caller.is_some() || sampled.is_some()).then_some(Incoming {
        caller,
        sampled,
        debug,
        random: false,
        carriers: Carriers {
            b3: true,
            ..Carriers::default()
        },
    })
}

/// The flag of B3's single header.
struct Decision {
    sampled: bool,
    debug: bool,
}

fn decision(flag: &[u8]) -> Option<Decision> {
    let (sampled, debug) = match flag {
        b"0" => (false, false),
        b"1" => (true, false),
        b"d" => (true, true),
        _ => return None,
    };
    Some(Decision { sampled, debug })
}

fn trace_id(text: &[u8]) -> Option<TraceId> {
    matches!(text.len(), 16 | 32)
        .then(|| hex(text))
        .flatten()
        .and_then(TraceId::new)
}

fn span_id(text: &[u8]) -> Option<SpanId> {
    (text.len() == 16)
        .then(|| hex(text))
        .flatten()
        .and_then(|id| SpanId::new(id as u64))
}

/// The only value of a header.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first.as_bytes())
}

/// The first bytes and what follows the hyphen after them.
fn split(text: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    let (part, rest) = text.split_at_checked(length)?;
    rest.strip_prefix(b"-").map(|rest| (part, rest))
}

fn lower_hex(text: &[u8]) -> Option<u128> {
    (!text.iter().any(u8::is_ascii_uppercase))
        .then(|| hex(text))
        .flatten()
}

/// Up to 32 hexadecimal digits.
fn hex(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0u128, |sum, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        Some(sum << 4 | u128::from(digit))
    })
}

/// A short text on the stack.
struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    fn new() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
        }
    }

    fn push(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = *byte;
                self.length += 1;
            }
        }
    }

    fn push_hex<const DIGITS: usize>(&mut self, number: u128) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        for place in (0..DIGITS).rev() {
            self.push(&[HEX[(number >> (4 * place)) as usize & 0xF]]);
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn value(&self) -> HeaderValue {
        // Hexadecimal digits and hyphens are always a value.
        HeaderValue::from_bytes(self.as_bytes()).unwrap_or(HeaderValue::from_static(""))
    }
}

#[cfg(test)]
mod tests;
