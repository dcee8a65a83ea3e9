//! HTTP/2 frames as they are, legal or not.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::bytes::{fields, unescape};

/// What a client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113 §6).
const TYPES: [&str; 10] = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
];

/// Error codes (RFC 9113 §7).
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// Preface and settings of a client that keeps no dynamic table, so that every status it gets is
/// written out. `window` is the initial window of its streams.
pub(super) fn greeting(window: Option<u32>) -> Vec<u8> {
    let mut settings = vec![0, 1, 0, 0, 0, 0];
    if let Some(window) = window {
        settings.extend_from_slice(&[0, 4]);
        settings.extend_from_slice(&window.to_be_bytes());
    }
    let mut bytes = PREFACE.to_vec();
    bytes.extend_from_slice(&frame(4, 0, 0, &settings));
    bytes
}

/// One request of fields and a body on stream 1.
pub(super) fn request(fields: &[(Vec<u8>, Vec<u8>)], body: &[u8]) -> Vec<u8> {
    let end = if body.is_empty() { 0x5 } else { 0x4 };
    let mut bytes = head(1, end, &block(fields));
    if !body.is_empty() {
        bytes.extend_from_slice(&frame(0, 1, 1, body));
    }
    bytes
}

/// HEADERS, and CONTINUATION as far as it needs them.
fn head(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    const LARGEST: usize = 16_384;
    let mut pieces = block.chunks(LARGEST).peekable();
    let first = pieces.next().unwrap_or_default();
    let ends = |last: bool| if last { 0x4 } else { 0 };
    let last = pieces.peek().is_none();
    let mut bytes = frame(1, (flags & !0x4) | ends(last), stream, first);
    while let Some(piece) = pieces.next() {
        bytes.extend_from_slice(&frame(9, ends(pieces.peek().is_none()), stream, piece));
    }
    bytes
}

/// One frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len().to_be_bytes();
    let mut bytes = length[length.len() - 3..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block without indexing, without Huffman.
pub(super) fn block(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, 0, 7, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

fn integer(block: &mut Vec<u8>, pattern: u8, prefix: u8, value: usize) {
    let full = (1 << prefix) - 1;
    if value < full {
        block.push(pattern | value as u8);
        return;
    }
    block.push(pattern | full as u8);
    let mut rest = value - full;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// Frames as the files write them, a line each: `[N x ]TYPE stream [FLAGS…] [: payload]`.
///
/// Flags: `ES` END_STREAM, `EH` END_HEADERS, `ACK`, `PAD`, `PRIO`. Payload by type: HEADERS and
/// CONTINUATION take `name value | name value` (with the pseudo-headers that go without saying, unless
/// the payload begins with `only`), `hex …` or nothing; DATA takes bytes; RST_STREAM and GOAWAY a code;
/// WINDOW_UPDATE a number; others `hex …`. Of a line said N times, `stream` may be `next`, which is two
/// more each time, and `last` is that of the frame before. ` ;; ` parts frames of one line, and a line may
/// also say `RAW hex …`.
pub(super) fn script(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut next = 1;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (times, line) = match line.split_once(" x ") {
            Some((times, rest)) if times.bytes().all(|b| b.is_ascii_digit()) => {
                (times.parse().unwrap_or(1), rest)
            }
            _ => (1, line),
        };
        for _ in 0..times {
            for frame in line.split(" ;; ") {
                bytes.extend_from_slice(&one(frame, &mut next));
            }
        }
    }
    bytes
}

fn one(line: &str, next: &mut u32) -> Vec<u8> {
    if let Some(raw) = line.strip_prefix("RAW ") {
        return hex(raw);
    }
    let (head_of, payload) = line.split_once(" : ").unwrap_or((line, ""));
    let mut words = head_of.split(' ');
    let kind = words.next().unwrap_or_default();
    let stream = match words.next() {
        None => 0,
        Some("next") => {
            *next += 2;
            *next - 2
        }
        Some("last") => *next - 2,
        Some(number) => number
            .parse()
            .unwrap_or_else(|_| panic!("`{line}`: no stream")),
    };
    let flags = words.fold(0, |flags, word| {
        flags
            | match word {
                "ES" | "ACK" => 0x1,
                "EH" => 0x4,
                "PAD" => 0x8,
                "PRIO" => 0x20,
                other => panic!("`{line}`: {other} is no flag"),
            }
    });
    let number = TYPES.iter().position(|name| *name == kind);
    let number = match number {
        Some(number) => number as u8,
        None => kind
            .strip_prefix("TYPE")
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("`{line}`: {kind} is no type of frame")),
    };
    let payload = match (kind, payload) {
        (_, text) if text.starts_with("hex ") => hex(&text[4..]),
        ("HEADERS" | "CONTINUATION", "") => Vec::new(),
        ("HEADERS" | "CONTINUATION", text) => {
            let all: String = text.split(" | ").collect::<Vec<_>>().join("\n");
            match all.strip_prefix("only ") {
                Some(own) => block(
                    &own.lines()
                        .map(|line| {
                            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
                            (unescape(name), unescape(value))
                        })
                        .collect::<Vec<_>>(),
                ),
                None => block(&fields(&all)),
            }
        }
        ("RST_STREAM", code) => code_number(code).to_be_bytes().to_vec(),
        ("GOAWAY", code) => [[0; 4], code_number(code).to_be_bytes()].concat(),
        ("WINDOW_UPDATE", number) => number
            .parse::<u32>()
            .unwrap_or_else(|_| panic!("`{line}`: no increment"))
            .to_be_bytes()
            .to_vec(),
        ("PING", "") => vec![0; 8],
        ("PRIORITY", "") => vec![0, 0, 0, 0, 1],
        (_, text) => unescape(text),
    };
    if number == 1 && payload.len() > 16_384 {
        return head(stream, flags, &payload);
    }
    frame(number, flags, stream, &payload)
}

fn hex(text: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(&unescape(text)).into_owned();
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] * 16 + pair.get(1).copied().unwrap_or(0)) as u8)
        .collect()
}

fn code_number(name: &str) -> u32 {
    let known = CODES.iter().position(|code| *code == name);
    known.unwrap_or_else(|| panic!("{name} is no error code")) as u32
}

fn code_name(number: u32) -> String {
    CODES
        .get(number as usize)
        .map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

/// One frame that came.
pub(super) struct Got {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// Reads a frame; `None` at the end of the connection.
pub(super) fn read(stream: &mut impl Read) -> Option<Got> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).ok()?;
    Some(Got {
        kind: head[3],
        flags: head[4],
        stream: u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]),
        payload,
    })
}

/// How stream `wanted` ends: `status`, `RST code`, `GOAWAY code` or `CLOSED`; and what its head says.
pub(super) fn outcome(stream: &mut TcpStream, wanted: u32) -> (String, Vec<u8>) {
    let mut answer: Option<(String, Vec<u8>)> = None;
    loop {
        let Some(got) = read(stream) else {
            return answer.unwrap_or_else(|| ("CLOSED".to_owned(), Vec::new()));
        };
        match TYPES.get(usize::from(got.kind)) {
            Some(&"SETTINGS") if got.flags & 1 == 0 => {
                // A peer that is not read any more can not be told either.
                let _ = stream.write_all(&frame(4, 1, 0, &[]));
            }
            Some(&"PING") if got.flags & 1 == 0 => {
                let _ = stream.write_all(&frame(6, 1, 0, &got.payload));
            }
            Some(&"GOAWAY") => {
                let code = got.payload.get(4..8).map_or(0, number);
                let last = got.payload.get(..4).map_or(0, number);
                if code != 0 || last < wanted {
                    return (format!("GOAWAY {}", code_name(code)), Vec::new());
                }
            }
            Some(&"RST_STREAM") if got.stream == wanted => {
                // NO_ERROR behind a whole answer says that nobody reads the rest of the request.
                let code = code_name(number(&got.payload));
                return match answer {
                    Some(answer) if code == "NO_ERROR" => answer,
                    _ => (format!("RST {code}"), Vec::new()),
                };
            }
            Some(&"HEADERS") if got.stream == wanted && answer.is_none() => {
                let status = status(&got.payload);
                // Interim answers come before the real one.
                if !status.starts_with('1') {
                    answer = Some((status, got.payload.clone()));
                }
            }
            _ => {}
        }
        let ends = got.flags & 1 == 1 && matches!(got.kind, 0 | 1) && got.stream == wanted;
        if ends && let Some(answer) = answer.take() {
            return answer;
        }
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .take(4)
        .fold(0, |sum, b| sum << 8 | u32::from(*b))
}

/// The status in a header block that begins with it, as blocks of answers do.
fn status(block: &[u8]) -> String {
    const INDEXED: [&str; 7] = ["200", "204", "206", "304", "400", "404", "500"];
    // What says how large the dynamic table is.
    let block = match block {
        [first, rest @ ..] if first & 0xe0 == 0x20 => rest,
        _ => block,
    };
    match block {
        [first @ 0x88..=0x8e, ..] => INDEXED[usize::from(first - 0x88)].to_owned(),
        // A literal whose name is entry 8 to 14 of the static table.
        [0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e, length, value @ ..] => {
            let value = &value[..usize::from(length & 0x7f).min(value.len())];
            if length & 0x80 == 0 {
                return String::from_utf8_lossy(value).into_owned();
            }
            huffman_digits(value)
        }
        _ => format!("an unreadable head {block:02x?}"),
    }
}

/// Digits in HPACK's code (RFC 7541, Appendix B): 0 to 2 have five bits, the others six.
fn huffman_digits(bytes: &[u8]) -> String {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |shift| byte >> shift & 1))
        .collect();
    let take = |at: usize, n: usize| {
        let bits = bits.get(at..at + n)?;
        Some(bits.iter().fold(0, |sum, bit| sum * 2 + u32::from(*bit)))
    };
    let mut text = String::new();
    let mut at = 0;
    while text.len() < 3 {
        let (digit, length) = match (take(at, 5), take(at, 6)) {
            (Some(five @ 0..=2), _) => (five, 5),
            (_, Some(six @ 0x19..=0x1f)) => (six - 0x19 + 3, 6),
            _ => break,
        };
        text += &digit.to_string();
        at += length;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_however_they_are_written() {
        assert_eq!(status(&[0x88]), "200");
        assert_eq!(status(&[0x20, 0x8c, 0x40]), "400");
        assert_eq!(status(&[0x08, 3, b'4', b'0', b'3']), "403");
        // 403: 011010 00000 011001, filled up with ones.
        assert_eq!(status(&[0x48, 0x83, 0x68, 0x0c, 0xff]), "403");
    }

    #[test]
    fn frames_are_written_line_by_line() {
        let bytes = script("2 x PING 0\nRST_STREAM 1 : CANCEL\nTYPE200 0 : hex 00ff");
        assert_eq!(bytes.len(), 2 * 17 + 13 + 11);
        assert_eq!(bytes[34..47], [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8]);
        let twice = script("2 x HEADERS next ES EH : :path /x");
        let first = frame(1, 5, 1, &block(&fields(":path /x")));
        let second = frame(1, 5, 3, &block(&fields(":path /x")));
        assert_eq!(twice, [first, second].concat());
    }
}
