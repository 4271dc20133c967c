//! Changes to header fields as the operator wrote them: remove, set, add, in this order; values are templates.
//!
//! `{client_ip}` and its like stand for facts of the request, `{{` and `}}` for braces. A value that a client had a hand in
//! can never split a header: one that holds CR, LF, NUL or another control character is not sent.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue};

use super::BuildError;
use super::edit::Edit;
use crate::base::template::{self, Part};
use crate::config::plan::{self, Variable};
use crate::tls::Facts;

/// The facts that values may speak of.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)] // docs/filters.md tells what each holds.
pub struct Variables<'a> {
    pub client_ip: Option<IpAddr>,
    pub request_id: &'a str,
    pub scheme: &'a str,
    pub host: &'a str,
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub listener: &'a str,
    pub route: &'a str,
    pub tls: Option<&'a Facts>,
}

/// The compiled changes of one filter.
#[derive(Debug, Default)]
pub struct HeaderRules {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, Value)>,
    add: Vec<(HeaderName, Value)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Value {
    Fixed(HeaderValue),
    Template(Vec<Part<Variable>>),
}

impl HeaderRules {
    /// The changes as planned.
    ///
    /// # Errors
    /// A field that belongs to the connection or the framing, an unknown variable, a brace without its other half, or a
    /// value that no header can carry.
    pub fn build(plan: &plan::HeaderRules) -> Result<Self, BuildError> {
        let values = |pairs: &[(HeaderName, String)]| -> Result<Vec<_>, BuildError> {
            pairs.iter().map(|(name, text)| Ok((unprotected(name)?, Value::parse(name, text)?))).collect()
        };
        Ok(Self {
            remove: plan.remove.iter().map(unprotected).collect::<Result<_, _>>()?,
            set: values(&plan.set)?,
            add: values(&plan.add)?,
        })
    }

    /// The changes for a request with these `facts`. A value whose variables are all without a value here is not sent: `set`
    /// then removes the field, so that a client's own never stands in for the proxy's.
    #[must_use]
    pub fn edits(&self, facts: &Variables<'_>) -> Vec<Edit> {
        let mut edits = Vec::with_capacity(self.remove.len() + self.set.len() + self.add.len());
        edits.extend(self.remove.iter().cloned().map(Edit::Remove));
        for (name, value) in &self.set {
            edits.push(match value.fill(facts) {
                Some(value) => Edit::Set(name.clone(), value),
                None => Edit::Remove(name.clone()),
            });
        }
        let added = |(name, value): &(HeaderName, Value)| Some(Edit::Add(name.clone(), value.fill(facts)?));
        edits.extend(self.add.iter().filter_map(added));
        edits
    }
}

/// `name`, unless a change to it would break the framing of the message or the connection that carries it.
fn unprotected(name: &HeaderName) -> Result<HeaderName, BuildError> {
    let remedy = match name.as_str() {
        "host" => "use `rewrite: { host: ... }`",
        "connection" | "content-length" | "keep-alive" | "proxy-connection" | "te" | "trailer"
        | "transfer-encoding" | "upgrade" => "the proxy writes it itself",
        _ => return Ok(name.clone()),
    };
    Err(BuildError::ProtectedField { name: name.to_string(), remedy })
}

impl Value {
    fn parse(name: &HeaderName, text: &str) -> Result<Self, BuildError> {
        let known = |name: &str| Variable::named(name).ok_or_else(|| name.to_owned());
        let parts = template::parse(text, known).map_err(|fault| fault_of(fault, name))?;
        let texts = || parts.iter().filter_map(|part| if let Part::Text(text) = part { Some(text) } else { None });
        if texts().any(|text| HeaderValue::from_bytes(text.as_bytes()).is_err()) {
            return Err(BuildError::ControlCharacter { field: name.to_string() });
        }
        if texts().count() < parts.len() {
            return Ok(Self::Template(parts));
        }
        let whole: String = texts().map(String::as_str).collect();
        let fixed = HeaderValue::from_bytes(whole.as_bytes());
        fixed.map(Self::Fixed).map_err(|_| BuildError::ControlCharacter { field: name.to_string() })
    }

    /// The value for these `facts`; none where it is empty or holds what no header can carry.
    fn fill(&self, facts: &Variables<'_>) -> Option<HeaderValue> {
        let parts = match self {
            Self::Fixed(value) => return Some(value.clone()),
            Self::Template(parts) => parts,
        };
        let mut text = String::new();
        for part in parts {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Name(variable) => write(*variable, facts, &mut text),
            }
        }
        if text.is_empty() {
            return None;
        }
        HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()
    }
}

fn fault_of(fault: template::Fault<String>, field: &HeaderName) -> BuildError {
    let field = field.to_string();
    match fault {
        template::Fault::LoneBrace(_) => BuildError::LoneBrace { field },
        template::Fault::Name(name) => BuildError::UnknownVariable { field, name },
    }
}

fn write(variable: Variable, facts: &Variables<'_>, text: &mut String) {
    let tls = facts.tls;
    let client = tls.and_then(|tls| tls.client.as_deref());
    let fact = match variable {
        Variable::ClientIp => return text.extend(facts.client_ip.map(|address| address.to_string())),
        Variable::RequestId => facts.request_id,
        Variable::Scheme => facts.scheme,
        Variable::Host => facts.host,
        Variable::Method => facts.method,
        Variable::Path => facts.path,
        Variable::Query => facts.query,
        Variable::Listener => facts.listener,
        Variable::Route => facts.route,
        Variable::TlsVersion => tls.map_or("", |tls| tls.version),
        Variable::TlsCipher => tls.map_or("", |tls| tls.cipher),
        Variable::TlsSni => tls.and_then(|tls| tls.sni.as_deref()).unwrap_or_default(),
        Variable::TlsClientSubject => client.map_or("", |client| &client.subject),
        Variable::TlsClientSans => client.map_or("", |client| &client.sans),
        Variable::TlsClientSerial => client.map_or("", |client| &client.serial),
        Variable::TlsClientFingerprint => client.map_or("", |client| &client.fingerprint),
    };
    text.push_str(fact);
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use proptest::prelude::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(HeaderName, String)> {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), (*value).to_owned())).collect()
    }

    fn set(name: &str, value: &str) -> Result<HeaderRules, BuildError> {
        HeaderRules::build(&plan::HeaderRules { set: pairs(&[(name, value)]), ..plan::HeaderRules::default() })
    }

    fn edited(rules: &HeaderRules, facts: &Variables<'_>, fields: &[(&str, &str)]) -> HeaderMap {
        let mut map: HeaderMap =
            pairs(fields).into_iter().map(|(name, value)| (name, value.parse().unwrap())).collect();
        super::super::edit::apply(rules.edits(facts), &mut map);
        map
    }

    #[test]
    fn fields_are_removed_then_set_then_added() {
        let rules = HeaderRules::build(&plan::HeaderRules {
            set: pairs(&[("x-set", "new"), ("x-both", "set")]),
            add: pairs(&[("x-add", "2"), ("x-both", "added")]),
            remove: vec!["x-gone".parse().unwrap(), "x-both".parse().unwrap()],
        })
        .unwrap();
        let fields = [("x-set", "old"), ("x-add", "1"), ("x-gone", "1"), ("x-both", "old"), ("x-kept", "1")];
        let map = edited(&rules, &Variables::default(), &fields);
        assert_eq!(map.get_all("x-set").iter().collect::<Vec<_>>(), ["new"]);
        assert_eq!(map.get_all("x-add").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(map.get_all("x-both").iter().collect::<Vec<_>>(), ["set", "added"]);
        assert!(!map.contains_key("x-gone") && map.contains_key("x-kept"));
    }

    #[test]
    fn variables_are_filled_in() {
        let rules = set("x-info", "{{{client_ip}}} {scheme}://{host}{path}").unwrap();
        let facts = Variables {
            client_ip: Some([10, 0, 0, 1].into()),
            scheme: "https",
            host: "a.org",
            path: "/x",
            ..Variables::default()
        };
        assert_eq!(edited(&rules, &facts, &[])["x-info"], "{10.0.0.1} https://a.org/x");
    }

    #[test]
    fn a_value_that_would_split_the_header_is_not_sent_and_neither_is_the_clients_own() {
        let rules = set("x-path", "{path}").unwrap();
        for path in ["/a\r\nx-evil: 1", "/a\nb", "/a\0b", ""] {
            let map = edited(&rules, &Variables { path, ..Variables::default() }, &[("x-path", "forged")]);
            assert!(map.is_empty(), "{path:?}");
        }
    }

    #[test]
    fn faults_are_told_with_the_remedy() {
        for (name, value, expected) in [
            ("x-a", "{clientip}", "x-a: unknown variable `{clientip}` (write `{{` and `}}` for braces)"),
            ("x-a", "{client_ip", "x-a: a brace without its other half (write `{{` or `}}` for a brace)"),
            ("x-a", "}", "x-a: a brace without its other half (write `{{` or `}}` for a brace)"),
            ("x-a", "a\nb", "x-a: the value holds a control character, which no header field can carry (remove it)"),
            ("host", "a.org", "`host` cannot be changed by header filters (use `rewrite: { host: ... }`)"),
            ("connection", "close", "`connection` cannot be changed by header filters (the proxy writes it itself)"),
        ] {
            assert_eq!(set(name, value).unwrap_err().to_string(), expected);
        }
        for name in
            ["content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "proxy-connection"]
        {
            assert!(set(name, "1").is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_clients_send_no_value_holds_a_line_break(path in "[a-z\r\n\0é/]{0,12}", host in ".{0,12}") {
            let rules = set("x-a", "{host} {path}").unwrap();
            let facts = Variables { path: &path, host: &host, ..Variables::default() };
            for edit in rules.edits(&facts) {
                if let Edit::Set(_, value) = edit {
                    prop_assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
                }
            }
        }

        #[test]
        fn no_template_makes_it_panic(template in ".{0,40}") {
            let _ = set("x-a", &template);
        }
    }
}
