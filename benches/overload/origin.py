"""A backend with a known capacity that counts what it gets and changes its manners when told.

    origin.py ADDRESS:PORT [WORKERS MILLISECONDS [BACKLOG]]

A process of its own, so that it can be stopped (SIGSTOP) as a machine that hangs is: its accept queue is never read, and once
that is full a further connect meets silence. WORKERS serve one request each at a time, for MILLISECONDS; the others wait in the order
in which they came, without a bound, as they do in most servers. Without workers it answers at once. It is told on standard
input, one command a line, each answered by one line of JSON:

    answer          answer requests from now on, and listen
    reset           reset the connection of each request from now on
    refuse          stop listening, and drop all connections
    tenths          [{TENTH OF A SECOND SINCE start: requests}, {TENTH: connections accepted}]
    start           forget the counts: time begins now

It ends when its standard input does. Requests have no body; answers have five bytes.
"""

import asyncio
import heapq
import json
import sys
import time

ANSWER = b"HTTP/1.1 200 x\r\nx-backend: %s\r\ncontent-length: 5\r\n\r\nhello"


class Connection(asyncio.Protocol):
    def __init__(self, origin):
        self.origin, self.pending = origin, b""

    def connection_made(self, transport):
        self.transport = transport
        self.origin.connections.add(transport)
        self.origin.count(self.origin.accepted)

    def connection_lost(self, error):
        self.origin.connections.discard(self.transport)

    def data_received(self, data):
        self.pending += data
        while (end := self.pending.find(b"\r\n\r\n")) >= 0:
            self.pending = self.pending[end + 4 :]
            self.origin.count(self.origin.requests)
            if self.origin.resets:
                self.transport.abort()
            else:
                self.origin.serve(self.answer)

    def answer(self):
        if not self.transport.is_closing():
            self.transport.write(self.origin.answer)


class Origin:
    def __init__(self, address, workers=0, milliseconds=0, backlog=4096):
        self.host, port = address.rsplit(":", 1)
        self.port, self.backlog = int(port), int(backlog)
        self.answer = ANSWER % address.encode()
        self.resets, self.connections, self.server = False, set(), None
        # When each worker is free again.
        self.free, self.takes = [0.0] * int(workers), float(milliseconds) / 1000
        self.begin()

    def begin(self):
        self.start, self.requests, self.accepted = time.monotonic(), {}, {}

    def count(self, counts):
        tenth = int((time.monotonic() - self.start) * 10)
        counts[tenth] = counts.get(tenth, 0) + 1

    def serve(self, answer):
        if not self.free:
            return answer()
        done = max(self.loop.time(), heapq.heappop(self.free)) + self.takes
        heapq.heappush(self.free, done)
        self.loop.call_at(done, answer)

    async def listen(self):
        if self.server is None:
            self.server = await self.loop.create_server(
                lambda: Connection(self), self.host, self.port, backlog=self.backlog, reuse_address=True
            )

    async def command(self, word):
        match word:
            case "answer":
                self.resets = False
                await self.listen()
            case "reset":
                self.resets = True
            case "refuse":
                self.server.close()
                self.server = None
                for transport in list(self.connections):
                    transport.abort()
            case "start":
                self.begin()
            case "tenths":
                return [self.requests, self.accepted]
            case other:
                return {"error": f"unknown command: {other}"}
        return {}

    async def run(self):
        self.loop = asyncio.get_running_loop()
        await self.listen()
        lines = asyncio.StreamReader()
        await self.loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        print("{}", flush=True)
        while line := await lines.readline():
            print(json.dumps(await self.command(line.decode().strip())), flush=True)


if __name__ == "__main__":
    asyncio.run(Origin(*sys.argv[1:]).run())
