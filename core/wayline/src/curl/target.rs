//! What a URL means to a workload in the mesh.

use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderValue, Uri};
use wayline_hbone::TunnelAuthority;

use crate::failure::Failure;

/// The DNS suffix of services.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// Where a request goes.
#[derive(Debug)]
pub(crate) struct Target {
    authority: TunnelAuthority,
    host: String,
    path: Uri,
}

impl Target {
    /// Reads a URL as a workload of `namespace` would: `reviews` is its namespace's service,
    /// `reviews.other` another's.
    pub(crate) fn parse(url: &str, namespace: &str) -> Result<Self, Failure> {
        let refused = |reason: &str| {
            Failure::new(format!("{url}: {reason}"))
                .remedy("write it as http://reviews:9080/reviews/1")
        };
        let with_scheme = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let uri: Uri = with_scheme.parse().map_err(|_| refused("not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(
                Failure::new(format!("{url}: only http:// is spoken inside the tunnel"))
                    .remedy("use http://; the tunnel itself is mutual TLS"),
            );
        }
        let authority = uri.authority().ok_or_else(|| refused("there is no host"))?;
        if authority.as_str().contains('@') {
            return Err(refused("user and password are not supported"));
        }
        let host = authority.host();
        // Without a user, the host is what the authority begins with.
        let port = match &authority.as_str()[host.len()..] {
            "" => 80,
            written => written
                .strip_prefix(':')
                .and_then(|port| port.parse().ok())
                .filter(|port| *port > 0_u16)
                .ok_or_else(|| refused("the port is not a number from 1 to 65535"))?,
        };
        let path = uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .parse()
            .map_err(|_| refused("the path is not valid"))?;
        let tunnel = match ip(host) {
            Some(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            Some(ip) => format!("{ip}:{port}"),
            None => format!("{}:{port}", full_name(host, namespace)),
        };
        let host = if port == 80 {
            host.to_owned()
        } else {
            format!("{host}:{port}")
        };
        Ok(Self {
            authority: TunnelAuthority::parse(&tunnel)
                .map_err(|error| refused(&error.to_string()))?,
            host,
            path,
        })
    }

    /// What CONNECT names.
    pub(crate) fn authority(&self) -> &TunnelAuthority {
        &self.authority
    }

    /// Path and query.
    pub(crate) fn path(&self) -> &Uri {
        &self.path
    }

    /// The Host header: what the user wrote, as an application in the mesh would send it.
    pub(crate) fn host_header(&self) -> Result<HeaderValue, Failure> {
        HeaderValue::try_from(&*self.host).map_err(Failure::new)
    }
}

fn ip(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

/// Completes a service's short name, as the resolver of a pod would.
fn full_name(host: &str, namespace: &str) -> String {
    let host = host.trim_end_matches('.');
    match host.split('.').collect::<Vec<_>>()[..] {
        [name] => format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}"),
        [name, other] => format!("{name}.{other}.svc.{CLUSTER_DOMAIN}"),
        [_, _, "svc"] => format!("{host}.{CLUSTER_DOMAIN}"),
        _ => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_mean_what_they_mean_in_a_pod() {
        for (url, authority, host, path) in [
            (
                "http://reviews:9080/reviews/1?x=y",
                "reviews.default.svc.cluster.local:9080",
                "reviews:9080",
                "/reviews/1?x=y",
            ),
            (
                "reviews",
                "reviews.default.svc.cluster.local:80",
                "reviews",
                "/",
            ),
            (
                "http://reviews.other",
                "reviews.other.svc.cluster.local:80",
                "reviews.other",
                "/",
            ),
            (
                "http://reviews.other.svc:80/",
                "reviews.other.svc.cluster.local:80",
                "reviews.other.svc",
                "/",
            ),
            (
                "http://www.example.com/a",
                "www.example.com:80",
                "www.example.com",
                "/a",
            ),
            (
                "http://10.0.0.1:8080",
                "10.0.0.1:8080",
                "10.0.0.1:8080",
                "/",
            ),
            (
                "http://[fd00::1]:8080/",
                "[fd00::1]:8080",
                "[fd00::1]:8080",
                "/",
            ),
        ] {
            let target = Target::parse(url, "default").unwrap();
            assert_eq!(target.authority().to_string(), authority, "{url}");
            assert_eq!(target.host_header().unwrap(), host, "{url}");
            assert_eq!(target.path().to_string(), path, "{url}");
        }
        for bad in [
            "https://reviews",
            "ftp://x",
            "http://",
            "http://u:p@reviews",
            "http://reviews:0",
            "http://reviews:70000",
            "http://re views",
        ] {
            assert!(Target::parse(bad, "default").is_err(), "{bad}");
        }
    }
}
