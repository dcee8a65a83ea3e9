//! Which addresses may be dialled.
//!
//! Everything that is not ordinary unicast of the internet is refused, unless configuration lists it.
//! IPv6 addresses that carry an IPv4 address lead there, so that the carried one is judged as well.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use wayline_model::defence::stands;

/// Decides on resolved addresses. The default allows what is reachable on the public internet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AddressPolicy {
    allowed: Vec<IpNet>,
}

/// Why an address is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// 0.0.0.0/8 and `::`, which lead to this machine.
    Unspecified,
    /// 127.0.0.0/8 and `::1`.
    Loopback,
    /// 169.254.0.0/16, where clouds serve credentials, and `fe80::/10`.
    LinkLocal,
    /// RFC 1918, and the former site-local `fec0::/10`.
    Private,
    /// 100.64.0.0/10, behind a provider's address translation.
    SharedSpace,
    /// `fc00::/7`.
    UniqueLocal,
    /// 224.0.0.0/4 and `ff00::/8`.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// Protocol assignments, documentation, benchmarks and what is reserved.
    Reserved,
}

impl AddressPolicy {
    /// Allows these networks besides the public internet.
    ///
    /// A network allows the addresses written like it and IPv4 addresses carried by an IPv6 one;
    /// `::/0` allows no IPv4 address.
    #[must_use]
    pub fn allowing(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self {
            allowed: networks.into_iter().collect(),
        }
    }

    /// This policy for the endpoints of services, which private networks are made of. Loopback and
    /// link-local addresses, where machines keep what is theirs alone, stay refused.
    pub(crate) fn within_the_mesh(&self) -> Self {
        let v4 = [
            ([10, 0, 0, 0], 8),
            ([172, 16, 0, 0], 12),
            ([192, 168, 0, 0], 16),
            ([100, 64, 0, 0], 10),
        ];
        let v4 = v4.map(|(network, length)| IpNet::new(Ipv4Addr::from(network).into(), length));
        let v6 = IpNet::new(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0).into(), 7);
        let private = v4.into_iter().chain([v6]).flatten();
        Self {
            allowed: self.allowed.iter().copied().chain(private).collect(),
        }
    }

    /// Whether `address` may be dialled.
    ///
    /// # Errors
    ///
    /// The [`Reason`] why not.
    pub fn permits(&self, address: IpAddr) -> Result<(), Reason> {
        let v6 = match address {
            IpAddr::V4(v4) => return self.judge(v4.into(), of_v4(v4)),
            IpAddr::V6(v6) => v6,
        };
        if let Some(v4) = carried(v6) {
            return self.judge(v4.into(), of_v4(v4));
        }
        if let Some(v4) = tunnelled(v6) {
            self.judge(v4.into(), of_v4(v4))?;
        }
        self.judge(address, of_v6(v6))
    }

    fn judge(&self, address: IpAddr, reason: Option<Reason>) -> Result<(), Reason> {
        match reason {
            Some(reason)
                if !self.allowed.iter().any(|net| net.contains(&address))
                    && stands("fetch-addresses") =>
            {
                Err(reason)
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "the unspecified address",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Private => "a private address",
            Self::SharedSpace => "an address of the shared space of providers",
            Self::UniqueLocal => "a unique local address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::Reserved => "a reserved address",
        })
    }
}

fn of_v4(address: Ipv4Addr) -> Option<Reason> {
    let reason = match address.octets() {
        [0, ..] => Reason::Unspecified,
        [127, ..] => Reason::Loopback,
        [169, 254, ..] => Reason::LinkLocal,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Reason::Private,
        [100, 64..=127, ..] => Reason::SharedSpace,
        [224..=239, ..] => Reason::Multicast,
        [255, 255, 255, 255] => Reason::Broadcast,
        // Protocol assignments, documentation, 6to4 relays, benchmarks, class E.
        [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [240..=255, ..] => Reason::Reserved,
        _ => return None,
    };
    Some(reason)
}

fn of_v6(address: Ipv6Addr) -> Option<Reason> {
    let reason = match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Reason::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Reason::Loopback,
        [0xfe80..=0xfebf, ..] => Reason::LinkLocal,
        [0xfec0..=0xfeff, ..] => Reason::Private,
        [0xfc00..=0xfdff, ..] => Reason::UniqueLocal,
        [0xff00..=0xffff, ..] => Reason::Multicast,
        // Protocol assignments (Teredo, ORCHID, benchmarks), documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Reason::Reserved,
        // Global unicast.
        [0x2000..=0x3fff, ..] => return None,
        _ => Reason::Reserved,
    };
    Some(reason)
}

/// The IPv4 address that an IPv6 address is another spelling of, or is translated to.
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        // `::` and `::1` are addresses of IPv6.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // Mapped, compatible (deprecated), translated (SIIT).
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        // NAT64's well-known prefix.
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        // 6to4.
        | [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

/// The IPv4 address to which packets are tunnelled (ISATAP) by whoever serves the prefix.
fn tunnelled(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(v4(high, low)),
        _ => None,
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}
