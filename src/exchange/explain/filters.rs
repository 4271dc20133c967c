//! What each filter of a route would do to one request.
//!
//! A chain of one filter alone is built for each, and asked as the data path asks the whole chain: what it decides is then
//! that filter's doing.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header};
use ipnet::IpNet;

use crate::base::clock::Moment;
use crate::base::path::NormalPath;
use crate::base::request::RequestView;
use crate::base::units::{format_rate, format_size};
use crate::config::plan::{self, Action, Algorithm, Filters, RouteMatch};
use crate::filter::edit::Edit;
use crate::filter::headers::Variables;
use crate::filter::ip_rules::Networks;
use crate::filter::rate_limit::tables::Tables;
use crate::filter::rate_limit::{RateLimits, key};
use crate::filter::{Answer, BuildError, Chain, Decision, Refusal};
use crate::telemetry::reason::Reason;

/// One filter and what it would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its name in the configuration; `redirect` and `respond` are among them.
    pub filter: &'static str,
    /// Whether the request goes on.
    pub verdict: Verdict,
    /// What it does and why, a sentence each.
    pub does: Vec<String>,
}

/// Whether a request goes on after a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Passes,
    /// It is answered with this status.
    Answers(u16),
    /// It is refused.
    Refuses(Reason),
    /// A filter before has answered or refused it.
    NotReached,
}

/// A request that a route has won.
struct Case<'a> {
    route: &'a plan::Route,
    request: &'a RequestView<'a>,
    path: &'a NormalPath<'a>,
    matched: &'a RouteMatch,
    facts: &'a Variables<'a>,
}

/// Every filter of `route` in the order in which they act.
pub(super) fn steps(
    route: &plan::Route,
    request: &RequestView<'_>,
    path: &NormalPath<'_>,
    matched: &RouteMatch,
    facts: &Variables<'_>,
) -> Result<Vec<Step>, BuildError> {
    let case = Case { route, request, path, matched, facts };
    let whole = case.build(&route.filters, &route.action)?;
    let mut steps: Vec<Step> = Vec::new();
    for filter in whole.names() {
        let ended = steps.iter().any(|step| !matches!(step.verdict, Verdict::Passes | Verdict::NotReached));
        steps.push(if ended { case.step_after_the_end(filter)? } else { case.step(filter)? });
    }
    Ok(steps)
}

impl Case<'_> {
    /// A chain with no filter but this one.
    fn chain(&self, filter: &str, action: &Action) -> Result<Chain, BuildError> {
        self.build(&alone(filter, &self.route.filters), action)
    }

    /// A chain with full buckets of its own: asking takes nothing from those of a running proxy.
    fn build(&self, filters: &Filters, action: &Action) -> Result<Chain, BuildError> {
        let limits = RateLimits::build(&self.route.name, &filters.rate_limits, &Tables::default());
        Chain::build(filters, action, limits)
    }

    fn step(&self, filter: &'static str) -> Result<Step, BuildError> {
        let chain = self.chain(filter, &own(filter, &self.route.action))?;
        let decision = match filter {
            "deny" | "allow" => chain.admit(self.request),
            "cors" | "auth" => match chain.authenticate(self.request, Moment::START) {
                Decision::MustHash(job) => match job.run() {
                    true => Decision::Continue,
                    false => Decision::Refuse(chain.unauthorised()),
                },
                decided => decided,
            },
            "redirect" | "respond" => chain.answer(self.request, self.path, self.matched),
            _ => Decision::Continue,
        };
        Ok(match decision {
            Decision::Answer(answer) => {
                Step { filter, verdict: Verdict::Answers(answer.status), does: answered(filter, &answer) }
            }
            Decision::Refuse(refusal) => {
                Step { filter, verdict: Verdict::Refuses(refusal.reason), does: self.refused(filter, &refusal) }
            }
            // No job is left: it was run above.
            Decision::Continue | Decision::MustHash(_) => {
                Step { filter, verdict: Verdict::Passes, does: self.passed(filter, &chain) }
            }
        })
    }

    /// What a filter does to a request that another has answered or refused: only changes to the fields of answers.
    fn step_after_the_end(&self, filter: &'static str) -> Result<Step, BuildError> {
        let chain = self.chain(filter, &Action::Forward(Vec::new()))?;
        let does = told(&chain.response_edits(self.request, self.facts));
        let verdict = if does.is_empty() { Verdict::NotReached } else { Verdict::Passes };
        Ok(Step { filter, verdict, does })
    }

    fn refused(&self, filter: &str, refusal: &Refusal) -> Vec<String> {
        let mut does = vec![match filter {
            "deny" => admission(self.request.client, self.route.filters.deny.as_deref()),
            "allow" => admission(self.request.client, self.route.filters.allow.as_deref()),
            "auth" if self.request.fields.get("authorization").is_none() => {
                "the request has no credentials (`-H 'authorization: Basic ...'`)".to_owned()
            }
            "auth" => "the credentials are not good".to_owned(),
            "redirect" => "the request names no host that a `Location` could be made of".to_owned(),
            _ => refusal.reason.text().to_owned(),
        }];
        does.extend(refusal.fields.iter().map(|(name, value)| format!("answers with `{name}: {}`", text(value))));
        does
    }

    fn passed(&self, filter: &str, chain: &Chain) -> Vec<String> {
        match filter {
            "deny" => vec![admission(self.request.client, self.route.filters.deny.as_deref())],
            "allow" => vec![admission(self.request.client, self.route.filters.allow.as_deref())],
            "rate_limit" => self.route.filters.rate_limits.iter().map(|limit| self.limited(limit)).collect(),
            "auth" => vec!["the credentials are good".to_owned()],
            "rewrite" => self.rewritten(chain),
            "request_headers" => told(&chain.request_edits(self.facts)),
            "compress" => self.compressed(chain),
            _ => told(&chain.response_edits(self.request, self.facts)),
        }
    }

    fn limited(&self, limit: &plan::RateLimit) -> String {
        let trial = if limit.dry_run { " (dry run: refuses nothing)" } else { "" };
        let plan::Rate { count, per } = limit.rate;
        match key::counted_by(&limit.key, self.request) {
            Some(counted) => {
                let rate = format_rate(count.into(), per);
                format!("counts {counted}: {rate}, {} at once{trial}", limit.burst)
            }
            None => format!("does not count the request, which has no `{}`{trial}", limit.key),
        }
    }

    fn rewritten(&self, chain: &Chain) -> Vec<String> {
        let Some(rewrite) = chain.rewrite() else { return Vec::new() };
        let path = rewrite.path(self.path, self.matched);
        let path = path.map(|path| format!("the path `{}` becomes `{path}`", self.request.path));
        let host = rewrite.host().map(|host| format!("the host `{}` becomes `{}`", self.request.host, text(host)));
        path.into_iter().chain(host).collect()
    }

    /// What is done to an answer such as the filter is written for.
    fn compressed(&self, chain: &Chain) -> Vec<String> {
        let Some(plan) = &self.route.filters.compress else { return Vec::new() };
        let example = plan.types.first().map(|media| media.replace('*', "plain")).unwrap_or_default();
        let mut answer = HeaderMap::new();
        answer.extend(HeaderValue::from_str(&example).map(|value| (header::CONTENT_TYPE, value)));
        let sizes = format!("answers of {} or more, of {}", format_size(plan.min_bytes), plan.types.join(", "));
        vec![match chain.compression(self.request, 200, &answer).coding {
            Some(coding) => format!("{sizes}: encoded with {}", word(coding.algorithm)),
            None if self.request.method == "HEAD" => "an answer to HEAD has no body to encode".to_owned(),
            None => {
                let algorithms: Vec<&str> = plan.algorithms.iter().map(|one| word(*one)).collect();
                format!("nothing is encoded: the request's `Accept-Encoding` takes none of {}", algorithms.join(", "))
            }
        }]
    }
}

/// The filters with none but `filter`.
fn alone(filter: &str, filters: &Filters) -> Filters {
    let mut alone = Filters::default();
    match filter {
        "deny" => alone.deny.clone_from(&filters.deny),
        "allow" => alone.allow.clone_from(&filters.allow),
        "rate_limit" => alone.rate_limits.clone_from(&filters.rate_limits),
        "cors" => alone.cors.clone_from(&filters.cors),
        "auth" => alone.auth_basic.clone_from(&filters.auth_basic),
        "rewrite" => alone.rewrite.clone_from(&filters.rewrite),
        "request_headers" => alone.request_headers.clone_from(&filters.request_headers),
        "compress" => alone.compress.clone_from(&filters.compress),
        "response_headers" => alone.response_headers.clone_from(&filters.response_headers),
        _ => {}
    }
    alone
}

/// The action where `filter` is one, else one that answers nothing.
fn own(filter: &str, action: &Action) -> Action {
    match filter {
        "redirect" | "respond" => action.clone(),
        _ => Action::Forward(Vec::new()),
    }
}

/// In which of the networks a client is.
fn admission(client: Option<IpAddr>, networks: Option<&[IpNet]>) -> String {
    let networks = networks.unwrap_or_default();
    let Some(client) = client else {
        return "the client has no address (a unix socket), and is in no network".to_owned();
    };
    match networks.iter().find(|network| Networks::build(&[**network]).contains(client)) {
        Some(network) => format!("{client} is in {network}"),
        None if networks.len() == 1 => format!("{client} is not in {}", networks[0]),
        None => format!("{client} is in none of {} networks", networks.len()),
    }
}

fn answered(filter: &str, answer: &Answer) -> Vec<String> {
    let opening = if filter == "cors" { vec!["it is a preflight".to_owned()] } else { Vec::new() };
    let fields = answer.fields.iter().map(|(name, value)| format!("`{name}: {}`", text(value)));
    opening.into_iter().chain(fields).collect()
}

fn told(edits: &[Edit]) -> Vec<String> {
    let one = |edit: &Edit| match edit {
        Edit::Set(name, value) => format!("sets `{name}: {}`", text(value)),
        Edit::Add(name, value) => format!("adds `{name}: {}`", text(value)),
        Edit::Remove(name) => format!("removes `{name}`"),
    };
    edits.iter().map(one).collect()
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

const fn word(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Zstd => "zstd",
        Algorithm::Brotli => "br",
        Algorithm::Gzip => "gzip",
    }
}
