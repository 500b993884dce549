"""lbkit's blocking client, with one thread per call in flight."""

from __future__ import annotations

from lbkit import sync
from tests.bench import thread_load
from tests.bench.load import Job, Sample
from tests.bench.peers.command import main
from tests.support.protos import bench_pb2_grpc


def measure(job: Job) -> Sample:
    """Do one job over one channel with ``job.in_flight`` threads."""
    target = "static:///" + ",".join(f"127.0.0.1:{port}" for port in job.ports)
    with sync.Channel(target, balancer="round_robin") as channel:
        return thread_load.measure(bench_pb2_grpc.BenchStub(channel).Echo, job)


if __name__ == "__main__":
    main(None, None, measure)
