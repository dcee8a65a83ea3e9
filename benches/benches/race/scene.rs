//! The scenes: what goes in, what comes out, who takes part, and what Wayline may cost there.

use clap::ValueEnum;
use wayline_benches::{Call, Door, Entrance, Setup, Upstream};

use crate::contestant::Contestant;

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Scene {
    Plain,
    PlainPolicy,
    H2,
    Grpc,
    HbonePlain,
    HboneHbone,
    Hbone1,
    Hbone64,
    Routes1000,
    Routes10000,
    Policies10000,
    Download,
    Upload,
    Churn,
    Idle,
}

/// What Wayline's CPU time per request is compared with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Against {
    /// Another contestant in the same scene.
    Peer(Contestant),
    /// Itself in another scene.
    Itself(Scene),
}

const POLICY: Setup = Setup {
    rules: true,
    ..Setup::PLAIN
};

const WAYPOINT: Setup = Setup {
    door: Door::Hbone,
    ..POLICY
};

impl Scene {
    pub(crate) const ALL: [Self; 15] = [
        Self::Plain,
        Self::PlainPolicy,
        Self::H2,
        Self::Grpc,
        Self::HbonePlain,
        Self::HboneHbone,
        Self::Hbone1,
        Self::Hbone64,
        Self::Routes1000,
        Self::Routes10000,
        Self::Policies10000,
        Self::Download,
        Self::Upload,
        Self::Churn,
        Self::Idle,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::PlainPolicy => "plain-policy",
            Self::H2 => "h2",
            Self::Grpc => "grpc",
            Self::HbonePlain => "hbone-plain",
            Self::HboneHbone => "hbone-hbone",
            Self::Hbone1 => "hbone-1",
            Self::Hbone64 => "hbone-64",
            Self::Routes1000 => "routes-1000",
            Self::Routes10000 => "routes-10000",
            Self::Policies10000 => "policies-10000",
            Self::Download => "download",
            Self::Upload => "upload",
            Self::Churn => "churn",
            Self::Idle => "idle",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Plain => "HTTP/1.1 → HTTP/1.1, one route",
            Self::PlainPolicy => "the same with 10 authorization rules",
            Self::H2 => "HTTP/2 → HTTP/2, one route",
            Self::Grpc => "the same with unary gRPC calls",
            Self::HbonePlain => "HBONE → HTTP/1.1, 10 authorization rules",
            Self::HboneHbone => "HBONE → HBONE, 10 authorization rules",
            Self::Hbone1 => "`hbone-plain` through 1 tunnel of 16 streams",
            Self::Hbone64 => "`hbone-plain` through 64 tunnels of 1 stream",
            Self::Routes1000 => "`plain` with 1,000 routes",
            Self::Routes10000 => "`plain` with 10,000 routes",
            Self::Policies10000 => "`hbone-plain` with 10,000 further policies at the service",
            Self::Download => "`plain` with answers of 1 MiB",
            Self::Upload => "`plain` with requests of 1 MiB",
            Self::Churn => "`plain` while a route is changed 1,000 times a second",
            Self::Idle => "10,000 HBONE connections without a stream",
        }
    }

    /// What contestants are configured for.
    pub(crate) fn setup(self) -> Setup {
        match self {
            Self::Plain | Self::Download | Self::Upload | Self::Churn => Setup::PLAIN,
            Self::PlainPolicy => POLICY,
            Self::H2 | Self::Grpc => Setup {
                upstream: Upstream::Http2,
                ..Setup::PLAIN
            },
            Self::HbonePlain | Self::Hbone1 | Self::Hbone64 | Self::Idle => WAYPOINT,
            Self::HboneHbone => Setup {
                upstream: Upstream::Hbone,
                ..WAYPOINT
            },
            Self::Routes1000 => Setup {
                routes: 1_000,
                ..Setup::PLAIN
            },
            Self::Routes10000 => Setup {
                routes: 10_000,
                ..Setup::PLAIN
            },
            Self::Policies10000 => Setup {
                policies: 10_000,
                ..WAYPOINT
            },
        }
    }

    pub(crate) fn entrance(self) -> Entrance {
        match self {
            Self::H2 | Self::Grpc => Entrance::Http2 {
                connections: 4,
                streams: 4,
            },
            Self::HbonePlain | Self::HboneHbone | Self::Policies10000 => Entrance::Hbone {
                tunnels: 4,
                streams: 4,
            },
            Self::Hbone1 => Entrance::Hbone {
                tunnels: 1,
                streams: 16,
            },
            Self::Hbone64 => Entrance::Hbone {
                tunnels: 64,
                streams: 1,
            },
            Self::Idle => Entrance::Idle { tunnels: 10_000 },
            Self::Plain
            | Self::PlainPolicy
            | Self::Routes1000
            | Self::Routes10000
            | Self::Download
            | Self::Upload
            | Self::Churn => Entrance::Plain { connections: 16 },
        }
    }

    pub(crate) fn call(self) -> Call {
        match self {
            Self::Grpc => Call::Grpc,
            Self::Download => Call::Download,
            Self::Upload => Call::Upload,
            _ => Call::Get,
        }
    }

    /// The share of the usual rate at which latencies are taken; none where nothing is asked.
    pub(crate) fn pace(self) -> Option<f64> {
        match self {
            Self::Idle => None,
            // A request moves 10,000 times as many bytes.
            Self::Download | Self::Upload => Some(0.02),
            _ => Some(1.0),
        }
    }

    pub(crate) fn is_churning(self) -> bool {
        self == Self::Churn
    }

    pub(crate) fn has_policy(self) -> bool {
        self.setup().rules && self != Self::Idle
    }

    pub(crate) fn contestants(self) -> &'static [Contestant] {
        use Contestant::{Bare, Envoy, Haproxy, Nginx, Wayline};
        match self {
            Self::Plain | Self::Download | Self::Upload => &[Bare, Nginx, Haproxy, Envoy, Wayline],
            Self::PlainPolicy | Self::H2 | Self::Grpc => &[Bare, Haproxy, Envoy, Wayline],
            Self::HbonePlain | Self::HboneHbone | Self::Hbone1 | Self::Hbone64 | Self::Idle => {
                &[Bare, Envoy, Wayline]
            }
            Self::Routes1000 => &[Envoy, Wayline],
            Self::Routes10000 | Self::Policies10000 | Self::Churn => &[Wayline],
        }
    }

    /// What Wayline may cost as a ratio to something else.
    pub(crate) fn budgets(self) -> &'static [(Against, f64)] {
        use Contestant::{Bare, Envoy, Haproxy};
        const PLAIN: &[(Against, f64)] = &[
            (Against::Peer(Haproxy), 1.0),
            (Against::Peer(Bare), 1.15),
            (Against::Peer(Envoy), 0.30),
        ];
        const HBONE: &[(Against, f64)] =
            &[(Against::Peer(Bare), 1.35), (Against::Peer(Envoy), 0.30)];
        match self {
            Self::Plain | Self::PlainPolicy => PLAIN,
            Self::HbonePlain | Self::HboneHbone | Self::Hbone1 | Self::Hbone64 => HBONE,
            Self::Routes1000 | Self::Routes10000 => &[(Against::Itself(Self::Plain), 1.1)],
            Self::Policies10000 => &[(Against::Itself(Self::HbonePlain), 1.1)],
            Self::H2 | Self::Grpc | Self::Download | Self::Upload | Self::Churn | Self::Idle => &[],
        }
    }
}
