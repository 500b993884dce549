"""kubernetes: the ready pods behind a Service, from its EndpointSlices."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lbkit.backoff import Backoff, BackoffPolicy
from lbkit.resolver import Resolver, Sink, authority_of
from lbkit.target import Target
from lbkit_resolvers.kubernetes.config import System, load
from lbkit_resolvers.kubernetes.failures import Failure
from lbkit_resolvers.kubernetes.target import service_of
from lbkit_resolvers.kubernetes.watching import Follower, Timing
from lbkit_resolvers.parameters import seconds
from lbkit_resolvers.records import Complaints

if TYPE_CHECKING:
    from lbkit_resolvers.kubernetes.api import Api

if find_spec("aiohttp") is None:
    raise ImportError("kubernetes targets need aiohttp: pip install 'lbkit[kubernetes]'")

_RESYNC = "30m"  # client-go's controllers take half a day, kuberesolver takes this


class KubernetesResolver(Resolver):
    """Serves ``kubernetes:///service.namespace:port`` and its like; ``k8s:`` is the same.

    The port is a number (the pods', which need not be the Service's), a port's name, or left out for the first. Without
    a namespace it is the pod's own, or that of the kubeconfig's context.

    Parameters: ``kubeconfig=/path``, ``context=name`` (in a pod, both mean not to use what the pod is told),
    ``resync=30m``.

    Args:
        target: what to resolve.
        system: the environment, and the folder with what a pod is told.
        timing: the time-outs.

    Raises:
        TargetError: the target makes no sense.
    """

    parameters = frozenset({"kubeconfig", "context", "resync"})
    backoff = BackoffPolicy(maximum_s=30.0)  # client-go's reflectors take as long

    def __init__(self, target: Target, *, system: System | None = None, timing: Timing | None = None) -> None:
        super().__init__(target)
        self._system = system or System()
        self._timing = timing or Timing()
        self._service = service_of(target)
        given = target.parameters()
        self._kubeconfig = given.get("kubeconfig", "")
        self._context = given.get("context", "")
        self._resync_s = seconds(target, "resync", given.get("resync", _RESYNC), minimum=1.0)

    @property
    def authority(self) -> str:
        """The Service as the target has it, without a port's name."""
        return authority_of(self._service.authority)

    async def run(self, sink: Sink) -> None:
        """Follow the slices; what fails is reported here, and tried again."""
        backoff = Backoff(self.backoff, sink.random)
        follower = Follower(
            sink,
            self._service.port,
            backoff=backoff,
            timing=self._timing,
            resync_s=self._resync_s,
            complaints=Complaints(str(self.target)),
        )
        try:
            while True:
                try:
                    async with await asyncio.to_thread(self._open) as api:
                        await follower.follow(api)
                except Failure as failure:
                    pause = follower.after(failure)
                if await sink.pause(pause):
                    backoff.reset()
        finally:
            follower.close()

    def _open(self) -> Api:
        """Read anew how to get in; in a thread, as are files to read and, once, aiohttp to import."""
        from lbkit_resolvers.kubernetes.api import Api

        access = load(self._system, self._kubeconfig, self._context)
        return Api(access, self._service, self._timing)
