"""Sends each flood of HTTP/2 and HTTP/1.1, with a bounded number of frames, and tells how it ends as a table for docs/http2.md.

    floods.py ROUNDEL_BINARY [FRAMES]

Beside each flood a plain client asks ten times and more on a connection of its own: its latencies are told, not judged. Loopback
only; it ends by itself.
"""

import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import report
import wire

CONFIG = """listeners: [{{ address: "127.0.0.1:{listen}", protocols: [h2, h1] }}]
admin: none
access_log: none
upstreams: {{ web: {{ backends: ["127.0.0.1:{backend}"], health_check: none, outlier: none }} }}
"""
# What is written at once: little, so that the last words of the proxy are read before it closes.
PIECE = 4096
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
CODES = ["NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
         "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM"]
# :method GET, :scheme http, :path /, and :authority a as a literal that is not indexed (RFC 7541, 6.1 and 6.2.2).
GET = b"\x82\x86\x84\x01\x01a"
POST = b"\x83\x86\x84\x01\x01a"


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def streams():
    return range(1, 2**31, 2)


def rapid_reset(count):
    for stream, _ in zip(streams(), range(count)):
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, GET) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))


def made_you_reset(count):
    for stream, _ in zip(streams(), range(count)):
        yield frame(HEADERS, END_HEADERS, stream, POST) + frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 0))


def continuations(count):
    yield frame(HEADERS, 0, 1, GET)
    for _ in range(count):
        yield frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y" * 20)


def empty_continuations(count):
    yield frame(HEADERS, 0, 1, GET)
    for _ in range(count):
        yield frame(CONTINUATION, 0, 1)


def header_bomb(count):
    # One entry of nearly 4 KiB in the dynamic table, named a thousand times in each head.
    entry = b"\x40\x01x\x7f" + bytes([0x80 | (3900 - 127) % 128, (3900 - 127) // 128]) + b"v" * 3900
    for stream, _ in zip(streams(), range(count)):
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, GET + (entry if stream == 1 else b"") + b"\xbe" * 1000)


def same(piece):
    return lambda count: (piece for _ in range(count))


def empty_data(count):
    yield frame(HEADERS, END_HEADERS, 1, POST)
    for _ in range(count):
        yield frame(DATA, 0, 1)


def zero_window(count):
    yield frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    for stream, _ in zip(streams(), range(count)):
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, GET)


def http1(piece):
    def pieces(count):
        for _ in range(count):
            yield piece

    return pieces


def opened(start, piece):
    def pieces(count):
        yield start
        for _ in range(count):
            yield piece

    return pieces


FLOODS = [
    ("HTTP/2: rapid reset", rapid_reset),
    ("HTTP/2: made-you-reset (window updates of zero)", made_you_reset),
    ("HTTP/2: CONTINUATION", continuations),
    ("HTTP/2: empty CONTINUATION", empty_continuations),
    ("HTTP/2: PING", same(frame(PING, 0, 0, b"12345678"))),
    ("HTTP/2: SETTINGS", same(frame(SETTINGS, 0, 0, struct.pack(">HI", 1, 4096)))),
    ("HTTP/2: PRIORITY", same(frame(PRIORITY, 0, 3, struct.pack(">IB", 0, 16)))),
    ("HTTP/2: WINDOW_UPDATE", same(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)))),
    ("HTTP/2: empty DATA", empty_data),
    ("HTTP/2: unknown frames", same(frame(0x42, 0, 0, b"x"))),
    ("HTTP/2: header bomb", header_bomb),
    ("HTTP/2: requests that are never read (window of zero)", zero_window),
    ("HTTP/1.1: pipelined requests, answers unread", http1(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")),
    ("HTTP/1.1: a head without end", opened(b"GET / HTTP/1.1\r\nHost: a\r\n", b"X-A: b\r\n")),
    ("HTTP/1.1: a line without end", opened(b"GET /", b"x" * 64)),
    ("HTTP/1.1: empty lines", http1(b"\r\n")),
    ("HTTP/1.1: chunks of one byte", opened(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")),
    ("HTTP/1.1: chunk extensions", opened(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                                         b"1;" + b"e" * 200 + b"\r\nx\r\n")),
    ("HTTP/1.1: trailers", opened(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n")),
]


class Ending:
    """What the proxy says at last."""

    def __init__(self, stream):
        self.stream, self.data, self.closed = stream, b"", False

    def poll(self):
        try:
            while more := self.stream.recv(65536):
                self.data = (self.data + more)[-1_000_000:]
            self.closed = True
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True

    def words(self, http2):
        if not http2:
            statuses = [line[9:12].decode() for line in self.data.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
            return (statuses[-1] if statuses else "no answer") + (", closed" if self.closed else ", still open")
        at, code = 0, None
        while at + 9 <= len(self.data):
            length, kind = int.from_bytes(self.data[at : at + 3], "big"), self.data[at + 3]
            if kind == GOAWAY and at + 17 <= len(self.data):
                code = struct.unpack(">I", self.data[at + 13 : at + 17])[0]
            at += 9 + length
        if code is None:
            return "closed" if self.closed else "still open"
        return "GOAWAY " + (CODES[code] if code < len(CODES) else str(code))


def flood(port, pieces, count, http2):
    """Sends the pieces until the proxy ends the connection or 20 s have passed. How many went, and how it ended."""
    stream = socket.create_connection(("127.0.0.1", port), timeout=10)
    ending, sent, until = Ending(stream), 0, time.monotonic() + 20
    stream.setblocking(False)
    queue = PREFACE + frame(SETTINGS) if http2 else b""
    pieces = pieces(count)
    while not ending.closed and time.monotonic() < until:
        while len(queue) < PIECE and (piece := next(pieces, None)) is not None:
            queue, sent = queue + piece, sent + 1
        if not queue:
            break
        try:
            queue = queue[stream.send(queue[:PIECE]) :]
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:
            break
        if http2:
            ending.poll()
    until = time.monotonic() + 2
    while not ending.closed and time.monotonic() < until:
        ending.poll()
        time.sleep(0.01)
    stream.close()
    return sent, ending.words(http2)


def plain_client(port, stop, latencies):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as stream:
        while not stop.is_set() or len(latencies) < 10:
            begun = time.monotonic()
            stream.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            wire.read_until(stream, b"", lambda data: data.endswith(b"fine"), 30)
            latencies.append((time.monotonic() - begun) * 1000)
            time.sleep(0.01)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) / 1024


def main():
    roundel, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    peer = report.Peer("Roundel", CONFIG, [roundel, "-c", "CONFIG"], [roundel, "--version"], wire.Actor)
    pid = peer.process.pid
    print(f"| flood of at most {count} frames | sent | ends with | peak RSS | CPU | a plain client's median and worst latency |")
    print("| --- | --- | --- | --- | --- | --- |")
    try:
        for name, pieces in FLOODS:
            with open(f"/proc/{pid}/clear_refs", "w") as file:
                file.write("5")
            stop, latencies, before = threading.Event(), [], cpu_seconds(pid)
            client = threading.Thread(target=plain_client, args=(peer.port, stop, latencies))
            client.start()
            sent, ending = flood(peer.port, pieces, count, name.startswith("HTTP/2"))
            used = cpu_seconds(pid) - before
            stop.set()
            client.join()
            latencies.sort()
            told = f"{latencies[len(latencies) // 2]:.1f} ms, {latencies[-1]:.1f} ms"
            print(f"| {name} | {sent} | {ending} | {peak_mib(pid):.0f} MiB | {used:.2f} s | {told} |", flush=True)
    finally:
        peer.end()


if __name__ == "__main__":
    main()
