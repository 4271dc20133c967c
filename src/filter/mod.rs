//! What a route does to a request and its answer, in a fixed order that the configuration cannot change.
//!
//! On the way in: deny and allow, rate limits, cross-origin preflights, authentication, redirect or written answer, rewrite,
//! request fields. On the way out: cross-origin fields, compression, response fields. Filters decide and say what to change; they
//! send nothing, wait for nothing, and read no clock. The buckets of rate limits are found again from snapshot to snapshot;
//! caches and mirrors keep live state and live elsewhere.

pub mod auth;
pub mod compress;
pub mod cors;
pub mod edit;
pub mod encode;
pub mod headers;
pub mod ip_rules;
pub mod rate_limit;
pub mod redirect;
pub mod respond;
pub mod rewrite;

use http::header::{self, HeaderName, HeaderValue};
use thiserror::Error;

use self::auth::basic::{Basic, Check, Job};
use self::auth::users::UsersError;
use self::compress::{Compress, Compression};
use self::cors::Cors;
use self::edit::Edit;
use self::headers::{HeaderRules, Variables};
use self::ip_rules::IpRules;
use self::rate_limit::{Passage, RateLimits};
use self::redirect::Redirect;
use self::rewrite::Rewrite;
use crate::base::clock::Moment;
use crate::base::path::NormalPath;
use crate::base::request::{Fields, RequestView};
use crate::config::plan::{self, RouteMatch};
use crate::telemetry::reason::Reason;

/// The filters of one route, compiled.
#[derive(Debug)]
pub struct Chain {
    ip_rules: Option<IpRules>,
    rate_limits: RateLimits,
    cors: Option<Cors>,
    auth: Option<Basic>,
    answer: Option<Own>,
    rewrite: Option<Rewrite>,
    request_headers: Option<HeaderRules>,
    compress: Option<Compress>,
    response_headers: Option<HeaderRules>,
}

/// An answer that the route gives by itself.
#[derive(Debug)]
enum Own {
    Redirect(Redirect),
    Respond(plan::Respond),
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// The next filter decides.
    Continue,
    /// It is refused.
    Refuse(Refusal),
    /// It is answered with this.
    Answer(Answer),
    /// A password must be hashed: run the job on a thread that may block. Where it says yes, continue; else
    /// refuse with [`Chain::unauthorised`].
    MustHash(Job),
}

/// Why a request is refused, and what the answer says besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, which has the status.
    pub reason: Reason,
    /// Fields of the answer (`WWW-Authenticate`, `Retry-After`).
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

/// An answer made here. Its fields tell its length where it has one; for HEAD the body is left out already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: bytes::Bytes,
}

/// Why filters cannot be built.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The messages say it.
pub enum BuildError {
    #[error("credentials cannot go with any origin (name the origins in `origins`, or leave `credentials` out)")]
    CredentialsForAnyOrigin,
    #[error("{field}: unknown variable `{{{name}}}` (write `{{{{` and `}}}}` for braces)")]
    UnknownVariable { field: String, name: String },
    #[error("{field}: a brace without its other half (write `{{{{` or `}}}}` for a brace)")]
    LoneBrace { field: String },
    #[error("{field}: the value holds a control character, which no header field can carry (remove it)")]
    ControlCharacter { field: String },
    #[error("`{name}` cannot be changed by header filters ({remedy})")]
    ProtectedField { name: String, remedy: &'static str },
    #[error("`{path}` is no path (begin with a slash, and escape all but visible ASCII, `?` and `#` included)")]
    NoPath { path: String },
    #[error("`{host}` is no host or scheme (write it as in a URL, without path and port)")]
    NoHost { host: String },
    #[error(transparent)]
    Users(#[from] UsersError),
    #[error("the system gives no random bytes")]
    NoRandomBytes,
}

impl Chain {
    /// The filters of a route and the answer that it gives by itself, if it does. Reads the file of users; `rate_limits` are
    /// the route's.
    ///
    /// # Errors
    /// What the configuration's check could not see, or the file of users is wrong.
    pub fn build(filters: &plan::Filters, action: &plan::Action, rate_limits: RateLimits) -> Result<Self, BuildError> {
        Ok(Self {
            ip_rules: IpRules::build(filters),
            rate_limits,
            cors: filters.cors.as_ref().map(Cors::build).transpose()?,
            auth: filters.auth_basic.as_ref().map(Basic::build).transpose()?,
            answer: Own::build(action)?,
            rewrite: filters.rewrite.as_ref().map(Rewrite::build).transpose()?,
            request_headers: filters.request_headers.as_ref().map(HeaderRules::build).transpose()?,
            compress: filters.compress.as_ref().map(Compress::build),
            response_headers: filters.response_headers.as_ref().map(HeaderRules::build).transpose()?,
        })
    }

    /// `deny` and `allow`: first of all, before rate limits, so that a refused client costs nothing.
    #[must_use]
    pub fn admit(&self, request: &RequestView<'_>) -> Decision {
        match &self.ip_rules {
            Some(rules) if !rules.admits(request.client) => refuse(Reason::HttpRequestDenied),
            _ => Decision::Continue,
        }
    }

    /// Rate limits: before authentication, so that they say nothing about who is known here.
    #[must_use]
    pub fn limit(&self, request: &RequestView<'_>, now: Moment) -> Passage {
        self.rate_limits.decide(request, now)
    }

    /// Cross-origin preflights, then authentication: after rate limits, so that guessing passwords is limited.
    #[must_use]
    pub fn authenticate(&self, request: &RequestView<'_>, now: Moment) -> Decision {
        if let Some(answer) = self.cors.as_ref().and_then(|cors| cors.preflight(request)) {
            return Decision::Answer(answer);
        }
        match self.auth.as_ref().map(|auth| auth.check(request, now)) {
            None | Some(Check::Known(true)) => Decision::Continue,
            Some(Check::Known(false)) => Decision::Refuse(self.unauthorised()),
            Some(Check::MustHash(job)) => Decision::MustHash(job),
            Some(Check::Busy) => refuse(Reason::ConnectionLimitReached),
        }
    }

    /// The refusal of a request whose credentials are not good, with the challenge.
    #[must_use]
    pub fn unauthorised(&self) -> Refusal {
        let challenge = self.auth.as_ref().map(|auth| (header::WWW_AUTHENTICATE, auth.challenge().clone()));
        Refusal { reason: Reason::Auth, fields: challenge.into_iter().collect() }
    }

    /// The answer that the route gives by itself: a redirect, or what the operator wrote.
    #[must_use]
    pub fn answer(&self, request: &RequestView<'_>, path: &NormalPath<'_>, matched: &RouteMatch) -> Decision {
        match &self.answer {
            None => Decision::Continue,
            Some(Own::Respond(plan)) => Decision::Answer(respond::answer(plan, request.method)),
            Some(Own::Redirect(redirect)) => redirect
                .answer(request, path, matched)
                .map_or_else(|| refuse(Reason::HttpRequestError), Decision::Answer),
        }
    }

    /// The rewrite of path and host, if the route has one.
    #[must_use]
    pub fn rewrite(&self) -> Option<&Rewrite> {
        self.rewrite.as_ref()
    }

    /// The changes to the request's fields on their way to the backend.
    #[must_use]
    pub fn request_edits(&self, facts: &Variables<'_>) -> Vec<Edit> {
        self.request_headers.as_ref().map_or_else(Vec::new, |rules| rules.edits(facts))
    }

    /// What is done to the body of an answer that comes from a backend, and to the fields that describe it.
    #[must_use]
    pub fn compression(&self, request: &RequestView<'_>, status: u16, answer: &dyn Fields) -> Compression {
        self.compress.as_ref().map_or_else(Compression::default, |compress| compress.decide(request, status, answer))
    }

    /// The changes to the fields of an answer, last of all. They are for answers of the proxy too: without them a page
    /// of another origin could not even read the status of a refusal.
    #[must_use]
    pub fn response_edits(&self, request: &RequestView<'_>, facts: &Variables<'_>) -> Vec<Edit> {
        let mut edits = self.cors.as_ref().map_or_else(Vec::new, |cors| cors.edits(request));
        edits.extend(self.response_headers.iter().flat_map(|rules| rules.edits(facts)));
        edits
    }

    /// The rate limits.
    #[must_use]
    pub fn rate_limits(&self) -> &RateLimits {
        &self.rate_limits
    }

    /// The authentication, for the background service that reads the file again when it changes.
    #[must_use]
    pub fn auth(&self) -> Option<&Basic> {
        self.auth.as_ref()
    }

    /// Whether bodies pass as they come: no filter needs a whole one or another one.
    #[must_use]
    pub fn passes_bodies(&self) -> bool {
        self.compress.is_none()
    }

    /// Whether a request passes through untouched: no filter is written and the route forwards.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ip_rules.is_none()
            && self.rate_limits.is_empty()
            && self.cors.is_none()
            && self.auth.is_none()
            && self.answer.is_none()
            && self.rewrite.is_none()
            && self.request_headers.is_none()
            && self.compress.is_none()
            && self.response_headers.is_none()
    }

    /// The names of the filters that are written, in the order in which they act: for `explain`.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let own = match &self.answer {
            Some(Own::Redirect(_)) => Some("redirect"),
            Some(Own::Respond(_)) => Some("respond"),
            None => None,
        };
        let (deny, allow) = self.ip_rules.as_ref().map_or((false, false), |rules| (rules.denies(), rules.allows()));
        [
            deny.then_some("deny"),
            allow.then_some("allow"),
            (!self.rate_limits.is_empty()).then_some("rate_limit"),
            self.cors.as_ref().map(|_| "cors"),
            self.auth.as_ref().map(|_| "auth"),
            own,
            self.rewrite.as_ref().map(|_| "rewrite"),
            self.request_headers.as_ref().map(|_| "request_headers"),
            self.compress.as_ref().map(|_| "compress"),
            self.response_headers.as_ref().map(|_| "response_headers"),
        ]
        .into_iter()
        .flatten()
    }
}

impl Own {
    fn build(action: &plan::Action) -> Result<Option<Self>, BuildError> {
        Ok(match action {
            plan::Action::Forward(_) => None,
            plan::Action::Redirect(plan) => Some(Self::Redirect(Redirect::build(plan)?)),
            plan::Action::Respond(plan) => Some(Self::Respond(plan.clone())),
        })
    }
}

fn refuse(reason: Reason) -> Decision {
    Decision::Refuse(Refusal { reason, fields: Vec::new() })
}

#[cfg(test)]
mod tests;
