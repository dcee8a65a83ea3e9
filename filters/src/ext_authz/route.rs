//! ExternalAuth filters of routes: asked last of all filters, because only then it is known which route a
//! request takes.
//!
//! What the server admitted takes the rule that asked it, even where the server changed headers by which
//! routes are chosen. What was rewritten after that is looked up again, and must not come by another
//! rule that asks.

use std::rc::Rc;
use std::sync::Arc;

use wayline_chain::{
    Begin, Callout, Filter, LocalReply, Needs, Phase, Placed, RequestContext, Scope,
};
use wayline_model::route::{RouteAction, RouteRule};
use wayline_model::snapshot::Ways;

use super::{Because, Check, verdict};

/// The filter, where some route asks.
pub(super) fn filter(scope: &Scope<'_>) -> Option<Placed> {
    let ways = scope.ways;
    ways.ask_externally().then(|| Placed {
        phase: Phase::Route,
        priority: 0,
        filter: Rc::new(RouteAuthFilter {
            ways: ways.clone(),
            callout: Rc::clone(scope.callout),
        }),
    })
}

struct RouteAuthFilter {
    ways: Ways,
    callout: Rc<dyn Callout>,
}

impl RouteAuthFilter {
    fn rule(&self, context: &RequestContext) -> Option<&Arc<RouteRule>> {
        let caller = context.connection.identity.as_ref();
        let caller = caller.map(|identity| identity.namespace());
        self.ways.rule(caller, context.request())
    }
}

impl Filter for RouteAuthFilter {
    fn name(&self) -> &str {
        "external_auth"
    }

    fn needs(&self) -> Needs {
        // Rules differ: one of them may show its server the body, or change the response.
        Needs {
            request_body: true,
            response_headers: true,
            ..Needs::default()
        }
    }

    fn begin(&self, context: &mut RequestContext) -> Begin {
        let Some(rule) = self.rule(context) else {
            return Begin::Pass;
        };
        let Some(provider) = &rule.external_auth else {
            return Begin::Pass;
        };
        // A preflight carries nobody's credentials, and is answered without a backend.
        let request = context.request();
        let is_preflight = rule
            .cors
            .as_ref()
            .is_some_and(|cors| cors.preflight(&request.method, &request.headers).is_some());
        if is_preflight || matches!(rule.action, RouteAction::Fail { .. }) {
            return Begin::Pass;
        }
        context.consulted.push(Arc::clone(&provider.name));
        let because = Because::Route(Arc::clone(rule));
        Begin::Stream(Box::new(Check::new(provider, &self.callout, because)))
    }

    fn judge_again(&self, context: &mut RequestContext) -> Option<LocalReply> {
        let rule = self.rule(context);
        let admitted = context.admitted_to.as_ref();
        if let (Some(rule), Some(admitted)) = (rule, admitted)
            && Arc::ptr_eq(rule, admitted)
        {
            return None;
        }
        let asks = rule.is_some_and(|rule| rule.external_auth.is_some());
        context.admitted_to = None;
        asks.then(verdict::not_asked)
    }
}
