//! RequestAuthentication: a request's token is verified, and what it says is told to policies.
//!
//! As in Istio a request without a token passes and one with a token that no rule accepts does not
//! (401, for a wrong audience 403, with Envoy's words); demanding a token is the business of
//! AuthorizationPolicy. Which rules there are is the model's business, fetching keys the control
//! side's ([`RemoteKeys`]).

mod find;
mod json;
mod keys;
mod refusal;
mod remote;
mod rule;
mod token;

use std::pin::Pin;
use std::rc::Rc;
use std::task;
use std::time::SystemTime;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HeaderName, ORIGIN};
use http::{HeaderValue, Method};
use wayline_chain::{
    Begin, Filter, FilterSource, Held, Phase, Placed, RequestContext, Scope, Step, StreamFilter,
};
use wayline_model::CanonicalRequest;
use wayline_model::authentication::{Authentication, TokenLocation, VerifiedToken};
use wayline_model::defence::stands;

use find::{Found, Search};
use refusal::Refusal;
use rule::{Check, Rule};
use token::Token;

pub use remote::RemoteKeys;

/// Yields the filter where tokens are taken.
#[derive(Clone, Debug)]
pub struct JwtSource {
    remote: RemoteKeys,
}

impl JwtSource {
    /// Reads remote keys from there.
    #[must_use]
    pub fn new(remote: RemoteKeys) -> Self {
        Self { remote }
    }
}

impl FilterSource for JwtSource {
    fn filters(&self, scope: &Scope<'_>) -> Vec<Placed> {
        if scope.authentication.is_empty() {
            return Vec::new();
        }
        vec![Placed {
            phase: Phase::Jwt,
            priority: 0,
            filter: Rc::new(JwtFilter(Rc::new(Rules::new(
                scope.authentication,
                &self.remote,
            )))),
        }]
    }
}

struct JwtFilter(Rc<Rules>);

/// The rules of one target, ready to use.
struct Rules {
    rules: Vec<Rule>,
    /// Every place of every rule, once.
    places: Vec<TokenLocation>,
    /// Headers that only a verified token may set.
    outputs: Vec<HeaderName>,
}

/// What became of a request's token.
enum Outcome {
    Pass,
    Refuse(Refusal),
    /// The keys of this rule are asked for.
    Wait(usize),
}

impl Filter for JwtFilter {
    fn name(&self) -> &str {
        "jwt"
    }

    fn begin(&self, context: &mut RequestContext) -> Begin {
        let rules = &self.0;
        for name in rules.outputs.iter().filter(|_| stands("token-headers")) {
            context.headers_mut().remove(name);
        }
        // Browsers send no token with the question whether they may (Istio: bypass_cors_preflight).
        if is_preflight(context.request()) {
            return Begin::Pass;
        }
        let found = match find::search(&rules.places, context.request()) {
            Search::None => return Begin::Pass,
            Search::Several => return Begin::Reply(Refusal::Several.reply(context.request())),
            Search::One(found) => found,
        };
        match rules.settle(&found, context, true) {
            Outcome::Pass => Begin::Pass,
            Outcome::Refuse(refusal) => Begin::Reply(refusal.reply(context.request())),
            Outcome::Wait(rule) => Begin::Stream(Box::new(Waiting {
                fetched: rules.rules[rule].fetched(),
                rules: Rc::clone(rules),
                found,
            })),
        }
    }
}

impl Rules {
    fn new(authentication: &Authentication, remote: &RemoteKeys) -> Self {
        let mut places: Vec<TokenLocation> = Vec::new();
        let mut outputs = Vec::new();
        let mut rules = Vec::with_capacity(authentication.rules().len());
        for rule in authentication.rules() {
            for place in &rule.locations {
                if !places.contains(place) {
                    places.push(place.clone());
                }
            }
            outputs.extend(rule.output_payload_to_header.clone());
            outputs.extend(rule.output_claims.iter().map(|(name, _)| name.clone()));
            rules.push(Rule::new(rule, remote));
        }
        Self {
            rules,
            places,
            outputs,
        }
    }

    /// Verifies the token, and where it is good, takes it as what it says.
    fn settle(&self, found: &Found, context: &mut RequestContext, may_wait: bool) -> Outcome {
        let token = match Token::parse(&found.token) {
            Ok(token) => token,
            Err(refusal) => return Outcome::Refuse(refusal),
        };
        let place = &self.places[found.place];
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut refused = None;
        let mut awaited = None;
        for (at, rule) in self.rules.iter().enumerate() {
            if !rule.is_meant(&token, place) {
                continue;
            }
            match rule.check(&token, now) {
                Check::Good => {
                    rule.accept(token, place, context);
                    return Outcome::Pass;
                }
                Check::Bad(refusal) => refused = refused.or(Some(refusal)),
                Check::NeedsKeys { refusal } => {
                    awaited = awaited.or(Some(at));
                    refused = refused.or(Some(refusal));
                }
            }
        }
        match awaited {
            Some(rule) if may_wait => Outcome::Wait(rule),
            _ => Outcome::Refuse(refused.unwrap_or(Refusal::Issuer)),
        }
    }
}

/// A request that waits for keys.
struct Waiting {
    rules: Rc<Rules>,
    found: Found,
    fetched: Pin<Box<dyn Future<Output = ()>>>,
}

impl StreamFilter for Waiting {
    fn request_headers(&mut self, _: &mut RequestContext, _: bool) -> Step {
        Step::Hold
    }

    fn poll_resume(
        &mut self,
        context: &mut RequestContext,
        _: Held<'_>,
        task: &mut task::Context<'_>,
    ) -> task::Poll<Step> {
        task::ready!(self.fetched.as_mut().poll(task));
        task::Poll::Ready(match self.rules.settle(&self.found, context, false) {
            Outcome::Pass => Step::Continue,
            Outcome::Refuse(refusal) => Step::Reply(refusal.reply(context.request())),
            Outcome::Wait(_) => Step::Reply(Refusal::NoKeys.reply(context.request())),
        })
    }
}

fn is_preflight(request: &CanonicalRequest) -> bool {
    request.method == Method::OPTIONS
        && request.headers.contains_key(ORIGIN)
        && request
            .headers
            .get(ACCESS_CONTROL_REQUEST_METHOD)
            .is_some_and(|it| !it.is_empty())
}

/// Sets a header to what a token says, where a header can hold it.
fn set_header(context: &mut RequestContext, name: &HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        context.headers_mut().insert(name, value);
    }
}

/// The token that the rest of the chain reads.
fn keep(context: &mut RequestContext, token: VerifiedToken) {
    context.token = Some(Rc::new(token));
}
