//! Looking up a route, and judging a request, in small and in large configurations.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use wayline_benches::single::{Failure, snapshot};
use wayline_benches::{Door, HOST, PATH, Setup, client_identity};
use wayline_model::CanonicalRequest;
use wayline_model::authorization::PolicyInput;
use wayline_model::request::PathNormalization;

use crate::measured;

/// Finds the one rule among so many.
pub(crate) fn route(routes: usize, count: usize) -> Result<(), Failure> {
    let setup = Setup {
        routes,
        ..Setup::PLAIN
    };
    let snapshot = snapshot(&setup, backend())?;
    let request = request()?;
    let entrance = snapshot.entrances.first().ok_or("no gateway")?;
    let look_up = || {
        let routes = entrance.hosts.lookup(black_box(HOST)).ok_or("no host")?;
        let rule = routes.table_for(None).lookup(black_box(&request));
        black_box(rule.ok_or("no route")?);
        Ok(())
    };
    measured(|| (0..count).try_for_each(|_| look_up()))
}

/// Judges by 10 rules and so many policies.
pub(crate) fn policy(policies: usize, count: usize) -> Result<(), Failure> {
    let setup = Setup {
        door: Door::Hbone,
        rules: true,
        policies,
        ..Setup::PLAIN
    };
    let snapshot = snapshot(&setup, backend())?;
    let target = snapshot.tunnels.by_address.values().next();
    let authorization = &target.ok_or("no target")?.authorization;
    let request = request()?;
    let identity = client_identity();
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let input = PolicyInput {
        identity: Some(&identity),
        source_ip: address,
        remote_ip: address,
        destination_ip: Some(address),
        destination_port: 80,
        sni: None,
        request: Some(&request),
        token: None,
    };
    let judge = || match authorization.judge(black_box(&input)).verdict.is_allowed() {
        true => Ok(()),
        false => Err("refused".into()),
    };
    measured(|| (0..count).try_for_each(|_| judge()))
}

fn request() -> Result<CanonicalRequest, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::HOST, HeaderValue::from_static(HOST));
    let uri: Uri = PATH.parse()?;
    let mode = PathNormalization::default();
    let request = CanonicalRequest::new(Method::GET, &uri, Version::HTTP_11, headers, mode)?;
    Ok(request)
}

fn backend() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))
}
