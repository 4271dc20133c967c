//! What would become of a request, and why: the answer of `roundel explain`.
//!
//! It asks the functions that serve requests (the route table, each filter of the winner, the rules of retries) and keeps what
//! they say, so that it cannot say anything else than the proxy does. It sends nothing and starts nothing; which backends
//! are healthy only a running proxy knows. How it looks on a terminal is left to `cli`.

mod delivery;
mod filters;
mod json;
pub mod listener;

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;

pub use delivery::{Backend, Delivery, Limit, Retries};
pub use filters::{Step, Verdict};

use crate::base::path::{NormalPath, PathError};
use crate::base::request::RequestView;
use crate::config::plan::{self, Plan};
use crate::exchange::{admission, client};
use crate::filter::BuildError;
use crate::filter::headers::Variables;
use crate::route::{self, RouteTable};
use crate::telemetry::reason::Reason;

/// A request that somebody might send.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The listener that it would come in by.
    pub listener: &'a plan::Listener,
    /// The other end of its connection; none on a unix socket.
    pub peer: Option<IpAddr>,
    /// Its method.
    pub method: &'a str,
    /// Its path as it would be sent.
    pub path: &'a str,
    /// Its query without the `?`.
    pub query: Option<&'a str>,
    /// Its header fields, `Host` included.
    pub fields: &'a HeaderMap,
}

/// A plan that can be asked.
#[derive(Debug)]
pub struct Explainer<'p> {
    plan: &'p Plan,
    table: RouteTable,
}

/// What would become of a request.
#[derive(Debug)]
pub struct Explanation {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The client's address after trusted proxies.
    pub client: Option<IpAddr>,
    /// How it ends.
    pub outcome: Outcome,
    /// The route that won.
    pub route: Option<Arc<plan::Route>>,
    /// Every rule of the route table with what became of it; empty where the request was refused before.
    pub rules: route::Explanation,
    /// The filters of the route in the order in which they act.
    pub filters: Vec<Step>,
    /// The upstreams that may get the request; empty where the route answers by itself.
    pub deliveries: Vec<Delivery>,
    /// The bound on the request's body, in bytes.
    pub body_limit: Option<u64>,
}

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It goes to a backend.
    Forwarded,
    /// The route answers it.
    Answered {
        /// The status.
        status: u16,
        /// The filter or action that answers.
        by: &'static str,
    },
    /// It is refused.
    Refused {
        /// Why; it has the status.
        reason: Reason,
        /// What refuses: a filter, or `path`, `routes`, `upgrade`, `limits`.
        by: &'static str,
    },
}

impl Outcome {
    /// The status that the proxy itself would answer with; none where a backend answers.
    #[must_use]
    pub fn status(self) -> Option<u16> {
        match self {
            Self::Forwarded => None,
            Self::Answered { status, .. } => Some(status),
            Self::Refused { reason, .. } => Some(reason.status()),
        }
    }

    /// Whether the request is served: by a backend, or by what a route says.
    #[must_use]
    pub const fn is_served(self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

impl<'p> Explainer<'p> {
    /// Builds the route table of `plan`.
    #[must_use]
    pub fn new(plan: &'p Plan) -> Self {
        Self { plan, table: RouteTable::build(&plan.routes) }
    }

    /// What would become of a request. Reads the files of users that the winning route names, and computes the hash of a
    /// password where the request has one: it may take a second.
    ///
    /// # Errors
    /// A filter that the proxy would not start with.
    pub fn explain(&self, question: &Question<'_>) -> Result<Explanation, BuildError> {
        let client = client::find(question.peer, &question.listener.trusted_proxies, question.fields);
        let request = question.view(client.address);
        let mut explanation = Explanation {
            listener: question.listener.name.clone(),
            client: client.address,
            outcome: Outcome::Forwarded,
            route: None,
            rules: route::Explanation { considered: Vec::new() },
            filters: Vec::new(),
            deliveries: Vec::new(),
            body_limit: question.listener.limits.body,
        };
        match NormalPath::new(question.path) {
            Ok(_) if question.listener.redirect.is_some() => {
                explanation.outcome = Outcome::Answered { status: 308, by: "redirect" };
            }
            Ok(path) => self.routed(question, &request, &path, &mut explanation)?,
            Err(PathError::NotAbsolute | PathError::AboveRoot | PathError::BadEscape) => {
                explanation.outcome = Outcome::Refused { reason: Reason::HttpRequestError, by: "path" };
            }
        }
        Ok(explanation)
    }

    fn routed(
        &self,
        question: &Question<'_>,
        request: &RequestView<'_>,
        path: &NormalPath<'_>,
        explanation: &mut Explanation,
    ) -> Result<(), BuildError> {
        explanation.rules = self.table.explain(request, path);
        let Some(found) = self.table.find(request, path) else {
            explanation.outcome = Outcome::Refused { reason: Reason::NoRoute, by: "routes" };
            return Ok(());
        };
        let route = found.route;
        let facts = facts(question, request, &route.name);
        explanation.filters = filters::steps(route, request, path, found.matched, &facts)?;
        explanation.deliveries =
            route.action.splits().iter().map(|split| Delivery::of(split, question, request, route)).collect();
        explanation.body_limit = route.body_limit.unwrap_or(question.listener.limits.body);
        explanation.outcome = outcome(question, request, route, explanation);
        explanation.route = Some(route.clone());
        Ok(())
    }

    /// The plan that is asked.
    #[must_use]
    pub const fn plan(&self) -> &'p Plan {
        self.plan
    }
}

impl Question<'_> {
    /// The request as routes and filters see it.
    fn view(&self, client: Option<IpAddr>) -> RequestView<'_> {
        RequestView {
            method: self.method,
            scheme: listener::scheme(self.listener),
            host: self.fields.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or(""),
            path: self.path,
            query: self.query,
            client,
            fields: self.fields,
        }
    }
}

/// What header values may speak of. There is no request yet, and so no id.
fn facts<'a>(question: &Question<'a>, request: &RequestView<'a>, route: &'a str) -> Variables<'a> {
    Variables {
        client_ip: request.client,
        request_id: "(new with each request)",
        scheme: request.scheme.as_str(),
        host: request.host,
        method: request.method,
        path: request.path,
        query: request.query.unwrap_or_default(),
        listener: &question.listener.name,
        route,
        tls: None,
    }
}

/// How the request ends, in the order of [`admission`]: an upgrade that is not supported, the first filter that does not let
/// it pass, the bound on its body, or a backend.
fn outcome(
    question: &Question<'_>,
    request: &RequestView<'_>,
    route: &plan::Route,
    explanation: &Explanation,
) -> Outcome {
    if let Some(reason) = admission::refused_upgrade(request, route.websocket) {
        return Outcome::Refused { reason, by: "upgrade" };
    }
    let ended = explanation.filters.iter().find_map(|step| match step.verdict {
        Verdict::Answers(status) => Some(Outcome::Answered { status, by: step.filter }),
        Verdict::Refuses(reason) => Some(Outcome::Refused { reason, by: step.filter }),
        Verdict::Passes | Verdict::NotReached => None,
    });
    ended.unwrap_or_else(|| match content_length(question.fields).zip(explanation.body_limit) {
        Some((length, limit)) if length > limit => Outcome::Refused { reason: Reason::BodyTooLarge, by: "limits" },
        _ => Outcome::Forwarded,
    })
}

fn content_length(fields: &HeaderMap) -> Option<u64> {
    fields.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
