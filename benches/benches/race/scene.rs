//! The scenes: what goes in, what comes out, who takes part, and what Wayline may cost there.

use clap::ValueEnum;
use wayline_benches::{
    Beside, Call, Door, Entrance, Module, POISON_PATH, POISONED_AUTHORITY, Setup, Upstream,
};

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
    Wasm,
    Jwt,
    Calm,
    Poison,
}

/// What Wayline's CPU time per request is compared with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Against {
    /// Another contestant in the same scene.
    Peer(Contestant),
    /// Itself in another scene.
    Itself(Scene),
}

/// The rate of the open loop where nobody asks for another.
pub(crate) const USUAL_RATE: f64 = 8_000.0;

/// Requests per second of who is not to notice its neighbour, and of the neighbour.
const NEIGHBOURS: f64 = 1_000.0;

const POLICY: Setup = Setup {
    rules: true,
    ..Setup::PLAIN
};

const WAYPOINT: Setup = Setup {
    door: Door::Hbone,
    ..POLICY
};

impl Scene {
    pub(crate) const ALL: [Self; 19] = [
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
        Self::Wasm,
        Self::Jwt,
        Self::Calm,
        Self::Poison,
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
            Self::Wasm => "wasm",
            Self::Jwt => "jwt",
            Self::Calm => "calm",
            Self::Poison => "poison",
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
            Self::Wasm => "`plain` with a Rust filter that sets one header of the answer",
            Self::Jwt => "`plain` with a token (RS256, 2,048 bits) that is verified",
            Self::Calm => {
                "HBONE → HTTP/1.1 at 1,000 requests/s, beside 1,000/s to a service with a plugin"
            }
            Self::Poison => "`calm`, where every twentieth request to the plugin never ends in it",
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
            Self::Wasm => Setup {
                module: Some(Module::OneHeader),
                ..Setup::PLAIN
            },
            Self::Jwt => Setup {
                token: true,
                ..Setup::PLAIN
            },
            Self::Calm | Self::Poison => Setup {
                module: Some(Module::Poison),
                door: Door::Hbone,
                ..Setup::PLAIN
            },
        }
    }

    pub(crate) fn entrance(self) -> Entrance {
        match self {
            Self::H2 | Self::Grpc => Entrance::Http2 {
                connections: 4,
                streams: 4,
            },
            Self::HbonePlain
            | Self::HboneHbone
            | Self::Policies10000
            | Self::Calm
            | Self::Poison => Entrance::Hbone {
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
            | Self::Churn
            | Self::Wasm
            | Self::Jwt => Entrance::Plain { connections: 16 },
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
            Self::Calm | Self::Poison => Some(NEIGHBOURS / USUAL_RATE),
            _ => Some(1.0),
        }
    }

    /// What is asked beside the load that is measured.
    pub(crate) fn beside(self) -> Option<Beside> {
        let one_in = match self {
            Self::Calm => None,
            Self::Poison => Some(20),
            _ => return None,
        };
        Some(Beside {
            authority: POISONED_AUTHORITY.to_owned(),
            rate: NEIGHBOURS,
            one_in,
            path: POISON_PATH.to_owned(),
        })
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
            Self::Wasm | Self::Jwt => &[Envoy, Wayline],
            Self::Routes10000 | Self::Policies10000 | Self::Churn | Self::Calm | Self::Poison => {
                &[Wayline]
            }
        }
    }

    /// What Wayline's p99 may be as a ratio to its p99 in another scene.
    pub(crate) fn latency_budget(self) -> Option<(Self, f64)> {
        (self == Self::Poison).then_some((Self::Calm, 1.2))
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
            Self::Wasm => &[(Against::Itself(Self::Plain), 1.04)],
            Self::H2
            | Self::Grpc
            | Self::Download
            | Self::Upload
            | Self::Churn
            | Self::Idle
            | Self::Jwt
            | Self::Calm
            | Self::Poison => &[],
        }
    }
}
