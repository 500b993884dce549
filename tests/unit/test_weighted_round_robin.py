from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest

from lbkit.address import Address, Endpoint
from lbkit.balancer import registry
from lbkit_balancers.weighted_round_robin import WeightedRoundRobin, whole
from tests.support.fakes import IDLE, READY, FakeController, resolution


def backends(*weights: float) -> list[Endpoint]:
    """Endpoints ``b0``, ``b1`` ... of these weights."""
    return [Endpoint([Address(f"b{number}", 1)], weight=weight) for number, weight in enumerate(weights)]


def start(weights: Sequence[float], seed: int = 0) -> tuple[FakeController, WeightedRoundRobin]:
    controller = FakeController(seed=seed)
    policy = WeightedRoundRobin(controller, {})
    policy.update(resolution(*backends(*weights)))
    controller.turn(policy)
    for subchannel in controller.subchannels:
        subchannel.become(READY)
    controller.turn(policy)
    return controller, policy


def reweigh(controller: FakeController, policy: WeightedRoundRobin, *weights: float) -> None:
    policy.update(resolution(*backends(*weights)))
    controller.turn(policy)


def flap(controller: FakeController, policy: WeightedRoundRobin, name: str, picks: int = 0) -> list[str]:
    """Let one backend go and come back; return who had a turn meanwhile."""
    controller.live[name].become(IDLE)
    controller.turn(policy)
    names = controller.pick_names(picks)
    controller.live[name].become(READY)
    controller.turn(policy)
    return names


def shares(weights: Sequence[float]) -> Counter[str]:
    """What each backend gets of as many calls as its whole weights add up to."""
    return Counter({f"b{number}": weight for number, weight in enumerate(whole(weights))})


def stride_scan(weights: Sequence[int], due: Sequence[int], picks: int) -> list[int]:
    """The sequence of the static stride scheduler, by going round and passing over."""
    largest, chosen, step = max(weights), list[int](), 0
    while len(chosen) < picks:
        turn, place = divmod(step, len(weights))
        offset = largest - 1 - due[place]
        if (weights[place] * turn + offset) % largest >= largest - weights[place]:
            chosen.append(place)
        step += 1
    return chosen


WEIGHTS = [
    [1, 1, 2, 4],
    [2, 1],
    [5, 3, 2],
    [1, 1000],
    [7, 11, 13, 17, 19],
    [0.5, 1.0, 1.5],
    [1.0] * 50 + [10.0] * 3,
]
by_weights = pytest.mark.parametrize(
    "weights", WEIGHTS, ids=lambda weights: f"{len(weights)} up to {max(weights)}"
)


def test_is_installed_under_its_name() -> None:
    assert registry.get("weighted_round_robin") is WeightedRoundRobin


def test_whole_weights_are_reduced_and_others_scaled() -> None:
    assert whole([1, 1, 2, 4]) == [1, 1, 2, 4]
    assert whole([100.0, 100.0, 200.0]) == [1, 1, 2]
    assert whole([140_000, 70_000]) == [2, 1]
    assert whole([65536, 1]) == [65535, 1]
    assert whole([0.25, 0.5, 1.0]) == [16384, 32768, 65535]
    assert whole([1e-9, 1e9]) == [1, 65535]
    assert whole([0.3, 0.3]) == [65535, 65535]


@pytest.mark.parametrize("seed", range(2))
@by_weights
def test_every_run_of_as_many_calls_as_the_weights_has_exact_shares(weights: list[float], seed: int) -> None:
    controller, _ = start(weights, seed)
    expected = shares(weights)
    size = expected.total()
    picks = controller.pick_names(size + min(size, 3000))
    window = Counter(picks[:size])
    assert window == expected
    for went, came in zip(picks, picks[size:], strict=False):
        window[went] -= 1
        window[came] += 1
        assert window == expected


@by_weights
def test_shorter_runs_are_off_by_less_than_what_is_promised(weights: list[float]) -> None:
    controller, _ = start(weights, seed=3)
    wanted = shares(weights)
    total = wanted.total()
    picks = controller.pick_names(2000)
    for begin in range(0, 500, 7):
        seen: Counter[str] = Counter()
        for length, name in enumerate(picks[begin : begin + 1500], 1):
            seen[name] += 1
            if length % 11 == 0:
                for backend, weight in wanted.items():
                    bound = 2 + len(wanted) * weight / total
                    assert abs(seen[backend] - length * weight / total) < bound


def test_turns_of_a_backend_lie_evenly_in_time() -> None:
    controller, _ = start([1] * 9 + [9])
    picks = controller.pick_names(180)
    turns = [place for place, name in enumerate(picks) if name == "b9"]
    gaps = [after - before for before, after in pairwise(turns)]
    assert max(gaps) <= 4
    assert len(turns) == 90


@pytest.mark.parametrize("weights", [[1, 1, 2, 4], [7, 11, 13, 17, 19], [3, 1, 1], [1, 1000]], ids=str)
def test_sequence_is_that_of_the_static_stride_scheduler(weights: list[int]) -> None:
    controller, policy = start(weights, seed=5)
    strides = policy._strides
    assert strides is not None
    scan = stride_scan(list(strides._weights), list(strides._due), 3000)
    names = [controller.live[str(each.endpoint.addresses[0].host)].name for each in strides._ring]
    assert controller.pick_names(3000) == [names[place] for place in scan]


def test_clients_start_anywhere_in_proportion() -> None:
    firsts = Counter(start([1, 1, 2, 4], seed)[0].pick_names(1)[0] for seed in range(800))
    assert len(firsts) == 4
    assert 40 < firsts["b0"] < 190
    assert 250 < firsts["b3"] < 500


def test_clients_go_round_in_orders_of_their_own() -> None:
    orders = {tuple(start([4, 4, 4, 1], seed)[0].pick_names(13)) for seed in range(50)}
    assert len(orders) > 20


def test_equal_weights_are_round_robin() -> None:
    controller, policy = start([3.5] * 4)
    order = controller.pick_names(4)
    assert sorted(order) == ["b0", "b1", "b2", "b3"]
    assert controller.pick_names(40) == order * 10
    assert policy._strides is None


def test_changed_weight_counts_at_once_and_costs_no_connection() -> None:
    controller, policy = start([1, 1])
    published = len(controller.publications)
    reweigh(controller, policy, 1, 3)
    assert len(controller.publications) == published + 1
    assert Counter(controller.pick_names(40)) == {"b0": 10, "b1": 30}
    reweigh(controller, policy, 3, 1)
    assert Counter(controller.pick_names(40)) == {"b0": 30, "b1": 10}
    reweigh(controller, policy, 2, 2)
    assert Counter(controller.pick_names(40)) == {"b0": 20, "b1": 20}
    assert [subchannel.dials for subchannel in controller.subchannels] == [1, 1]


def test_equal_update_makes_no_picker() -> None:
    controller, policy = start([1, 2])
    published = list(controller.publications)
    reweigh(controller, policy, 1, 2)
    assert controller.publications == published


def test_other_attributes_leave_the_sequence_as_it_is() -> None:
    weights = [1, 1, 2, 4, 5]
    expected = start(weights, seed=9)[0].pick_names(200)
    controller, policy = start(weights, seed=9)
    picks = []
    for number in range(40):
        picks += controller.pick_names(5)
        zoned = [
            Endpoint(each.addresses, weight=each.weight, zone=f"z{number}") for each in backends(*weights)
        ]
        policy.update(resolution(*zoned))
        controller.turn(policy)
    assert picks == expected


def test_flapping_leaves_the_others_where_they_were() -> None:
    weights = [1, 1, 2, 4, 4, 4]
    expected = start(weights, seed=2)[0].pick_names(500)
    controller, policy = start(weights, seed=2)
    picks: list[str] = []
    for _ in range(60):
        picks += controller.pick_names(5)
        picks += flap(controller, policy, "b3", 1)
    assert Counter(picks)["b3"] > 60
    others = [name for name in picks if name != "b3"]
    assert others == [name for name in expected if name != "b3"][: len(others)]


def test_backend_that_is_away_is_left_out_of_the_sequence_only() -> None:
    weights = [1, 1, 2, 4, 4]
    expected = [name for name in start(weights, seed=2)[0].pick_names(300) if name != "b3"]
    controller, policy = start(weights, seed=2)
    controller.live["b3"].become(IDLE)
    controller.turn(policy)
    assert controller.pick_names(200) == expected[:200]


@pytest.mark.parametrize("seed", range(10))
def test_shares_hold_through_changes_of_all_kinds(seed: int) -> None:
    """However often the weights or the backends change, each stayer gets its part of all calls."""
    chance = random.Random(seed)
    weights = [1.0, 2.0, 4.0, 8.0]
    controller, policy = start(weights, seed)
    seen: Counter[str] = Counter()
    for number in range(600):
        seen.update(controller.pick_names(chance.randrange(4)))
        reweigh(controller, policy, *weights, *([16.0] if number % 2 else []))
        if "b4" in controller.live and controller.live["b4"].state is not READY:
            controller.live["b4"].become(READY)
            controller.turn(policy)
    del seen["b4"]
    for number, weight in enumerate(weights):
        assert seen[f"b{number}"] / seen.total() == pytest.approx(weight / 15, rel=0.25)


def test_pick_among_a_thousand_is_bounded_whatever_the_weights() -> None:
    controller, policy = start([1] * 999 + [1000])
    names = controller.pick_names(1999)
    assert Counter(names) == shares([1] * 999 + [1000])
    assert policy._strides is not None
    assert len(policy._strides._turns) == 1000  # one entry for each backend, whoever has had a turn


def test_names_of_the_past_are_forgotten() -> None:
    controller, policy = start([1, 2, 3])
    for number in range(20):
        fresh = [Endpoint([Address(f"n{number}-{one}", 1)], weight=one + 1) for one in range(3)]
        policy.update(resolution(*fresh))
        controller.turn(policy)
        for subchannel in controller.live.values():
            subchannel.become(READY)
        controller.turn(policy)
    assert len(policy._ahead) <= 9
    assert len(policy._places) <= 9
