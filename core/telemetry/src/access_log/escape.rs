//! Escaping of what peers send, for text lines and for JSON strings.

use wayline_model::defence::stands;

/// How a value must be written where it stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Escape {
    /// In a line of text.
    Text,
    /// In a JSON string.
    Json,
}

impl Escape {
    /// Writes a value that anybody may have made.
    pub(super) fn write(self, value: &[u8], out: &mut Vec<u8>) {
        self.write_at_most(value, usize::MAX, out);
    }

    /// The same, but no more than about so many bytes.
    pub(super) fn write_at_most(self, value: &[u8], most: usize, out: &mut Vec<u8>) {
        // What is escaped gets longer, never shorter.
        let value = value.get(..most).unwrap_or(value);
        let end = out.len().saturating_add(most);
        if value.iter().all(|byte| is_harmless(*byte)) || !stands("log-escape") {
            out.extend_from_slice(value);
            return;
        }
        for chunk in value.utf8_chunks() {
            for character in chunk.valid().chars() {
                if out.len() >= end {
                    return;
                }
                self.write_character(character, out);
            }
            for byte in chunk.invalid() {
                match self {
                    _ if out.len() >= end => return,
                    Self::Text => write_hex(*byte, out),
                    // JSON is UTF-8 and has no way to name a byte.
                    Self::Json => out.extend_from_slice("\u{fffd}".as_bytes()),
                }
            }
        }
    }

    /// Like [`Self::write`], with white space as `_`, as Envoy prints details.
    pub(super) fn write_word(self, value: &str, out: &mut Vec<u8>) {
        for character in value.chars() {
            let character = if character.is_whitespace() {
                '_'
            } else {
                character
            };
            self.write_character(character, out);
        }
    }

    fn write_character(self, character: char, out: &mut Vec<u8>) {
        let mut utf8 = [0; 4];
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            _ if !is_control(character) => {
                out.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
            }
            _ if self == Self::Json => {
                let code = character as u32;
                out.extend_from_slice(b"\\u");
                for shift in [12, 8, 4, 0] {
                    out.push(hex_digit(code >> shift));
                }
            }
            _ => {
                for byte in character.encode_utf8(&mut utf8).bytes() {
                    write_hex(byte, out);
                }
            }
        }
    }
}

/// Printable ASCII that means nothing in a quoted text or in JSON.
fn is_harmless(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// What ends a line or drives a terminal: C0, DEL, C1 (which holds CSI), line and paragraph
/// separators, and the marks that turn the direction of writing.
fn is_control(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn write_hex(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\x");
    out.push(hex_digit(u32::from(byte) >> 4));
    out.push(hex_digit(u32::from(byte)));
}

fn hex_digit(value: u32) -> u8 {
    let digit = (value & 0xf) as u8;
    if digit < 10 {
        b'0' + digit
    } else {
        b'a' + digit - 10
    }
}
