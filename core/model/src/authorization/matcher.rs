//! Compiled rules and how they are read.
//!
//! Every test has two readings. *May*: under some reading of the request it holds; *must*: under every
//! reading. DENY asks the former, ALLOW the latter, and a negation asks the opposite of what it
//! negates. What we can not know (an HTTP field of opaque bytes) may hold and need
//! not, negated or not: DENY fires without it, ALLOW does not.

use std::cell::OnceCell;
use std::sync::Arc;

use http::header::HeaderName;

use super::host::HostReadings;
use super::network::NetworkSet;
use super::template::PathTemplate;
use super::text::TextSet;
use super::token::{self, PrincipalSet};
use super::{PolicyInput, RuleRef};
use crate::defence::stands;
use crate::request::CanonicalRequest;

/// Which reading is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Need {
    May,
    Must,
}

impl Need {
    fn opposite(self) -> Self {
        match self {
            Self::May => Self::Must,
            Self::Must => Self::May,
        }
    }
}

/// One rule of one policy.
#[derive(Clone, Debug)]
pub(super) struct CompiledRule {
    pub(super) name: RuleRef,
    /// One must hold; none means any source.
    pub(super) from: Vec<Clause>,
    /// One must hold; none means any operation.
    pub(super) to: Vec<Clause>,
    pub(super) when: Clause,
}

impl CompiledRule {
    pub(super) fn holds(&self, subject: &Subject<'_>, need: Need) -> bool {
        let one_of = |clauses: &[Clause]| {
            clauses.is_empty() || clauses.iter().any(|clause| clause.holds(subject, need))
        };
        one_of(&self.from) && one_of(&self.to) && self.when.holds(subject, need)
    }

    /// Why it does not hold: of each alternative of the parts that fail, the first test that fails.
    pub(super) fn unmet(&self, subject: &Subject<'_>, need: Need) -> Vec<Unmet<'_>> {
        let mut unmet = Vec::new();
        for (part, clauses) in [("from", &self.from), ("to", &self.to)] {
            let failed: Vec<Unmet<'_>> = clauses
                .iter()
                .enumerate()
                .filter_map(|(entry, clause)| {
                    let test = clause.first_unmet(subject, need)?;
                    Some(Unmet {
                        part,
                        entry: Some(entry),
                        test,
                    })
                })
                .collect();
            if failed.len() == clauses.len() {
                unmet.extend(failed);
            }
        }
        unmet.extend(self.when.first_unmet(subject, need).map(|test| Unmet {
            part: "when",
            entry: None,
            test,
        }));
        unmet
    }
}

/// A test that fails, and where in its rule it stands.
pub(super) struct Unmet<'a> {
    pub(super) part: &'static str,
    pub(super) entry: Option<usize>,
    pub(super) test: &'a Test,
}

/// Tests that must all hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Clause(pub(super) Vec<Test>);

impl Clause {
    fn holds(&self, subject: &Subject<'_>, need: Need) -> bool {
        self.0.iter().all(|test| test.holds(subject, need))
    }

    fn first_unmet(&self, subject: &Subject<'_>, need: Need) -> Option<&Test> {
        self.0.iter().find(|test| !test.holds(subject, need))
    }
}

/// An attribute compared with values, or the negation of that.
#[derive(Clone, Debug)]
pub(super) struct Test {
    pub(super) attribute: Attribute,
    /// Some value could not be understood: the request may be what it meant.
    pub(super) is_partial: bool,
    pub(super) is_negated: bool,
}

impl Test {
    fn holds(&self, subject: &Subject<'_>, need: Need) -> bool {
        if self.is_negated {
            !self.matches(subject, need.opposite())
        } else {
            self.matches(subject, need)
        }
    }

    fn matches(&self, subject: &Subject<'_>, need: Need) -> bool {
        (self.is_partial && need == Need::May) || self.attribute.matches(subject, need)
    }
}

/// What is compared, and with which values.
#[derive(Clone, Debug)]
pub(super) enum Attribute {
    /// Nothing we can know.
    Unknown,
    /// The peer's identity without scheme.
    Principal(TextSet),
    /// The namespace of the peer's identity.
    Namespace(TextSet),
    /// `ns/<namespace>/sa/<account>` of the peer's identity.
    ServiceAccount(TextSet),
    /// The trust domain of the peer's identity.
    TrustDomain(TextSet),
    /// The address of the connection.
    SourceIp(NetworkSet),
    /// The address trusted hops tell.
    RemoteIp(NetworkSet),
    /// The address asked for.
    DestinationIp(NetworkSet),
    /// The service port.
    DestinationPort(Vec<u16>),
    /// The TLS server name.
    Sni(TextSet),
    /// The authority, in lower case.
    Host(TextSet),
    /// The authority as a header: the values as written, and in lower case.
    Authority(TextSet, TextSet),
    /// The method.
    Method(TextSet),
    /// The path without query.
    Path(TextSet, Vec<PathTemplate>),
    /// All lines of a header.
    Header(HeaderName, TextSet),
    /// Issuer and subject of the token.
    RequestPrincipal(PrincipalSet),
    /// A claim of the token.
    Claim(Vec<Arc<str>>, TextSet),
}

/// What is judged, with what several rules may ask of it.
pub(super) struct Subject<'a> {
    input: &'a PolicyInput<'a>,
    host: OnceCell<HostReadings>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(input: &'a PolicyInput<'a>) -> Self {
        Self {
            input,
            host: OnceCell::new(),
        }
    }

    pub(super) fn input(&self) -> &'a PolicyInput<'a> {
        self.input
    }

    /// Whether it is a request, not opaque bytes.
    pub(super) fn has_request(&self) -> bool {
        self.input.request.is_some()
    }

    fn host(&self, request: &CanonicalRequest) -> &HostReadings {
        let port = self.input.destination_port;
        self.host
            .get_or_init(|| HostReadings::new(&request.authority, port))
    }
}

impl CompiledRule {
    /// Whether it asks for what only a request shows.
    pub(super) fn asks_for_request(&self) -> bool {
        let clauses = self.from.iter().chain(&self.to).chain([&self.when]);
        let mut tests = clauses.flat_map(|clause| &clause.0);
        tests.any(|test| test.attribute.is_of_request())
    }
}

impl Attribute {
    fn is_of_request(&self) -> bool {
        matches!(
            self,
            Self::Host(_)
                | Self::Authority(..)
                | Self::Method(_)
                | Self::Path(..)
                | Self::Header(..)
                | Self::RequestPrincipal(_)
                | Self::Claim(..)
        )
    }

    /// What is compared, in words.
    pub(super) fn describe(&self) -> String {
        let text = match self {
            Self::Unknown => "what can not be known (see the findings)",
            Self::Principal(_) => "principal",
            Self::Namespace(_) => "source namespace",
            Self::ServiceAccount(_) => "service account",
            Self::TrustDomain(_) => "trust domain",
            Self::SourceIp(_) => "source IP",
            Self::RemoteIp(_) => "remote IP",
            Self::DestinationIp(_) => "destination IP",
            Self::DestinationPort(_) => "port",
            Self::Sni(_) => "server name",
            Self::Host(_) | Self::Authority(..) => "host",
            Self::Method(_) => "method",
            Self::Path(..) => "path",
            Self::Header(name, _) => return format!("header {name}"),
            Self::RequestPrincipal(_) => "request principal",
            Self::Claim(path, _) => return format!("claim {}", path.join(".")),
        };
        text.to_owned()
    }

    fn matches(&self, subject: &Subject<'_>, need: Need) -> bool {
        let input = subject.input;
        let unknown = need == Need::May;
        match self {
            Self::Unknown => unknown,
            Self::Principal(set) => input
                .identity
                .is_some_and(|peer| set.matches(peer.principal().as_bytes())),
            Self::Namespace(set) => input
                .identity
                .is_some_and(|peer| set.matches(peer.namespace().as_bytes())),
            Self::ServiceAccount(set) => input.identity.is_some_and(|peer| {
                let account = peer.principal().split_once('/');
                account.is_some_and(|(_, account)| set.matches(account.as_bytes()))
            }),
            Self::TrustDomain(set) => input
                .identity
                .is_some_and(|peer| set.matches(peer.trust_domain().as_str().as_bytes())),
            Self::SourceIp(set) => set.contains(input.source_ip),
            Self::RemoteIp(set) => set.contains(input.remote_ip),
            Self::DestinationIp(set) => input
                .destination_ip
                .map_or(unknown, |address| set.contains(address)),
            Self::DestinationPort(ports) => ports.binary_search(&input.destination_port).is_ok(),
            Self::Sni(set) => set.matches(input.sni.unwrap_or_default().as_bytes()),
            Self::Host(_)
            | Self::Authority(..)
            | Self::Method(_)
            | Self::Path(..)
            | Self::Header(..)
            | Self::RequestPrincipal(_)
            | Self::Claim(..) => input.request.map_or(unknown, |request| {
                self.matches_request(request, subject, need)
            }),
        }
    }

    fn matches_request(
        &self,
        request: &CanonicalRequest,
        subject: &Subject<'_>,
        need: Need,
    ) -> bool {
        match self {
            Self::Host(set) => match need {
                Need::May => subject.host(request).may_match(set),
                Need::Must => subject.host(request).must_match(set),
            },
            Self::Authority(written, lower) => match need {
                Need::May => subject.host(request).may_match(lower),
                Need::Must => written.matches(request.authority.as_str().as_bytes()),
            },
            Self::Method(set) => set.matches(request.method.as_str().as_bytes()),
            Self::Path(set, templates) => {
                let path = request.path();
                set.matches(path.as_bytes())
                    || templates.iter().any(|template| template.matches(path))
            }
            Self::Header(name, set) => match need {
                Need::May => header_may_match(request, name, set),
                Need::Must => header_must_match(request, name, set),
            },
            Self::RequestPrincipal(set) => set.matches(subject.input.token, need),
            Self::Claim(path, set) => token::claim_matches(subject.input.token, path, set, need),
            _ => need == Need::May,
        }
    }
}

/// Every line must match. `*` is presence, also of an empty value, as in Envoy.
fn header_must_match(request: &CanonicalRequest, name: &HeaderName, set: &TextSet) -> bool {
    let mut lines = request.headers.get_all(name).iter().peekable();
    if !stands("every-line") {
        return lines.any(|line| set.matches(line.as_bytes().trim_ascii()));
    }
    lines.peek().is_some()
        && (set.has_any() || lines.all(|line| set.matches(line.as_bytes().trim_ascii())))
}

/// Some line matches, or an element of one, or all lines joined: recipients differ in how they read a
/// header that is sent twice or holds a list.
fn header_may_match(request: &CanonicalRequest, name: &HeaderName, set: &TextSet) -> bool {
    let lines = || {
        let lines = request.headers.get_all(name).iter();
        lines.map(|line| line.as_bytes().trim_ascii())
    };
    let Some(first) = lines().next() else {
        return false;
    };
    if set.has_any() || lines().any(|line| set.matches(line)) {
        return true;
    }
    if is_list(name) && stands("list-values") {
        let mut elements = lines().flat_map(|line| line.split(|byte| *byte == b','));
        if elements.any(|element| set.matches(element.trim_ascii())) {
            return true;
        }
    }
    let mut further = lines().skip(1).peekable();
    if further.peek().is_none() {
        return false;
    }
    let mut joined = first.to_vec();
    for line in further {
        joined.push(b',');
        joined.extend_from_slice(line);
    }
    set.matches(&joined)
}

/// Whether a comma separates elements in it (RFC 9110 §5.5). Custom headers are taken for lists; those
/// that are known to hold dates, sentences or credentials are not.
fn is_list(name: &HeaderName) -> bool {
    use http::header;
    const SINGLE: [HeaderName; 13] = [
        header::AUTHORIZATION,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::DATE,
        header::FROM,
        header::IF_MODIFIED_SINCE,
        header::IF_RANGE,
        header::IF_UNMODIFIED_SINCE,
        header::ORIGIN,
        header::PROXY_AUTHORIZATION,
        header::REFERER,
        header::USER_AGENT,
    ];
    !SINGLE.contains(name)
}
