//! Backends that are this proxy itself.

use std::net::{Ipv4Addr, SocketAddr};

use super::{Certainty, Doubt, Step, Written, upstream};
use crate::config::plan::{ListenAddress, Listener, Plan, Target};

pub(super) fn doubts(plan: &Plan) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    for one in &plan.upstreams {
        for (index, backend) in one.backends.iter().enumerate() {
            let Some(listener) = plan.listeners.iter().find(|listener| reaches(&backend.target, listener)) else {
                continue;
            };
            let mut place = upstream(&one.name, &["backends"]);
            place.push(Step::Item(index));
            doubts.push(Doubt {
                certainty: Certainty::Sure,
                place: Written::Near(place),
                message: format!(
                    "the backend `{}` is the listener `{}` of this file: what is sent there comes back, is answered 502 \
                     (proxy_loop_detected), and may be tried again each time",
                    backend.name, listener.name
                ),
                help: "write the address of the server behind the proxy".to_owned(),
            });
        }
    }
    doubts
}

/// Whether a connection to `target` is sure to be accepted by `listener`.
fn reaches(target: &Target, listener: &Listener) -> bool {
    match (target, &listener.address) {
        (Target::Inet(target), ListenAddress::Inet(address)) => reaches_inet(*target, *address),
        (Target::Name(name, port), ListenAddress::Inet(address)) => {
            &**name == "localhost" && reaches_inet((Ipv4Addr::LOCALHOST, *port).into(), *address)
        }
        (Target::Unix(target), ListenAddress::Unix(path)) => target == path,
        _ => false,
    }
}

fn reaches_inet(target: SocketAddr, address: SocketAddr) -> bool {
    let everywhere = address.ip().is_unspecified() && target.is_ipv4() == address.is_ipv4();
    let here = target.ip().is_loopback() || target.ip().is_unspecified();
    target.port() == address.port() && (target.ip() == address.ip() || (everywhere && here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reaches_the_listener_that_is_sure_to_have_it() {
        let reaches = |target: &str, address: &str| reaches_inet(target.parse().unwrap(), address.parse().unwrap());
        assert!(reaches("127.0.0.1:80", "127.0.0.1:80"));
        assert!(reaches("127.0.0.1:80", "0.0.0.0:80"));
        assert!(reaches("[::1]:80", "[::]:80"));
        assert!(!reaches("127.0.0.1:81", "0.0.0.0:80"));
        assert!(!reaches("10.0.0.1:80", "0.0.0.0:80"), "it may be another machine");
        assert!(!reaches("127.0.0.2:80", "127.0.0.1:80"));
    }
}
