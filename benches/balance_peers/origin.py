"""Backends that say who they are, count what they get, and change their manners when told.

A process of its own, so that it never shares an interpreter with the load. It listens where its arguments say
(ADDRESS:PORT each; the text is the backend's name) and is told the rest on standard input, one command a line, each
answered by one line of JSON:

    delay NAME SECONDS      answer that much later from now on
    status NAME CODE        answer with this status from now on
    reset                   forget the counts
    counts                  {NAME: requests}
    seconds                 {NAME: {TENTH OF A SECOND SINCE reset: requests}}

It ends when its standard input does. Requests have no body; answers have five bytes.
"""

import asyncio
import json
import sys
import time


class Backend:
    def __init__(self, name):
        self.name, self.delay, self.status, self.tenths = name, 0.0, 200, {}

    def answer(self):
        head = f"HTTP/1.1 {self.status} x\r\nx-backend: {self.name}\r\ncontent-length: 5\r\n\r\nhello"
        return head.encode()


class Connection(asyncio.Protocol):
    def __init__(self, origin, backend):
        self.origin, self.backend, self.pending = origin, backend, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.pending += data
        while (end := self.pending.find(b"\r\n\r\n")) >= 0:
            probe = self.pending.startswith(b"GET /healthz")
            self.pending = self.pending[end + 4 :]
            if not probe:
                self.origin.count(self.backend)
            answer = self.backend.answer()
            if self.backend.delay and not probe:
                self.origin.loop.call_later(self.backend.delay, self.send, answer)
            else:
                self.send(answer)

    def send(self, answer):
        if not self.transport.is_closing():
            self.transport.write(answer)


class Origin:
    def __init__(self, names):
        self.backends = {name: Backend(name) for name in names}
        self.start = time.monotonic()

    def count(self, backend):
        tenth = int((time.monotonic() - self.start) * 10)
        backend.tenths[tenth] = backend.tenths.get(tenth, 0) + 1

    def command(self, words):
        match words:
            case ["delay", name, seconds]:
                self.backends[name].delay = float(seconds)
            case ["status", name, code]:
                self.backends[name].status = int(code)
            case ["reset"]:
                self.start = time.monotonic()
                for backend in self.backends.values():
                    backend.tenths = {}
            case ["counts"]:
                return {name: sum(backend.tenths.values()) for name, backend in self.backends.items()}
            case ["seconds"]:
                return {name: backend.tenths for name, backend in self.backends.items()}
            case other:
                return {"error": f"unknown command: {other}"}
        return {}

    async def run(self):
        self.loop = asyncio.get_running_loop()
        for name, backend in self.backends.items():
            host, port = name.rsplit(":", 1)
            await self.loop.create_server(lambda b=backend: Connection(self, b), host, int(port), backlog=4096)
        lines = asyncio.StreamReader()
        await self.loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        print("{}", flush=True)
        while line := await lines.readline():
            print(json.dumps(self.command(line.decode().split())), flush=True)


if __name__ == "__main__":
    asyncio.run(Origin(sys.argv[1:]).run())
