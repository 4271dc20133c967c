"""Load: a fixed number of requests as fast as they are answered, or a fixed rate whatever the answers do.

At a fixed rate the latency counts from the moment at which a request was due, not from when it could be sent, so that a
slow answer does not hide those behind it (Tene, "How NOT to Measure Latency"; as wrk2 does).
"""

import asyncio
import time

GET = "GET {} HTTP/1.1\r\nhost: bench\r\n\r\n"


class Client(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self):
        self.pending, self.answer = b"", None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.pending += data
        end = self.pending.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.pending[:end].decode("latin-1").lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
        if len(self.pending) < end + 4 + int(fields.get("content-length", 0)):
            return
        self.pending = b""
        if fields.get("connection") == "close":
            self.transport.close()
        self.finish((int(head[0].split()[1]), fields.get("x-backend")))

    def connection_lost(self, error):
        self.finish((0, None))

    def finish(self, result):
        if self.answer and not self.answer.done():
            self.answer.set_result(result)

    async def ask(self, path):
        """The status (0: the connection broke) and the backend that answered."""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(GET.format(path).encode())
        return await self.answer


async def connect(port, source=None):
    loop = asyncio.get_running_loop()
    local = (source, 0) if source else None
    _, client = await loop.create_connection(Client, "127.0.0.1", port, local_addr=local)
    return client


async def ask_until(client, port, path, source, statuses):
    """Asks; replaces a connection that has been closed. Notes the status, 0 where no answer came."""
    if client is None or client.transport.is_closing():
        client = await connect(port, source)
    status, _ = await client.ask(path)
    statuses[status] = statuses.get(status, 0) + 1
    return client


async def closed_loop(port, requests, connections, path=lambda number: "/"):
    """Sends `requests` over `connections`; the statuses that came back, counted."""
    numbers, statuses = iter(range(requests)), {}

    async def worker():
        client = None
        for number in numbers:
            client = await ask_until(client, port, path(number), None, statuses)
        client and client.transport.close()

    await asyncio.gather(*(worker() for _ in range(connections)))
    return statuses


async def many_clients(port, clients, requests_each, at_once=16):
    """Every client comes from an address of its own in 127/8."""
    numbers, statuses = iter(range(clients)), {}

    async def worker():
        for number in numbers:
            source = f"127.9.{1 + number // 250}.{1 + number % 250}"
            client = None
            for _ in range(requests_each):
                client = await ask_until(client, port, "/", source, statuses)
            client.transport.close()

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return statuses


async def fixed_rate(port, rate, seconds, at=()):
    """Sends `rate` requests a second; calls each of `at`, (second, action), in time. Returns (due, latency, status, backend)
    for each request, in seconds since the start."""
    idle, results, tasks = [], [], []
    start = time.monotonic() + 0.2
    actions = sorted(at, key=lambda pair: pair[0])

    async def one(due):
        client = idle.pop() if idle else None
        if client is None or client.transport.is_closing():
            client = await connect(port)
        status, backend = await client.ask("/")
        results.append((due, time.monotonic() - start - due, status, backend))
        if status and not client.transport.is_closing():
            idle.append(client)

    for number in range(int(rate * seconds)):
        due = number / rate
        await asyncio.sleep(max(0, start + due - time.monotonic()))
        while actions and actions[0][0] <= due:
            actions.pop(0)[1]()
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.wait(tasks, timeout=30)
    for client in idle:
        client.transport.close()
    return results


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
