"""What the programs here share: a backend that writes down what it gets, and a client that sends bytes as they are."""

import re
import socket
import socketserver
import threading

PATIENCE = 10


def read_until(stream, already, enough, patience=PATIENCE):
    """Reads until `enough` is content with what has come, the peer ends, or patience does."""
    stream.settimeout(patience)
    data = already
    while not enough(data):
        try:
            more = stream.recv(65536)
        except (TimeoutError, ConnectionError):
            break
        if not more:
            break
        data += more
    return data


def ask(port, request, patience=PATIENCE):
    """Sends bytes on a connection of their own; the status of the first final answer, or a word for why there is none."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as stream:
        try:
            stream.sendall(request)
        except ConnectionError:
            pass
        answer = read_until(stream, b"", lambda data: b"\r\n" in data, patience)
    found = re.match(rb"HTTP/1\.[01] (\d\d\d)", answer)
    return int(found[1]) if found else ("closed" if not answer else "no HTTP")


def whole_answer(port, request, patience=PATIENCE):
    """Sends bytes on a connection of their own; all bytes that come back before it is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as stream:
        try:
            stream.sendall(request)
        except ConnectionError:
            pass
        return read_until(stream, b"", lambda _: False, patience)


def is_whole_answer(data):
    """Whether an answer that ended with its connection is whole by its own framing."""
    end = data.find(b"\r\n\r\n")
    return end >= 0 and body_end(data, end + 4, data[:end].split(b"\r\n")[1:]) is not None


def body_end(data, start, lines):
    """Where the body that begins at `start` ends, by the strict grammar; none while it has not all come."""
    lengths = [line.split(b":", 1)[1].strip() for line in lines if line.lower().startswith(b"content-length:")]
    codings = [line for line in lines if line.lower().startswith(b"transfer-encoding:")]
    if codings:
        at = start
        while True:
            size = re.compile(rb"([0-9a-fA-F]+)(;[^\r\n]*)?\r\n").match(data, at)
            if not size:
                return None
            if int(size[1], 16) == 0:
                # Trailers, if there are any, and the empty line.
                trailers = re.compile(rb"([^\r\n]+\r\n)*\r\n").match(data, size.end())
                return trailers.end() if trailers else None
            at = size.end() + int(size[1], 16) + 2
    end = start + (int(lengths[0]) if lengths else 0)
    return end if len(data) >= end else None


class Recorder:
    """A backend that answers each connection's first request with 200 and `Connection: close`, and keeps all its bytes."""

    def __init__(self):
        recorder, self.lock, self.records = self, threading.Lock(), []

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                data = read_until(self.request, b"", recorder.is_whole, 2)
                if not data:
                    return
                try:
                    self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                    self.request.shutdown(socket.SHUT_WR)
                    data = read_until(self.request, data, lambda _: False, 2)
                except OSError:
                    pass
                with recorder.lock:
                    recorder.records.append(data)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address, daemon_threads, request_queue_size = True, True, 128

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def is_whole(data):
        end = data.find(b"\r\n\r\n")
        return end >= 0 and body_end(data, end + 4, data[:end].split(b"\r\n")[1:]) is not None

    def take(self):
        """What has come since the last time."""
        with self.lock:
            taken, self.records = self.records, []
        return taken


class Actor:
    """A backend that gives `answer` to requests for `/case` and a plain one to all others, and keeps its connections open."""

    def __init__(self):
        actor, self.lock, self.answer, self.asked = self, threading.Lock(), b"", []

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                data = b""
                while b"\r\n\r\n" in (data := read_until(self.request, data, Recorder.is_whole, 20)):
                    is_case = data.split(b"\r\n")[0].split(b" ")[1] == b"/case"
                    with actor.lock:
                        actor.asked.append((is_case, id(self)))
                    try:
                        self.request.sendall(actor.answer if is_case else b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")
                    except OSError:
                        return
                    data = b""

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address, daemon_threads, request_queue_size = True, True, 128

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def same_connection(self):
        """Whether the last two requests, the case's and the next, came on one connection."""
        with self.lock:
            asked, self.asked = self.asked, []
        return len(asked) > 1 and asked[-1][1] == asked[-2][1]
