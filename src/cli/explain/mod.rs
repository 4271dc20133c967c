//! `roundel explain`: what would become of a request, and why.
//!
//! It reads the arguments and prints; what they mean is found by `exchange::explain`.

mod page;

use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::process::ExitCode;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::{Conf, check};
use crate::base::host;
use crate::base::request::Scheme;
use crate::config::Paint;
use crate::config::plan::{ListenAddress, Listener, Plan};
use crate::exchange::explain::{Explainer, Explanation, Question, listener};

/// Exit statuses that scripts may rely on.
const REFUSED: u8 = 1;
const ERRORS: u8 = 2;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    conf: Conf,
    /// The method, such as GET
    #[arg(value_parser = method)]
    method: Method,
    /// The URL, such as https://api.example.com/v1/x
    #[arg(value_parser = Url::parse)]
    url: Url,
    /// A header field of the request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = field)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The address that the connection comes from (127.0.0.1)
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// The listener, where the URL's port and scheme do not tell it
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the whole route table, in order of precedence
    #[arg(long, conflicts_with = "json")]
    all: bool,
}

fn method(text: &str) -> Result<Method, String> {
    match text.parse() {
        Ok(method) if !text.contains("://") => Ok(method),
        _ if text.contains("://") => Err(format!("the method comes first: write `GET {text}`")),
        _ => Err("write a method, such as GET".to_owned()),
    }
}

/// A URL as a client would send it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Url {
    written: String,
    scheme: Scheme,
    authority: String,
    path: String,
    query: Option<String>,
}

pub(super) fn run(args: &Args) -> io::Result<ExitCode> {
    let plan = match check::load(&args.conf.conf) {
        Ok(loaded) => loaded.plan,
        Err(refusal) => return Ok(refusal.status),
    };
    match explain(args, &plan) {
        Ok((listener, explanation)) => {
            print(args, listener, &explanation)?;
            Ok(if explanation.outcome.is_served() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
        }
        Err(fault) => {
            eprintln!("roundel: {fault}");
            Ok(ExitCode::from(ERRORS))
        }
    }
}

fn explain<'p>(args: &Args, plan: &'p Plan) -> Result<(&'p Listener, Explanation), String> {
    let port = host::port(&args.url.authority);
    let listener = listener::choose(&plan.listeners, args.listener.as_deref(), args.url.scheme, port)
        .map_err(|fault| fault.to_string())?;
    let fields = fields(args)?;
    let question = Question {
        listener,
        peer: peer(args.client, listener)?,
        method: args.method.as_str(),
        path: &args.url.path,
        query: args.url.query.as_deref(),
        fields: &fields,
    };
    let explanation = Explainer::new(plan).explain(&question).map_err(|fault| fault.to_string())?;
    Ok((listener, explanation))
}

/// The header fields of the request: a `Host` that is written comes before that of the URL.
fn fields(args: &Args) -> Result<HeaderMap, String> {
    if args.method == Method::CONNECT {
        return Err("CONNECT is answered 405 whatever the configuration says (write another method)".to_owned());
    }
    let mut fields = HeaderMap::new();
    for (name, value) in &args.headers {
        fields.append(name, value.clone());
    }
    if fields.get_all(header::HOST).iter().count() > 1 {
        return Err("a request with two `Host` fields is answered 400 (write one)".to_owned());
    }
    if !fields.contains_key(header::HOST) {
        let host = HeaderValue::from_str(&args.url.authority);
        fields.insert(header::HOST, host.map_err(|_| "the URL's host cannot be sent (write it in ASCII)".to_owned())?);
    }
    Ok(fields)
}

fn peer(client: Option<IpAddr>, listener: &Listener) -> Result<Option<IpAddr>, String> {
    match (&listener.address, client) {
        (ListenAddress::Unix(_), Some(client)) => Err(format!(
            "connections to `{}` have no address (leave `--client` out; a trusted proxy would send `-H \
             'x-forwarded-for: {client}'`)",
            listener.name
        )),
        (ListenAddress::Unix(_), None) => Ok(None),
        (ListenAddress::Inet(_), client) => Ok(Some(client.unwrap_or(IpAddr::from([127, 0, 0, 1])))),
    }
}

fn print(args: &Args, listener: &Listener, explanation: &Explanation) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if args.json {
        return writeln!(out, "{:#}", explanation.to_json());
    }
    let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let paint = if colours { Paint::Coloured } else { Paint::Plain };
    let asked = page::Asked { method: args.method.as_str(), url: &args.url.written, scheme: args.url.scheme, listener };
    let rows = if args.all { page::Rows::All } else { page::Rows::Nearest };
    out.write_all(page::render(&asked, explanation, rows, paint).as_bytes())
}

impl Url {
    /// Reads `http://host:port/path?query`. Nothing is normalised: the path goes to the proxy as it stands here.
    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            _ => return Err("begin it with `http://` or `https://` and a host".to_owned()),
        };
        if let Some(wrong) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(format!("`{}` cannot be sent in a URL: write it percent-encoded", wrong.escape_default()));
        }
        // A client keeps the fragment to itself.
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if host::without_port(authority).is_empty() || authority.contains('@') {
            return Err("write a host after the scheme, without a user's name".to_owned());
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        // A client sends the root where a URL has no path (RFC 9112, 3.2.1).
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { written: text.to_owned(), scheme, authority: authority.to_owned(), path: path.to_owned(), query })
    }
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it like `x-beta: 1`")?;
    let name =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not the name of a header field"))?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| "the value holds what no header field can carry")?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_not_normalised() {
        let url = Url::parse("https://API.example.com:8443//a/../b%2f?x=1&y#top").unwrap();
        assert_eq!(url.scheme, Scheme::Https);
        assert_eq!((url.authority.as_str(), url.path.as_str()), ("API.example.com:8443", "//a/../b%2f"));
        assert_eq!(url.query.as_deref(), Some("x=1&y"));
        let bare = Url::parse("http://a?x").unwrap();
        assert_eq!((bare.path.as_str(), bare.query.as_deref()), ("/", Some("x")));
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in ["", "/v1", "example.com/", "ftp://a/", "http:///x", "http://a b/", "http://a/ü", "http://u@a/"] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_header_field_is_read_as_curl_reads_it() {
        assert_eq!(field("X-Beta:1").unwrap(), field("x-beta:   1 ").unwrap());
        assert!(field("x-beta").is_err() && field("a b: c").is_err() && field(": c").is_err());
    }
}
