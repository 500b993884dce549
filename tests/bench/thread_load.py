"""The client's side of one measurement with blocking calls: one thread for each call in flight."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable

from tests.bench.load import DEADLINE_S, Job, Meter, Sample, changing_metadata, payload
from tests.bench.processes import BrokenError
from tests.support.protos.bench_pb2 import Payload


def measure(echo: Callable[..., Payload], job: Job) -> Sample:
    """Keep ``job.in_flight`` threads making calls, first untimed and then timed."""
    request = payload()
    failures: list[BaseException] = []

    def worker(end: float, latencies: array[float]) -> None:
        source = changing_metadata()
        try:
            now = time.perf_counter()
            while now < end:
                echo(request, timeout=DEADLINE_S, metadata=next(source))
                then, now = now, time.perf_counter()
                latencies.append(now - then)
        except BaseException as error:
            failures.append(error)

    def run(seconds: float, latencies: array[float]) -> None:
        end = time.perf_counter() + seconds
        threads = [threading.Thread(target=worker, args=(end, latencies)) for _ in range(job.in_flight)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    if echo(request, timeout=DEADLINE_S) != request:
        raise BrokenError("the server did not echo the payload")
    run(job.warm_up, array("d"))
    meter = Meter(job.server_pids)
    run(job.seconds, meter.latencies)
    return meter.sample(job.in_flight)
