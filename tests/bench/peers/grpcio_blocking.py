"""grpcio's blocking client, with one thread per call in flight."""

from __future__ import annotations

import grpc

from tests.bench import thread_load
from tests.bench.load import Job, Sample
from tests.bench.peers.command import main
from tests.bench.peers.grpcio_aio import CHANNEL_OPTIONS, target
from tests.support.protos import bench_pb2_grpc


def measure(job: Job) -> Sample:
    """Do one job over one channel with ``job.in_flight`` threads."""
    with grpc.insecure_channel(target(job.ports), options=CHANNEL_OPTIONS) as channel:
        return thread_load.measure(bench_pb2_grpc.BenchStub(channel).Echo, job)


if __name__ == "__main__":
    main(None, None, measure)
