//! Files that are read again when they change: certificates with their keys and roots, and the users of HTTP basic
//! authentication.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;

use crate::base::certificate::{Validity, day};
use crate::exchange::snapshot::{Current, RouteLive};
use crate::filter::auth::basic::Reload;
use crate::tls::{Look, Serving, Terminator};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Looks at the files that listeners and routes name.
pub struct FileWatch {
    /// What is being served.
    pub current: Current,
}

#[async_trait]
impl BackgroundService for FileWatch {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut news = self.current.news();
        loop {
            tokio::select! {
                _ = shutdown.changed() => return,
                // What a reload has brought or kept is looked at soon: it is told to read everything again.
                Ok(()) = news.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            let snapshot = self.current.load();
            for route in snapshot.live.iter().filter(|route| route.filters.auth().is_some()) {
                let route = route.clone();
                // A file system that hangs holds up this service and nobody else. The task does not panic.
                let _ = tokio::task::spawn_blocking(move || look(&route)).await;
            }
            for (listener, terminator) in &snapshot.terminators {
                let (listener, terminator) = (listener.clone(), terminator.clone());
                let _ = tokio::task::spawn_blocking(move || look_at_certificates(&listener, &terminator)).await;
            }
        }
    }
}

fn look(route: &Arc<RouteLive>) {
    let Some(auth) = route.filters.auth() else { return };
    match auth.reload_if_changed() {
        Ok(Reload::Unchanged) => {}
        Ok(Reload::Changed { users }) => log::info!("users read again: route={} users={users}", route.plan.name),
        Err(error) => {
            log::error!("users not read again, the old ones stay: route={} error=\"{error}\"", route.plan.name)
        }
    }
}

fn look_at_certificates(listener: &str, terminator: &Terminator) {
    for look in terminator.look(SystemTime::now()) {
        match look {
            Look::Renewed(path) => log::info!("certificates read again: listener={listener} path={}", path.display()),
            Look::Refused(path, error) => log::error!(
                "certificates not read again, the old ones stay: listener={listener} path={} error=\"{error}\"",
                path.display()
            ),
            Look::Aged(certificate, validity) => tell_age(listener, &certificate, validity),
        }
    }
}

fn tell_age(listener: &str, certificate: &Serving, validity: Validity) {
    let Serving { path, not_before, not_after } = certificate;
    let (path, begins, ends) = (path.display(), day(*not_before), day(*not_after));
    match validity {
        Validity::Good => log::info!("certificate is good again: listener={listener} path={path} ends={ends}"),
        Validity::EndsSoon => {
            log::warn!("certificate ends soon (renew it): listener={listener} path={path} ends={ends}")
        }
        Validity::Ended => {
            log::error!("certificate has ended (renew it): listener={listener} path={path} ended={ends}")
        }
        Validity::NotYet => {
            log::error!(
                "certificate is not valid yet (check the clock): listener={listener} path={path} begins={begins}"
            );
        }
    }
}
