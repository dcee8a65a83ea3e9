//! The statuses of objects, said from the outcomes of all other steps.

mod gateways;
mod routes;

use super::enrolment::{Enrolment, Enrolments};
use super::entrances::Doors;
use super::proxies::{GATEWAY_CONTROLLER, Proxies, WAYPOINT_CONTROLLER, role_of};
use super::routes::RouteIndex;
use super::services::Services;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;
use crate::status::reason::{self, ACCEPTED, WAYPOINT_BOUND};
use crate::status::{Condition, Conditions, ObjectStatus, Status, Statuses};
use crate::store::Resources;

/// What statuses are said from.
pub(super) struct Outcomes<'a> {
    pub(super) resources: &'a Resources,
    pub(super) mesh: &'a MeshSettings,
    pub(super) proxies: &'a Proxies,
    pub(super) services: &'a Services,
    pub(super) routes: &'a RouteIndex,
    pub(super) enrolments: &'a Enrolments,
    pub(super) doors: &'a Doors,
}

impl Outcomes<'_> {
    /// All of them.
    pub(super) fn statuses(&self) -> Statuses {
        let mut all = Vec::new();
        self.add_classes(&mut all);
        self.add_gateways(&mut all);
        self.add_routes(&mut all);
        self.add_services(&mut all);
        all.sort_by(|a, b| a.object.cmp(&b.object));
        Statuses { all }
    }

    fn add_classes(&self, all: &mut Vec<ObjectStatus>) {
        for (_, name, entry) in self.resources.classes.iter() {
            if role_of(name, self.resources).is_none() {
                continue;
            }
            let controller = entry.object.spec.controller_name.as_str();
            let message = match controller {
                WAYPOINT_CONTROLLER | GATEWAY_CONTROLLER => "the class is Wayline's",
                _ => "Wayline serves the class in Istio's place",
            };
            let accepted = Condition::holds(ACCEPTED, ACCEPTED, message)
                .observing(entry.object.metadata.generation);
            all.push(ObjectStatus {
                object: ObjectRef::new("GatewayClass", "", name),
                status: Status::Conditions(Conditions {
                    conditions: vec![accepted],
                }),
            });
        }
    }

    /// `istio.io/WaypointBound` of the Services that ask for a waypoint, as istiod says it.
    fn add_services(&self, all: &mut Vec<ObjectStatus>) {
        for entry in self.services.iter() {
            let (namespace, name) = (&entry.service.namespace, &entry.service.name);
            let bound = match self.enrolments.service(namespace, name) {
                Some(Enrolment::Here(place)) => {
                    let proxy = &self.proxies.played[*place].proxy;
                    Condition::holds(
                        WAYPOINT_BOUND,
                        reason::WAYPOINT_ACCEPTED,
                        format!(
                            "Successfully attached to waypoint {}/{}",
                            proxy.namespace, proxy.name
                        ),
                    )
                }
                Some(Enrolment::Nowhere(unbound)) => match unbound.reason {
                    Some(reason) => {
                        Condition::fails(WAYPOINT_BOUND, reason, unbound.text.to_string())
                    }
                    None => continue,
                },
                // Another process plays the waypoint, and says so.
                Some(Enrolment::Elsewhere(_)) | None => continue,
            };
            let bound = bound.observing(entry.written.metadata.generation);
            all.push(ObjectStatus {
                object: ObjectRef::new("Service", namespace, name),
                status: Status::Conditions(Conditions {
                    conditions: vec![bound],
                }),
            });
        }
    }
}
