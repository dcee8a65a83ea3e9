//! Who the client is, as the proxies before us tell it in `x-forwarded-for`.

use std::net::IpAddr;

use http::HeaderMap;

use crate::defence::stands;

/// The address of the client, when our own peer is the last of `hops` proxies that are trusted: the entry
/// that the first of them wrote. `headers` have our peer as the last entry already. `None` where there are
/// fewer entries, or where that one is no address: then nobody but the peer is known.
///
/// Entries further left are whatever the client wrote (Envoy: `xff_num_trusted_hops`).
#[must_use]
pub fn forwarded_client(headers: &HeaderMap, hops: u32) -> Option<IpAddr> {
    if hops == 0 && stands("trusted-hops") {
        return None;
    }
    let hops = usize::try_from(hops).ok()?;
    let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    let entries = lines
        .iter()
        .rev()
        .flat_map(|line| line.as_bytes().rsplit(|b| *b == b','));
    let mut entries = entries.map(<[u8]>::trim_ascii);
    let entry = match stands("trusted-hops") {
        true => entries.nth(hops)?,
        // Whatever the client wrote.
        false => entries.next_back()?,
    };
    let address: IpAddr = std::str::from_utf8(entry).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(lines: &[&str], hops: u32) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        forwarded_client(&headers, hops).map(|ip| ip.to_string())
    }

    #[test]
    fn the_entry_of_the_first_trusted_proxy_counts() {
        let lines = &["9.9.9.9, 1.1.1.1", "2.2.2.2,10.0.0.1"];
        for (hops, expected) in [
            (0, None),
            (1, Some("2.2.2.2")),
            (2, Some("1.1.1.1")),
            (3, Some("9.9.9.9")),
            (4, None),
            (u32::MAX, None),
        ] {
            assert_eq!(client(lines, hops).as_deref(), expected, "{hops}");
        }
        assert_eq!(client(&["10.0.0.1"], 1), None);
        assert_eq!(client(&[], 1), None);
    }

    #[test]
    fn what_is_no_address_is_nobody() {
        for (entry, expected) in [
            ("2001:db8::1", Some("2001:db8::1")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("\t1.2.3.4 ", Some("1.2.3.4")),
            ("1.2.3.4:80", None),
            ("[2001:db8::1]", None),
            ("[2001:db8::1]:80", None),
            ("fe80::1%eth0", None),
            ("unknown", None),
            ("_hidden", None),
            ("", None),
            ("1.2.3", None),
            ("01.2.3.4", None),
            ("1.2.3.4 5.6.7.8", None),
        ] {
            let line = format!("9.9.9.9, {entry}, 10.0.0.1");
            assert_eq!(client(&[&line], 1).as_deref(), expected, "{entry}");
        }
    }
}
