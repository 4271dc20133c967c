//! `admin`: the admin listener.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::runtime::Runtime;
use super::{Checker, pages};
use crate::base::address::parse_host_name;
use crate::config::file::File;
use crate::config::file::collection::OrNone;
use crate::config::file::leaf::FilePath;
use crate::config::file::logs::Admin;
use crate::config::file::term::{Field, Spanned};
use crate::config::plan::{self, ListenAddress};

/// Where the admin API listens unless something else is written.
const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);

pub(super) fn plan(file: &File, runtime: &Runtime, checker: &mut Checker<'_, '_>) -> plan::Admin {
    let socket = socket(runtime);
    let written = match file.admin.value() {
        Some(OrNone::None) => return plan::Admin { address: None, socket, token_file: None, hosts: Vec::new() },
        Some(OrNone::Some(written)) => written.clone(),
        None => Admin::default(),
    };
    let address = written.address.value().map(|address| address.address.clone());
    let address = address.unwrap_or(ListenAddress::Inet(DEFAULT));
    check_apart(&address, file, checker);
    check_reach(&written, checker);
    plan::Admin {
        address: Some(address),
        socket,
        token_file: token_file(&written.token_file, checker),
        hosts: hosts(&written, checker),
    }
}

/// The socket in the runtime directory.
pub(super) fn socket(runtime: &Runtime) -> PathBuf {
    runtime.path("admin", "sock")
}

/// A listener cannot have the admin listener's address.
fn check_apart(admin: &ListenAddress, file: &File, checker: &mut Checker<'_, '_>) {
    let listeners = file.listeners.given().map(|list| list.value.items.as_slice()).unwrap_or_default();
    for listener in listeners {
        if let Some(Spanned { value, at }) = listener.value.address.given()
            && value.address.overlaps(admin)
        {
            let help = "give the listener another port, or the admin listener (`admin: { address: 127.0.0.1:9902 }`)";
            checker.error(*at, format!("the admin listener is on {admin}"), help);
        }
    }
}

/// Beyond loopback a token is required.
fn check_reach(written: &Admin, checker: &mut Checker<'_, '_>) {
    let Some(Spanned { value: address, at }) = written.address.given() else { return };
    if let ListenAddress::Inet(inet) = &address.address
        && !inet.ip().to_canonical().is_loopback()
        && written.token_file.is_absent()
    {
        let help = "write `token_file`, or listen on 127.0.0.1";
        checker.error(
            *at,
            format!("`{}` can be reached from beyond this machine without a token", address.written),
            help,
        );
    }
}

fn token_file(field: &Field<FilePath>, checker: &mut Checker<'_, '_>) -> Option<PathBuf> {
    let Spanned { value: FilePath(path), at } = field.given()?;
    match pages::regular_file(path) {
        Ok(()) => checker.warn_if_others_can_read(path, *at),
        Err(fault) => checker.error(*at, fault, "write a file that holds the token on one line"),
    }
    Some(path.clone())
}

fn hosts(written: &Admin, checker: &mut Checker<'_, '_>) -> Vec<String> {
    written.hosts().items.iter().filter_map(|host| checker.read(host, parse_host_name)).collect()
}
