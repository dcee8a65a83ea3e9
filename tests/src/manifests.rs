//! Manifests as people write them: YAML text.

use std::fmt::Write as _;
use std::net::IpAddr;

/// A port of a Service: name, port, target port.
pub type Port<'a> = (&'a str, u16, u16);

/// Documents of one file.
#[must_use]
pub fn file(documents: &[String]) -> String {
    documents.join("---\n")
}

/// A Namespace with labels.
#[must_use]
pub fn namespace(name: &str, labels: &[(&str, &str)]) -> String {
    let mut text = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n");
    text += &mapping(2, "labels", labels);
    text
}

/// A Service whose pods have the label `app` with its name.
#[must_use]
pub fn service(namespace: &str, name: &str, ip: &str, ports: &[Port<'_>]) -> String {
    let mut text = format!(
        "apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {namespace}
spec:
  clusterIP: {ip}
  selector:
    app: {name}
  ports:
"
    );
    for (name, port, target) in ports {
        // An unnamed port is one whose protocol nobody declared.
        if !name.is_empty() {
            let _ = write!(text, "  - name: {name}\n    port: {port}\n");
        } else {
            let _ = writeln!(text, "  - port: {port}");
        }
        let _ = writeln!(text, "    targetPort: {target}");
    }
    text
}

/// An EndpointSlice of a Service: addresses of Pods, by name, on these ports.
#[must_use]
pub fn endpoints(
    namespace: &str,
    service: &str,
    addresses: &[(IpAddr, &str)],
    ports: &[Port<'_>],
) -> String {
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {service}-1
  namespace: {namespace}
  labels:
    kubernetes.io/service-name: {service}
addressType: IPv4
ports:
"
    );
    for (name, _, target) in ports {
        let _ = write!(
            text,
            "- name: \"{name}\"\n  port: {target}\n  protocol: TCP\n"
        );
    }
    text += "endpoints:\n";
    for (address, pod) in addresses {
        let _ = write!(
            text,
            "- addresses: [\"{address}\"]
  conditions: {{ready: true}}
  targetRef: {{kind: Pod, name: {pod}}}
"
        );
    }
    if addresses.is_empty() {
        text = text.replace("endpoints:\n", "endpoints: []\n");
    }
    text
}

/// A running Pod.
#[derive(Clone, Debug)]
pub struct Pod {
    name: String,
    ip: IpAddr,
    namespace: String,
    account: String,
    labels: Vec<(String, String)>,
    annotations: Vec<(String, String)>,
}

impl Pod {
    /// A Pod of namespace `default` with the service account and the `app` label of its name.
    #[must_use]
    pub fn new(name: &str, ip: IpAddr) -> Self {
        Self {
            name: name.to_owned(),
            ip,
            namespace: "default".to_owned(),
            account: name.to_owned(),
            labels: vec![("app".to_owned(), name.to_owned())],
            annotations: Vec::new(),
        }
    }

    /// In another namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// With another service account.
    #[must_use]
    pub fn account(mut self, account: &str) -> Self {
        account.clone_into(&mut self.account);
        self
    }

    /// With a label more, or another value of one.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.retain(|(known, _)| known != key);
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// As YAML.
    #[must_use]
    pub fn yaml(&self) -> String {
        fn borrowed(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
            pairs
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect()
        }
        let Self {
            name,
            ip,
            namespace,
            account,
            ..
        } = self;
        let labels = mapping(2, "labels", &borrowed(&self.labels));
        let annotations = mapping(2, "annotations", &borrowed(&self.annotations));
        format!(
            "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
{labels}{annotations}spec:
  serviceAccountName: {account}
  nodeName: node
  containers:
  - name: app
    image: app
status:
  phase: Running
  podIP: {ip}
  podIPs:
  - ip: {ip}
  conditions:
  - type: Ready
    status: \"True\"
"
        )
    }
}

/// A waypoint for the services of any namespace.
#[must_use]
pub fn waypoint(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: {name}
  namespace: {namespace}
  labels:
    istio.io/waypoint-for: service
spec:
  gatewayClassName: istio-waypoint
  listeners:
  - name: mesh
    port: 15008
    protocol: HBONE
    allowedRoutes:
      namespaces:
        from: All
"
    )
}

/// An ingress Gateway bound to `address`; `listeners` is a YAML list.
#[must_use]
pub fn gateway(namespace: &str, name: &str, address: IpAddr, listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: {name}
  namespace: {namespace}
spec:
  gatewayClassName: istio
  addresses:
  - type: IPAddress
    value: {address}
  listeners:
{}",
        indented(2, listeners)
    )
}

/// An HTTP listener for routes of all namespaces, as an item of [`gateway`]'s list.
#[must_use]
pub fn listener(name: &str, port: u16) -> String {
    format!(
        "- name: {name}
  port: {port}
  protocol: HTTP
  allowedRoutes:
    namespaces:
      from: All
"
    )
}

/// What a route hangs from.
#[derive(Clone, Copy, Debug)]
pub enum Parent<'a> {
    /// A Service of the route's namespace.
    Service(&'a str),
    /// A Service of another namespace: a consumer route.
    ServiceOf(&'a str, &'a str),
    /// A Gateway of the route's namespace.
    Gateway(&'a str),
    /// A Gateway of another namespace.
    GatewayOf(&'a str, &'a str),
}

impl Parent<'_> {
    fn yaml(self) -> String {
        let (group, kind, namespace, name) = match self {
            Self::Service(name) => ("\"\"", "Service", None, name),
            Self::ServiceOf(namespace, name) => ("\"\"", "Service", Some(namespace), name),
            Self::Gateway(name) => ("gateway.networking.k8s.io", "Gateway", None, name),
            Self::GatewayOf(namespace, name) => (
                "gateway.networking.k8s.io",
                "Gateway",
                Some(namespace),
                name,
            ),
        };
        let namespace = namespace.map_or_else(String::new, |namespace| {
            format!("    namespace: {namespace}\n")
        });
        format!("  - group: {group}\n    kind: {kind}\n    name: {name}\n{namespace}")
    }
}

/// An HTTPRoute; `rules` is a YAML list.
#[must_use]
pub fn route(namespace: &str, name: &str, parent: Parent<'_>, rules: &str) -> String {
    route_for(namespace, name, parent, &[], rules)
}

/// An HTTPRoute for certain hostnames.
#[must_use]
pub fn route_for(
    namespace: &str,
    name: &str,
    parent: Parent<'_>,
    hostnames: &[&str],
    rules: &str,
) -> String {
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {name}
  namespace: {namespace}
spec:
  parentRefs:
{}",
        parent.yaml()
    );
    if !hostnames.is_empty() {
        text += "  hostnames:\n";
    }
    for hostname in hostnames {
        let _ = writeln!(text, "  - \"{hostname}\"");
    }
    text += "  rules:\n";
    text += &indented(2, rules);
    text
}

/// An AuthorizationPolicy; `spec` is YAML.
#[must_use]
pub fn policy(namespace: &str, name: &str, spec: &str) -> String {
    policy_with(namespace, name, &[], spec)
}

/// A RequestAuthentication; `spec` is YAML.
#[must_use]
pub fn authentication(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata:
  name: {name}
  namespace: {namespace}
spec:
{}",
        indented(2, spec)
    )
}

/// An AuthorizationPolicy with annotations.
#[must_use]
pub fn policy_with(
    namespace: &str,
    name: &str,
    annotations: &[(&str, &str)],
    spec: &str,
) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: {name}
  namespace: {namespace}
{}spec:
{}",
        mapping(2, "annotations", annotations),
        indented(2, spec)
    )
}

/// The mesh's ConfigMap; `mesh` is MeshConfig as YAML.
#[must_use]
pub fn mesh_config(mesh: &str) -> String {
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata:
  name: istio
  namespace: istio-system
data:
  mesh: |
{}",
        indented(4, mesh)
    )
}

/// `text` with every line moved to the right.
#[must_use]
pub fn indented(by: usize, text: &str) -> String {
    let mut moved = String::new();
    for line in text.lines() {
        let _ = writeln!(moved, "{:by$}{line}", "");
    }
    moved
}

fn mapping(indent: usize, key: &str, pairs: &[(&str, &str)]) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    let mut text = format!("{:indent$}{key}:\n", "");
    for (key, value) in pairs {
        let _ = writeln!(text, "{:indent$}  {key}: \"{value}\"", "");
    }
    text
}
