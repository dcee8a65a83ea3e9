//! Response flags: why a request did not go the ordinary way, in Envoy's words.
//!
//! The set of names is Envoy's (`%RESPONSE_FLAGS%`), so that dashboards, Kiali and people's alerts
//! read ours without translation. Flags nobody raises yet are there because log filters name them.

use std::fmt;

/// One reason, as Envoy numbers and names it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum ResponseFlag {
    /// `LH`: the local service failed its health check.
    FailedLocalHealthCheck,
    /// `UH`: no healthy upstream host.
    NoHealthyUpstream,
    /// `UT`: the upstream request timed out.
    UpstreamRequestTimeout,
    /// `LR`: reset by this proxy.
    LocalReset,
    /// `UR`: reset by the upstream.
    UpstreamRemoteReset,
    /// `UC`: the upstream connection ended under the request.
    UpstreamConnectionTermination,
    /// `UF`: the upstream connection could not be made.
    UpstreamConnectionFailure,
    /// `UO`: refused because a circuit breaker is open.
    UpstreamOverflow,
    /// `NR`: no route.
    NoRouteFound,
    /// `DI`: a delay was injected.
    DelayInjected,
    /// `FI`: an abort was injected.
    FaultInjected,
    /// `RL`: rate limited.
    RateLimited,
    /// `UAEX`: denied by the external authorization service.
    UnauthorizedExternalService,
    /// `RLSE`: the rate limit service failed.
    RateLimitServiceError,
    /// `DC`: the client's connection ended under the request.
    DownstreamConnectionTermination,
    /// `URX`: retries or connect attempts are used up.
    UpstreamRetryLimitExceeded,
    /// `SI`: the stream was idle for too long.
    StreamIdleTimeout,
    /// `IH`: a control header held an invalid value.
    InvalidEnvoyRequestHeaders,
    /// `DPE`: the client broke its protocol.
    DownstreamProtocolError,
    /// `UMSDR`: the stream reached its longest duration.
    UpstreamMaxStreamDurationReached,
    /// `RFCF`: answered from a cache.
    ResponseFromCacheFilter,
    /// `NFCF`: the configuration of a filter is not there.
    NoFilterConfigFound,
    /// `DT`: the connection or request exceeded its duration.
    DurationTimeout,
    /// `UPE`: the upstream broke its protocol.
    UpstreamProtocolError,
    /// `NC`: the upstream cluster is not known.
    NoClusterFound,
    /// `OM`: refused by the overload manager.
    OverloadManager,
    /// `DF`: the upstream's name did not resolve.
    DnsResolutionFailed,
    /// `DO`: dropped by policy under load.
    DropOverload,
    /// `DR`: reset by the client.
    DownstreamRemoteReset,
    /// `UDO`: dropped by policy, unconditionally.
    UnconditionalDropOverload,
}

impl ResponseFlag {
    /// Every flag, in the order in which sets print them.
    pub const ALL: [Self; 30] = [
        Self::FailedLocalHealthCheck,
        Self::NoHealthyUpstream,
        Self::UpstreamRequestTimeout,
        Self::LocalReset,
        Self::UpstreamRemoteReset,
        Self::UpstreamConnectionTermination,
        Self::UpstreamConnectionFailure,
        Self::UpstreamOverflow,
        Self::NoRouteFound,
        Self::DelayInjected,
        Self::FaultInjected,
        Self::RateLimited,
        Self::UnauthorizedExternalService,
        Self::RateLimitServiceError,
        Self::DownstreamConnectionTermination,
        Self::UpstreamRetryLimitExceeded,
        Self::StreamIdleTimeout,
        Self::InvalidEnvoyRequestHeaders,
        Self::DownstreamProtocolError,
        Self::UpstreamMaxStreamDurationReached,
        Self::ResponseFromCacheFilter,
        Self::NoFilterConfigFound,
        Self::DurationTimeout,
        Self::UpstreamProtocolError,
        Self::NoClusterFound,
        Self::OverloadManager,
        Self::DnsResolutionFailed,
        Self::DropOverload,
        Self::DownstreamRemoteReset,
        Self::UnconditionalDropOverload,
    ];

    /// The short name, as `%RESPONSE_FLAGS%` and the `response_flags` label show it.
    #[must_use]
    pub fn short_name(self) -> &'static str {
        match self {
            Self::FailedLocalHealthCheck => "LH",
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamRequestTimeout => "UT",
            Self::LocalReset => "LR",
            Self::UpstreamRemoteReset => "UR",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamOverflow => "UO",
            Self::NoRouteFound => "NR",
            Self::DelayInjected => "DI",
            Self::FaultInjected => "FI",
            Self::RateLimited => "RL",
            Self::UnauthorizedExternalService => "UAEX",
            Self::RateLimitServiceError => "RLSE",
            Self::DownstreamConnectionTermination => "DC",
            Self::UpstreamRetryLimitExceeded => "URX",
            Self::StreamIdleTimeout => "SI",
            Self::InvalidEnvoyRequestHeaders => "IH",
            Self::DownstreamProtocolError => "DPE",
            Self::UpstreamMaxStreamDurationReached => "UMSDR",
            Self::ResponseFromCacheFilter => "RFCF",
            Self::NoFilterConfigFound => "NFCF",
            Self::DurationTimeout => "DT",
            Self::UpstreamProtocolError => "UPE",
            Self::NoClusterFound => "NC",
            Self::OverloadManager => "OM",
            Self::DnsResolutionFailed => "DF",
            Self::DropOverload => "DO",
            Self::DownstreamRemoteReset => "DR",
            Self::UnconditionalDropOverload => "UDO",
        }
    }
}

impl fmt::Display for ResponseFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short_name())
    }
}

/// A set of flags.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ResponseFlags(u32);

impl ResponseFlags {
    /// No flag: the request went the ordinary way.
    pub const NONE: Self = Self(0);

    /// Adds a flag.
    pub fn insert(&mut self, flag: ResponseFlag) {
        self.0 |= 1 << flag as u32;
    }

    /// The set with a flag added.
    #[must_use]
    pub fn with(mut self, flag: ResponseFlag) -> Self {
        self.insert(flag);
        self
    }

    /// Whether a flag is in the set.
    #[must_use]
    pub fn contains(self, flag: ResponseFlag) -> bool {
        self.0 & (1 << flag as u32) != 0
    }

    /// Whether no flag is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flags in the set, in the order of [`ResponseFlag::ALL`].
    pub fn iter(self) -> impl Iterator<Item = ResponseFlag> {
        ResponseFlag::ALL
            .into_iter()
            .filter(move |flag| self.contains(*flag))
    }

    /// The set as a number, with Envoy's bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl From<ResponseFlag> for ResponseFlags {
    fn from(flag: ResponseFlag) -> Self {
        Self::NONE.with(flag)
    }
}

impl FromIterator<ResponseFlag> for ResponseFlags {
    fn from_iter<I: IntoIterator<Item = ResponseFlag>>(flags: I) -> Self {
        flags.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Display for ResponseFlags {
    /// Short names joined by `,`; `-` when the set is empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (i, flag) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(flag.short_name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn prints_short_names_in_one_order_and_a_dash_for_none() {
        assert_eq!(ResponseFlags::NONE.to_string(), "-");
        let flags: ResponseFlags = [
            ResponseFlag::UpstreamRetryLimitExceeded,
            ResponseFlag::UpstreamConnectionFailure,
        ]
        .into_iter()
        .collect();
        assert_eq!(flags.to_string(), "UF,URX");
        assert!(flags.contains(ResponseFlag::UpstreamConnectionFailure));
        assert!(!flags.contains(ResponseFlag::NoRouteFound));
    }

    #[test]
    fn every_flag_is_listed_once_and_has_its_own_name() {
        let names: HashSet<&str> = ResponseFlag::ALL.iter().map(|f| f.short_name()).collect();
        assert_eq!(names.len(), ResponseFlag::ALL.len());
        for (i, flag) in ResponseFlag::ALL.into_iter().enumerate() {
            assert_eq!(flag as usize, i, "{flag} stands out of order");
        }
    }
}
