//! The probe that calls `grpc.health.v1.Health/Check`, over HTTP/2 by prior knowledge or by ALPN.
//!
//! The protocol is that of the gRPC project (`grpc/doc/health-checking.md`, `grpc/doc/PROTOCOL-HTTP2.md`). Its two messages
//! have one field each, and so they are written and read here by hand.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, header};
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v2::client::Http2Session;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, Result};
use pingora_http::RequestHeader;
use pingora_load_balancing::Backend as Target;
use pingora_load_balancing::health_check::HealthCheck;

use super::cause::unexpected;
use super::http::USER_AGENT;

/// `HealthCheckResponse` is a few bytes long; what is longer is something else.
const RESPONSE_LIMIT: usize = 4 * 1024;
/// A message on the wire: one byte that says whether it is compressed, four bytes of length, the message.
const PREFIX: usize = 5;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// One call of `Check`.
pub(super) struct GrpcCheck {
    /// How to connect.
    pub(super) peer: HttpPeer,
    /// The backend's host and port: `:authority`.
    pub(super) authority: String,
    /// The service asked for; empty: the whole server.
    pub(super) service: String,
    /// Who connects.
    pub(super) connector: Arc<Connector>,
}

#[async_trait]
impl HealthCheck for GrpcCheck {
    async fn check(&self, _target: &Target) -> Result<()> {
        let (session, _) = self.connector.get_http_session(&self.peer).await?;
        let HttpSession::H2(mut session) = session else {
            return Err(unexpected("does not speak HTTP/2"));
        };
        session.write_timeout = self.peer.options.write_timeout;
        session.read_timeout = self.peer.options.read_timeout;
        session.write_request_header(Box::new(request(&self.authority, self.peer.is_tls())?), false)?;
        session.write_request_body(encode_request(&self.service), true).await?;
        session.read_response_header().await?;
        judge_head(&session)?;
        let body = read_body(&mut session).await?;
        if let Some(trailers) = session.read_trailers().await? {
            judge_grpc_status(&trailers)?;
        }
        judge_serving(&body)
    }

    /// The state machine of the backend counts; this check only answers for one probe.
    fn health_threshold(&self, _success: bool) -> usize {
        1
    }
}

fn request(authority: &str, tls: bool) -> Result<RequestHeader> {
    let mut request = RequestHeader::build(Method::POST, b"/grpc.health.v1.Health/Check", None)?;
    request.set_version(http::Version::HTTP_2);
    let scheme = if tls { "https" } else { "http" };
    let target = format!("{scheme}://{authority}/grpc.health.v1.Health/Check");
    let target = target.parse().map_err(|_| unexpected(format!("{authority:?} is no host for HTTP/2")))?;
    request.set_uri(target);
    request.insert_header(header::CONTENT_TYPE, "application/grpc")?;
    request.insert_header(header::TE, "trailers")?;
    request.insert_header(header::USER_AGENT, USER_AGENT)?;
    Ok(request)
}

async fn read_body(session: &mut Http2Session) -> Result<Bytes> {
    let mut body = BytesMut::new();
    while let Some(chunk) = session.read_response_body().await? {
        if body.len() + chunk.len() > RESPONSE_LIMIT {
            return Err(not_grpc());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn judge_head(session: &Http2Session) -> Result<()> {
    let head = session.response_header().ok_or_else(not_grpc)?;
    if head.status != http::StatusCode::OK {
        return Err(unexpected(format!("status {}", head.status.as_u16())));
    }
    // A call that failed at once has its status in the head and no trailers.
    judge_grpc_status(&head.headers)
}

fn judge_grpc_status(fields: &HeaderMap) -> Result<()> {
    let Some(status) = fields.get("grpc-status") else { return Ok(()) };
    match status.to_str().unwrap_or_default() {
        "0" => Ok(()),
        "5" => Err(unexpected("gRPC: service is unknown to the health server")),
        "12" => Err(unexpected("gRPC: grpc.health.v1.Health is not implemented")),
        code => Err(unexpected(format!("gRPC status {code}"))),
    }
}

fn judge_serving(body: &[u8]) -> Result<()> {
    match decode_response(body) {
        Some(SERVING) => Ok(()),
        Some(0) => Err(unexpected("gRPC: UNKNOWN")),
        Some(2) => Err(unexpected("gRPC: NOT_SERVING")),
        Some(3) => Err(unexpected("gRPC: SERVICE_UNKNOWN")),
        Some(other) => Err(unexpected(format!("gRPC: serving status {other}"))),
        None => Err(not_grpc()),
    }
}

fn not_grpc() -> Box<Error> {
    unexpected("answer is not that of a gRPC health service")
}

/// `message HealthCheckRequest { string service = 1; }`, with its prefix: tag 0x0a (field 1, bytes), length, bytes. An empty
/// service is the default value, and so not written at all.
fn encode_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

/// `message HealthCheckResponse { ServingStatus status = 1; }`, with its prefix: tag 0x08 (field 1, varint), value. Fields
/// that later versions may add are passed over.
fn decode_response(body: &[u8]) -> Option<u64> {
    let (prefix, mut message) = body.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || usize::try_from(length) != Ok(message.len()) {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = take_varint(&mut message)?,
            (_, 0) => drop(take_varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.put_u8(value as u8);
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::super::Prober;
    use super::*;
    use crate::config::plan;
    use crate::upstream::fixture;
    use crate::upstream::peer::PeerTemplate;

    #[test]
    fn messages_are_written_as_protobuf_does() {
        assert_eq!(&encode_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&encode_request("abc")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'b', b'c']);
        let long = "x".repeat(300);
        assert_eq!(encode_request(&long)[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn answers_are_read_and_unknown_fields_passed_over() {
        assert_eq!(decode_response(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(decode_response(&[0, 0, 0, 0, 0]), Some(0), "the default value is not written");
        assert_eq!(decode_response(&[0, 0, 0, 0, 6, 0x12, 2, b'h', b'i', 8, 1]), Some(1));
        assert_eq!(decode_response(&[1, 0, 0, 0, 2, 8, 1]), None, "compressed, which was not offered");
        assert_eq!(decode_response(&[0, 0, 0, 0, 3, 8, 1]), None, "cut short");
        assert_eq!(decode_response(b"<htm"), None);
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_decoder_panic(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_response(&body);
            let framed = [&[0, 0, 0, 0, u8::try_from(body.len()).unwrap()][..], &body].concat();
            let _ = decode_response(&framed);
        }

        #[test]
        fn numbers_survive_the_wire(value: u64) {
            let mut wire = BytesMut::new();
            put_varint(&mut wire, value);
            prop_assert_eq!(take_varint(&mut &wire[..]), Some(value));
        }
    }

    /// A gRPC server that answers every call with `message` and `grpc-status: code`, or with the status alone.
    async fn server(message: Option<&'static [u8]>, code: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                        assert_eq!(request.headers()["content-type"], "application/grpc");
                        let head = http::Response::builder().header("content-type", "application/grpc");
                        let Some(message) = message else {
                            let head = head.header("grpc-status", code).body(()).unwrap();
                            respond.send_response(head, true).unwrap();
                            continue;
                        };
                        let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
                        stream.send_data(Bytes::from_static(message), false).unwrap();
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", code.parse().unwrap());
                        stream.send_trailers(trailers).unwrap();
                    }
                });
            }
        });
        addr
    }

    async fn probe(addr: &str) -> Result<(), String> {
        let check = plan::HealthCheck {
            timeout: Duration::from_secs(2),
            ..fixture::health_check(plan::Probe::Grpc { service: "my.Service".to_owned() })
        };
        let peers = PeerTemplate::build(&fixture::upstream("test")).unwrap();
        Prober::new(&fixture::server()).probe(&check, &peers, &fixture::backend(&fixture::member(addr))).await
    }

    #[tokio::test]
    async fn only_serving_is_good() {
        assert_eq!(probe(&server(Some(&[0, 0, 0, 0, 2, 8, 1]), "0").await).await, Ok(()));
        let down = probe(&server(Some(&[0, 0, 0, 0, 2, 8, 2]), "0").await).await;
        assert_eq!(down, Err("gRPC: NOT_SERVING".to_owned()));
        let unknown = probe(&server(None, "5").await).await;
        assert_eq!(unknown, Err("gRPC: service is unknown to the health server".to_owned()));
        let late = probe(&server(Some(&[0, 0, 0, 0, 2, 8, 1]), "14").await).await;
        assert_eq!(late, Err("gRPC status 14".to_owned()));
        let other = probe(&server(Some(b"<html>"), "0").await).await;
        assert_eq!(other, Err("answer is not that of a gRPC health service".to_owned()));
    }

    #[tokio::test]
    async fn a_probe_leaves_no_connection_behind() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (closed, mut seen) = tokio::sync::watch::channel(0);
        tokio::spawn(async move {
            // The first is answered; the second waits for an answer until its timeout.
            for answers in [true, false] {
                let (mut stream, _) = listener.accept().await.unwrap();
                if answers {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        respond.send_response(http::Response::new(()), true).unwrap();
                    }
                } else {
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                }
                closed.send_modify(|count| *count += 1);
            }
            closed.closed().await;
        });
        for expected in 1..=2 {
            assert!(probe(&addr).await.is_err());
            let all_closed = seen.wait_for(|count| *count == expected);
            tokio::time::timeout(Duration::from_secs(10), all_closed).await.expect("closed in time").unwrap();
        }
    }
}
