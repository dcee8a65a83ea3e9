//! nginx, HAProxy and Envoy, configured as fairly as they can be: one thread, keep-alive on both
//! sides, no logs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use wayline_benches::{
    Door, HBONE_BACKEND, Module, POD_AUTHORITY, Upstream, backend_identity, client_identity,
    policy, token,
};

use crate::contestant::{one_header, workspace_root};
use crate::error::{Error, at};
use crate::process::{output, pinned};
use crate::scene::Scene;
use crate::stage::Places;

/// Debian has daemons where the path of an ordinary user does not lead.
const SBIN: &str = "/usr/sbin";

pub(crate) fn nginx(
    core: usize,
    dir: &Path,
    address: SocketAddr,
    places: &Places,
) -> Result<Command, Error> {
    let config = fill(
        include_str!("peers/nginx.conf"),
        &[
            ("DIR", &dir.display().to_string()),
            ("LISTEN_PORT", &address.port().to_string()),
            ("BACKEND_PORT", &places.backend.port().to_string()),
        ],
    );
    let path = write(dir, "nginx.conf", &config)?;
    let mut command = pinned(core, daemon("nginx"));
    // Without -e it would try its packaged log first and complain.
    command.args(["-e", "stderr", "-c"]).arg(path);
    Ok(command)
}

pub(crate) fn haproxy(
    scene: Scene,
    core: usize,
    dir: &Path,
    address: SocketAddr,
    places: &Places,
) -> Result<Command, Error> {
    let setup = scene.setup();
    let rules = if setup.rules {
        policy::haproxy()
    } else {
        String::new()
    };
    let protocol = match setup.upstream {
        Upstream::Http2 => " proto h2",
        Upstream::Http1 | Upstream::Hbone => "",
    };
    let config = fill(
        include_str!("peers/haproxy.cfg"),
        &[
            ("LISTEN_PORT", &address.port().to_string()),
            ("BACKEND_PORT", &places.backend.port().to_string()),
            ("PROTOCOL", protocol),
            ("RULES", &rules),
        ],
    );
    let path = write(dir, "haproxy.cfg", &config)?;
    let mut command = pinned(core, daemon("haproxy"));
    command.args(["-db", "-f"]).arg(path);
    Ok(command)
}

pub(crate) fn envoy(
    scene: Scene,
    core: usize,
    dir: &Path,
    address: SocketAddr,
    places: &Places,
) -> Result<Command, Error> {
    let setup = scene.setup();
    let hbone = setup.door == Door::Hbone;
    let template = match setup.door {
        Door::Hbone => include_str!("peers/envoy-hbone.yaml"),
        Door::Plain => include_str!("peers/envoy-plain.yaml"),
    };
    let rbac = if setup.rules {
        format!("- {}", policy::envoy(hbone))
    } else {
        String::new()
    };
    let filters = [
        rbac,
        if setup.token {
            format!("- {}", envoy_jwt())
        } else {
            String::new()
        },
        match setup.module {
            Some(Module::OneHeader) => format!("- {}", envoy_wasm()),
            Some(Module::Poison) | None => String::new(),
        },
    ];
    let filters = filters.join("\n                  ");
    let upstream = match setup.upstream {
        Upstream::Hbone => "captured",
        Upstream::Http1 | Upstream::Http2 => "plain",
    };
    let routes: String = (1..setup.routes).map(envoy_route).collect();
    let options = match setup.upstream {
        Upstream::Http2 => ENVOY_HTTP2,
        Upstream::Http1 | Upstream::Hbone => "",
    };
    let (hbone_address, hbone_port) = HBONE_BACKEND.split_once(':').unwrap_or_default();
    let config = fill(
        template,
        &[
            ("LISTEN_PORT", &address.port().to_string()),
            ("BACKEND_PORT", &places.backend.port().to_string()),
            ("CERT_DIR", &places.identity.display().to_string()),
            ("CLIENT_IDENTITY", client_identity().uri()),
            ("BACKEND_IDENTITY", backend_identity().uri()),
            ("HBONE_ADDRESS", hbone_address),
            ("HBONE_PORT", hbone_port),
            ("POD_AUTHORITY", POD_AUTHORITY),
            ("UPSTREAM", upstream),
            ("RBAC", &filters),
            ("ROUTES", &routes),
            ("UPSTREAM_OPTIONS", options),
        ],
    );
    let path = write(dir, "envoy.yaml", &config)?;
    let mut command = pinned(core, envoy_program());
    command
        .args(["--use-dynamic-base-id", "--concurrency", "1"])
        .args(["--log-level", "warn", "-c"])
        .arg(path);
    Ok(command)
}

/// Envoy verifies the token, and hands it on to nobody.
fn envoy_jwt() -> String {
    format!(
        r#"{{ name: envoy.filters.http.jwt_authn, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication, providers: {{ issuer: {{ issuer: "{}", local_jwks: {{ inline_string: '{}' }} }} }}, rules: [ {{ match: {{ prefix: "/" }}, requires: {{ provider_name: issuer }} }} ] }} }}"#,
        token::ISSUER,
        token::JWKS
    )
}

/// Envoy runs the filter with one header in V8, on the worker itself.
fn envoy_wasm() -> String {
    format!(
        r#"{{ name: envoy.filters.http.wasm, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm, config: {{ name: bench, root_id: "", configuration: {{ "@type": type.googleapis.com/google.protobuf.StringValue, value: '{{"headers":[{{"name":"x-served-by","value":"bench"}}]}}' }}, vm_config: {{ vm_id: bench, runtime: envoy.wasm.runtime.v8, code: {{ local: {{ filename: "{}" }} }} }} }} }} }}"#,
        one_header().display()
    )
}

/// Has Envoy speak HTTP/2 to its backend.
const ENVOY_HTTP2: &str = r#"typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: {} } } }"#;

/// A route that is not taken, as an element of a list; like those of the manifests.
fn envoy_route(index: usize) -> String {
    let wanted = match index % 2 {
        0 => format!("path: \"/shop/item-{index}\""),
        _ => format!("path_separated_prefix: \"/api/section-{index}\""),
    };
    format!(
        "- {{ match: {{ {wanted} }}, route: {{ cluster: echo, timeout: 0s }} }}\n                        "
    )
}

pub(crate) fn nginx_version() -> Result<String, Error> {
    let said = output(Command::new(daemon("nginx")).arg("-v"))?;
    let version = said.trim().rsplit('/').next().unwrap_or_default();
    Ok(format!("nginx {version}"))
}

pub(crate) fn haproxy_version() -> Result<String, Error> {
    let said = output(Command::new(daemon("haproxy")).arg("-v"))?;
    let version = said.split_ascii_whitespace().nth(2).unwrap_or_default();
    Ok(format!("HAProxy {version}"))
}

pub(crate) fn envoy_version() -> Result<String, Error> {
    let said = output(Command::new(envoy_program()).arg("--version"))?;
    // As in `envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`.
    let version = said.trim().split('/').rev().nth(3).unwrap_or_default();
    Ok(format!("Envoy {version}"))
}

fn envoy_program() -> PathBuf {
    workspace_root().join("tests/.tools/bin/envoy")
}

fn daemon(name: &str) -> PathBuf {
    let packaged = Path::new(SBIN).join(name);
    if packaged.exists() {
        return packaged;
    }
    name.into()
}

fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    text
}

fn write(dir: &Path, name: &str, content: &str) -> Result<PathBuf, Error> {
    let path = dir.join(name);
    std::fs::write(&path, content).map_err(at("write", &path))?;
    Ok(path)
}
