//! `wayline explain` on files: verdicts, routes, exit codes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

const BOOKINFO: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../examples/manifests/bookinfo"
);

fn explain(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayline"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WAYLINE_") {
            command.env_remove(name);
        }
    }
    command.arg("explain").args(args).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// The answer about Bookinfo, as programs read it.
fn bookinfo(args: &[&str]) -> Value {
    let output = explain(&[&["-f", BOOKINFO, "-o", "json"], args].concat());
    assert_eq!(code(&output), 0, "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["apiVersion"], "wayline.dev/v1");
    assert_eq!(report["kind"], "WaylineExplain");
    report
}

#[test]
fn an_intruder_is_told_which_policy_keeps_it_out() {
    let args = [
        "--from",
        "default/intruder",
        "http://reviews:9080/reviews/0",
    ];
    let report = bookinfo(&args);
    assert_eq!(report["outcome"]["verdict"], "denied");
    assert_eq!(report["outcome"]["status"], 403);
    assert_eq!(
        report["outcome"]["details"],
        "rbac_access_denied_matched_policy[none]"
    );
    assert_eq!(report["route"], Value::Null);
    assert_eq!(report["authorization"]["allowed"], false);
    assert_eq!(
        report["authorization"]["policies"],
        json!([
            {
                "namespace": "default", "name": "read-only", "action": "DENY", "dryRun": false,
                "rules": [{"index": 0, "matched": false, "unmet": ["to[0]: not method"]}],
            },
            {
                "namespace": "default", "name": "reviews-from-productpage", "action": "ALLOW",
                "dryRun": false,
                "rules": [{"index": 0, "matched": false, "unmet": ["from[0]: principal"]}],
            },
        ])
    );
    let output = explain(&[&["-f", BOOKINFO][..], &args].concat());
    assert_eq!(code(&output), 0);
    let said = text(&output);
    assert!(
        said.contains(
            "403 denied: no rule of the ALLOW policies (default/reviews-from-productpage)"
        ),
        "{said}"
    );
}

#[test]
fn productpage_is_shown_the_split() {
    let args = [
        "--from",
        "default/bookinfo-productpage",
        "http://reviews:9080/x/../reviews/0",
    ];
    let report = bookinfo(&args);
    assert_eq!(report["outcome"]["verdict"], "forwarded");
    assert_eq!(report["request"]["path"], "/reviews/0");
    assert_eq!(report["request"]["originalPath"], "/x/../reviews/0");
    assert_eq!(
        report["authorization"]["decidedBy"],
        "ns[default]-policy[reviews-from-productpage]-rule[0]"
    );
    assert_eq!(report["route"]["object"], "HTTPRoute default/reviews");
    let backends = report["route"]["backends"].as_array().unwrap();
    let shares: Vec<_> = backends
        .iter()
        .map(|it| {
            (
                it["service"].as_str().unwrap(),
                it["percent"].as_f64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        shares,
        [("default/reviews-v1", 90.0), ("default/reviews-v3", 10.0)]
    );
    assert_eq!(backends[0]["endpoints"][0]["address"], "127.0.0.1:18091");

    let output = explain(&[&["-f", BOOKINFO][..], &args].concat());
    let said = text(&output);
    for part in [
        "the path was sent as /x/../reviews/0",
        "90%",
        "10%",
        "plain",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn deny_is_named_and_addresses_select_as_names_do() {
    for url in ["http://reviews:9080/", "http://10.96.10.4:9080/"] {
        let report = bookinfo(&["-X", "POST", "--from", "default/bookinfo-productpage", url]);
        assert_eq!(report["outcome"]["status"], 403, "{url}");
        assert_eq!(
            report["authorization"]["decidedBy"],
            "ns[default]-policy[read-only]-rule[0]"
        );
    }
}

#[test]
fn gateways_take_plain_text_and_answer_404_themselves() {
    let at = ["--gateway", "default/bookinfo-gateway"];
    let report = bookinfo(&[&at[..], &["http://any.example:8080/static/x"]].concat());
    assert_eq!(report["route"]["match"], "prefix /static");
    assert_eq!(report["request"]["identity"], Value::Null);
    let report = bookinfo(&[&at[..], &["http://any.example:8080/else"]].concat());
    assert_eq!(report["outcome"]["status"], 404);
    assert_eq!(report["outcome"]["details"], "route_not_found");
}

#[test]
fn what_nobody_serves_is_a_failure_that_says_why() {
    for (args, reason) in [
        (
            &["--from", "default/a", "http://reviews:1/"][..],
            "no such target is served",
        ),
        (
            &["--gateway", "default/bookinfo-gateway", "http://x:81/"],
            "it does on 8080",
        ),
        (&["--gateway", "a/b", "http://x/"], "no Gateway a/b"),
    ] {
        let output = explain(&[&["-f", BOOKINFO], args].concat());
        assert_eq!(code(&output), 1, "{output:?}");
        assert!(text(&output).contains(reason), "{output:?}");
    }
    for args in [
        &["http://reviews/"][..],
        &["--admin", "127.0.0.1:1", "--from", "a/b", "http://x/"],
        &["--from", "a", "http://x/"],
    ] {
        assert_eq!(code(&explain(&[&["-f", BOOKINFO], args].concat())), 2);
    }
}

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: w}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w, namespace: shop}
spec:
  gatewayClassName: wayline-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}, {name: tcp, port: 81}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}
  - matches:
    - path: {type: PathPrefix, value: /new}
      headers: [{name: x-beta, value: "1"}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-seen, value: "yes"}], remove: [x-drop]}
    - type: URLRewrite
      urlRewrite: {hostname: other.example, path: {type: ReplaceFullPath, replaceFullPath: /all}}
    - type: RequestMirror
      requestMirror: {backendRef: {name: web, port: 80}, percent: 25}
    timeouts: {request: 2s}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /new}}]
    backendRefs: [{name: web, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tried, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: DENY
  rules: [{from: [{source: {ipBlocks: [10.9.0.0/16]}}]}]
"#;

fn shop(manifests: &str, args: &[&str]) -> (i32, Value) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("shop.yaml"), manifests).unwrap();
    let path = dir.path().to_str().unwrap();
    let fixed = ["-f", path, "-o", "json", "--from", "shop/a"];
    let output = explain(&[&fixed[..], args].concat());
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (code(&output), report)
}

#[test]
fn redirects_rewrites_edits_and_precedence_are_shown() {
    let (code, report) = shop(SHOP, &["http://web/old/x?q=1"]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["outcome"]["status"], 301);
    assert_eq!(
        report["route"]["redirect"]["location"],
        "http://web/new/x?q=1"
    );

    let (_, report) = shop(SHOP, &["-H", "x-beta: 1", "http://web/new?q=1"]);
    let route = &report["route"];
    assert_eq!(route["match"], "prefix /new, header x-beta=1");
    assert_eq!(
        route["reason"],
        "wins over prefix /new: it asks for more headers"
    );
    assert_eq!(route["others"][0]["match"], "prefix /new");
    assert_eq!(
        route["rewrite"],
        json!({"authority": "other.example", "path": "/all?q=1"})
    );
    assert_eq!(
        route["requestHeaders"],
        json!({"set": [["x-seen", "yes"]], "add": [], "remove": ["x-drop"]})
    );
    assert_eq!(route["timeoutMs"], 2000);
    let mirror = "outbound|80||web.shop.svc.cluster.local";
    assert_eq!(
        route["mirrors"],
        json!([{"percent": 25.0, "cluster": mirror}])
    );
    assert_eq!(report["outcome"]["status"], 503, "it has no endpoint");
    assert_eq!(report["outcome"]["details"], "no_healthy_upstream");
}

#[test]
fn dry_runs_say_what_they_would_have_done() {
    let (_, report) = shop(SHOP, &["--source-ip", "10.9.1.1", "http://web/new"]);
    assert_eq!(report["authorization"]["allowed"], true);
    assert_eq!(
        report["authorization"]["dryRun"],
        json!({"allowed": false, "decidedBy": "ns[shop]-policy[tried]-rule[0]"})
    );
    let (_, report) = shop(SHOP, &["--source-ip", "10.8.1.1", "http://web/new"]);
    assert_eq!(report["authorization"]["dryRun"]["allowed"], true);
}

#[test]
fn opaque_ports_are_judged_as_connections() {
    let (code, report) = shop(SHOP, &["http://web:81/"]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["target"]["protocol"], "tcp");
    assert_eq!(report["outcome"]["verdict"], "forwarded");
    assert_eq!(report["route"], Value::Null);
}

#[test]
fn errors_that_touch_the_answer_exit_with_3_and_others_do_not() {
    let elsewhere = format!(
        "{SHOP}---\napiVersion: v1\nkind: Service\nmetadata: {{name: b, namespace: shop}}\nspec: {{ports: many}}\n"
    );
    assert_eq!(shop(&elsewhere, &["http://web/new"]).0, 0);

    let broken = SHOP.replace("ipBlocks: [10.9.0.0/16]", "ipBlocks: 10.9.0.0/16");
    let enforced = broken.replace("istio.io/dry-run: \"true\"", "a: b");
    let (code, report) = shop(&enforced, &["http://web/new"]);
    assert_eq!(code, 3, "{report:#}");
    assert_eq!(report["outcome"]["status"], 403);
    assert_eq!(
        report["findings"][0]["object"],
        "AuthorizationPolicy shop/tried"
    );
}

/// The answer about Bookinfo with more documents, of which something may be wrong.
fn bookinfo_with(more: &str, args: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("more.yaml");
    fs::write(&file, more).unwrap();
    let file = file.to_str().unwrap();
    // Named first, so that its mesh settings count.
    let output = explain(&[&["-f", file, "-f", BOOKINFO, "-o", "json"], args].concat());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The fields that findings name.
fn fields(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings.filter_map(|it| it["field"].as_str()).collect()
}

#[test]
fn who_would_be_asked_and_what_is_marked_is_told() {
    let policy = |name: &str, rest: &str| {
        format!(
            "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  targetRefs: [{{kind: Service, group: \"\", name: reviews}}]
  rules: [{{}}]
  {rest}
---
"
        )
    };
    let mesh = "apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: '{extensionProviders: [{name: opa, envoyExtAuthzGrpc: {service: opa.x, port: 9191}}]}'
---
";
    let args = [
        "--from",
        "default/bookinfo-productpage",
        "http://reviews:9080/reviews/0",
    ];
    let audit = policy("watch", "action: AUDIT");
    let ask = policy("ask", "action: CUSTOM\n  provider: {name: opa}");
    let report = bookinfo_with(&format!("{mesh}{ask}{audit}"), &args);
    let authorization = &report["authorization"];
    assert_eq!(authorization["allowed"], true, "{report}");
    assert_eq!(
        authorization["auditedBy"],
        "ns[default]-policy[watch]-rule[0]"
    );
    assert_eq!(
        authorization["external"],
        json!([{"provider": "opa", "rule": "ns[default]-policy[ask]-rule[0]", "failure": null}])
    );
    assert!(!fields(&report).contains(&"spec.provider.name"), "{report}");
    let nobody = policy("ask", "action: CUSTOM\n  provider: {name: nobody}");
    let report = bookinfo_with(&nobody, &args);
    assert_eq!(report["outcome"]["status"], 403);
    assert_eq!(
        report["outcome"]["details"],
        "rbac_access_denied_matched_policy[ns[default]-policy[ask]-rule[0]]"
    );
    assert!(fields(&report).contains(&"spec.provider.name"), "{report}");
}

#[test]
fn tokens_are_verified_to_explain() {
    let authentication = "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: default}
spec:
  targetRefs: [{kind: Service, group: \"\", name: reviews}]
  jwtRules: [{issuer: i, jwks: '{\"keys\":[]}'}]
";
    let args = |header: &'static [&'static str]| {
        let from = ["--from", "default/bookinfo-productpage"];
        [&from[..], header, &["http://reviews:9080/reviews/0"]].concat()
    };
    let report = bookinfo_with(authentication, &args(&[]));
    assert_eq!(report["token"]["accepted"], true, "{report}");
    assert!(
        fields(&report).contains(&"spec.jwtRules[0].jwks"),
        "{report}"
    );
    assert_eq!(report["outcome"]["verdict"], "forwarded");
    let report = bookinfo_with(
        authentication,
        &args(&["-H", "authorization: Bearer rubbish"]),
    );
    assert_eq!(report["token"]["accepted"], false, "{report}");
    assert_eq!(report["outcome"]["status"], 401);
}

#[test]
fn plugins_are_listed_in_their_order() {
    let plugin = |name: &str, phase: &str| {
        format!(
            "---\napiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  targetRefs: [{{group: \"\", kind: Service, name: web}}]\n  url: file:///filters/{name}.wasm\n  phase: {phase}\n"
        )
    };
    let manifests = format!(
        "{SHOP}{}{}",
        plugin("count", "STATS"),
        plugin("login", "AUTHN")
    );
    let (code, report) = shop(&manifests, &["http://web/new"]);
    assert_eq!(code, 0, "{report:#}");
    let plugins = report["plugins"].as_array().unwrap();
    assert_eq!(plugins[0]["name"], "shop.login");
    assert_eq!(plugins[0]["beforeAuthorization"], true);
    assert_eq!(plugins[0]["state"], "pending");
    assert_eq!(plugins[1]["name"], "shop.count");
    assert_eq!(plugins[1]["phase"], "STATS");
    assert_eq!(plugins[1]["beforeAuthorization"], false);
    assert_eq!(plugins[1]["failStrategy"], "FAIL_CLOSE");
}
