//! External authorization: a server is asked whether a request may pass, by AuthorizationPolicies with
//! action CUSTOM, or by an ExternalAuth filter of the route that the request takes (`route`).
//!
//! About which requests a provider is asked, the model decides; how the server is reached is the data
//! path's business (the port `Callout`). This filter words the question in gRPC or HTTP, waits for the
//! answer, and carries it out. A provider that can not be asked refuses, unless it fails open.

mod grpc;
mod http;
mod messages;
mod metadata;
mod route;
mod verdict;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task;

use ::http::header::CONTENT_LENGTH;
use ::http::{HeaderMap, Response};
use bytes::Bytes;
use wayline_chain::{
    Begin, Callout, CalloutError, CalloutFuture, CalloutRequest, Direction, Filter, FilterSource,
    Held, LocalReply, Needs, Phase, Placed, RequestContext, ResponseHead, Scope, Step,
    StreamFilter,
};
use wayline_model::authorization::{Authorization, CustomRules, RuleRef};
use wayline_model::ext_authz::{CheckProtocol, ExtAuthzProvider};
use wayline_model::route::RouteRule;

use crate::authorization::{policy_input, refusal};
use verdict::{Edit, Said};

/// Tells the server whether it sees the whole body (Envoy).
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// Longest answer that is read.
const LONGEST_ANSWER: usize = 1 << 20;

/// Yields one filter for each provider that CUSTOM policies ask, and one for all servers that routes ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExtAuthzSource;

impl FilterSource for ExtAuthzSource {
    fn filters(&self, scope: &Scope<'_>) -> Vec<Placed> {
        let groups = 0..scope.authorization.custom().len();
        let place = |group| Placed {
            phase: Phase::Custom,
            priority: 0,
            filter: Rc::new(ExtAuthzFilter {
                policies: Arc::clone(scope.authorization),
                group,
                callout: Rc::clone(scope.callout),
            }) as Rc<dyn Filter>,
        };
        let of_routes = route::filter(scope);
        groups.map(place).chain(of_routes).collect()
    }
}

struct ExtAuthzFilter {
    policies: Arc<Authorization>,
    group: usize,
    callout: Rc<dyn Callout>,
}

impl ExtAuthzFilter {
    fn rules(&self) -> &CustomRules {
        &self.policies.custom()[self.group]
    }
}

impl Filter for ExtAuthzFilter {
    fn name(&self) -> &str {
        "ext_authz"
    }

    fn needs(&self) -> Needs {
        let Ok(provider) = self.rules().provider() else {
            return Needs::default();
        };
        Needs {
            request_body: provider.settings.body.is_some(),
            response_headers: match &provider.settings.protocol {
                CheckProtocol::Grpc(_) => true,
                CheckProtocol::Http(check) => !check.to_downstream_on_allow.is_empty(),
            },
            ..Needs::default()
        }
    }

    fn begin(&self, context: &mut RequestContext) -> Begin {
        let rules = self.rules();
        let Some(rule) = rules.asks(&policy_input(context)) else {
            return Begin::Pass;
        };
        match rules.provider() {
            Err(_) => Begin::Reply(refusal(Some(&rule))),
            Ok(provider) => {
                context.consulted.push(Arc::clone(rules.name()));
                let because = Because::Policy(rule);
                Begin::Stream(Box::new(Check::new(provider, &self.callout, because)))
            }
        }
    }

    /// A request that was changed since may be one that the provider would have been asked about. Once it
    /// was asked in this exchange its answer stands, as in Envoy.
    fn judge_again(&self, context: &mut RequestContext) -> Option<LocalReply> {
        let rules = self.rules();
        if context.consulted.contains(rules.name()) {
            return None;
        }
        let rule = rules.asks(&policy_input(context))?;
        Some(refusal(Some(&rule)))
    }
}

/// What of the body the server is shown.
struct Shown {
    body: Bytes,
    is_partial: bool,
}

/// One question.
struct Check {
    provider: Arc<ExtAuthzProvider>,
    callout: Rc<dyn Callout>,
    because: Because,
    state: State,
    /// What the response shall get.
    response: Vec<Edit>,
}

/// Why it is asked.
enum Because {
    /// A rule of a CUSTOM policy.
    Policy(RuleRef),
    /// The route that the request takes.
    Route(Arc<RouteRule>),
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(rule) => rule.fmt(f),
            Self::Route(rule) => f.write_str(&rule.name),
        }
    }
}

enum State {
    /// Not asked yet.
    Idle,
    Asked(CalloutFuture),
    Answered,
}

type Answer = Result<(Response<Bytes>, HeaderMap), CalloutError>;

impl StreamFilter for Check {
    fn request_headers(&mut self, context: &mut RequestContext, end_of_stream: bool) -> Step {
        let Some(body) = self.provider.settings.body else {
            return self.ask(context, None);
        };
        if end_of_stream {
            return self.ask(context, None);
        }
        let length = context.request().headers.get(CONTENT_LENGTH);
        let length: Option<usize> = length.and_then(|it| it.to_str().ok()?.parse().ok());
        if !body.allow_partial && length.is_some_and(|length| length > body.max_bytes) {
            return Step::Reply(verdict::too_large());
        }
        Step::Pause
    }

    fn request_body(
        &mut self,
        context: &mut RequestContext,
        body: &mut Bytes,
        end_of_stream: bool,
    ) -> Step {
        match self.state {
            State::Idle => self.take_body(context, body, end_of_stream),
            State::Asked(_) => Step::Hold,
            State::Answered => Step::Continue,
        }
    }

    fn request_trailers(
        &mut self,
        context: &mut RequestContext,
        body: &mut Bytes,
        _: &mut HeaderMap,
    ) -> Step {
        match self.state {
            State::Idle => self.take_body(context, body, true),
            State::Asked(_) => Step::Hold,
            State::Answered => Step::Continue,
        }
    }

    fn poll_resume(
        &mut self,
        context: &mut RequestContext,
        held: Held<'_>,
        task: &mut task::Context<'_>,
    ) -> task::Poll<Step> {
        let State::Asked(call) = &mut self.state else {
            return task::Poll::Pending;
        };
        if held.direction != Direction::Request {
            return task::Poll::Pending;
        }
        let answer = task::ready!(call.as_mut().poll(task));
        self.state = State::Answered;
        task::Poll::Ready(self.carry_out(context, answer))
    }

    fn response_headers(
        &mut self,
        _: &mut RequestContext,
        response: &mut ResponseHead,
        _: bool,
    ) -> Step {
        verdict::apply_to_response(&self.response, response);
        Step::Continue
    }
}

impl Check {
    fn new(provider: &Arc<ExtAuthzProvider>, callout: &Rc<dyn Callout>, because: Because) -> Self {
        Self {
            provider: Arc::clone(provider),
            callout: Rc::clone(callout),
            because,
            state: State::Idle,
            response: Vec::new(),
        }
    }

    /// Waits for as much of the body as the server shall see.
    fn take_body(&mut self, context: &RequestContext, body: &Bytes, is_whole: bool) -> Step {
        let Some(limits) = self.provider.settings.body else {
            return Step::Continue;
        };
        if body.len() > limits.max_bytes && !limits.allow_partial {
            return Step::Reply(verdict::too_large());
        }
        if !is_whole && body.len() < limits.max_bytes {
            return Step::Pause;
        }
        if !is_whole && !limits.allow_partial {
            // Exactly as long as allowed so far: the next byte decides.
            return Step::Pause;
        }
        let shown = Shown {
            body: body.slice(..body.len().min(limits.max_bytes)),
            is_partial: !is_whole || body.len() > limits.max_bytes,
        };
        self.ask(context, Some(shown))
    }

    fn ask(&mut self, context: &RequestContext, shown: Option<Shown>) -> Step {
        let request = match &self.provider.settings.protocol {
            CheckProtocol::Grpc(check) => {
                let (provider, shown) = (&self.provider, shown.as_ref());
                grpc::request(provider, check, context, shown)
            }
            CheckProtocol::Http(check) => http::request(check, context, shown.as_ref()),
        };
        let Some(request) = request else {
            return self.failed("the question can not be written");
        };
        self.state = State::Asked(self.callout.call(CalloutRequest {
            backend: Arc::clone(&self.provider.backend),
            request,
            trailers: None,
            deadline: self.provider.settings.timeout,
            response_limit: LONGEST_ANSWER,
        }));
        Step::Hold
    }

    fn carry_out(&mut self, context: &mut RequestContext, answer: Answer) -> Step {
        let said = match &answer {
            Err(error) => Err(error.to_string()),
            Ok((response, trailers)) => match &self.provider.settings.protocol {
                CheckProtocol::Grpc(_) => grpc::said(response, trailers),
                CheckProtocol::Http(check) => {
                    http::said(check, response).map(|said| (said, serde_json::Map::new()))
                }
            },
        };
        let said = said.map(|(said, told)| {
            metadata::keep(told, context);
            said
        });
        match said {
            Ok(Said::Allow(changes)) => {
                self.response = changes.apply(context);
                if let Because::Route(rule) = &self.because {
                    context.admitted_to = Some(Arc::clone(rule));
                }
                Step::Continue
            }
            Ok(Said::Deny(denial)) => Step::Reply(denial.reply()),
            Err(reason) => self.failed(&reason),
        }
    }

    fn failed(&mut self, reason: &str) -> Step {
        self.state = State::Answered;
        let provider = &self.provider;
        tracing::debug!(provider = &*provider.name, because = %self.because, "not asked: {reason}");
        if provider.settings.fail_open {
            return Step::Continue;
        }
        Step::Reply(verdict::error(provider.settings.status_on_error))
    }
}
