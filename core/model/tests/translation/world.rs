//! What the tests share: manifests, and questions to ask of a snapshot.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method, Version};
use serde_json::{Value, json};
use wayline_model::authorization::PolicyInput;
use wayline_model::plugin::Verdicts;
use wayline_model::request::PathNormalization;
use wayline_model::resource::{Parsed, parse};
use wayline_model::route::{RouteAction, RouteRule, RouteTable};
use wayline_model::snapshot::{HostTable, Snapshot, Target};
use wayline_model::translate::Options;
use wayline_model::{
    CanonicalRequest, Finding, Identity, ObjectRef, Resources, Severity, Translation, Translator,
};

/// A YAML parser for tests: MeshConfig is written as JSON there.
pub(crate) fn yaml(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

pub(crate) fn read(document: &Value) -> Parsed {
    parse(document, &yaml)
}

/// A folder and the translator that looks at it.
pub(crate) struct World {
    pub(crate) resources: Resources,
    pub(crate) translator: Translator,
    pub(crate) verdicts: Verdicts,
}

impl World {
    pub(crate) fn new(documents: &[Value]) -> Self {
        Self::playing(documents, &[])
    }

    pub(crate) fn playing(documents: &[Value], gateways: &[(&str, &str)]) -> Self {
        let gateways = gateways
            .iter()
            .map(|(namespace, name)| ((*namespace).to_owned(), (*name).to_owned()));
        let mut world = Self {
            resources: Resources::new(),
            translator: Translator::new(Options {
                gateways: gateways.collect(),
            }),
            verdicts: Verdicts::new(),
        };
        world.replace(documents);
        world
    }

    pub(crate) fn replace(&mut self, documents: &[Value]) -> bool {
        self.resources
            .replace(documents.iter().map(read), &HashSet::new())
    }

    pub(crate) fn apply(&mut self, document: &Value) -> bool {
        self.resources.upsert(read(document))
    }

    pub(crate) fn remove(&mut self, kind: &str, namespace: &str, name: &str) -> bool {
        self.resources
            .remove(&ObjectRef::new(kind, namespace, name))
    }

    pub(crate) fn translate(&mut self) -> Translation {
        self.translator.translate(&self.resources, &self.verdicts)
    }
}

pub(crate) fn translate(documents: &[Value]) -> Translation {
    World::new(documents).translate()
}

pub(crate) fn namespace(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

pub(crate) fn waypoint(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"gatewayClassName": "istio-waypoint", "listeners": [
            {"name": "mesh", "port": 15008, "protocol": "HBONE"}]}
    })
}

pub(crate) fn service(namespace: &str, name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"clusterIP": ip, "selector": {"app": name},
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
    })
}

/// A service of a namespace whose waypoint is `wp` in the same namespace.
pub(crate) fn enrolled(namespace: &str, name: &str, ip: &str) -> Value {
    let mut service = service(namespace, name, ip);
    service["metadata"]["labels"] = json!({"istio.io/use-waypoint": "wp"});
    service
}

pub(crate) fn pod(namespace: &str, name: &str, app: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": app}},
        "spec": {"serviceAccountName": format!("{app}-sa"),
                 "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"podIP": ip}
    })
}

pub(crate) fn route(namespace: &str, name: &str, parent: Value, rules: Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"parentRefs": [parent], "rules": rules}
    })
}

pub(crate) fn service_parent(name: &str) -> Value {
    json!({"group": "", "kind": "Service", "name": name})
}

pub(crate) fn backend(name: &str, weight: u32) -> Value {
    json!({"name": name, "port": 80, "weight": weight})
}

pub(crate) fn policy(namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec
    })
}

pub(crate) fn to_service(name: &str) -> Value {
    json!([{"group": "", "kind": "Service", "name": name}])
}

pub(crate) fn request(
    method: &str,
    path: &str,
    headers: &[(&'static str, &str)],
) -> CanonicalRequest {
    let mut map = HeaderMap::new();
    map.insert("host", "example.com".parse().unwrap());
    for (name, value) in headers {
        map.insert(*name, value.parse().unwrap());
    }
    CanonicalRequest::new(
        Method::from_bytes(method.as_bytes()).unwrap(),
        &path.parse().unwrap(),
        Version::HTTP_11,
        map,
        PathNormalization::Base,
    )
    .unwrap()
}

pub(crate) fn get(path: &str) -> CanonicalRequest {
    request("GET", path, &[])
}

/// The target at `host:port`, which must be served.
pub(crate) fn target<'a>(snapshot: &'a Snapshot, host: &str, port: u16) -> &'a Arc<Target> {
    snapshot
        .tunnels
        .host(host, port)
        .unwrap_or_else(|| panic!("{host}:{port} is not served"))
}

pub(crate) fn is_served(snapshot: &Snapshot, host: &str) -> bool {
    snapshot.tunnels.host(host, 80).is_some()
}

pub(crate) fn rule<'a>(table: &'a RouteTable, request: &CanonicalRequest) -> Option<&'a RouteRule> {
    table.lookup(request).map(|rule| &**rule)
}

/// What a table does with a request, in short words.
pub(crate) fn outcome(
    snapshot: &Snapshot,
    table: &RouteTable,
    request: &CanonicalRequest,
) -> String {
    let Some(rule) = table.lookup(request) else {
        return "404".to_owned();
    };
    match &rule.action {
        RouteAction::Fail { status, .. } => status.as_str().to_owned(),
        RouteAction::Redirect(redirect) => redirect.status.as_str().to_owned(),
        RouteAction::Forward(forward) => {
            let shares = forward.backends.iter().map(|backend| {
                let name = match &backend.cluster {
                    Ok(id) => snapshot.clusters[id]
                        .service
                        .as_ref()
                        .map_or_else(|| "direct".to_owned(), |service| service.name.to_string()),
                    Err(_) => "500".to_owned(),
                };
                format!("{name}={}", backend.weight)
            });
            shares.collect::<Vec<_>>().join(",")
        }
    }
}

/// What callers from a namespace get at a host.
pub(crate) fn at(
    snapshot: &Snapshot,
    host: &str,
    caller: &str,
    request: &CanonicalRequest,
) -> String {
    let target = target(snapshot, host, 80);
    outcome(snapshot, target.routes.table_for(Some(caller)), request)
}

pub(crate) fn at_gateway(snapshot: &Snapshot, hosts: &HostTable, host: &str, path: &str) -> String {
    match hosts.lookup(host) {
        Some(routes) => outcome(snapshot, &routes.producer, &get(path)),
        None => "404".to_owned(),
    }
}

/// Whether a caller passes the policies of a target.
pub(crate) fn admits(target: &Target, caller: &str, request: &CanonicalRequest) -> bool {
    let identity = format!("spiffe://cluster.local/ns/{caller}");
    admits_identity(target, &identity, request)
}

/// The same for a caller of any trust domain.
pub(crate) fn admits_identity(target: &Target, caller: &str, request: &CanonicalRequest) -> bool {
    let identity: Identity = caller.parse().unwrap();
    let input = PolicyInput {
        identity: Some(&identity),
        source_ip: IpAddr::from([10, 0, 0, 9]),
        remote_ip: IpAddr::from([10, 0, 0, 9]),
        destination_ip: None,
        destination_port: target.port,
        sni: None,
        request: Some(request),
        token: None,
    };
    let policies = &target.authorization;
    // Providers refuse whatever they are asked about.
    let is_asked = policies.custom().iter().any(|it| it.asks(&input).is_some());
    !is_asked && policies.judge(&input).verdict.is_allowed()
}

/// Errors on an object.
pub(crate) fn errors<'a>(translation: &'a Translation, object: &str) -> Vec<&'a Finding> {
    translation
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .filter(|finding| finding.object.as_deref() == Some(object))
        .collect()
}

pub(crate) fn has_error(translation: &Translation, object: &str, reason: &str) -> bool {
    errors(translation, object)
        .iter()
        .any(|finding| finding.reason.contains(reason))
}

/// Nothing is wrong.
pub(crate) fn assert_sound(translation: &Translation) {
    let errors: Vec<String> = translation
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(ToString::to_string)
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}
