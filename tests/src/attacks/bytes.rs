//! Bytes as the files write them, and requests as each version of HTTP writes them.

/// A request in no version of HTTP in particular.
#[derive(Clone, Debug)]
pub(super) struct Plain {
    pub(super) method: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

impl Plain {
    /// Reads `METHOD target`, header lines, an empty line and a body. Without a Host line, the host is
    /// `test`.
    pub(super) fn read(text: &str) -> Self {
        // Literal strings of TOML have no line ends of their own.
        let text = &text.replace("\\n", "\n");
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let mut lines = head.lines();
        let first = lines.next().unwrap_or_default();
        let (method, target) = first
            .split_once(' ')
            .unwrap_or_else(|| panic!("`{first}` is not `METHOD target`"));
        let mut headers: Vec<_> = lines
            .map(|line| {
                let (name, value) = line
                    .split_once(':')
                    .unwrap_or_else(|| panic!("`{line}` is no header"));
                let value = value.strip_prefix(' ').unwrap_or(value);
                (unescape(name), unescape(value))
            })
            .collect();
        let is_host = |(name, _): &(Vec<u8>, Vec<u8>)| name.eq_ignore_ascii_case(b"host");
        if !headers.iter().any(is_host) {
            headers.insert(0, (b"Host".to_vec(), b"test".to_vec()));
        }
        Self {
            method: unescape(method),
            target: unescape(target),
            headers,
            body: unescape(body.trim_end_matches('\n')),
        }
    }

    /// As HTTP/1.1 writes it.
    pub(super) fn h1(&self) -> Vec<u8> {
        let mut bytes = [&self.method[..], b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        if !self.body.is_empty() {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The fields of HTTP/2: the first Host is `:authority`.
    pub(super) fn fields(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut fields = vec![
            (b":method".to_vec(), self.method.clone()),
            (b":scheme".to_vec(), b"http".to_vec()),
            (b":path".to_vec(), self.target.clone()),
        ];
        let mut named = false;
        for (name, value) in &self.headers {
            let name = name.to_ascii_lowercase();
            if name == b"host" && !named {
                named = true;
                fields.insert(2, (b":authority".to_vec(), value.clone()));
            } else {
                fields.push((name, value.clone()));
            }
        }
        fields
    }
}

/// The fields of an HTTP/2 request: lines of a name, a space and a value. `:method GET`, `:scheme http`,
/// `:authority test` and `:path /` go without saying; a line with their name replaces one, `-` before
/// the name takes it away, and `+` says it once more.
pub(super) fn fields(text: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut fields: Vec<(Vec<u8>, Vec<u8>)> = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", "/"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .to_vec();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('-') {
            fields.retain(|(known, _)| known != name.as_bytes());
            continue;
        }
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        let value = unescape(value);
        if let Some(again) = name.strip_prefix('+') {
            fields.push((unescape(again), value));
            continue;
        }
        let name = unescape(name);
        let replaced = name
            .starts_with(b":")
            .then(|| fields.iter_mut().find(|(n, _)| *n == name));
        match replaced.flatten() {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
    }
    fields
}

/// Bytes from text: `\r`, `\n`, `\t`, `\\`, `\xHH`, and `{N*text}` for N times `text`, in which `%` is
/// the number of the turn.
pub(super) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '{']) {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        if rest.starts_with('{') {
            let repeated = repetition(rest);
            let Some((times, inner, length)) = repeated else {
                bytes.push(b'{');
                rest = &rest[1..];
                continue;
            };
            for turn in 0..times {
                bytes.extend_from_slice(&unescape(&inner.replace('%', &turn.to_string())));
            }
            rest = &rest[length..];
            continue;
        }
        let (byte, length) = match rest.as_bytes().get(1) {
            Some(b'r') => (b'\r', 2),
            Some(b'n') => (b'\n', 2),
            Some(b't') => (b'\t', 2),
            Some(b'0') => (0, 2),
            Some(b'\\') => (b'\\', 2),
            Some(b'{') => (b'{', 2),
            Some(b'x') => {
                let digits = rest
                    .get(2..4)
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok());
                let byte = digits.unwrap_or_else(|| panic!("`\\x` without two digits in `{text}`"));
                (byte, 4)
            }
            _ => panic!("`\\` means nothing in `{text}`; write `\\\\`"),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// `{N*inner}` at the start of `text`: N, inner, and how long all of it is.
fn repetition(text: &str) -> Option<(usize, &str, usize)> {
    let star = text.find('*')?;
    let times = text[1..star].parse().ok()?;
    let end = text.find('}')?;
    Some((times, text.get(star + 1..end)?, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_they_are_meant() {
        assert_eq!(unescape(r"a\r\n\x00\xff\\{b}"), b"a\r\n\0\xff\\{b}");
        assert_eq!(unescape("{3*x-%: y;}z"), b"x-0: y;x-1: y;x-2: y;z");
        assert_eq!(unescape("/a/{*}"), b"/a/{*}");
    }

    #[test]
    fn a_plain_request_is_written_in_each_version() {
        let plain = Plain::read("POST /x\nX-Role: a\n\nbody");
        assert_eq!(
            plain.h1(),
            b"POST /x HTTP/1.1\r\nHost: test\r\nX-Role: a\r\nContent-Length: 4\r\n\r\nbody"
        );
        let names: Vec<_> = plain.fields().into_iter().map(|(name, _)| name).collect();
        let expected: [&[u8]; 5] = [b":method", b":scheme", b":authority", b":path", b"x-role"];
        assert_eq!(names, expected);
    }

    #[test]
    fn fields_are_set_replaced_and_taken_away() {
        let fields = fields("-:authority\n:path /a b\n+:path /c\nhost c");
        let expected: [(&[u8], &[u8]); 5] = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":path", b"/a b"),
            (b":path", b"/c"),
            (b"host", b"c"),
        ];
        let fields: Vec<_> = fields.iter().map(|(n, v)| (&n[..], &v[..])).collect();
        assert_eq!(fields, expected);
    }
}
