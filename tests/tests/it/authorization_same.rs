//! The same AuthorizationPolicies, written once for Istio and once by hand for Envoy's RBAC filter, and the
//! same requests in the same tunnels through both proxies: the same verdicts, decided by the same rule, with
//! the same marks of dry runs and audits. Where they are not, on purpose, the case says so and
//! `docs/security-deviations.md` says why.

mod claims;
mod conditions;
mod opaque;
mod operations;
mod paths;
mod probes;
mod several;
mod sources;
mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::{Value, json};
use wayline_tests::envoy::Envoy;
use wayline_tests::manifests::{self, policy, policy_with};
use wayline_tests::tokens::SigningKey;
use wayline_tests::{Conversation, Mesh, Tunnel, eventually};

use crate::scene::{self, ECHO, PORT};
use probes::{CALLERS, Probe};
use vocabulary::Case;

/// What both proxies say of a request, in one line of their access logs.
const LINE: &str = "probe=%REQ(X-PROBE)% details=%RESPONSE_CODE_DETAILS% \
    deny=%DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_deny_shadow_engine_result)%,\
    %DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_deny_shadow_effective_policy_id)% \
    allow=%DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_allow_shadow_engine_result)%,\
    %DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_allow_shadow_effective_policy_id)% \
    audit=%DYNAMIC_METADATA(envoy.common:access_log_hint)%";

#[test]
fn envoy_says_the_same_to_the_same_requests() {
    let cases: Vec<Case> = [
        sources::cases(),
        operations::cases(),
        conditions::cases(),
        claims::cases(),
        several::cases(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let key = SigningKey::new("ES256", "k");
    let mesh = Mesh::new();
    let probes = probes::all(&key);
    write_policies(&mesh, &cases, &key);
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let envoy = envoy(&mesh, &cases, &key);

    let ours = Run::new(&mesh, mesh.hbone(), &cases, &probes);
    let theirs = Run::new(&mesh, envoy.address, &cases, &probes);
    let expected = cases.len() * probes.len();
    let ours_said = said(expected, || {
        std::fs::read_to_string(mesh.home().join("access.log")).unwrap_or_default()
    });
    let theirs_said = said(expected, || envoy.process.stdout());

    let mut wrong = Vec::new();
    let (mut stricter, mut refused) = (0, 0);
    for case in &cases {
        for probe in &probes {
            let at = (case.name, probe.name);
            let (ours, theirs) = (ours.status[&at], theirs.status[&at]);
            let listed = [&case.stricter, &case.laxer].map(|list| list.contains(&probe.name));
            let as_expected = match listed {
                [true, _] => (ours, theirs) == (403, 200),
                [_, true] => (ours, theirs) == (200, 403),
                _ => ours == theirs,
            };
            stricter += usize::from(listed[0]);
            refused += usize::from(ours == 403);
            let name = format!("{}/{}", case.name, probe.name);
            if !as_expected {
                wrong.push(format!("{name}: Wayline {ours}, Envoy {theirs}"));
            } else if listed == [false, false] && ours_said.get(&name) != theirs_said.get(&name) {
                wrong.push(format!(
                    "{name}: Wayline {:?}\n    Envoy {:?}",
                    ours_said.get(&name),
                    theirs_said.get(&name)
                ));
            }
        }
    }
    let policies: usize = cases.iter().map(|case| case.policies.len()).sum();
    println!(
        "{policies} policies in {} sets, {} requests each; {refused} refused, {stricter} by Wayline alone; {} differ",
        cases.len(),
        probes.len(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refused > expected / 4 && refused < expected * 3 / 4);
    crate::figures::write(
        "compared-envoy",
        &format!(
            "Wayline and Envoy, {policies} policies\t{expected}\t{}\n",
            wrong.len()
        ),
    );
    drop(wayline);
}

/// What became of every request at one proxy.
struct Run {
    status: BTreeMap<(&'static str, &'static str), u16>,
}

impl Run {
    fn new(mesh: &Mesh, hbone: SocketAddr, cases: &[Case], probes: &[Probe]) -> Self {
        let callers = CALLERS.map(|caller| probes::caller(mesh, caller));
        let mut status = BTreeMap::new();
        for (at, case) in cases.iter().enumerate() {
            let authority = format!("{}:80", address(at));
            for (number, caller) in callers.iter().enumerate() {
                let tunnel = Tunnel::open(
                    mesh.ip(wayline_tests::mesh::CALLER),
                    hbone,
                    caller,
                    &authority,
                );
                let mut conversation = Conversation::open(tunnel.address);
                for probe in probes.iter().filter(|probe| probe.caller == number) {
                    let name = format!("{}/{}", case.name, probe.name);
                    let request = probe.request.clone().header("x-probe", &name);
                    let answer = conversation
                        .exchange(&request)
                        .unwrap_or_else(|error| panic!("no answer to {name}: {error}"));
                    status.insert((case.name, probe.name), answer.status);
                    if answer.status != 200 {
                        // Envoy ends connections on which it left a body unread.
                        conversation = Conversation::open(tunnel.address);
                    }
                }
            }
        }
        Self { status }
    }
}

/// What the log says of each probe, once it has a line for each.
fn said(expected: usize, log: impl Fn() -> String) -> BTreeMap<String, String> {
    eventually("a line for each request", || {
        let text = log();
        let lines = text.lines().filter_map(|line| {
            let (probe, said) = line.strip_prefix("probe=")?.split_once(' ')?;
            Some((probe.to_owned(), said.to_owned()))
        });
        let lines: BTreeMap<String, String> = lines.collect();
        (lines.len() == expected).then_some(lines)
    })
}

/// The address of the service of a case.
fn address(at: usize) -> String {
    format!("10.96.{}.{}", 1 + at / 200, 1 + at % 200)
}

/// Addresses of this run in the place of the words for them.
fn placed(mesh: &Mesh, text: &str) -> String {
    text.replace("CALLER", &mesh.ip(wayline_tests::mesh::CALLER).to_string())
        .replace("NETWORK", &mesh.ip(0).to_string())
}

fn write_policies(mesh: &Mesh, cases: &[Case], key: &SigningKey) {
    let more = format!("accessLogFormat: |\n  {LINE}\ntrustDomainAliases: [old.domain]\n");
    mesh.write("mesh.yaml", &mesh.logging(&more));
    let mut documents = scene::echo(mesh);
    documents.push(format!(
        "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: jwt, namespace: default}}
spec:
  targetRefs: [{{kind: Gateway, group: gateway.networking.k8s.io, name: waypoint}}]
  jwtRules: {}
",
        json!([{"issuer": probes::ISSUER, "jwks": key.jwks(), "forwardOriginalToken": true}])
    ));
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "two cases have the same name");
    for (at, case) in cases.iter().enumerate() {
        let name = case.name;
        let service = manifests::service("default", name, &address(at), &[("http", 80, PORT)]);
        documents.push(service.replace(&format!("app: {name}"), "app: echo"));
        for (number, written) in case.policies.iter().enumerate() {
            let name = format!("{name}-p{number}");
            let spec = spec(mesh, case.name, written.spec);
            documents.push(match written.is_dry_run {
                true => policy_with("default", &name, &[("istio.io/dry-run", "true")], &spec),
                false => policy("default", &name, &spec),
            });
        }
    }
    mesh.write("main.yaml", &manifests::file(&documents));
}

/// A spec with its target.
fn spec(mesh: &Mesh, service: &str, written: &str) -> String {
    let written = placed(mesh, written);
    let inner = written
        .strip_prefix('{')
        .unwrap()
        .strip_suffix('}')
        .unwrap();
    let more = if inner.is_empty() { "" } else { ", " };
    format!("{{targetRefs: [{{kind: Service, group: \"\", name: {service}}}]{more}{inner}}}\n")
}

fn envoy(mesh: &Mesh, cases: &[Case], key: &SigningKey) -> Envoy {
    let chains: Vec<Value> = cases
        .iter()
        .enumerate()
        .map(|(at, case)| {
            let mut filters = vec![tokens(key)];
            filters.extend(case.envoy.iter().map(|filter| {
                let text = placed(mesh, &filter.to_string()).replace("CASE", case.name);
                serde_json::from_str(&text).unwrap()
            }));
            // As istiod sets it where proxies in front are counted, and there are none.
            let options = json!({"normalize_path": true, "use_remote_address": true});
            chain(&address(at), &options, &filters)
        })
        .collect();
    let certificate = mesh.certificate(scene::WAYPOINT);
    Envoy::waypoint(mesh, &certificate, &chains, &[backend(mesh)])
}

/// The filter chain of a service: HTTP with these options and filters.
fn chain(address: &str, options: &Value, filters: &[Value]) -> Value {
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.filters.{name}");
    let mut filters = filters.to_vec();
    filters.push(json!({"name": "envoy.filters.http.router",
        "typed_config": {"@type": kind("http.router.v3.Router")}}));
    let mut config = json!({
        "@type": kind("network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "waypoint",
        "access_log": [{"name": "envoy.access_loggers.stdout", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"text_format_source": {"inline_string": format!("{LINE}\n")}},
        }}],
        "http_filters": filters,
        "route_config": {"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "echo"}},
        ]}]},
    });
    for (name, value) in options.as_object().unwrap() {
        config[name] = value.clone();
    }
    json!({
        "name": address,
        "filter_chain_match": {"prefix_ranges": [{"address_prefix": address, "prefix_len": 32}]},
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": config}],
    })
}

fn backend(mesh: &Mesh) -> Value {
    let address = json!({"address": mesh.ip(ECHO), "port_value": PORT});
    json!({"name": "echo", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
        "cluster_name": "echo",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": address}}}]}],
    }})
}

/// The RequestAuthentication as istiod hands it to Envoy.
fn tokens(key: &SigningKey) -> Value {
    json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "bypass_cors_preflight": true,
            "providers": {"origins-0": {
                "issuer": probes::ISSUER,
                "local_jwks": {"inline_string": key.jwks()},
                "forward": true,
                "payload_in_metadata": "payload",
                "normalize_payload_in_metadata": {"space_delimited_claims": ["scope", "permission"]},
            }},
            "rules": [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": [
                {"provider_name": "origins-0"}, {"allow_missing": {}},
            ]}}}],
        },
    })
}
