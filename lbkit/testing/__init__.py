"""What tests of lbkit, of plug-ins and of programs that use lbkit need; never imported by the rest of lbkit."""

from lbkit.testing.clock import VirtualClock, VirtualTimer
from lbkit.testing.conformance import ConformanceError
from lbkit.testing.embedded import EmbeddedRegistry, registry
from lbkit.testing.fake_consul import FakeConsul, fake_consul
from lbkit.testing.fake_dns import FakeDns, fake_dns
from lbkit.testing.fake_kubernetes.cluster import FakeKubernetes, fake_kubernetes
from lbkit.testing.fault_proxy import FaultProxy
from lbkit.testing.loop import VirtualLoop, run_virtual, virtual_time
from lbkit.testing.memory import MemoryChannel, MemoryNetwork, memory_channel
from lbkit.testing.policies import check_balancer
from lbkit.testing.registrars import check_registrar
from lbkit.testing.resolvers import check_resolver

__all__ = [
    "ConformanceError",
    "EmbeddedRegistry",
    "FakeConsul",
    "FakeDns",
    "FakeKubernetes",
    "FaultProxy",
    "MemoryChannel",
    "MemoryNetwork",
    "VirtualClock",
    "VirtualLoop",
    "VirtualTimer",
    "check_balancer",
    "check_registrar",
    "check_resolver",
    "fake_consul",
    "fake_dns",
    "fake_kubernetes",
    "memory_channel",
    "registry",
    "run_virtual",
    "virtual_time",
]
