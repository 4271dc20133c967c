//! The parts of a match beyond host and path: method, header fields, query parameters.

use http::HeaderName;

use crate::base::pairs;
use crate::base::request::RequestView;
use crate::config::plan::RouteMatch;

/// The first part of a match that a request does not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss<'a> {
    /// The method is none of the match's.
    Method,
    /// No value of the field is the wanted one.
    Header(&'a HeaderName, &'a str),
    /// The parameter's first value is not the wanted one.
    Query(&'a str, &'a str),
}

/// The first part of `wanted` that `request` does not meet; none where it meets all.
///
/// A field that is sent more than once matches where one of its values does; of a repeated query parameter the first value
/// counts, as the Gateway API recommends.
pub(super) fn miss<'a>(wanted: &'a RouteMatch, request: &RequestView<'_>) -> Option<Miss<'a>> {
    if !wanted.methods.is_empty() && !wanted.methods.iter().any(|method| method.as_str() == request.method) {
        return Some(Miss::Method);
    }
    if let Some((name, value)) = wanted.headers.iter().find(|(name, value)| !has_value(request, name, value)) {
        return Some(Miss::Header(name, value));
    }
    let (name, value) = wanted.query.iter().find(|(name, value)| !has_parameter(request.query, name, value))?;
    Some(Miss::Query(name, value))
}

fn has_value(request: &RequestView<'_>, name: &HeaderName, wanted: &str) -> bool {
    let mut found = false;
    request.fields.each(name.as_str(), &mut |value| found |= value == wanted.as_bytes());
    found
}

fn has_parameter(query: Option<&str>, name: &str, wanted: &str) -> bool {
    pairs::parameter(query, name).is_some_and(|value| value.eq(wanted.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::request::Scheme;
    use http::{HeaderMap, Method};

    fn view<'a>(method: &'a str, query: Option<&'a str>, fields: &'a HeaderMap) -> RequestView<'a> {
        RequestView { method, scheme: Scheme::Http, host: "a", path: "/", query, client: None, fields }
    }

    #[test]
    fn methods_are_compared_with_regard_to_case() {
        let wanted = RouteMatch { methods: vec![Method::GET, Method::HEAD], ..RouteMatch::default() };
        let fields = HeaderMap::new();
        assert_eq!(miss(&wanted, &view("HEAD", None, &fields)), None);
        assert_eq!(miss(&wanted, &view("get", None, &fields)), Some(Miss::Method));
    }

    #[test]
    fn one_of_several_values_of_a_field_is_enough() {
        let wanted =
            RouteMatch { headers: vec![(HeaderName::from_static("x-beta"), "1".into())], ..RouteMatch::default() };
        let mut fields = HeaderMap::new();
        fields.append("x-beta", "0".parse().unwrap());
        assert!(miss(&wanted, &view("GET", None, &fields)).is_some());
        fields.append("x-beta", "1".parse().unwrap());
        assert_eq!(miss(&wanted, &view("GET", None, &fields)), None);
    }

    #[test]
    fn query_parameters_are_compared_decoded_and_by_their_first_value() {
        let wanted = RouteMatch { query: vec![("a b".into(), "ä+".into())], ..RouteMatch::default() };
        let fields = HeaderMap::new();
        for (query, expected) in [
            ("a+b=%C3%A4%2B", true),
            ("x=1&a%20b=ä%2b", true),
            ("a+b=1&a+b=%C3%A4%2B", false),
            ("A+b=%C3%A4%2B", false),
            ("a+b", false),
            ("a+b=%", false),
        ] {
            assert_eq!(miss(&wanted, &view("GET", Some(query), &fields)).is_none(), expected, "{query}");
        }
        assert!(miss(&wanted, &view("GET", None, &fields)).is_some());
    }
}
