//! The probe that connects: Pingora's own check on plain connections, and a TLS handshake where the backend speaks TLS.

use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::connectors::TransportConnector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::Result;
use pingora_load_balancing::Backend as Target;
use pingora_load_balancing::health_check::{HealthCheck, TcpHealthCheck};

/// Pingora's TCP check. Nothing in it depends on the upstream, so that one serves all: whoever asks bounds its time.
pub(super) fn plain(connector: TransportConnector) -> TcpHealthCheck {
    let mut check = *TcpHealthCheck::new();
    check.peer_template.options.connection_timeout = None;
    check.set_connector(connector);
    check
}

/// Connects and shakes hands. Pingora's own check has one SNI for all of its backends and no client certificate.
pub(super) struct Handshake {
    /// How to connect.
    pub(super) peer: HttpPeer,
    /// Who connects.
    pub(super) connector: Arc<TransportConnector>,
}

#[async_trait]
impl HealthCheck for Handshake {
    async fn check(&self, _target: &Target) -> Result<()> {
        self.connector.new_stream(&self.peer).await.map(drop)
    }

    /// The state machine of the backend counts; this check only answers for one probe.
    fn health_threshold(&self, _success: bool) -> usize {
        1
    }
}
