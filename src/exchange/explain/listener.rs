//! Which listener a URL would come in by.

use thiserror::Error;

use crate::base::request::Scheme;
use crate::config::plan::{ListenAddress, Listener};

/// Why no listener could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoListener {
    /// None has the name.
    #[error("no listener is called `{name}` (there are: {known})")]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// Several could be meant.
    #[error("no listener serves {scheme}, and there are several (write `--listener` with one of: {known})")]
    Several {
        /// The scheme of the URL.
        scheme: &'static str,
        /// Those that there are.
        known: String,
    },
}

/// The listener of this name; without a name that of the URL's explicit port, else the first of the URL's scheme, else the
/// only one.
///
/// # Errors
/// There is none of the name, or several could be meant.
pub fn choose<'a>(
    listeners: &'a [Listener],
    name: Option<&str>,
    scheme: Scheme,
    port: Option<u16>,
) -> Result<&'a Listener, NoListener> {
    let known = || listeners.iter().map(|listener| &*listener.name).collect::<Vec<_>>().join(", ");
    if let Some(name) = name {
        let named = listeners.iter().find(|listener| *listener.name == *name);
        return named.ok_or_else(|| NoListener::Unknown { name: name.to_owned(), known: known() });
    }
    let has_port = |listener: &&Listener| match &listener.address {
        ListenAddress::Inet(address) => Some(address.port()) == port,
        ListenAddress::Unix(_) => false,
    };
    let of_port = listeners.iter().find(has_port);
    let of_scheme = || listeners.iter().find(|listener| self::scheme(listener) == scheme);
    let only = || if let [only] = listeners { Some(only) } else { None };
    of_port
        .or_else(of_scheme)
        .or_else(only)
        .ok_or_else(|| NoListener::Several { scheme: scheme.as_str(), known: known() })
}

/// The scheme by which clients reach a listener.
#[must_use]
pub const fn scheme(listener: &Listener) -> Scheme {
    if listener.tls.is_some() { Scheme::Https } else { Scheme::Http }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Support};

    fn listeners(yaml: &str) -> Vec<Listener> {
        let text = format!("upstreams: {{ web: {{ backends: [127.0.0.1:1] }} }}\n{yaml}");
        config::load_text_with("t", &text, &|_| None, Support::Everything).unwrap().plan.listeners
    }

    const TWO: &str = "listeners: [{ name: a, address: '0.0.0.0:80' }, { name: b, address: '127.0.0.1:8080' }]";

    #[test]
    fn a_name_comes_first_then_the_port_then_the_scheme() {
        let two = listeners(TWO);
        let chosen = |name, scheme, port| choose(&two, name, scheme, port).map(|listener| listener.name.to_string());
        assert_eq!(chosen(Some("a"), Scheme::Http, Some(8080)).unwrap(), "a");
        assert_eq!(chosen(None, Scheme::Https, Some(8080)).unwrap(), "b");
        assert_eq!(chosen(None, Scheme::Http, None).unwrap(), "a");
        assert_eq!(chosen(None, Scheme::Http, Some(9)).unwrap(), "a", "a port of nobody is no error");
    }

    #[test]
    fn the_only_listener_serves_whatever_the_url_says() {
        let one = listeners("listeners: [{ name: a, address: 'unix:/run/a.sock' }]");
        assert_eq!(&*choose(&one, None, Scheme::Https, Some(443)).unwrap().name, "a");
    }

    #[test]
    fn what_cannot_be_chosen_is_told_with_what_could_be() {
        let two = listeners(TWO);
        let unknown = choose(&two, Some("c"), Scheme::Http, None).unwrap_err();
        assert_eq!(unknown.to_string(), "no listener is called `c` (there are: a, b)");
        let several = choose(&two, None, Scheme::Https, None).unwrap_err();
        assert!(several.to_string().contains("--listener"), "{several}");
    }
}
