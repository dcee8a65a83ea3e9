//! The grid: who asks, and for what.

use serde_json::{Value, json};
use wayline_tests::tokens::{SigningKey, seconds_from_now};
use wayline_tests::{Caller, Mesh, Request};

pub(super) const ISSUER: &str = "https://issuer/x";

/// One request of one caller.
pub(super) struct Probe {
    pub(super) name: &'static str,
    /// Index in [`CALLERS`].
    pub(super) caller: usize,
    pub(super) request: Request,
}

/// Identity, and host of the mesh's network.
pub(super) const CALLERS: [(&str, u8); 7] = [
    ("cluster.local/ns/default/sa/a", wayline_tests::mesh::CALLER),
    ("cluster.local/ns/other/sa/b", wayline_tests::mesh::CALLER),
    (
        "cluster.local/ns/team-a/sa/reader",
        wayline_tests::mesh::CALLER,
    ),
    ("cluster.local/ns/shop/sa/a.b", wayline_tests::mesh::CALLER),
    ("cluster.local/ns/shop/sa/axb", wayline_tests::mesh::CALLER),
    ("old.domain/ns/default/sa/a", wayline_tests::mesh::CALLER),
    ("cluster.local/ns/default/sa/a", 77),
];

/// A caller as [`CALLERS`] describes it.
pub(super) fn caller(mesh: &Mesh, (identity, host): (&str, u8)) -> Caller {
    Caller {
        certificate: mesh.certificate(&format!("spiffe://{identity}")),
        source: Some(mesh.ip(host)),
        window: None,
    }
}

pub(super) fn all(key: &SigningKey) -> Vec<Probe> {
    let mut probes = Vec::new();
    let mut add = |name, request| {
        probes.push(Probe {
            name,
            caller: 0,
            request,
        });
    };
    let get = Request::get;
    for (name, request) in [
        ("get", get("/x")),
        ("head", Request::new("HEAD", "/x")),
        ("post", Request::new("POST", "/x").body("text")),
        ("put", Request::new("PUT", "/x").body("text")),
        ("delete", Request::new("DELETE", "/x")),
        ("patch", Request::new("PATCH", "/admin").body("text")),
        ("options", Request::new("OPTIONS", "/x")),
        ("root", get("/")),
        ("slash_behind", get("/x/")),
        ("below", get("/x/y")),
        ("further_below", get("/x/y/z")),
        ("admin", get("/admin")),
        ("admin_query", get("/admin?x=/public")),
        ("admin_in_query", get("/x?q=/admin")),
        ("admin_slash", get("/admin/")),
        ("admin_longer", get("/administration")),
        ("admin_upper", get("/ADMIN")),
        ("admin_parameter", get("/admin;v=1")),
        ("admin_escaped", get("/%61dmin")),
        ("admin_by_dots", get("/x/../admin")),
        ("admin_by_escaped_dots", get("/x/%2e%2e/admin")),
        ("admin_by_backslash", get("/x/..\\admin")),
        ("admin_two_slashes", get("//admin")),
        ("escaped_slash", get("/x%2fadmin")),
        ("escaped_space", get("/x%20y")),
        ("page", get("/a/b.html")),
        ("photos", get("/users/1/photos")),
        ("photos_deeper", get("/users/1/2/photos")),
        ("photos_of_nobody", get("/users//photos")),
        ("files", get("/files/")),
        ("file", get("/files/a/b")),
        ("odd_characters", get("/x/~$!,'()*+@:=&")),
        ("host", get("/x").host("shop.example.com")),
        ("host_upper", get("/x").host("SHOP.Example.com")),
        ("host_port_80", get("/x").host("shop.example.com:80")),
        ("host_port_8080", get("/x").host("shop.example.com:8080")),
        ("host_dot", get("/x").host("shop.example.com.")),
        ("host_below", get("/x").host("a.shop.example.com")),
        ("host_other", get("/x").host("other.org")),
        ("role_user", get("/x").header("x-role", "user")),
        ("role_admin", get("/x").header("X-ROLE", "admin")),
        ("role_upper", get("/x").header("x-role", "Admin")),
        ("role_longer", get("/x").header("x-role", "administrator")),
        ("role_nearly", get("/x").header("x-role", "xadmin")),
        ("role_empty", get("/x").header("x-role", "")),
        ("role_list", get("/x").header("x-role", "user, admin")),
        (
            "role_twice",
            get("/x").header("x-role", "user").header("x-role", "admin"),
        ),
        (
            "forwarded",
            get("/x").header("x-forwarded-for", "192.0.2.7, 198.51.100.9"),
        ),
    ] {
        add(name, request);
    }
    for (name, claims) in tokens() {
        let token = format!("Bearer {}", key.token(&claims));
        add(name, get("/x").header("authorization", &token));
    }
    for (caller, name) in [
        (1, "by_b"),
        (2, "by_reader"),
        (3, "by_dotted"),
        (4, "by_undotted"),
        (5, "by_alias"),
        (6, "from_elsewhere"),
    ] {
        probes.push(Probe {
            name,
            caller,
            request: get("/x"),
        });
    }
    probes
}

fn tokens() -> [(&'static str, Value); 5] {
    let exp = seconds_from_now(3_600);
    [
        (
            "token_alice",
            json!({"iss": ISSUER, "sub": "alice", "exp": exp, "aud": ["api", "web"], "azp": "client",
                "roles": ["user", "admin"], "scope": "read write", "deep": {"level": ["high", "low"]}}),
        ),
        (
            "token_bob",
            json!({"iss": ISSUER, "sub": "bob", "exp": exp, "aud": "api", "azp": "other",
                "roles": "admin", "scope": "write", "deep": {"level": "high"}, "level": 3}),
        ),
        (
            "token_slash",
            json!({"iss": ISSUER, "sub": "a/b", "exp": exp, "roles": ["administrator"], "deep": "high"}),
        ),
        (
            "token_without_subject",
            json!({"iss": ISSUER, "exp": exp, "aud": ["web"], "scope": "readwrite"}),
        ),
        (
            "token_empty_claims",
            json!({"iss": ISSUER, "sub": "", "exp": exp, "aud": [], "azp": "", "roles": [], "scope": ""}),
        ),
    ]
}
