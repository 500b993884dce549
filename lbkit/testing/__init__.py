"""What tests of lbkit, of plug-ins and of programs that use lbkit need; never imported by the rest of lbkit."""

from lbkit.testing.clock import VirtualClock, VirtualTimer
from lbkit.testing.conformance import ConformanceError
from lbkit.testing.fault_proxy import FaultProxy
from lbkit.testing.loop import VirtualLoop, run_virtual, virtual_time
from lbkit.testing.memory import MemoryChannel, MemoryNetwork, memory_channel
from lbkit.testing.policies import check_balancer
from lbkit.testing.resolvers import check_resolver

__all__ = [
    "ConformanceError",
    "FaultProxy",
    "MemoryChannel",
    "MemoryNetwork",
    "VirtualClock",
    "VirtualLoop",
    "VirtualTimer",
    "check_balancer",
    "check_resolver",
    "memory_channel",
    "run_virtual",
    "virtual_time",
]
