//! HTTP/2 for tests: a client and an origin on the `h2` crate for messages that keep to the rules, and frames by hand for
//! those that do not.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use super::PATIENCE;
use super::wire::Address;

/// What every connection begins with.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct H2Answer {
    /// Its status.
    pub(crate) status: u16,
    /// Its fields.
    pub(crate) fields: HeaderMap,
    /// Its body.
    pub(crate) body: Vec<u8>,
    /// Its trailers.
    pub(crate) trailers: Option<HeaderMap>,
    /// Whether its head ended it.
    pub(crate) head_only: bool,
}

impl H2Answer {
    /// The first value of a field, also of the trailers.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let trailer = || self.trailers.as_ref()?.get(name);
        self.fields.get(name).or_else(trailer)?.to_str().ok()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection of a client.
pub(crate) struct H2Client {
    send: SendRequest<Bytes>,
    authority: String,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl H2Client {
    /// Connects by prior knowledge.
    pub(crate) async fn connect(address: &Address) -> Self {
        Self::with(address, &h2::client::Builder::new()).await
    }

    /// Connects with settings of the test's own.
    pub(crate) async fn with(address: &Address, builder: &h2::client::Builder) -> Self {
        Self::over(connect(address).await, builder, &address.authority()).await
    }

    /// Speaks over a stream that is connected.
    pub(crate) async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        builder: &h2::client::Builder,
        authority: &str,
    ) -> Self {
        let (send, connection) = within(builder.handshake(stream)).await.expect("a handshake");
        Self { send, authority: authority.to_owned(), driver: tokio::spawn(connection) }
    }

    /// A request for this path, with the authority of the connection.
    pub(crate) fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("http://{}{path}", self.authority))
    }

    /// Sends a request whose body is written later.
    pub(crate) async fn begin(&mut self, request: Request<()>) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        self.try_begin(request, false).await.expect("a stream")
    }

    async fn try_begin(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut send = within(self.send.clone().ready()).await?;
        send.send_request(request, end)
    }

    /// Sends a whole request and reads its answer.
    pub(crate) async fn send(&mut self, request: Request<()>, body: &[u8]) -> Result<H2Answer, h2::Error> {
        let (response, mut stream) = self.try_begin(request, body.is_empty()).await?;
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body), true)?;
        }
        answer(response).await
    }

    /// Sends a request without a body; its answer is read later.
    pub(crate) async fn begin_whole(&mut self, request: Request<()>) -> h2::client::ResponseFuture {
        self.try_whole(request).await.expect("a stream")
    }

    /// Sends a request without a body, or says why not.
    pub(crate) async fn try_whole(&mut self, request: Request<()>) -> Result<h2::client::ResponseFuture, h2::Error> {
        self.try_begin(request, true).await.map(|(response, _)| response)
    }

    /// `GET path`.
    pub(crate) async fn get(&mut self, path: &str) -> H2Answer {
        let request = self.request("GET", path).body(()).expect("a request");
        self.send(request, b"").await.expect("an answer")
    }

    /// A call of gRPC with one message.
    pub(crate) fn call(&self, path: &str) -> http::request::Builder {
        self.request("POST", path).header("content-type", "application/grpc").header("te", "trailers")
    }

    /// Waits until the connection has ended.
    pub(crate) async fn ended(self) -> Result<(), h2::Error> {
        drop(self.send);
        within(self.driver).await.expect("the driver does not panic")
    }

    /// Whether the connection has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.driver.is_finished()
    }
}

/// Waits for something that must come.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}"))
}

/// Reads an answer to its end.
pub(crate) async fn answer(response: h2::client::ResponseFuture) -> Result<H2Answer, h2::Error> {
    let (head, mut stream) = within(response).await?.into_parts();
    let head_only = stream.is_end_stream();
    let body = read(&mut stream).await?;
    let trailers = within(stream.trailers()).await?;
    Ok(H2Answer { status: head.status.as_u16(), fields: head.headers, body, trailers, head_only })
}

/// Reads a body to its end.
pub(crate) async fn read(stream: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = within(stream.data()).await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok(body)
}

/// Sends a body as the window lets it.
pub(crate) async fn send_all(stream: &mut SendStream<Bytes>, body: &[u8], end: bool) -> Result<(), h2::Error> {
    let mut rest = body;
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        if stream.capacity() == 0 {
            within(std::future::poll_fn(|cx| stream.poll_capacity(cx))).await.transpose()?;
            continue;
        }
        let (part, after) = rest.split_at(stream.capacity().min(rest.len()));
        rest = after;
        stream.send_data(Bytes::copy_from_slice(part), end && rest.is_empty())?;
    }
    Ok(())
}

async fn connect(address: &Address) -> TcpStream {
    TcpStream::connect(address.to_string()).await.expect("somebody listens there")
}

/// A request as an HTTP/2 origin received it.
pub(crate) struct Call {
    /// Its head.
    pub(crate) head: http::request::Parts,
    /// Its body.
    pub(crate) body: RecvStream,
    /// Where the answer goes.
    pub(crate) respond: SendResponse<Bytes>,
}

impl Call {
    /// Answers with these fields, this body and these trailers.
    pub(crate) async fn reply(mut self, status: u16, fields: &[(&str, &str)], body: &[u8], trailers: &[(&str, &str)]) {
        let response =
            fields.iter().fold(Response::builder().status(status), |r, (name, value)| r.header(*name, *value));
        let response = response.body(()).expect("a response");
        let end = body.is_empty() && trailers.is_empty();
        let Ok(mut send) = self.respond.send_response(response, end) else { return };
        if end {
            return;
        }
        if send_all(&mut send, body, trailers.is_empty()).await.is_ok() && !trailers.is_empty() {
            let _ = send.send_trailers(map(trailers));
        }
    }
}

/// Fields of name and value.
pub(crate) fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let name = |name: &str| http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
    fields.iter().map(|(n, value)| (name(n), value.parse().expect("a value"))).collect()
}

type Handler = Arc<dyn Fn(Call) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// An origin that speaks HTTP/2 by prior knowledge; gone when dropped.
pub(crate) struct H2Origin {
    /// Where it listens.
    pub(crate) address: Address,
    seen: Arc<Mutex<Vec<http::request::Parts>>>,
    connections: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl H2Origin {
    /// An origin that hands each request to `handler`.
    pub(crate) async fn start<F>(handler: impl Fn(Call) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with(&h2::server::Builder::new(), handler).await
    }

    /// An origin with settings of the test's own.
    pub(crate) async fn with<F>(
        builder: &h2::server::Builder,
        handler: impl Fn(Call) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |call| Box::pin(handler(call)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = Address::Inet(listener.local_addr().expect("a bound socket has an address"));
        let (seen, connections) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicUsize::new(0)));
        let (log, count, builder) = (Arc::clone(&seen), Arc::clone(&connections), builder.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, builder.clone(), Arc::clone(&log), Arc::clone(&handler)));
            }
        });
        Self { address, seen, connections, accepting: accepting.abort_handle() }
    }

    /// An origin that answers with what it was sent: the body, and the fields that begin with `x-`.
    pub(crate) async fn echo() -> Self {
        Self::start(|mut call| async move {
            let Ok(body) = read(&mut call.body).await else { return };
            let fields = call.head.headers.clone();
            let mine = fields.iter().filter(|(name, _)| name.as_str().starts_with("x-"));
            let mine: Vec<_> = mine.map(|(name, value)| (name.as_str(), value.to_str().unwrap_or(""))).collect();
            call.reply(200, &mine, &body, &[("x-trailer", "end")]).await;
        })
        .await
    }

    /// The heads of the requests so far.
    pub(crate) fn seen(&self) -> Vec<http::request::Parts> {
        self.seen.lock().expect("nothing panics while it holds the list").clone()
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for H2Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    stream: TcpStream,
    builder: h2::server::Builder,
    seen: Arc<Mutex<Vec<http::request::Parts>>>,
    handler: Handler,
) {
    // A probe connects and says nothing.
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (head, body) = request.into_parts();
        seen.lock().expect("nothing panics while it holds the list").push(head.clone());
        tokio::spawn(handler(Call { head, body, respond }));
    }
}

/// A frame by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Its kind.
    pub(crate) kind: u8,
    /// Its flags.
    pub(crate) flags: u8,
    /// Its stream.
    pub(crate) stream: u32,
    /// Its payload.
    pub(crate) payload: Vec<u8>,
}

/// The kinds of frames.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of HEADERS and DATA.
pub(crate) const END_STREAM: u8 = 1;
/// Flag of HEADERS and CONTINUATION.
pub(crate) const END_HEADERS: u8 = 4;

impl Frame {
    /// A frame.
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("a short frame").to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], self.kind, self.flags];
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// The error code of RST_STREAM or GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == kind::GOAWAY { 4 } else { 0 };
        self.payload.get(at..at + 4).and_then(|code| code.try_into().ok()).map_or(u32::MAX, u32::from_be_bytes)
    }
}

/// Fields as HPACK literals, without index and without Huffman (RFC 7541, 6.2.2): any bytes can be said.
pub(crate) fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

fn string(block: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 127 {
        block.push(u8::try_from(text.len()).expect("it is below 127"));
    } else {
        block.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            block.push(u8::try_from(rest % 128).expect("it is below 128") | 128);
            rest /= 128;
        }
        block.push(u8::try_from(rest).expect("it is below 128"));
    }
    block.extend_from_slice(text);
}

/// A request's head as one block.
pub(crate) fn head(method: &str, path: &str, further: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut fields: Vec<(&[u8], &[u8])> = vec![
        (b":method", method.as_bytes()),
        (b":scheme", b"http"),
        (b":path", path.as_bytes()),
        (b":authority", b"a.example"),
    ];
    fields.extend(further);
    block(&fields)
}

/// A connection whose frames are made by hand.
pub(crate) struct Frames {
    stream: TcpStream,
}

impl Frames {
    /// Connects, and sends the preface with empty settings.
    pub(crate) async fn open(address: &Address) -> Self {
        let mut frames = Self::silent(address).await;
        frames.bytes(PREFACE).await;
        frames.send(&Frame::new(kind::SETTINGS, 0, 0, [])).await;
        frames
    }

    /// Connects, and says nothing.
    pub(crate) async fn silent(address: &Address) -> Self {
        Self { stream: connect(address).await }
    }

    /// Sends bytes as they are; whether the peer still takes them.
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) -> bool {
        matches!(timeout(PATIENCE, self.stream.write_all(bytes)).await, Ok(Ok(())))
    }

    /// Sends a frame; whether the peer still takes it.
    pub(crate) async fn send(&mut self, frame: &Frame) -> bool {
        self.bytes(&frame.bytes()).await
    }

    /// The next frame; none at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        within(self.stream.read_exact(&mut head)).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        within(self.stream.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until a frame of this kind; none where the connection ends before.
    pub(crate) async fn until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            match self.next().await? {
                frame if frame.kind == kind => return Some(frame),
                _ => {}
            }
        }
    }

    /// Reads until the outcome of a stream: HEADERS, RST_STREAM or GOAWAY.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            let of_stream = frame.stream == stream && matches!(frame.kind, kind::HEADERS | kind::RST_STREAM);
            if of_stream || frame.kind == kind::GOAWAY {
                return Some(frame);
            }
        }
    }

    /// Reads to the end of the connection; the code of its GOAWAY.
    pub(crate) async fn goaway(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == kind::GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }
}
