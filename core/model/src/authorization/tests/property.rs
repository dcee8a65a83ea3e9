//! Random policies and requests from few names, so that they meet often.

use super::*;
use crate::authorization::spec::{
    AuthorizationPolicySpec, Condition, From, Operation, Rule, Source, To,
};
use crate::random::Random;

/// Pairs of policies and a request that are tried where `WAYLINE_PAIRS` asks for no other number.
const PAIRS: usize = 72_000;
/// Requests that each set of policies meets.
const REQUESTS: usize = 12;

#[test]
fn the_compiled_matcher_agrees_with_the_reference() {
    let mut random = Random::new(3);
    let mesh = mesh();
    let pairs = std::env::var("WAYLINE_PAIRS").map_or(PAIRS, |pairs| pairs.parse().unwrap());
    let (mut passed, mut refused) = (0, 0);
    for set in 0..pairs.div_ceil(REQUESTS) {
        let policies = random_policies(&mut random);
        let (authorization, _) = Authorization::compile(&policies, &mesh);
        for _ in 0..REQUESTS {
            let case = random_case(&mut random);
            let expected = reference::allowed(&policies, &mesh, &case);
            let judgement = case.judge(&authorization);
            let traced = case.trace(&authorization);
            assert_eq!(traced.judgement, judgement);
            assert_eq!(by_rules(&traced), expected, "{traced:#?}");
            let verdict = judgement.verdict;
            let passes = case.passes_all(&authorization);
            if expected {
                passed += 1;
            } else {
                refused += 1;
            }
            assert_eq!(
                passes,
                expected,
                "set {set}: {verdict:?} for {:?} {:?} from {} {} to {:?}:{} {:?} under {policies:#?}",
                case.identity,
                case.request,
                case.source,
                case.remote,
                case.destination,
                case.port,
                case.sni,
            );
        }
    }
    assert!(
        passed > 10_000 && refused > 10_000,
        "lopsided: {passed} passed, {refused} refused"
    );
    // Whoever wants the figure names a folder; here none has disagreed.
    if let Some(folder) = std::env::var_os("WAYLINE_FIGURES") {
        let row = format!("matcher and reference\t{}\t0\n", passed + refused);
        std::fs::write(
            std::path::Path::new(&folder).join("compared-authorization.tsv"),
            row,
        )
        .unwrap();
    }
}

#[test]
fn among_many_rules_the_first_that_holds_is_found() {
    let mut random = Random::new(6);
    let mesh = mesh();
    let (mut admitted, mut denied) = (0, 0);
    for _ in 0..400 {
        let most = *random.pick(&[&Action::Allow, &Action::Deny]);
        let policies: Vec<AttachedPolicy> = (0..25)
            .map(|at| {
                let action = if random.chance(90) {
                    most
                } else {
                    Action::Allow
                };
                random_policy(&mut random, &format!("p{at:02}"), action)
            })
            .collect();
        let (authorization, _) = Authorization::compile(&policies, &mesh);
        for _ in 0..40 {
            let case = random_case(&mut random);
            let expected = reference::allowed(&policies, &mesh, &case);
            let traced = case.trace(&authorization);
            let first = |action| {
                let of_action = traced
                    .policies
                    .iter()
                    .filter(|it| it.policy.action == action);
                of_action
                    .flat_map(|it| it.rules.iter().map(|rule| (&it.policy.name, rule)))
                    .find(|(_, rule)| rule.matched)
                    .map(|(name, rule)| (Arc::clone(name), rule.index))
            };
            let named = |rule: RuleRef| (rule.policy, rule.rule);
            match case.judge(&authorization).verdict {
                Verdict::Allow(rule) => {
                    assert!(expected, "{policies:#?}");
                    assert_eq!(rule.map(named), first(Action::Allow), "{policies:#?}");
                    admitted += 1;
                }
                Verdict::Deny(rule) => {
                    assert!(!expected, "{policies:#?}");
                    denied += 1;
                    assert_eq!(rule.map(named), first(Action::Deny), "{policies:#?}");
                }
            }
        }
    }
    let seen = [admitted, denied];
    assert!(seen.iter().all(|seen| *seen > 500), "lopsided: {seen:?}");
}

/// What the traced rules amount to.
fn by_rules(trace: &Trace<'_>) -> bool {
    let enforced = || trace.policies.iter().filter(|it| !it.policy.dry_run);
    let of = |action| enforced().filter(move |it| it.policy.action == action);
    let matches = |it: &PolicyTrace<'_>| {
        for rule in &it.rules {
            assert_eq!(rule.matched, rule.unmet.is_empty(), "{rule:?}");
        }
        it.rules.iter().any(|rule| rule.matched)
    };
    let denied = of(Action::Deny).chain(of(Action::Custom)).any(matches);
    !denied && (of(Action::Allow).next().is_none() || of(Action::Allow).any(matches))
}

#[test]
fn the_order_of_policies_does_not_matter() {
    let mut random = Random::new(4);
    for _ in 0..2_000 {
        let mut policies = random_policies(&mut random);
        for policy in &mut policies {
            policy.dry_run = random.chance(20);
        }
        let (one, _) = Authorization::compile(&policies, &mesh());
        random.shuffle(&mut policies);
        let (other, _) = Authorization::compile(&policies, &mesh());
        for _ in 0..5 {
            let case = random_case(&mut random);
            assert_eq!(case.judge(&one), case.judge(&other), "{policies:#?}");
        }
    }
}

#[test]
fn one_more_deny_never_admits_more() {
    let mut random = Random::new(5);
    let mut tightened = 0;
    for _ in 0..2_000 {
        let mut policies = random_policies(&mut random);
        let (before, _) = Authorization::compile(&policies, &mesh());
        policies.push(random_policy(&mut random, "zz-extra", Action::Deny));
        let (after, _) = Authorization::compile(&policies, &mesh());
        for _ in 0..5 {
            let case = random_case(&mut random);
            let before = case.judge(&before).verdict.is_allowed();
            let after = case.judge(&after).verdict.is_allowed();
            assert!(before || !after, "{policies:#?}");
            tightened += usize::from(before && !after);
        }
    }
    assert!(tightened > 100, "only {tightened} were tightened");
}

#[test]
fn no_spelling_of_a_request_turns_a_deny_into_an_allow() {
    let mut random = Random::new(7);
    let (mut admitted, mut refused) = (0, 0);
    for _ in 0..3_000 {
        // The same rules, once to admit and once to refuse.
        let rules = random_policy(&mut random, "p", Action::Allow);
        let [allow, deny] = [Action::Allow, Action::Deny].map(|action| {
            let mut policy = rules.clone();
            policy.spec = Arc::new(AuthorizationPolicySpec {
                action,
                ..(*rules.spec).clone()
            });
            Authorization::compile(&[policy], &mesh()).0
        });
        for _ in 0..5 {
            let sent = random_case(&mut random);
            let Some(other) = respelt(&sent, &mut random) else {
                continue;
            };
            let passes = |case: &Case, policies| case.judge(policies).verdict.is_allowed();
            // Whatever is admitted in one spelling is refused in every other, where it is to be refused.
            for (one, two) in [(&sent, &other), (&other, &sent), (&other, &other)] {
                if passes(one, &allow) {
                    assert!(
                        !passes(two, &deny),
                        "{:?} and {:?} under {rules:#?}",
                        one.request,
                        two.request
                    );
                    admitted += 1;
                } else {
                    refused += 1;
                }
            }
        }
    }
    assert!(
        admitted > 3_000 && refused > 3_000,
        "lopsided: {admitted}, {refused}"
    );
}

/// The same request written otherwise; `None` for opaque bytes, which have one spelling.
fn respelt(case: &Case, random: &mut Random) -> Option<Case> {
    let request = case.request.as_ref()?;
    let name = request.authority.host().trim_end_matches('.').to_owned();
    let port = request.authority.port();
    let name = if random.chance(50) {
        name.to_uppercase()
    } else {
        name.to_lowercase()
    };
    let dot = if random.chance(50) { "." } else { "" };
    let host = match port {
        // A port that goes without saying may be said, and need not be.
        None | Some(80 | 9080) if port.is_none_or(|port| port == case.port) => {
            match random.below(3) {
                0 => format!("{name}{dot}"),
                1 => format!("{name}{dot}:{}", case.port),
                _ => format!("{name}{dot}:0{}", case.port),
            }
        }
        Some(port) => format!("{name}{dot}:{port}"),
        None => format!("{name}{dot}"),
    };
    let mut path = request.path.as_str().to_owned();
    match random.below(6) {
        0 => path = format!("/.{path}"),
        1 => path = format!("/x/..{path}"),
        2 => path = format!("/x/%2E.;y{path}"),
        3 => path = path.replacen('a', "%61", 1),
        4 => path = path.replacen('/', "\\", 2).replacen('\\', "/", 1),
        _ => {}
    }
    let lines: Vec<String> = request
        .headers
        .get_all("x-role")
        .iter()
        .map(|line| line.to_str().unwrap().to_owned())
        .collect();
    let lines = match random.below(3) {
        0 if lines.len() > 1 => vec![lines.join(",")],
        1 => lines
            .iter()
            .flat_map(|line| line.split(',').map(str::to_owned))
            .collect(),
        _ => lines,
    };
    let headers: Vec<(&str, &str)> = lines.iter().map(|line| ("X-Role", line.as_str())).collect();
    Some(Case {
        identity: case.identity.clone(),
        token: case.token.clone(),
        request: Some(self::request(
            request.method.as_str(),
            &host,
            &path,
            &headers,
        )),
        ..*case
    })
}

fn random_policies(random: &mut Random) -> Vec<AttachedPolicy> {
    let count = 1 + random.below(4);
    (0..count)
        .map(|at| {
            let action = match random.below(10) {
                0..6 => Action::Allow,
                6..8 => Action::Deny,
                8 => Action::Audit,
                _ => Action::Custom,
            };
            random_policy(random, &format!("p{at}"), action)
        })
        .collect()
}

fn random_policy(random: &mut Random, name: &str, action: Action) -> AttachedPolicy {
    let rules = (0..random.below(4)).map(|_| random_rule(random)).collect();
    AttachedPolicy {
        namespace: random.pick(&["foo", "bar"]).into(),
        name: name.into(),
        spec: Arc::new(AuthorizationPolicySpec {
            rules,
            action,
            ..AuthorizationPolicySpec::default()
        }),
        dry_run: false,
        creation: random
            .chance(50)
            .then(|| random.pick(&["2024", "2025"]).into()),
    }
}

fn random_rule(random: &mut Random) -> Rule {
    let mut rule = Rule::default();
    for _ in 0..random.below(3) {
        rule.from.push(From {
            source: random_source(random),
        });
    }
    for _ in 0..random.below(3) {
        rule.to.push(To {
            operation: random_operation(random),
        });
    }
    if random.chance(40) {
        rule.when.push(random_condition(random));
    }
    rule
}

const PRINCIPALS: &[&str] = &[
    "*",
    "cluster.local/ns/foo/sa/app",
    "old-td/ns/foo/sa/app",
    "*/sa/app",
    "cluster.local/ns/foo/*",
    "*-td/ns/bar/sa/app",
    "other/ns/foo/sa/app",
    "spiffe://x",
    "*/ns/bar/sa/a.b",
    "",
];
const NAMESPACES: &[&str] = &["foo", "bar", "*", "f*", "*o", "f*o", "*o*", "foo-*l", ""];
const ACCOUNTS: &[&str] = &["app", "a.b", "foo/app", "bar/a.b", "foo/*", "a/b/c", "foo/"];
const DOMAINS: &[&str] = &[
    "cluster.local",
    "old-td",
    "other",
    "*",
    "cluster*",
    "*-td",
    "oth*",
];
const NETWORKS: &[&str] = &[
    "10.0.0.0/8",
    "10.0.0.1",
    "0.0.0.0/0",
    "192.0.2.0/24",
    "::/0",
    "2001:db8::1",
    "10.0.0.0/33",
    "x",
];
const HOSTS: &[&str] = &[
    "reviews",
    "Reviews:9080",
    "*",
    "rev*",
    "*.com",
    "a.com:80",
    "*:9080",
    "",
];
const PORTS: &[&str] = &["80", "9080", "0", "http", "70000"];
const METHODS: &[&str] = &["GET", "POST", "*", "P*", "*T"];
const PATHS: &[&str] = &[
    "/a",
    "/a/*",
    "*",
    "*/b",
    "/a/{*}",
    "/{**}",
    "/a/{**}/b",
    "/{*}/b",
    "/{id}",
    "/{**}/{**}",
];
const ROLES: &[&str] = &["user", "admin", "*", "us*", "*min", "user,admin", ""];
const SUBJECTS: &[&str] = &[
    "*", "i/s", "i/*", "*/s", "a/b/c", "a/*", "*c", "i*", "i", "*/b/c", "a/b*", "",
];
const CLAIMS: &[&str] = &["*", "a", "b", "a b", "3", "true", "a*", "*b", "1", ""];
const SNIS: &[&str] = &["a.com", "*.com", "*", "a*"];

/// A list that is empty most of the time.
fn list(random: &mut Random, values: &[&str]) -> Vec<Arc<str>> {
    if random.chance(75) {
        return Vec::new();
    }
    let picks = random.some(values, 3);
    picks.into_iter().map(Arc::from).collect()
}

fn random_source(random: &mut Random) -> Source {
    Source {
        principals: list(random, PRINCIPALS),
        not_principals: list(random, PRINCIPALS),
        request_principals: list(random, SUBJECTS),
        not_request_principals: list(random, SUBJECTS),
        namespaces: list(random, NAMESPACES),
        not_namespaces: list(random, NAMESPACES),
        service_accounts: list(random, ACCOUNTS),
        not_service_accounts: list(random, ACCOUNTS),
        trust_domains: list(random, DOMAINS),
        not_trust_domains: list(random, DOMAINS),
        ip_blocks: list(random, NETWORKS),
        not_ip_blocks: list(random, NETWORKS),
        remote_ip_blocks: list(random, NETWORKS),
        not_remote_ip_blocks: list(random, NETWORKS),
    }
}

fn random_operation(random: &mut Random) -> Operation {
    Operation {
        hosts: list(random, HOSTS),
        not_hosts: list(random, HOSTS),
        ports: list(random, PORTS),
        not_ports: list(random, PORTS),
        methods: list(random, METHODS),
        not_methods: list(random, METHODS),
        paths: list(random, PATHS),
        not_paths: list(random, PATHS),
    }
}

fn random_condition(random: &mut Random) -> Condition {
    let (key, values): (&str, &[&str]) = match random.below(17) {
        0 => ("source.ip", NETWORKS),
        1 => ("remote.ip", NETWORKS),
        2 => ("source.namespace", NAMESPACES),
        3 => ("source.principal", PRINCIPALS),
        4 => ("source.serviceAccount", ACCOUNTS),
        5 => ("source.trustDomain", DOMAINS),
        6 => ("destination.ip", NETWORKS),
        7 => ("destination.port", PORTS),
        8 => ("connection.sni", SNIS),
        9 => ("request.headers[host]", HOSTS),
        10 => ("request.auth.claims[x][y]", CLAIMS),
        11 => ("request.auth.claims[x]", CLAIMS),
        12 => ("request.auth.principal", SUBJECTS),
        13 => ("request.auth.audiences", CLAIMS),
        14 => ("request.auth.presenter", CLAIMS),
        15 => ("request.auth.claims[scope]", CLAIMS),
        _ => ("request.headers[x-role]", ROLES),
    };
    let given = |random: &mut Random| {
        let picks = random.some(values, 3);
        picks.into_iter().map(Arc::from).collect()
    };
    Condition {
        key: key.into(),
        values: given(random),
        not_values: given(random),
    }
}

fn random_case(random: &mut Random) -> Case {
    let mut case = Case::get("/").by(random.pick(&[
        "",
        "cluster.local/ns/foo/sa/app",
        "cluster.local/ns/bar/sa/app",
        "old-td/ns/foo/sa/app",
        "other/ns/foo/sa/app",
        "cluster.local/ns/bar/sa/a.b",
        "cluster.local/ns/bar/sa/axb",
        "cluster.local/ns/foo-evil/sa/app",
    ]));
    const ADDRESSES: &[&str] = &[
        "10.0.0.1",
        "::ffff:10.0.0.1",
        "192.0.2.1",
        "2001:db8::1",
        "203.0.113.9",
    ];
    case.source = ADDRESSES[random.below(ADDRESSES.len())];
    case.remote = ADDRESSES[random.below(ADDRESSES.len())];
    case.destination = random
        .chance(80)
        .then(|| ADDRESSES[random.below(ADDRESSES.len())]);
    case.port = [80, 9080][random.below(2)];
    case.sni = [None, Some("a.com"), Some("b.com"), Some("a")][random.below(4)];
    case.token = random.chance(70).then(|| random_token(random));
    if random.chance(10) {
        case.request = None;
        return case;
    }
    let roles = ["user", "admin", "user,admin", "", "guest"];
    let headers: Vec<_> = random
        .some(&roles, 3)
        .into_iter()
        .map(|role| ("x-role", role))
        .collect();
    let method = random.pick(&["GET", "POST", "PUT"]);
    let host = random.pick(&[
        "reviews",
        "REVIEWS:9080",
        "reviews.",
        "a.com",
        "a.com:80",
        "x.com.:080",
    ]);
    let path = random.pick(&[
        "/", "/a", "/a/b", "/a/x/b", "/a//b", "/a/", "/b?a=/b", "/a/*",
    ]);
    case.request = Some(request(method, host, path, &headers));
    case
}

fn random_token(random: &mut Random) -> VerifiedToken {
    let texts = ["a", "b", "a b", "ab", ""];
    let claim = |random: &mut Random| match random.below(8) {
        0..3 => serde_json::json!(random.pick(&texts)),
        3..5 => serde_json::json!(random.some(&["a", "b", "ab"], 3)),
        5 => serde_json::json!([3, "b", true]),
        6 => serde_json::json!(3),
        _ => serde_json::json!(true),
    };
    let mut claims = serde_json::Map::new();
    if random.chance(90) {
        claims.insert("iss".into(), random.pick(&["i", "a", "a/b"]).into());
    }
    if random.chance(90) {
        claims.insert("sub".into(), random.pick(&["s", "c", "b/c", "*"]).into());
    }
    for name in ["aud", "azp", "scope"] {
        if random.chance(70) {
            claims.insert(name.into(), claim(random));
        }
    }
    let x = if random.chance(50) {
        claim(random)
    } else {
        serde_json::json!({"y": claim(random)})
    };
    claims.insert("x".into(), x);
    VerifiedToken::new(claims, Arc::from([]))
}
