"""Requests over HTTP/2 with prior knowledge, some at once on each of some connections, until SIGTERM; tells what failed.

A connection that the server wants closed (GOAWAY) is followed by a new one, and a stream that the server has not processed by
its own word (RFC 9113, 6.8: above the last stream of GOAWAY, or REFUSED_STREAM) is sent again: everything else that is not
the whole answer counts as failed.
"""

import asyncio
import collections
import json
import signal
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events

PORT, CONNECTIONS, STREAMS = (int(argument) for argument in sys.argv[1:4])
ENOUGH = 1 << 20

done, failed, stop = collections.Counter(), collections.Counter(), asyncio.Event()


def fail(kind, error):
    failed[kind] += 1
    print(kind, repr(error), file=sys.stderr, flush=True)


class Protocol(h2.connection.H2Connection):
    """One that goes on with its open streams after GOAWAY (RFC 9113, 6.8); the library takes that for the end."""

    def _receive_goaway_frame(self, frame):
        frames, events = super()._receive_goaway_frame(frame)
        self.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
        return frames, events


class Connection:
    """One connection and the streams that are open on it."""

    def __init__(self):
        self.state = Protocol(h2.config.H2Configuration(client_side=True))
        self.open = {}
        self.last = None
        self.ended = asyncio.Event()

    async def connect(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", PORT)
        self.state.initiate_connection()
        self.state.increment_flow_control_window(ENOUGH)
        self.flush()
        self.reads = asyncio.create_task(self.read())

    def close(self):
        self.reads.cancel()
        self.writer.close()

    def flush(self):
        self.writer.write(self.state.data_to_send())

    def usable(self):
        return self.last is None and not self.ended.is_set()

    def ask(self):
        """Sends a request; resolves to its status once the whole answer is there, or to None if it was not processed."""
        stream = self.state.get_next_available_stream_id()
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")]
        self.state.send_headers(stream, fields, end_stream=True)
        self.flush()
        self.open[stream] = [asyncio.get_running_loop().create_future(), None]
        return self.open[stream][0]

    def settle(self, stream, result):
        future, _ = self.open.pop(stream)
        if not future.done():
            future.set_exception(result) if isinstance(result, Exception) else future.set_result(result)

    def handle(self, event):
        stream = getattr(event, "stream_id", None)
        if isinstance(event, h2.events.ConnectionTerminated):
            self.last = event.last_stream_id or 0
            for unprocessed in [stream for stream in self.open if stream > self.last]:
                self.settle(unprocessed, None)
        elif stream not in self.open:
            return
        elif isinstance(event, h2.events.ResponseReceived):
            self.open[stream][1] = int(dict(event.headers)[b":status"])
        elif isinstance(event, h2.events.DataReceived):
            self.state.acknowledge_received_data(event.flow_controlled_length, stream)
        elif isinstance(event, h2.events.StreamEnded):
            self.settle(stream, self.open[stream][1])
        elif isinstance(event, h2.events.StreamReset):
            refused = event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
            self.settle(stream, None if refused else RuntimeError(f"reset: {event.error_code}"))

    async def read(self):
        try:
            while data := await self.reader.read(65536):
                for event in self.receive(data):
                    self.handle(event)
                self.flush()
        except OSError:
            pass
        self.ended.set()
        for stream in list(self.open):
            self.settle(stream, ConnectionError("the connection ended before the answer"))

    def receive(self, data):
        try:
            return self.state.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            raise ConnectionError(error) from error


async def requests():
    connection = None
    while not stop.is_set():
        if connection is None or not connection.usable():
            if connection is not None:
                connection.close()
            connection = Connection()
            try:
                await connection.connect()
            except OSError as error:
                fail("connect", error)
                connection = None
                continue
        await asyncio.gather(*(request(connection) for _ in range(STREAMS)))
        await asyncio.sleep(0.002)
    if connection is not None:
        connection.close()


async def request(connection):
    try:
        async with asyncio.timeout(30):
            status = await connection.ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, the request failed
        return fail("http2", error)
    if status is None:
        done["sent again"] += 1
    elif status == 200:
        done["http2"] += 1
    else:
        fail("http2", status)


async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.gather(*(requests() for _ in range(CONNECTIONS)))
    print(json.dumps({"done": dict(done), "failed": dict(failed)}))


asyncio.run(main())
