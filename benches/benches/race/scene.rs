//! The scenes: what comes in, what goes out, and what stands between.

use clap::ValueEnum;

use crate::contestant::Contestant;

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Scene {
    /// HTTP/1.1 in and out, one route
    Plain,
    /// The same behind a policy of 10 rules, of which the last allows
    PlainPolicy,
    /// HBONE in, HTTP/1.1 out, the same policy
    HbonePlain,
    /// HBONE in and out, the same policy
    HboneHbone,
}

impl Scene {
    pub(crate) const ALL: [Self; 4] = [
        Self::Plain,
        Self::PlainPolicy,
        Self::HbonePlain,
        Self::HboneHbone,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::PlainPolicy => "plain-policy",
            Self::HbonePlain => "hbone-plain",
            Self::HboneHbone => "hbone-hbone",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Plain => "HTTP/1.1 → HTTP/1.1, one route",
            Self::PlainPolicy => "HTTP/1.1 → HTTP/1.1, one route, 10 authorization rules",
            Self::HbonePlain => "HBONE → HTTP/1.1, one route, 10 authorization rules",
            Self::HboneHbone => "HBONE → HBONE, one route, 10 authorization rules",
        }
    }

    pub(crate) fn hbone_in(self) -> bool {
        matches!(self, Self::HbonePlain | Self::HboneHbone)
    }

    pub(crate) fn hbone_out(self) -> bool {
        self == Self::HboneHbone
    }

    pub(crate) fn has_policy(self) -> bool {
        self != Self::Plain
    }

    pub(crate) fn contestants(self) -> &'static [Contestant] {
        use Contestant::{Bare, Envoy, Haproxy, Nginx, Wayline};
        match self {
            Self::Plain => &[Bare, Nginx, Haproxy, Envoy, Wayline],
            Self::PlainPolicy => &[Bare, Haproxy, Envoy, Wayline],
            Self::HbonePlain | Self::HboneHbone => &[Bare, Envoy, Wayline],
        }
    }

    /// What Wayline may cost as a ratio to another contestant.
    pub(crate) fn budgets(self) -> &'static [(Contestant, f64)] {
        use Contestant::{Bare, Envoy, Haproxy};
        match self {
            Self::Plain | Self::PlainPolicy => &[(Haproxy, 1.0), (Bare, 1.15), (Envoy, 0.30)],
            Self::HbonePlain | Self::HboneHbone => &[(Bare, 1.35), (Envoy, 0.30)],
        }
    }
}
