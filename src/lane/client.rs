//! The client's side of a request, as the lane needs it. The edge implements it: framing, bounds and deadlines are enforced
//! there, on both roads alike.

use std::io::Result;
use std::task::{Context, Poll};

use bytes::BytesMut;
use http::Version;

use crate::base::clock::Moment;

/// A client's connection, or its stream of HTTP/2, that carries one request.
///
/// Heads pass as text of HTTP/1.1 in both directions, whatever the client speaks: one form for all rules, at the price of a few
/// hundred instructions for a client of HTTP/2.
pub trait Client {
    /// What the client speaks.
    const VERSION: Version;

    /// Whether bodies of answers go to it bare: content alone, where HTTP/1.1 has chunks, and trailers by themselves.
    const BARE: bool;

    /// Lends the request's head, as it came or as HTTP/1.1 would have it.
    fn lend_head(&mut self) -> BytesMut;

    /// Takes the head back, and the room that it was in.
    fn take_back(&mut self, head: BytesMut);

    /// The request is served by the caller: its head is done with, and the body follows.
    fn accept(&mut self);

    /// What has come of the body, framed for HTTP/1.1, and passed the check of its framing and bound.
    fn body(&self) -> &[u8];

    /// Moves past the first `count` bytes of what has come of the body.
    fn consume(&mut self, count: usize);

    /// Whether the whole body has come. Some of it may still stand in [`Client::body`].
    fn body_ended(&self) -> bool;

    /// Reads more of the body: ready once some has come, or its end.
    ///
    /// # Errors
    /// The client has left or is too slow, or what it sends breaks the framing or a bound: the request's watch knows which.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;

    /// Gives the client a part of an answer: what is left of its head, then of its body; how many bytes of both it took. With `last`
    /// these are the last, and no trailers follow.
    ///
    /// # Errors
    /// The client has left or does not read, or a deadline of the request has passed: the request's watch knows which.
    fn poll_give(&mut self, cx: &mut Context<'_>, head: &[u8], body: &[u8], last: bool) -> Poll<Result<usize>>;

    /// Lets what was given leave.
    ///
    /// # Errors
    /// What the socket says.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;

    /// Ends the answer, all of whose body was given, with the section of its `trailers` where its body goes bare; and lets it leave.
    ///
    /// # Errors
    /// As [`Self::poll_give`].
    fn poll_end(&mut self, cx: &mut Context<'_>, trailers: &[u8]) -> Poll<Result<()>>;

    /// Pending as long as the client is there and no deadline of the request, nor `until`, has passed. The request's watch knows
    /// which it was; at `until` it notes nothing.
    fn poll_wait(&mut self, cx: &mut Context<'_>, until: Option<Moment>) -> Poll<()>;
}
