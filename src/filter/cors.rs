//! Cross-origin requests, as the Fetch standard has it (section 3.2).
//!
//! Preflights are answered here, before authentication: browsers send them without credentials. The policy is the proxy's
//! alone: what the backend says of origins is replaced. It refuses nothing; enforcing the answer is the browser's part.

use http::header::{self, HeaderName, HeaderValue};

use super::edit::Edit;
use super::{Answer, BuildError};
use crate::base::request::RequestView;
use crate::config::plan;

/// The cross-origin policy of a route.
#[derive(Debug)]
pub struct Cors {
    origins: Origins,
    credentials: bool,
    /// The fields of an answer to a preflight besides those that name the origin.
    preflight: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug)]
enum Origins {
    Any,
    These(Vec<String>),
}

impl Cors {
    /// The policy as planned.
    ///
    /// # Errors
    /// Credentials together with any origin: that would hand every site the user's session, and no browser accepts it.
    pub fn build(plan: &plan::Cors) -> Result<Self, BuildError> {
        let is_any = plan.origins.iter().any(|origin| origin == "*");
        if is_any && plan.credentials {
            return Err(BuildError::CredentialsForAnyOrigin);
        }
        let origins = if is_any { Origins::Any } else { Origins::These(plan.origins.clone()) };
        Ok(Self { origins, credentials: plan.credentials, preflight: preflight_fields(plan) })
    }

    /// The answer to `request` where it is a preflight, before its edits: 204, and without the fields that allow where its
    /// origin is not allowed, so that the browser refuses.
    #[must_use]
    pub fn preflight(&self, request: &RequestView<'_>) -> Option<Answer> {
        let origin = request.fields.get("origin")?;
        if request.method != "OPTIONS" || request.fields.get("access-control-request-method").is_none() {
            return None;
        }
        // The fields that every answer gets come with its edits.
        let allowed = self.allowed_origin(origin);
        let fields = allowed.map_or_else(Vec::new, |_| self.preflight.clone());
        Some(Answer { status: 204, fields, body: bytes::Bytes::new() })
    }

    /// The changes to the fields of an answer to `request`, whoever made the answer.
    #[must_use]
    pub fn edits(&self, request: &RequestView<'_>) -> Vec<Edit> {
        let mut edits = vec![
            Edit::Remove(header::ACCESS_CONTROL_ALLOW_ORIGIN),
            Edit::Remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS),
        ];
        let allowed = request.fields.get("origin").and_then(|origin| self.allowed_origin(origin));
        if let Some(allowed) = allowed {
            edits.extend(self.origin_fields(allowed).into_iter().map(|(name, value)| Edit::Set(name, value)));
        }
        edits.extend(self.vary().map(|value| Edit::Add(header::VARY, value)));
        edits
    }

    /// What `Access-Control-Allow-Origin` says to `origin`, where it is allowed. Browsers send origins in lower case.
    fn allowed_origin(&self, origin: &[u8]) -> Option<HeaderValue> {
        match &self.origins {
            Origins::Any => Some(HeaderValue::from_static("*")),
            Origins::These(origins) => {
                let known = origins.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(origin));
                known.then(|| HeaderValue::from_bytes(origin).ok()).flatten()
            }
        }
    }

    fn origin_fields(&self, allowed: HeaderValue) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields = vec![(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed)];
        if self.credentials {
            fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        fields
    }

    /// Answers differ by origin unless every origin gets the same.
    fn vary(&self) -> Option<HeaderValue> {
        matches!(self.origins, Origins::These(_)).then(|| HeaderValue::from_static("Origin"))
    }
}

fn preflight_fields(plan: &plan::Cors) -> Vec<(HeaderName, HeaderValue)> {
    let list = |name: HeaderName, words: Vec<&str>| {
        let text = words.join(", ");
        let value = HeaderValue::from_str(&text).expect("methods and field names are tokens (RFC 9110, 5.6.2)");
        (!text.is_empty()).then_some((name, value))
    };
    let methods = plan.methods.iter().map(http::Method::as_str).collect();
    let headers = plan.headers.iter().map(HeaderName::as_str).collect();
    [list(header::ACCESS_CONTROL_ALLOW_METHODS, methods), list(header::ACCESS_CONTROL_ALLOW_HEADERS, headers)]
        .into_iter()
        .flatten()
        .chain([(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(plan.max_age.as_secs()))])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::edit;
    use super::*;
    use crate::base::request::Scheme;
    use http::{HeaderMap, Method};
    use std::time::Duration;

    fn policy(origins: &[&str], credentials: bool) -> Result<Cors, BuildError> {
        Cors::build(&plan::Cors {
            origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            methods: vec![Method::GET, Method::PUT],
            headers: vec![HeaderName::from_static("x-a"), HeaderName::from_static("x-b")],
            credentials,
            max_age: Duration::from_secs(600),
        })
    }

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn view<'a>(method: &'a str, fields: &'a HeaderMap) -> RequestView<'a> {
        RequestView { method, scheme: Scheme::Https, host: "h", path: "/", query: None, client: None, fields }
    }

    fn preflight(cors: &Cors, origin: &str) -> HeaderMap {
        let fields = fields(&[("origin", origin), ("access-control-request-method", "PUT")]);
        let answer = cors.preflight(&view("OPTIONS", &fields)).unwrap();
        assert_eq!(answer.status, 204);
        let mut told = answer.fields.into_iter().collect();
        edit::apply(cors.edits(&view("OPTIONS", &fields)), &mut told);
        told
    }

    #[test]
    fn a_preflight_from_an_allowed_origin_is_told_all() {
        let cors = policy(&["https://a.example", "https://b.example"], true).unwrap();
        let answer = preflight(&cors, "https://b.example");
        assert_eq!(answer["access-control-allow-origin"], "https://b.example");
        assert_eq!(answer["access-control-allow-methods"], "GET, PUT");
        assert_eq!(answer["access-control-allow-headers"], "x-a, x-b");
        assert_eq!(answer["access-control-allow-credentials"], "true");
        assert_eq!(answer["access-control-max-age"], "600");
        assert_eq!(answer["vary"], "Origin");
    }

    #[test]
    fn a_preflight_from_another_origin_is_told_nothing() {
        let answer = preflight(&policy(&["https://a.example"], true).unwrap(), "https://evil.example");
        assert_eq!(answer.keys().collect::<Vec<_>>(), ["vary"]);
    }

    #[test]
    fn credentials_never_go_with_any_origin() {
        assert!(policy(&["*"], true).is_err());
        let answer = preflight(&policy(&["*"], false).unwrap(), "https://anyone.example");
        assert_eq!(answer["access-control-allow-origin"], "*");
        assert!(!answer.contains_key("access-control-allow-credentials"));
        assert!(!answer.contains_key("vary"));
    }

    #[test]
    fn options_without_the_marks_of_a_preflight_goes_on() {
        let cors = policy(&["*"], false).unwrap();
        assert!(cors.preflight(&view("OPTIONS", &fields(&[("origin", "https://a.example")]))).is_none());
        assert!(cors.preflight(&view("OPTIONS", &fields(&[("access-control-request-method", "PUT")]))).is_none());
        let both = fields(&[("origin", "https://a.example"), ("access-control-request-method", "PUT")]);
        assert!(cors.preflight(&view("GET", &both)).is_none());
    }

    #[test]
    fn the_backends_own_policy_is_replaced() {
        let cors = policy(&["https://a.example"], false).unwrap();
        let answer = |origin: &[(&'static str, &str)]| {
            let request = fields(origin);
            let mut answer = fields(&[
                ("access-control-allow-origin", "*"),
                ("access-control-allow-credentials", "true"),
                ("vary", "Accept"),
            ]);
            super::super::edit::apply(cors.edits(&view("GET", &request)), &mut answer);
            answer
        };
        let allowed = answer(&[("origin", "https://a.example")]);
        assert_eq!(allowed["access-control-allow-origin"], "https://a.example");
        assert!(!allowed.contains_key("access-control-allow-credentials"));
        assert_eq!(allowed.get_all("vary").iter().collect::<Vec<_>>(), ["Accept", "Origin"]);
        for other in [answer(&[("origin", "https://evil.example")]), answer(&[])] {
            assert!(!other.contains_key("access-control-allow-origin"));
            assert_eq!(other.get_all("vary").iter().count(), 2);
        }
    }
}
