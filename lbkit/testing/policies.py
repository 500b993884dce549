"""``check_balancer``: thousands of random events show whether a balancing policy keeps its contract."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

from lbkit.address import Endpoint
from lbkit.balancer import Balancer, BalancerFactory, FunctionBalancer, PickFunction, registry
from lbkit.callinfo import CallInfo
from lbkit.metadata import Metadata
from lbkit.resolution import NOTHING
from lbkit.testing.policy_run import PolicyRun
from lbkit.testing.policy_world import Call, Options, Weigh

_METHODS = ("/check.Service/Get", "/check.Service/Put")


def check_balancer(
    balancer: str | type[Balancer] | BalancerFactory | PickFunction,
    *,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    updates: int = 10_000,
    endpoints: int = 50,
    connects_to_all: bool | None = None,
    keeps_connections: bool = True,
    shares: Literal["equal", "weight"] | Weigh | None = None,
    tolerance: float = 0.1,
    call: Callable[[random.Random], CallInfo] | None = None,
    after: Callable[[Balancer], object] | None = None,
) -> None:
    """Drive a policy through random events, and fail at the first rule of the contract that it breaks.

    The policy runs as in a channel, on a clock that stands still. Between updates of the list (added, removed,
    reordered, reweighted, doubled, equal and empty ones, of up to ``endpoints``) backends connect, fail, break and
    flap, time passes, and calls are picked, finish and are cancelled. The same seed gives the same run.

    Args:
        balancer: the name of a registered policy, a ``Balancer`` subclass, a function ``pick(ready, call)``, or a
            factory that is no plain function (a ``functools.partial``, say).
        config: the policy's configuration.
        seed: chooses the events.
        updates: lists that the policy is given.
        endpoints: the longest list.
        connects_to_all: whether it connects to every endpoint, which is checked then; None asks whether it derives
            from ``EndpointBalancer``.
        keeps_connections: whether a READY backend keeps its connection for as long as it is listed. With False (for
            policies that move on purpose) it does so while only order and attributes change.
        shares: how calls should spread over READY backends: "equal", "weight", or a function that gives a weight
            per endpoint. None: not checked.
        tolerance: the part of its share by which a backend may miss it; 0 for exact turns.
        call: makes what the picker is asked about, for policies that look at metadata or attributes.
        after: called with the policy when every call is over, to assert that its own counters say so.

    Raises:
        ConformanceError: a rule is broken; says which, how to repeat the run, and the last events.
        UnknownPluginError: no policy has that name.
    """
    label, factory = _factory(balancer)
    run = PolicyRun(
        factory,
        Options(
            label=label,
            config=config or {},
            seed=seed,
            updates=updates,
            endpoints=endpoints,
            connects_to_all=connects_to_all,
            keeps_connections=keeps_connections,
            weigh=_WEIGHERS[shares] if isinstance(shares, str) else shares,
            tolerance=tolerance,
            make_call=call or _random_call,
        ),
    )
    run.go()
    run.end_calls()
    if after is not None:
        after(run.policy)
    run.close()


def _factory(balancer: object) -> tuple[str, BalancerFactory]:
    if isinstance(balancer, str):
        return repr(balancer), registry.get(balancer)
    if inspect.isclass(balancer) and issubclass(balancer, Balancer):
        return balancer.__name__, balancer
    if inspect.isfunction(balancer):
        function, name = cast("PickFunction", balancer), balancer.__name__
        return name, lambda controller, config: FunctionBalancer(controller, config, function, name)
    if callable(balancer):
        return repr(balancer), cast("BalancerFactory", balancer)
    raise TypeError(f"{balancer!r} is no policy: a name, a Balancer subclass, or pick(ready, call) is needed")


def _random_call(random: random.Random) -> Call:
    return Call(random.choice(_METHODS), Metadata((("user", str(random.randrange(20))),)), NOTHING)


def _equal(endpoints: Sequence[Endpoint]) -> list[float]:
    return [1.0] * len(endpoints)


def _by_weight(endpoints: Sequence[Endpoint]) -> list[float]:
    return [endpoint.weight for endpoint in endpoints]


_WEIGHERS: Mapping[str, Weigh] = {"equal": _equal, "weight": _by_weight}
