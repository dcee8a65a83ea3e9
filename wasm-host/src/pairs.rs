//! Maps as the ABI writes them: `u32 n; n × (u32, u32) lengths; n × (name, 0, value, 0)`, little endian.

use wayline_model::defence::stands;

/// Bytes that a map may have.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// Entries that a map may have.
pub(crate) const MAX_ENTRIES: usize = 1024;

/// How many bytes these entries take; nothing for none.
pub(crate) fn size<'a>(entries: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> usize {
    let (mut count, mut bytes) = (0_usize, 4);
    for (name, value) in entries {
        count += 1;
        bytes += 8 + name.len() + 1 + value.len() + 1;
    }
    if count == 0 { 0 } else { bytes }
}

/// Writes entries where exactly [`size`] bytes are. They are gone through twice.
pub(crate) fn write<'a, I>(target: &mut [u8], entries: impl Fn() -> I)
where
    I: Iterator<Item = (&'a [u8], &'a [u8])>,
{
    let count = entries().count();
    let (lengths, mut rest) = target.split_at_mut((4 + 8 * count).min(target.len()));
    let mut cells = lengths.chunks_exact_mut(4);
    let mut put = |value: usize| {
        if let Some(cell) = cells.next() {
            cell.copy_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
        }
    };
    put(count);
    for (name, value) in entries() {
        put(name.len());
        put(value.len());
        for part in [name, value] {
            let Some((place, after)) =
                std::mem::take(&mut rest).split_at_mut_checked(part.len() + 1)
            else {
                return;
            };
            place[..part.len()].copy_from_slice(part);
            place[part.len()] = 0;
            rest = after;
        }
    }
}

/// Reads what a module wrote. `None` where it is not exactly a map, or larger than one may be.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    if bytes.len() > MAX_BYTES && stands("wasm-map-limits") {
        return None;
    }
    let (count, rest) = split_u32(bytes)?;
    let count = count as usize;
    if count > MAX_ENTRIES && stands("wasm-map-limits") {
        return None;
    }
    let (mut lengths, mut rest) = rest.split_at_checked(count * 8)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let (name_length, after) = split_u32(lengths)?;
        let (value_length, after) = split_u32(after)?;
        lengths = after;
        let name;
        let value;
        (name, rest) = split_text(rest, name_length as usize)?;
        (value, rest) = split_text(rest, value_length as usize)?;
        entries.push((name, value));
    }
    rest.is_empty().then_some(entries)
}

fn split_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*head), rest))
}

fn split_text(bytes: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    let (text, rest) = bytes.split_at_checked(length)?;
    let (end, rest) = rest.split_first()?;
    (*end == 0).then_some((text, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pair = (&'static [u8], &'static [u8]);
    const PAIRS: [Pair; 3] = [(b":path", b"/"), (b"empty", b""), (b"a", b"\0\xff")];

    fn encode(entries: &[Pair]) -> Vec<u8> {
        let mut bytes = vec![0; size(entries.iter().copied())];
        if !bytes.is_empty() {
            write(&mut bytes, || entries.iter().copied());
        }
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = encode(&PAIRS);
        assert_eq!(bytes[..12], [3, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(decode(&bytes).as_deref(), Some(&PAIRS[..]));
        assert!(encode(&[]).is_empty());
        assert_eq!(decode(&[]), Some(Vec::new()));
        assert_eq!(decode(&[0, 0, 0, 0]), Some(Vec::new()));
    }

    #[test]
    fn what_is_not_exactly_a_map_is_none() {
        let good = encode(&PAIRS);
        for cut in 1..good.len() {
            assert_eq!(decode(&good[..cut]), None, "cut at {cut}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(decode(&longer), None);
        let mut unterminated = good;
        let last = unterminated.len() - 1;
        unterminated[last] = b'x';
        assert_eq!(decode(&unterminated), None);
    }

    #[test]
    fn declared_sizes_are_not_believed() {
        assert_eq!(decode(&[0xff; 4]), None);
        assert_eq!(
            decode(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            None
        );
        let many: Vec<Pair> = vec![(b"", b""); MAX_ENTRIES + 1];
        assert_eq!(decode(&encode(&many)), None);
    }
}
