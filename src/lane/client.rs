//! The client's side of a request, as the lane needs it. The edge implements it: framing, bounds and deadlines are enforced
//! there, on both roads alike.

use std::io::{IoSlice, Result};
use std::task::{Context, Poll};

use bytes::BytesMut;

use crate::base::clock::Moment;

/// A client's connection that carries one request.
pub trait Client {
    /// Lends the request's head: its bytes as they came.
    fn lend_head(&mut self) -> BytesMut;

    /// Takes the head back, and the room that it was in.
    fn take_back(&mut self, head: BytesMut);

    /// The request is served by the caller: its head is done with, and the body follows.
    fn accept(&mut self);

    /// What has come of the body and passed the check of its framing and bound.
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

    /// Writes a part of the answer.
    ///
    /// # Errors
    /// The client has left or does not read, or a deadline of the request has passed: the request's watch knows which.
    fn poll_write(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<Result<usize>>;

    /// Lets what was written leave.
    ///
    /// # Errors
    /// What the socket says.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;

    /// Pending as long as the client is there and no deadline of the request, nor `until`, has passed. The request's watch knows
    /// which it was; at `until` it notes nothing.
    fn poll_wait(&mut self, cx: &mut Context<'_>, until: Option<Moment>) -> Poll<()>;
}
