//! The filters together: their order, and what they leave alone.

use super::rate_limit::tables::Tables;
use super::*;
use crate::base::request::Scheme;
use http::HeaderMap;

fn view<'a>(method: &'a str, client: &str, fields: &'a HeaderMap) -> RequestView<'a> {
    let client = Some(client.parse().unwrap());
    RequestView { method, scheme: Scheme::Http, host: "h", path: "/", query: None, client, fields }
}

fn everything(users: &std::path::Path) -> plan::Filters {
    plan::Filters {
        deny: Some(vec!["10.9.0.0/16".parse().unwrap()]),
        allow: Some(vec!["10.0.0.0/8".parse().unwrap()]),
        rate_limits: vec![plan::RateLimit {
            key: plan::RateKey::Route,
            rate: plan::Rate { count: 1, per: std::time::Duration::from_secs(1) },
            burst: 1,
            max_keys: 1,
            headers: false,
            dry_run: false,
        }],
        cors: Some(plan::Cors {
            origins: vec!["https://a.example".into()],
            methods: vec![],
            headers: vec![],
            credentials: false,
            max_age: std::time::Duration::from_secs(1),
        }),
        auth_basic: Some(plan::AuthBasic { users: users.to_owned(), realm: "r".into() }),
        rewrite: Some(plan::Rewrite { path: None, host: Some(HeaderValue::from_static("b")) }),
        request_headers: Some(plan::HeaderRules::default()),
        compress: Some(plan::Compress { algorithms: vec![], min_bytes: 0, types: vec![] }),
        response_headers: Some(plan::HeaderRules::default()),
    }
}

#[test]
fn filters_act_in_the_fixed_order() {
    let users = tempfile::NamedTempFile::new().unwrap();
    let action =
        plan::Action::Redirect(plan::Redirect { scheme: None, host: None, port: None, path: None, status: 308 });
    let filters = everything(users.path());
    let limits = RateLimits::build("all", &filters.rate_limits, &Tables::default());
    let chain = Chain::build(&filters, &action, limits).unwrap();
    assert!(!chain.is_empty());
    assert_eq!(
        chain.names().collect::<Vec<_>>(),
        [
            "deny",
            "allow",
            "rate_limit",
            "cors",
            "auth",
            "redirect",
            "rewrite",
            "request_headers",
            "compress",
            "response_headers"
        ]
    );
}

#[test]
fn a_preflight_is_answered_before_authentication_and_all_else_is_challenged() {
    let users = tempfile::NamedTempFile::new().unwrap();
    let chain = Chain::build(&everything(users.path()), &plan::Action::Forward(vec![]), Default::default()).unwrap();
    let mut fields = HeaderMap::new();
    fields.insert("origin", "https://a.example".parse().unwrap());
    let Decision::Refuse(refusal) = chain.authenticate(&view("GET", "10.0.0.1", &fields), Moment::START) else {
        panic!("let in");
    };
    assert_eq!(refusal.reason, Reason::Auth);
    assert_eq!(refusal.fields[0].0, header::WWW_AUTHENTICATE);
    fields.insert("access-control-request-method", "PUT".parse().unwrap());
    let decision = chain.authenticate(&view("OPTIONS", "10.0.0.1", &fields), Moment::START);
    assert!(matches!(decision, Decision::Answer(Answer { status: 204, .. })), "{decision:?}");
}

#[test]
fn addresses_are_judged_first() {
    let users = tempfile::NamedTempFile::new().unwrap();
    let chain = Chain::build(&everything(users.path()), &plan::Action::Forward(vec![]), Default::default()).unwrap();
    let fields = HeaderMap::new();
    assert!(matches!(chain.admit(&view("GET", "10.0.0.1", &fields)), Decision::Continue));
    for refused in ["10.9.0.1", "192.0.2.1"] {
        let decision = chain.admit(&view("GET", refused, &fields));
        assert!(matches!(decision, Decision::Refuse(Refusal { reason: Reason::HttpRequestDenied, .. })), "{refused}");
    }
}

#[test]
fn a_route_without_filters_changes_nothing() {
    let chain = Chain::build(&plan::Filters::default(), &plan::Action::Forward(vec![]), Default::default()).unwrap();
    assert!(chain.is_empty());
    assert_eq!(chain.names().count(), 0);
    let fields = HeaderMap::new();
    let request = view("GET", "10.0.0.1", &fields);
    assert!(matches!(chain.admit(&request), Decision::Continue));
    assert!(matches!(chain.authenticate(&request, Moment::START), Decision::Continue));
    let path = NormalPath::new("/").unwrap();
    assert!(matches!(chain.answer(&request, &path, &RouteMatch::default()), Decision::Continue));
    assert!(chain.request_edits(&Variables::default()).is_empty());
    assert!(chain.response_edits(&request, &Variables::default()).is_empty());
}
