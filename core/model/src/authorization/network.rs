//! Sets of addresses and networks, one look-up per prefix length in use.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use rustc_hash::FxHashSet;

/// Networks. An IPv4 address written as IPv6 (`::ffff:10.0.0.1`) is that IPv4 address.
#[derive(Clone, Debug, Default)]
pub(super) struct NetworkSet {
    v4: Vec<(u32, FxHashSet<u32>)>,
    v6: Vec<(u128, FxHashSet<u128>)>,
}

impl NetworkSet {
    /// Reads an address or a network; host bits may be set. `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<IpNet> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().ok()?,
        };
        let IpNet::V6(v6) = network else {
            return Some(network);
        };
        let mapped = v6.addr().to_ipv4_mapped();
        let length = v6.prefix_len().checked_sub(96);
        match (mapped, length) {
            (Some(address), Some(length)) => Ipv4Net::new(address, length).ok().map(IpNet::V4),
            _ => Some(network),
        }
    }

    pub(super) fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let mut set = Self::default();
        for network in networks {
            match network {
                IpNet::V4(network) => {
                    let mask = network.netmask().to_bits();
                    insert(&mut set.v4, mask, network.network().to_bits());
                }
                IpNet::V6(network) => {
                    let mask = network.netmask().to_bits();
                    insert(&mut set.v6, mask, network.network().to_bits());
                }
            }
        }
        set
    }

    /// Whether the address is in one of the networks.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let bits = address.to_bits();
                let mut masks = self.v4.iter();
                masks.any(|(mask, networks)| networks.contains(&(bits & mask)))
            }
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                let mut masks = self.v6.iter();
                masks.any(|(mask, networks)| networks.contains(&(bits & mask)))
            }
        }
    }
}

fn insert<T: Copy + Eq + std::hash::Hash>(by_mask: &mut Vec<(T, FxHashSet<T>)>, mask: T, bits: T) {
    match by_mask.iter_mut().find(|(known, _)| *known == mask) {
        Some((_, networks)) => {
            networks.insert(bits);
        }
        None => by_mask.push((mask, FxHashSet::from_iter([bits]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses_in_either_notation() {
        for (network, inside, outside) in [
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("10.1.2.3/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.1.1.1", "::10.1.1.1"),
            ("::ffff:10.0.0.0/104", "10.1.1.1", "11.1.1.1"),
            ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("::/0", "2001:db8::1", "1.2.3.4"),
            ("2001:db8::1/32", "2001:db8:ffff::", "2001:db9::"),
        ] {
            let set = NetworkSet::new(NetworkSet::parse(network));
            assert!(
                set.contains(inside.parse().unwrap()),
                "{inside} is in {network}"
            );
            assert!(
                !set.contains(outside.parse().unwrap()),
                "{outside} is not in {network}"
            );
        }
        for bad in [
            "",
            "10.0.0",
            "10.0.0.0/33",
            "10.0.0.0/",
            "::/129",
            "a",
            "10.0.0.0/08x",
            "10.0.0.1-10.0.0.2",
        ] {
            assert!(NetworkSet::parse(bad).is_none(), "{bad} was accepted");
        }
    }
}
