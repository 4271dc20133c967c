//! Changes to header fields as the operator wrote them: remove, set, add, in this order; values are templates.
//!
//! `{client_ip}` and its like stand for facts of the request, `{{` and `}}` for braces. A value that a client had a hand in
//! can never split a header: one that holds CR, LF, NUL or another control character is not sent.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue};

use super::BuildError;
use super::edit::Edit;
use crate::config::plan;
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

/// A name that a template may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variable {
    ClientIp,
    RequestId,
    Scheme,
    Host,
    Method,
    Path,
    Query,
    Listener,
    Route,
    TlsVersion,
    TlsCipher,
    TlsSni,
    TlsClientSubject,
    TlsClientSans,
    TlsClientSerial,
    TlsClientFingerprint,
}

impl Variable {
    const ALL: [(&'static str, Self); 16] = [
        ("client_ip", Self::ClientIp),
        ("request_id", Self::RequestId),
        ("scheme", Self::Scheme),
        ("host", Self::Host),
        ("method", Self::Method),
        ("path", Self::Path),
        ("query", Self::Query),
        ("listener", Self::Listener),
        ("route", Self::Route),
        ("tls_version", Self::TlsVersion),
        ("tls_cipher", Self::TlsCipher),
        ("tls_sni", Self::TlsSni),
        ("tls_client_subject", Self::TlsClientSubject),
        ("tls_client_sans", Self::TlsClientSans),
        ("tls_client_serial", Self::TlsClientSerial),
        ("tls_client_fingerprint", Self::TlsClientFingerprint),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, variable)| *variable)
    }

    fn write(self, facts: &Variables<'_>, text: &mut String) {
        let tls = facts.tls;
        let client = tls.and_then(|tls| tls.client.as_deref());
        let fact = match self {
            Self::ClientIp => return text.extend(facts.client_ip.map(|address| address.to_string())),
            Self::RequestId => facts.request_id,
            Self::Scheme => facts.scheme,
            Self::Host => facts.host,
            Self::Method => facts.method,
            Self::Path => facts.path,
            Self::Query => facts.query,
            Self::Listener => facts.listener,
            Self::Route => facts.route,
            Self::TlsVersion => tls.map_or("", |tls| tls.version),
            Self::TlsCipher => tls.map_or("", |tls| tls.cipher),
            Self::TlsSni => tls.and_then(|tls| tls.sni.as_deref()).unwrap_or_default(),
            Self::TlsClientSubject => client.map_or("", |client| &client.subject),
            Self::TlsClientSans => client.map_or("", |client| &client.sans),
            Self::TlsClientSerial => client.map_or("", |client| &client.serial),
            Self::TlsClientFingerprint => client.map_or("", |client| &client.fingerprint),
        };
        text.push_str(fact);
    }
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
    Template(Vec<Part>),
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(Variable),
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
        let parts = parts(text).map_err(|fault| fault.at(name))?;
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
                Part::Variable(variable) => variable.write(facts, &mut text),
            }
        }
        if text.is_empty() {
            return None;
        }
        HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()
    }
}

/// What is wrong with a template.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Brace,
    Unknown(String),
}

impl Fault {
    fn at(self, field: &HeaderName) -> BuildError {
        let field = field.to_string();
        match self {
            Self::Brace => BuildError::LoneBrace { field },
            Self::Unknown(name) => BuildError::UnknownVariable { hint: hint(&name), field, name },
        }
    }
}

/// The known name that `name` probably means.
fn hint(name: &str) -> String {
    let nearest = Variable::ALL.iter().map(|(known, _)| (strsim::damerau_levenshtein(name, known), *known)).min();
    match nearest {
        Some((distance, known)) if distance <= 3 => format!("did you mean `{{{known}}}`?"),
        _ => {
            let known: Vec<&str> = Variable::ALL.iter().map(|(known, _)| *known).collect();
            format!("known are {}", known.join(", "))
        }
    }
}

fn parts(template: &str) -> Result<Vec<Part>, Fault> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
            text.push_str(&rest[..1]);
            rest = after;
            continue;
        }
        let (name, after) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).ok_or(Fault::Brace)?;
        let variable = Variable::named(name).ok_or_else(|| Fault::Unknown(name.to_owned()))?;
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        parts.push(Part::Variable(variable));
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
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
            ("x-a", "{clientip}", "x-a: unknown variable `{clientip}` (did you mean `{client_ip}`?)"),
            ("x-a", "{client_ip", "x-a: a brace without its other half (write `{{` or `}}` for a brace)"),
            ("x-a", "}", "x-a: a brace without its other half (write `{{` or `}}` for a brace)"),
            ("x-a", "a\nb", "x-a: the value holds a control character, which no header field can carry (remove it)"),
            ("host", "a.org", "`host` cannot be changed by header filters (use `rewrite: { host: ... }`)"),
            ("connection", "close", "`connection` cannot be changed by header filters (the proxy writes it itself)"),
        ] {
            assert_eq!(set(name, value).unwrap_err().to_string(), expected);
        }
        assert!(set("x-a", "{zzzzzzzzzzzz}").unwrap_err().to_string().contains("known are client_ip, request_id"));
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
