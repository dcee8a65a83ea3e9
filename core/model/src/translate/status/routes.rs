//! What is said of HTTPRoutes at each of their parents.

use super::Outcomes;
use super::gateways::gateway_object;
use crate::resource::GATEWAY_GROUP;
use crate::resource::http_route::ParentRef;
use crate::status::reason::{self, ACCEPTED, PARTIALLY_INVALID, RESOLVED_REFS};
use crate::status::{Condition, ObjectStatus, Parent, ParentStatus, RouteStatus, Status};
use crate::translate::enrolment::Enrolment;
use crate::translate::entrances::Miss;
use crate::translate::proxies::{GATEWAY_CONTROLLER, WAYPOINT_CONTROLLER, controller_of, role_of};
use crate::translate::routes::{IndexedRoute, Written};
use crate::translate::targets::parent_problem;

/// Who judges a route at a parent, and why it does not attach there.
struct Standing {
    controller: String,
    ours: bool,
    miss: Option<(&'static str, String)>,
}

impl Outcomes<'_> {
    pub(super) fn add_routes(&self, all: &mut Vec<ObjectStatus>) {
        for route in &self.routes.all {
            let mut parents = Vec::new();
            for (p, parent) in route.parents().iter().enumerate() {
                if let Some(standing) = self.standing(route, p, parent) {
                    parents.push(parent_status(route, parent, standing));
                }
            }
            if !parents.is_empty() {
                all.push(ObjectStatus {
                    object: route.object.clone(),
                    status: Status::Route(RouteStatus { parents }),
                });
            }
        }
    }

    /// `None` where another controller or another process is known to judge it.
    fn standing(&self, route: &IndexedRoute, at: usize, parent: &ParentRef) -> Option<Standing> {
        let namespace = parent.namespace_or(&route.object.namespace);
        match (parent.group.as_str(), parent.kind.as_str()) {
            ("" | "core", "Service") => self.at_service(namespace, parent),
            (GATEWAY_GROUP, "Gateway") => self.at_gateway(route, at, namespace, parent),
            (group, kind) => Some(nobodys(
                GATEWAY_CONTROLLER,
                format!("a parent of group `{group}` and kind `{kind}` is not yet supported"),
            )),
        }
    }

    fn at_service(&self, namespace: &str, parent: &ParentRef) -> Option<Standing> {
        let key = (namespace, parent.name.as_str(), parent.port);
        let miss = parent_problem(self.enrolments, self.services, key);
        match self.enrolments.service(namespace, &parent.name) {
            Some(Enrolment::Here(place)) => {
                let class = &self.proxies.played[*place].proxy.class;
                Some(Standing {
                    controller: controller_of(class, self.resources).to_owned(),
                    ours: true,
                    miss: miss.map(|text| (reason::NO_MATCHING_PARENT, text)),
                })
            }
            Some(Enrolment::Elsewhere(_)) => None,
            Some(Enrolment::Nowhere(_)) | None => {
                Some(nobodys(WAYPOINT_CONTROLLER, miss.unwrap_or_default()))
            }
        }
    }

    fn at_gateway(
        &self,
        route: &IndexedRoute,
        at: usize,
        namespace: &str,
        parent: &ParentRef,
    ) -> Option<Standing> {
        let name = parent.name.as_str();
        let Some(written) = self.resources.gateways.get(namespace, name) else {
            let text = format!("the Gateway {namespace}/{name} does not exist");
            return Some(nobodys(GATEWAY_CONTROLLER, text));
        };
        let class = written.object.spec.gateway_class_name.as_str();
        role_of(class, self.resources)?;
        let object = gateway_object(namespace, name);
        let miss = match self.proxies.find(namespace, name) {
            Some(entry) if entry.is_waypoint() => Some((
                reason::NO_MATCHING_PARENT,
                format!("{object} is a waypoint, where routes attach to Services"),
            )),
            Some(_) => {
                let reached = self.doors.reached.get(&(route.object.clone(), at));
                reached
                    .copied()
                    .unwrap_or(Miss::NoListener)
                    .explain(&object)
            }
            None => {
                let (_, text) = self.proxies.refused.iter().find(|(it, _)| *it == object)?;
                Some((reason::NO_MATCHING_PARENT, text.clone()))
            }
        };
        Some(Standing {
            controller: controller_of(class, self.resources).to_owned(),
            ours: true,
            miss,
        })
    }
}

fn nobodys(controller: &str, text: String) -> Standing {
    Standing {
        controller: controller.to_owned(),
        ours: false,
        miss: Some((reason::NO_MATCHING_PARENT, text)),
    }
}

fn parent_status(route: &IndexedRoute, parent: &ParentRef, standing: Standing) -> ParentStatus {
    let generation = route.generation();
    let (accepted, partly) = match standing.miss {
        Some((reason, text)) => (Condition::fails(ACCEPTED, reason, text), None),
        None => acceptance(route),
    };
    let conditions = [Some(accepted), partly, Some(resolution(route))];
    ParentStatus {
        parent_ref: Parent {
            group: match parent.group.as_str() {
                "core" => String::new(),
                group => group.to_owned(),
            },
            kind: parent.kind.clone(),
            namespace: parent.namespace.clone(),
            name: parent.name.clone(),
            section_name: parent.section_name.clone(),
            port: parent.port,
        },
        controller_name: standing.controller,
        ours: standing.ours,
        conditions: conditions
            .into_iter()
            .flatten()
            .map(|condition| condition.observing(generation))
            .collect(),
    }
}

/// Whether what the route says can be served, in full or in part.
fn acceptance(route: &IndexedRoute) -> (Condition, Option<Condition>) {
    if let Written::Broken(broken) = &route.written {
        let reason = if broken.incompatible_filters {
            reason::INCOMPATIBLE_FILTERS
        } else {
            reason::UNSUPPORTED_VALUE
        };
        let text = format!("{}; what it matches answers 500", broken.reason);
        return (Condition::fails(ACCEPTED, reason, text), None);
    }
    let verdict = &route.compiled.verdict;
    let mut rules: Vec<usize> = verdict.failed.iter().map(|(rule, _, _)| *rule).collect();
    rules.dedup();
    let Some((_, reason, _)) = verdict.failed.first() else {
        return (Condition::holds(ACCEPTED, ACCEPTED, ""), None);
    };
    let failures = verdict.failed.iter();
    let failures: Vec<String> = failures
        .map(|(rule, _, text)| format!("rule {rule}: {text}"))
        .collect();
    let text = failures.join("; ");
    if rules.len() == verdict.rules {
        return (Condition::fails(ACCEPTED, reason, text), None);
    }
    // The Gateway API wants to be told in these words that rules are left out.
    let partly = Condition::holds(PARTIALLY_INVALID, reason, format!("Dropped Rule: {text}"));
    (Condition::holds(ACCEPTED, ACCEPTED, ""), Some(partly))
}

fn resolution(route: &IndexedRoute) -> Condition {
    let unresolved = &route.compiled.verdict.unresolved;
    let Some((_, first)) = unresolved.first() else {
        return Condition::holds(RESOLVED_REFS, RESOLVED_REFS, "");
    };
    let texts: Vec<String> = unresolved
        .iter()
        .map(|(field, unresolved)| format!("{field}: {}", unresolved.text))
        .collect();
    Condition::fails(RESOLVED_REFS, first.reason, texts.join("; "))
}
