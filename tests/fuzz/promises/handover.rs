//! Any bytes as what one process says to the next: no panic, and what is understood is the same when it is said again.

use roundel::base::clock::Moment;
use roundel::filter::rate_limit::tables::Tables;
use roundel::server::handover::estate::Estate;
use roundel::server::handover::message::Message;

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<Message>(bytes) {
        let text = serde_json::to_vec(&message).expect("a message is plain data");
        assert_eq!(serde_json::from_slice::<Message>(&text).ok(), Some(message));
    }
    if let Ok(estate) = Estate::from_text(bytes) {
        assert_eq!(Estate::from_text(&estate.to_text()).ok(), Some(estate));
    }
    let tables = Tables::default();
    let _ = tables.restore(bytes, Moment::START);
}
