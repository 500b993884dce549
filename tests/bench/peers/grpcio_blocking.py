"""grpcio's blocking client, with one thread per call in flight."""

from __future__ import annotations

import threading
import time
from array import array

import grpc

from tests.bench.load import DEADLINE_S, Job, Meter, Sample, changing_metadata, payload
from tests.bench.peers.command import main
from tests.bench.peers.grpcio_aio import CHANNEL_OPTIONS, target
from tests.bench.processes import BrokenError
from tests.support.protos import bench_pb2_grpc


def measure(job: Job) -> Sample:
    """Do one job over one channel with ``job.in_flight`` threads."""
    with grpc.insecure_channel(target(job.ports), options=CHANNEL_OPTIONS) as channel:
        echo = bench_pb2_grpc.BenchStub(channel).Echo
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


if __name__ == "__main__":
    main(None, None, measure)
