"""Load at a fixed rate, whatever the answers do.

The latency counts from the moment at which a request was due, not from when it could be sent, so that a slow answer does not
hide those behind it (Tene, "How NOT to Measure Latency"; as wrk2 does).
"""

import asyncio
import collections
import dataclasses
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "balance_peers"))
from load import connect, percentile  # noqa: E402

__all__ = ["Result", "fixed_rate", "percentile"]

# A client that has waited so long for an answer has left.
PATIENCE = 20

# A load that is later than this is not the load that was asked for, and its figures are worth nothing.
TOLERANCE = 2


@dataclasses.dataclass
class Result:
    """One request: when it was due (seconds since the start), how long it took, its status (0: no answer), who answered."""

    due: float
    took: float
    status: int
    backend: str | None


async def one(port, idle):
    """Status and backend, over a connection that waits or a new one."""
    client = idle.pop() if idle else None
    try:
        if client is None or client.transport.is_closing():
            client = await connect(port)
        status, backend = await asyncio.wait_for(client.ask("/"), PATIENCE)
    except (OSError, asyncio.TimeoutError):
        if client:
            client.transport.abort()
        return 0, None
    if status and not client.transport.is_closing():
        idle.append(client)
    return status, backend


async def fixed_rate(port, rate, seconds, at=()):
    """Sends `rate` requests a second, and calls each of `at`, (second, action), in time."""
    idle, results, tasks = collections.deque(), [], set()
    start = time.monotonic() + 0.2
    actions = sorted(at, key=lambda pair: pair[0])

    async def ask(due):
        status, backend = await one(port, idle)
        results.append(Result(due, time.monotonic() - start - due, status, backend))

    for number in range(int(rate * seconds)):
        due = number / rate
        ahead = start + due - time.monotonic()
        if ahead < -TOLERANCE:
            raise SystemExit(f"this machine is too busy to send {rate:.0f} requests a second: ask for fewer, or wait")
        await asyncio.sleep(max(0, ahead))
        while actions and actions[0][0] <= due:
            actions.pop(0)[1]()
        task = asyncio.create_task(ask(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks, timeout=PATIENCE + 5)
    for client in idle:
        client.transport.close()
    return results
