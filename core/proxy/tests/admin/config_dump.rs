//! `/config_dump` as Istio's tools read it, and what it must never hold.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use wayline_model::status::reason::PROGRAMMED;
use wayline_model::status::{Condition, GatewayStatus, ObjectStatus, Status, Statuses};
use wayline_model::{Finding, ObjectRef, Snapshot};

use crate::support::{Bench, CREDENTIAL, gateway, waypoint};

const REVIEWS: &str = "outbound|9080||reviews.default.svc.cluster.local";
const ROUTES: &str = "inbound-vip|9080|http|reviews.default.svc.cluster.local";

/// The section of that message.
fn section(dump: &Value, message: &str) -> Value {
    let configs = dump["configs"].as_array().unwrap();
    let wanted = format!("type.googleapis.com/{message}");
    let found = configs.iter().find(|it| it["@type"] == wanted.as_str());
    found.unwrap_or_else(|| panic!("no {message}")).clone()
}

fn envoy(dump: &Value, message: &str) -> Value {
    section(dump, &format!("envoy.admin.v3.{message}"))
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let mut items = list.as_array().unwrap().iter();
    items.find(|it| it["name"] == name).unwrap()
}

fn decoded(inline: &Value) -> String {
    let text = inline["inline_bytes"].as_str().unwrap();
    String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
}

#[test]
fn its_sections_are_those_of_envoy_and_one_of_ours() {
    let bench = Bench::start(waypoint());
    let types = |path| -> Vec<String> {
        let dump = bench.json(path);
        let configs = dump["configs"].as_array().unwrap().iter();
        configs
            .map(|it| {
                it["@type"]
                    .as_str()
                    .unwrap()
                    .rsplit('.')
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    let without = [
        "BootstrapConfigDump",
        "ClustersConfigDump",
        "EcdsConfigDump",
        "ListenersConfigDump",
        "ScopedRoutesConfigDump",
        "RoutesConfigDump",
        "SecretsConfigDump",
        "SnapshotDump",
    ];
    assert_eq!(types("/config_dump"), without);
    assert_eq!(types("/config_dump?mask=bootstrap"), without);
    let mut with = without.to_vec();
    with.insert(3, "EndpointsConfigDump");
    assert_eq!(types("/config_dump?include_eds"), with);
    assert_eq!(types("/config_dump?include_eds=true"), with);
    assert_eq!(types("/config_dump?include_eds=false"), without);
    let bootstrap = &envoy(&bench.json("/config_dump"), "BootstrapConfigDump")["bootstrap"];
    let id = "waypoint~127.0.0.1~waypoint.default~default.svc.cluster.local";
    assert_eq!(bootstrap["node"]["id"], id);
}

#[test]
fn listeners_name_addresses_routes_and_clusters() {
    let bench = Bench::start(waypoint());
    let dump = envoy(&bench.json("/config_dump"), "ListenersConfigDump");
    let listener = &named(&dump["dynamic_listeners"], "hbone")["active_state"]["listener"];
    assert_eq!(
        listener["@type"],
        "type.googleapis.com/envoy.config.listener.v3.Listener"
    );
    let address = &listener["address"]["socket_address"];
    assert_eq!(address["address"], "127.0.0.1");
    assert_eq!(address["port_value"], bench.port("hbone").port());

    let http = named(&listener["filter_chains"], ROUTES);
    let vip = json!([{"address_prefix": "10.96.0.7", "prefix_len": 32}]);
    assert_eq!(http["filter_chain_match"]["prefix_ranges"], vip);
    assert_eq!(http["filter_chain_match"]["destination_port"], 9080);
    let manager = &http["filters"][0];
    assert_eq!(
        manager["name"],
        "envoy.filters.network.http_connection_manager"
    );
    assert_eq!(manager["typed_config"]["rds"]["route_config_name"], ROUTES);

    let tcp = "inbound-vip|9000|tcp|reviews.default.svc.cluster.local";
    let proxy = &named(&listener["filter_chains"], tcp)["filters"][0];
    assert_eq!(proxy["name"], "envoy.filters.network.tcp_proxy");
    let cluster = "outbound|9000||reviews.default.svc.cluster.local";
    assert_eq!(proxy["typed_config"]["cluster"], cluster);

    let fixed = dump["static_listeners"].as_array().unwrap();
    assert_eq!(fixed.len(), 2);
}

#[test]
fn a_listener_that_is_not_open_is_in_error() {
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = occupied.local_addr().unwrap().port();
    let bench = Bench::start(gateway(&[0, port]));
    let dump = envoy(&bench.json("/config_dump"), "ListenersConfigDump");
    let listeners = &dump["dynamic_listeners"];
    assert!(named(listeners, "default/shop:0")["active_state"].is_object());
    let failed = named(listeners, &format!("default/shop:{port}"));
    assert!(failed["active_state"].is_null());
    let details = failed["error_state"]["details"].as_str().unwrap();
    assert!(details.contains("can not listen on"), "{details}");
}

#[test]
fn routes_show_matches_weights_and_missing_backends() {
    let bench = Bench::start(waypoint());
    let dump = envoy(&bench.json("/config_dump"), "RoutesConfigDump");
    let configs = dump["dynamic_route_configs"].as_array().unwrap();
    assert_eq!(configs.len(), 1, "opaque ports have no routes");
    let config = &configs[0]["route_config"];
    assert_eq!(config["name"], ROUTES);
    let host = &config["virtual_hosts"][0];
    assert_eq!(host["domains"], json!(["*"]));

    let split = &host["routes"][0];
    assert_eq!(split["name"], "split");
    assert_eq!(
        split["match"],
        json!({
            "path_separated_prefix": "/api",
            "headers": [
                {"name": ":method", "string_match": {"exact": "GET"}},
                {"name": "end-user", "string_match": {"exact": "jason"}},
            ],
        })
    );
    assert_eq!(
        split["route"]["weighted_clusters"]["clusters"],
        json!([
            {"name": REVIEWS, "weight": 90},
            {"name": "BlackHoleCluster", "weight": 10},
        ])
    );
    assert_eq!(split["route"]["timeout"], "1.500s");
    let metadata = &split["metadata"]["filter_metadata"];
    let missing = &metadata["wayline"]["missing_backends"][0];
    assert_eq!(missing["reason"], "Service default/gone does not exist");
    let origin = "/apis/gateway.networking.k8s.io/v1/namespaces/default/http-route/reviews";
    assert_eq!(metadata["istio"]["config"], origin);

    let rest = &host["routes"][1];
    assert_eq!(rest["match"], json!({"prefix": "/"}));
    assert_eq!(rest["route"]["cluster"], REVIEWS);
    let retry = &rest["route"]["retry_policy"];
    assert_eq!(
        retry["retry_on"],
        "connect-failure,refused-stream,unavailable,cancelled"
    );
}

#[test]
fn a_gateways_routes_are_under_their_hosts() {
    let bench = Bench::start(gateway(&[0]));
    let dump = envoy(&bench.json("/config_dump"), "RoutesConfigDump");
    let config = &dump["dynamic_route_configs"][0]["route_config"];
    assert_eq!(config["name"], "default/shop:0");
    let hosts = &config["virtual_hosts"];
    assert_eq!(hosts[0]["domains"], json!(["*.example.com"]));
    assert_eq!(hosts[0]["routes"][1]["route"]["cluster"], REVIEWS);
}

#[test]
fn clusters_and_endpoints_are_named_as_istio_names_them() {
    let bench = Bench::start(waypoint());
    let dump = bench.json("/config_dump?include_eds");
    let clusters = envoy(&dump, "ClustersConfigDump");
    let clusters = clusters["dynamic_active_clusters"].as_array().unwrap();
    assert_eq!(clusters.len(), 2);
    let reviews = &clusters[1]["cluster"];
    assert_eq!(reviews["name"], REVIEWS);
    assert_eq!(reviews["connect_timeout"], "10s");
    let services = &reviews["metadata"]["filter_metadata"]["istio"]["services"];
    assert_eq!(services[0]["host"], "reviews.default.svc.cluster.local");

    let endpoints = envoy(&dump, "EndpointsConfigDump");
    let assignment = &endpoints["dynamic_endpoint_configs"][1]["endpoint_config"];
    assert_eq!(assignment["cluster_name"], REVIEWS);
    let zone = &assignment["endpoints"][0];
    assert_eq!(zone["locality"]["zone"], "zone-a");
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": 9080}});
    assert_eq!(zone["lb_endpoints"][0]["endpoint"]["address"], address);
    assert_eq!(zone["lb_endpoints"][0]["health_status"], "HEALTHY");
    let tunnel = &zone["lb_endpoints"][1]["metadata"]["filter_metadata"]["wayline"];
    assert_eq!(tunnel["tunnel"], "127.0.0.2:15008");
}

#[test]
fn our_own_section_tells_tunnels_policies_and_findings() {
    let bench = Bench::start(waypoint());
    let finding = Finding::error("no such backend").remedy("name one that exists");
    bench.findings.send_replace(vec![finding].into());
    let dump = section(&bench.json("/config_dump"), "wayline.admin.v1.SnapshotDump");
    assert_eq!(dump["generation"], 1);
    assert_eq!(dump["proxies"][0]["role"], "waypoint");
    assert_eq!(dump["findings"][0]["severity"], "error");
    assert_eq!(dump["findings"][0]["remedy"], "name one that exists");
    let tunnels = dump["tunnels"].as_array().unwrap();
    let mut authorities: Vec<&str> = tunnels
        .iter()
        .map(|it| it["authority"].as_str().unwrap())
        .collect();
    authorities.sort_unstable();
    let expected = [
        "10.96.0.7:9000",
        "10.96.0.7:9080",
        "reviews.default.svc.cluster.local:9000",
        "reviews.default.svc.cluster.local:9080",
    ];
    assert_eq!(authorities, expected);
    let tunnel = tunnels.iter().find(|it| it["port"] == 9080).unwrap();
    assert_eq!(tunnel["protocol"], "http");
    assert_eq!(
        tunnel["service"],
        "default/reviews.default.svc.cluster.local"
    );
    let rule = &tunnel["policies"]["rules"][0];
    assert_eq!(rule["rule"], "ns[default]-policy[no-admin]-rule[0]");
    assert_eq!(rule["action"], "DENY");
}

#[test]
fn statuses_know_what_could_not_be_bound() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bench = Bench::start(Snapshot {
        statuses: Statuses {
            all: ["shop", "waypoint"].map(programmed).into(),
        }
        .into(),
        ..gateway(&[taken.local_addr().unwrap().port(), 0])
    });
    let programmed = || {
        let dump = section(&bench.json("/config_dump"), "wayline.admin.v1.SnapshotDump");
        ["shop", "waypoint"].map(|name| {
            let condition = &named(&dump["statuses"], name)["status"]["conditions"][0];
            condition["status"].as_str().unwrap().to_owned()
        })
    };
    assert_eq!(programmed(), ["False", "True"]);
    drop(taken);
    bench.eventually("admin", "/listeners", |reply| {
        !reply.body.contains("in use")
    });
    assert_eq!(programmed(), ["True", "True"]);
}

fn programmed(name: &str) -> ObjectStatus {
    ObjectStatus {
        object: ObjectRef::new("Gateway", "default", name),
        status: Status::Gateway(GatewayStatus {
            conditions: vec![Condition::holds(PROGRAMMED, PROGRAMMED, "")],
            ..GatewayStatus::default()
        }),
    }
}

#[test]
fn certificates_are_shown_and_their_key_is_not() {
    let bench = Bench::start(waypoint());
    let dump = envoy(&bench.json("/config_dump"), "SecretsConfigDump");
    assert!(dump["dynamic_active_secrets"].is_null());
    let waiting = named(&dump["dynamic_warming_secrets"], "default");
    assert_eq!(waiting["secret"]["name"], "default");

    let issued = bench.certify();
    let dump = envoy(&bench.json("/config_dump"), "SecretsConfigDump");
    let secrets = &dump["dynamic_active_secrets"];
    // `istioctl proxy-config secret | jq '.dynamicActiveSecrets[0]'` is what people type.
    assert_eq!(secrets[0]["name"], "default");
    let certificate = &secrets[0]["secret"]["tls_certificate"];
    let unix = |pem: &str| pem.replace('\r', "");
    assert_eq!(
        decoded(&certificate["certificate_chain"]),
        unix(&issued.chain_pem)
    );
    assert_eq!(
        certificate["private_key"]["inline_bytes"],
        "W3JlZGFjdGVkXQ=="
    );
    let roots = &named(secrets, "ROOTCA")["secret"]["validation_context"]["trusted_ca"];
    assert_eq!(decoded(roots), unix(&issued.root_pem));
}

#[test]
fn no_page_holds_a_key_or_a_credential() {
    let bench = Bench::start(waypoint());
    let mut issued = bench.certify();
    // A file that holds the key beside the certificate, as some tools write them.
    issued.chain_pem.push_str(&issued.key_pem);
    bench.certificates.replace(issued.bundle()).unwrap();

    // The private number lies in the first two lines (PKCS#8 of P-256); the last is the public key's.
    let lines = issued.key_pem.lines();
    let key: Vec<&str> = lines
        .filter(|line| !line.starts_with('-'))
        .take(2)
        .collect();
    assert!(key.iter().all(|line| line.len() == 64), "{key:?}");
    let mut shown = String::new();
    for path in [
        "/",
        "/config_dump?include_eds",
        "/config_dump?resource=dynamic_active_secrets",
        "/config_dump?resource=dynamic_route_configs",
        "/clusters",
        "/clusters?format=json",
        "/listeners",
        "/stats",
        "/stats/prometheus",
        "/server_info",
        "/logging",
        "/ready",
    ] {
        let body = bench.get("admin", path).body;
        // What is in base64 once more must be looked at, too.
        let inline = body
            .split('"')
            .filter_map(|text| STANDARD.decode(text).ok());
        for bytes in inline {
            shown.push_str(&String::from_utf8_lossy(&bytes));
        }
        shown.push_str(&body);
    }
    assert!(shown.contains("BEGIN CERTIFICATE"));
    assert!(!shown.contains("PRIVATE KEY"));
    for line in key {
        assert!(!shown.contains(line), "{line}");
    }
    assert!(!shown.contains(CREDENTIAL));
    assert!(shown.contains("x-shown") && shown.contains("[redacted]"));
}

#[test]
fn one_resource_can_be_asked_for() {
    let bench = Bench::start(waypoint());
    bench.certify();
    for (resource, message, count) in [
        (
            "dynamic_listeners",
            "ListenersConfigDump.DynamicListener",
            1,
        ),
        (
            "dynamic_active_clusters",
            "ClustersConfigDump.DynamicCluster",
            2,
        ),
        (
            "dynamic_endpoint_configs",
            "EndpointsConfigDump.DynamicEndpointConfig",
            2,
        ),
        (
            "dynamic_route_configs",
            "RoutesConfigDump.DynamicRouteConfig",
            1,
        ),
        (
            "dynamic_active_secrets",
            "SecretsConfigDump.DynamicSecret",
            2,
        ),
    ] {
        let dump = bench.json(&format!("/config_dump?resource={resource}"));
        let configs = dump["configs"].as_array().unwrap();
        assert_eq!(configs.len(), count, "{resource}");
        let wanted = format!("type.googleapis.com/envoy.admin.v3.{message}");
        assert!(configs.iter().all(|it| it["@type"] == wanted.as_str()));
    }
    let reply = bench.get("admin", "/config_dump?resource=unicorns");
    assert_eq!(reply.status, 404);
    assert!(reply.body.contains("dynamic_listeners"), "{}", reply.body);
}
