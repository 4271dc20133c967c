"""The two ends of a counted request: a backend that answers at once, and a client that asks over one connection.

Both are as plain as can be, so that a count is the proxy's own. A path `/b/N` is answered with N bytes.
"""

import select
import socket
import sys
import threading

REQUEST = (
    "{method} {path} HTTP/1.1\r\n"
    "Host: www.example.com\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    "Accept: */*\r\n"
    "{more}\r\n"
)
ANSWER = (
    "HTTP/1.1 200 OK\r\n"
    "Server: budget\r\n"
    "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    "Content-Type: text/plain\r\n"
    "Content-Length: {length}\r\n\r\n"
)


def length_of(head):
    """The length of the body that follows a head."""
    for line in head.lower().split(b"\r\n")[1:]:
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


class Messages:
    """The messages that arrive on a connection."""

    def __init__(self, connection):
        self.connection, self.pending = connection, b""

    def next(self):
        """The head of the next message, whose body is read and dropped; none where the connection ends before it."""
        while b"\r\n\r\n" not in self.pending:
            if not self.more():
                return None
        head, self.pending = self.pending.split(b"\r\n\r\n", 1)
        left = length_of(head)
        while len(self.pending) < left:
            left -= len(self.pending)
            self.pending = b""
            if not self.more():
                return None
        self.pending = self.pending[left:]
        return head

    def more(self):
        try:
            piece = self.connection.recv(262144)
        except OSError:
            return False
        self.pending += piece
        return bool(piece)


def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    messages = Messages(connection)
    while (head := messages.next()) is not None:
        path = head.split(b" ", 2)[1].decode()
        length = int(path[3:]) if path.startswith("/b/") else 2
        try:
            connection.sendall(ANSWER.format(length=length).encode() + b"x" * length)
        except OSError:
            return


def backend():
    """Starts a backend in a thread of its own; returns its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def accept():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def ask(port, count, method="GET", path="/index.html", body=0):
    """Sends `count` requests, one after the other, over one connection; each must be answered with 200."""
    more = f"Content-Length: {body}\r\n" if body else ""
    request = REQUEST.format(method=method, path=path, more=more).encode() + b"y" * body
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        messages = Messages(connection)
        for _ in range(count):
            connection.sendall(request)
            head = messages.next()
            if head is None or not head.startswith(b"HTTP/1.1 200 "):
                sys.exit(f"a request was not answered with 200: {head!r}")


def ask_over_http_2(port, count):
    """The same request over HTTP/2, by prior knowledge, as a browser repeats it: the fields come from the table of the
    connection from the second one on."""
    def frame(kind, flags, stream, payload=b""):
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def literal(index, value):
        return bytes([0x40 | index, len(value)]) + value

    headers, settings, goaway, reset = 1, 4, 7, 3
    agent = b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
    # :method GET, :scheme http, :path /index.html, and what is new to the table: :authority, user-agent, accept.
    first = b"\x82\x86\x85" + literal(1, b"www.example.com") + literal(58, agent) + literal(19, b"*/*")
    later = b"\x82\x86\x85\xc0\xbf\xbe"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(settings, 0, 0))
        pending = b""
        for number in range(count):
            stream = 2 * number + 1
            connection.sendall(frame(headers, 5, stream, later if number else first))
            ended = False
            while not ended:
                while len(pending) < 9 or len(pending) < 9 + int.from_bytes(pending[:3], "big"):
                    piece = connection.recv(262144)
                    if not piece:
                        sys.exit("the connection ended before an answer")
                    pending += piece
                length, kind, flags = int.from_bytes(pending[:3], "big"), pending[3], pending[4]
                of, payload, pending = int.from_bytes(pending[5:9], "big"), pending[9 : 9 + length], pending[9 + length :]
                if kind == settings and not flags & 1:
                    connection.sendall(frame(settings, 1, 0))
                # 200 has an entry of its own in the static table.
                if kind in (goaway, reset) or kind == headers and payload[:1] != b"\x88":
                    sys.exit(f"a request was not answered with 200: frame {kind}, {payload!r}")
                ended = of == stream and kind in (0, headers) and bool(flags & 1)


def answers(port):
    """Whether a request is answered with 200 now."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(REQUEST.format(method="GET", path="/", more="").encode())
            readable, _, _ = select.select([connection], [], [], 10)
            return bool(readable) and connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False
