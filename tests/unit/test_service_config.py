"""Service configs: what each field takes, what it becomes, and where an error says the mistake is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbkit.balancer import Balancer, EndpointBalancer, balancer, registry
from lbkit.errors import Error, ServiceConfigError
from lbkit.options import Option
from lbkit.resolution import UNCONFIGURED, MethodConfig
from lbkit.retry import HedgingPolicy, RetryPolicy, RetryThrottling
from lbkit.service_config import EMPTY, ServiceConfig, parse
from lbkit.status import StatusCode

RETRY: dict[str, Any] = {
    "maxAttempts": 3,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def all_methods(**fields: Any) -> dict[str, Any]:
    """A config with one entry, for all methods."""
    return {"methodConfig": [{"name": [{}], **fields}]}


def for_all(**fields: Any) -> MethodConfig:
    """What such a config says about a method."""
    return parse(all_methods(**fields)).method("/any.Service/Method")


def retry(**changes: Any) -> dict[str, Any]:
    """A config whose retry policy is a good one but for the changes; None leaves a field out."""
    policy = {key: value for key, value in {**RETRY, **changes}.items() if value is not None}
    return all_methods(retryPolicy=policy)


def problems(config: Any) -> tuple[str, ...]:
    """What is wrong with a config."""
    with pytest.raises(ServiceConfigError) as caught:
        parse(config)
    return caught.value.problems


# Good ones


@pytest.mark.parametrize("config", ["{}", {}, " {} ", '{"methodConfig": []}', '{"methodConfig": null}'])
def test_empty_config_says_nothing(config: Any) -> None:
    found = parse(config)
    assert found.method("/any.Service/Method") is UNCONFIGURED
    assert found.policy is None
    assert found.retry_throttling is None
    assert found.health_check_service is None
    assert found.max_connections_per_subchannel is None


def test_unknown_fields_are_ignored_everywhere() -> None:
    more: dict[str, Any] = {"aFieldOfTheFuture": [1, {"x": None}]}
    config: dict[str, Any] = {
        "methodConfig": [
            {"name": [{"service": "s", **more}], "retryPolicy": {**RETRY, **more}, "timeout": "1s", **more},
            {"name": [{"service": "t"}], "hedgingPolicy": {"maxAttempts": 2, **more}},
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1, **more},
        "healthCheckConfig": {"serviceName": "s", **more},
        "connectionScaling": {"maxConnectionsPerSubchannel": 2, **more},
        "loadBalancingConfig": [{"pick_first": {"shuffleAddressList": True, **more}}],
        **more,
    }
    found = parse(config)
    assert found.method("/s/m").timeout_s == 1.0
    assert found.policy is not None
    assert found.policy.config == {"shuffleAddressList": True}


def test_nearest_entry_applies_alone() -> None:
    found = parse(
        {
            "methodConfig": [
                {"name": [{}], "timeout": "1s", "waitForReady": True},
                {"name": [{"service": "a.B"}], "timeout": "2s"},
                {"name": [{"service": "a.B", "method": "C"}, {"service": "x"}], "maxRequestMessageBytes": 3},
            ]
        }
    )
    assert found.method("/a.B/C") == MethodConfig(max_request_bytes=3)
    assert found.method("/x/any") == MethodConfig(max_request_bytes=3)
    assert found.method("/a.B/D") == MethodConfig(timeout_s=2.0)
    assert found.method("/a.B2/C") == MethodConfig(timeout_s=1.0, wait_for_ready=True)
    assert found.method("without a slash") == MethodConfig(timeout_s=1.0, wait_for_ready=True)


def test_empty_service_is_the_default_and_empty_method_the_whole_service() -> None:
    assert parse({"methodConfig": [{"name": [{"service": "", "method": ""}], "timeout": "1s"}]}).method(
        "/a/b"
    ) == MethodConfig(timeout_s=1.0)
    found = parse({"methodConfig": [{"name": [{"service": "a", "method": ""}], "timeout": "1s"}]})
    assert found.method("/a/b").timeout_s == 1.0
    assert found.method("/b/b") is UNCONFIGURED


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0.0), ("1s", 1.0), ("1.5s", 1.5), ("0.000000001s", 1e-9), ("315576000000s", 315576000000.0)],
)
def test_time_outs_are_durations_of_proto3(text: str, seconds: float) -> None:
    assert for_all(timeout=text).timeout_s == seconds


@pytest.mark.parametrize("value", [True, False])
def test_wait_for_ready(value: bool) -> None:
    assert for_all(waitForReady=value).wait_for_ready is value


@pytest.mark.parametrize("value", [0, 1, "17", 2**32 - 1])
def test_sizes(value: Any) -> None:
    found = for_all(maxRequestMessageBytes=value, maxResponseMessageBytes=value)
    assert found.max_request_bytes == found.max_response_bytes == int(value)


def test_retry_policy() -> None:
    unavailable = frozenset((StatusCode.UNAVAILABLE,))
    assert for_all(retryPolicy=RETRY).retry == RetryPolicy(3, 0.1, 1.0, 2.0, unavailable)


@pytest.mark.parametrize(("given_", "used"), [(2, 2), (5, 5), (6, 5), (1000, 5), ("4", 4)])
def test_attempts_are_five_at_most(given_: Any, used: int) -> None:
    found = parse(retry(maxAttempts=given_)).method("/a/b").retry
    assert found is not None
    assert found.max_attempts == used


@pytest.mark.parametrize(
    "codes", [["UNAVAILABLE", "ABORTED"], ["unavailable", "Aborted"], [14, 10], [14, "aborted"]]
)
def test_status_codes_are_names_in_any_case_or_numbers(codes: list[Any]) -> None:
    found = parse(retry(retryableStatusCodes=codes)).method("/a/b").retry
    assert found is not None
    assert found.codes == {StatusCode.UNAVAILABLE, StatusCode.ABORTED}


def test_hedging_policy() -> None:
    assert for_all(hedgingPolicy={"maxAttempts": 2}).hedging == HedgingPolicy(2, 0.0, frozenset())
    policy = {"maxAttempts": 9, "hedgingDelay": "0.5s", "nonFatalStatusCodes": [14, "internal"]}
    codes = frozenset((StatusCode.UNAVAILABLE, StatusCode.INTERNAL))
    assert for_all(hedgingPolicy=policy).hedging == HedgingPolicy(5, 0.5, codes)
    assert for_all(hedgingPolicy={"maxAttempts": 2, "nonFatalStatusCodes": []}).hedging is not None


@pytest.mark.parametrize(
    ("tokens", "ratio", "found"),
    [
        (10, 0.1, RetryThrottling(10.0, 0.1)),
        (1000, "0.1", RetryThrottling(1000.0, 0.1)),
        (0.001, 0.5466, RetryThrottling(0.001, 0.546)),
        (2.5, 1e300, RetryThrottling(2.5, 1e300)),
        (7, 0.007, RetryThrottling(7.0, 0.007)),
    ],
)
def test_throttling_with_three_decimals(tokens: Any, ratio: Any, found: RetryThrottling) -> None:
    assert parse({"retryThrottling": {"maxTokens": tokens, "tokenRatio": ratio}}).retry_throttling == found


@pytest.mark.parametrize(
    ("config", "service"), [({}, None), ({"serviceName": ""}, ""), ({"serviceName": "a"}, "a")]
)
def test_health_checks_are_wanted_if_a_service_is_named(config: Any, service: str | None) -> None:
    assert parse({"healthCheckConfig": config}).health_check_service == service


@pytest.mark.parametrize(("given_", "used"), [(0, 1), (1, 1), (10, 10), (11, 10), ("3", 3), (None, None)])
def test_connections_per_subchannel_are_ten_at_most(given_: Any, used: int | None) -> None:
    scaling = {"maxConnectionsPerSubchannel": given_}
    assert parse({"connectionScaling": scaling}).max_connections_per_subchannel == used


# Balancing


def test_first_known_policy_is_chosen() -> None:
    config = {"loadBalancingConfig": [{"of_the_future": {"x": 1}}, {"random": {}}, {"round_robin": {}}, 5]}
    policy = parse(config).policy
    assert policy is not None
    assert (policy.name, policy.factory, policy.config) == ("random", registry.get("random"), {})


@pytest.mark.parametrize("name", ["round_robin", "ROUND_ROBIN"])
def test_older_field_names_a_policy_in_any_case(name: str) -> None:
    policy = parse({"loadBalancingPolicy": name}).policy
    assert policy is not None
    assert policy.name == "round_robin"


def test_newer_field_comes_before_the_older_one() -> None:
    policy = parse({"loadBalancingPolicy": "random", "loadBalancingConfig": [{"pick_first": {}}]}).policy
    assert policy is not None
    assert policy.name == "pick_first"


def test_policy_without_declared_options_gets_its_whole_configuration() -> None:
    try:

        @balancer("test-anything")
        class _Anything(EndpointBalancer):
            def make_picker(self, ready: Any) -> Any:
                raise NotImplementedError

        policy = parse({"loadBalancingConfig": [{"test-anything": {"what": [1]}}]}).policy
        assert policy is not None
        assert policy.config == {"what": [1]}
    finally:
        registry._registered.pop("test-anything", None)


def test_policy_whose_check_raises_rejects_the_config() -> None:
    def read(value: object) -> object:
        raise ZeroDivisionError

    try:

        @balancer("test-broken")
        class _Broken(EndpointBalancer):
            options: ClassVar[Mapping[str, Option]] = {"x": Option(1, read)}

            def make_picker(self, ready: Any) -> Any:
                raise NotImplementedError

        config = {"loadBalancingConfig": [{"test-broken": {"x": 1}}]}
        assert problems(config) == ("loadBalancingConfig[0]: ZeroDivisionError()",)
    finally:
        registry._registered.pop("test-broken", None)


def test_policy_that_two_claim_rejects_the_config() -> None:
    try:
        for qualname in ("One", "Other"):
            made: type[Balancer] = type(qualname, (EndpointBalancer,), {})
            balancer("test-twice")(made)
        (problem,) = problems({"loadBalancingConfig": [{"test-twice": {}}]})
        assert problem.startswith("loadBalancingConfig[0]: balancer 'test-twice' is claimed by")
    finally:
        registry._registered.pop("test-twice", None)


# Bad ones

KNOWN = "Known: pick_first, "  # and ours, and what other tests have registered
DURATION = 'is not a duration like "1.5s"'


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ([], "the service config: a list is not an object"),
        (5, "the service config: 5 is not an object"),
        (None, "the service config: null is not an object"),
        ({"methodConfig": {}}, "methodConfig: an object is not a list"),
        ({"methodConfig": {1, 2}}, "methodConfig: a set is not a list"),
        ({"methodConfig": [{}, None]}, "methodConfig[1]: null is not an object"),
        ({"methodConfig": [{"name": {}}]}, "methodConfig[0].name: an object is not a list"),
        ({"methodConfig": [{"name": ["a"]}]}, "methodConfig[0].name[0]: 'a' is not an object"),
        (
            {"methodConfig": [{"name": [{"service": 1}]}]},
            "methodConfig[0].name[0].service: 1 is not a string",
        ),
        (
            {"methodConfig": [{"name": [{"service": "s", "method": True}]}]},
            "methodConfig[0].name[0].method: true is not a string",
        ),
        (
            {"methodConfig": [{"name": [{"method": "m"}]}]},
            "methodConfig[0].name[0]: method 'm' without a service",
        ),
        (
            {"methodConfig": [{"name": [{}]}, {"name": [{"service": "a"}, {"service": ""}]}]},
            "methodConfig[1].name[1]: the default is configured twice",
        ),
        (
            {"methodConfig": [{"name": [{"service": "a"}, {"service": "a", "method": ""}]}]},
            "methodConfig[0].name[1]: /a/ is configured twice",
        ),
        (all_methods(timeout=5), f"methodConfig[0].timeout: 5 {DURATION}"),
        (all_methods(timeout="5"), f"methodConfig[0].timeout: '5' {DURATION}"),
        (all_methods(timeout="-1s"), f"methodConfig[0].timeout: '-1s' {DURATION}"),
        (all_methods(timeout=".5s"), f"methodConfig[0].timeout: '.5s' {DURATION}"),
        (all_methods(timeout="1e3s"), f"methodConfig[0].timeout: '1e3s' {DURATION}"),
        (all_methods(timeout="1.0000000001s"), f"methodConfig[0].timeout: '1.0000000001s' {DURATION}"),
        (all_methods(timeout="\u0661s"), f"methodConfig[0].timeout: '\u0661s' {DURATION}"),
        (
            all_methods(timeout="315576000001s"),
            "methodConfig[0].timeout: '315576000001s' is more than 315576000000 s",
        ),
        (all_methods(waitForReady="true"), "methodConfig[0].waitForReady: 'true' is not true or false"),
        (all_methods(waitForReady=1), "methodConfig[0].waitForReady: 1 is not true or false"),
        (all_methods(maxRequestMessageBytes=-1), "methodConfig[0].maxRequestMessageBytes: -1 is less than 0"),
        (
            all_methods(maxResponseMessageBytes=2**32),
            "methodConfig[0].maxResponseMessageBytes: 4294967296 is more than 4294967295",
        ),
        (
            all_methods(maxResponseMessageBytes=10**5000),
            "methodConfig[0].maxResponseMessageBytes: a number of 16610 bits is more than 4294967295",
        ),
        (
            all_methods(maxRequestMessageBytes=True),
            "methodConfig[0].maxRequestMessageBytes: true is not a whole number",
        ),
        (
            all_methods(maxRequestMessageBytes=5.0),
            "methodConfig[0].maxRequestMessageBytes: 5.0 is not a whole number",
        ),
        (
            all_methods(maxRequestMessageBytes="5 MB"),
            "methodConfig[0].maxRequestMessageBytes: '5 MB' is not a whole number",
        ),
        (all_methods(retryPolicy="no"), "methodConfig[0].retryPolicy: 'no' is not an object"),
        (retry(maxAttempts=1), "methodConfig[0].retryPolicy.maxAttempts: 1 is less than 2"),
        (retry(maxAttempts=None), "methodConfig[0].retryPolicy.maxAttempts: is missing"),
        (retry(initialBackoff=None), "methodConfig[0].retryPolicy.initialBackoff: is missing"),
        (retry(initialBackoff="0s"), "methodConfig[0].retryPolicy.initialBackoff: '0s' is not above 0"),
        (retry(maxBackoff=None), "methodConfig[0].retryPolicy.maxBackoff: is missing"),
        (retry(maxBackoff="x"), f"methodConfig[0].retryPolicy.maxBackoff: 'x' {DURATION}"),
        (retry(backoffMultiplier=None), "methodConfig[0].retryPolicy.backoffMultiplier: is missing"),
        (retry(backoffMultiplier=0), "methodConfig[0].retryPolicy.backoffMultiplier: 0 is not above 0"),
        (
            retry(backoffMultiplier="nan"),
            "methodConfig[0].retryPolicy.backoffMultiplier: 'nan' is not above 0",
        ),
        (retry(backoffMultiplier="x"), "methodConfig[0].retryPolicy.backoffMultiplier: 'x' is not a number"),
        (
            retry(backoffMultiplier="inf"),
            "methodConfig[0].retryPolicy.backoffMultiplier: 'inf' is more than 1e+300",
        ),
        (retry(retryableStatusCodes=None), "methodConfig[0].retryPolicy.retryableStatusCodes: is missing"),
        (retry(retryableStatusCodes=[]), "methodConfig[0].retryPolicy.retryableStatusCodes: is empty"),
        (
            retry(retryableStatusCodes=14),
            "methodConfig[0].retryPolicy.retryableStatusCodes: 14 is not a list",
        ),
        (
            retry(retryableStatusCodes=["UNAVAILBLE"]),
            "methodConfig[0].retryPolicy.retryableStatusCodes: 'UNAVAILBLE' is not a status code",
        ),
        (
            retry(retryableStatusCodes=[17]),
            "methodConfig[0].retryPolicy.retryableStatusCodes: 17 is not a status code",
        ),
        (
            retry(retryableStatusCodes=[True]),
            "methodConfig[0].retryPolicy.retryableStatusCodes: true is not a status code",
        ),
        (
            all_methods(retryPolicy=RETRY, hedgingPolicy={"maxAttempts": 2}),
            "methodConfig[0]: retryPolicy and hedgingPolicy exclude each other",
        ),
        (all_methods(hedgingPolicy={}), "methodConfig[0].hedgingPolicy.maxAttempts: is missing"),
        (
            all_methods(hedgingPolicy={"maxAttempts": 2, "hedgingDelay": 1}),
            f"methodConfig[0].hedgingPolicy.hedgingDelay: 1 {DURATION}",
        ),
        (
            all_methods(hedgingPolicy={"maxAttempts": 2, "nonFatalStatusCodes": {}}),
            "methodConfig[0].hedgingPolicy.nonFatalStatusCodes: an object is not a list",
        ),
        ({"retryThrottling": []}, "retryThrottling: a list is not an object"),
        ({"retryThrottling": {"tokenRatio": 1}}, "retryThrottling.maxTokens: is missing"),
        ({"retryThrottling": {"maxTokens": 1}}, "retryThrottling.tokenRatio: is missing"),
        (
            {"retryThrottling": {"maxTokens": 1000.5, "tokenRatio": 1}},
            "retryThrottling.maxTokens: 1000.5 is more than 1000",
        ),
        (
            {"retryThrottling": {"maxTokens": 0, "tokenRatio": 1}},
            "retryThrottling.maxTokens: 0 is not above 0",
        ),
        (
            {"retryThrottling": {"maxTokens": 1, "tokenRatio": 0.0009}},
            "retryThrottling.tokenRatio: 0.0009 is not above 0, as only three decimals count",
        ),
        (
            {"retryThrottling": {"maxTokens": 1, "tokenRatio": 10**400}},
            "retryThrottling.tokenRatio: a number of 1329 bits is more than 1e+300",
        ),
        ({"healthCheckConfig": "a"}, "healthCheckConfig: 'a' is not an object"),
        ({"healthCheckConfig": {"serviceName": 1}}, "healthCheckConfig.serviceName: 1 is not a string"),
        ({"connectionScaling": 2}, "connectionScaling: 2 is not an object"),
        (
            {"connectionScaling": {"maxConnectionsPerSubchannel": -1}},
            "connectionScaling.maxConnectionsPerSubchannel: -1 is less than 0",
        ),
        ({"loadBalancingConfig": {}}, "loadBalancingConfig: an object is not a list"),
        ({"loadBalancingConfig": []}, f"loadBalancingConfig: no policy is named. {KNOWN}"),
        (
            {"loadBalancingConfig": [{"a": {}}, {"b": {}}]},
            f"loadBalancingConfig: none of these policies is known: 'a', 'b'. {KNOWN}",
        ),
        (
            {"loadBalancingConfig": ["random"]},
            "loadBalancingConfig[0]: 'random' is not an object with one field, a policy's name",
        ),
        (
            {"loadBalancingConfig": [{"x": {}}, {"random": {}, "round_robin": {}}]},
            "loadBalancingConfig[1]: an object is not an object with one field, a policy's name",
        ),
        ({"loadBalancingConfig": [{"x": None}]}, "loadBalancingConfig[0].x: null is not an object"),
        (
            {"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": "yes"}}, {"random": {}}]},
            "loadBalancingConfig[0]: pick_first: shuffleAddressList must be true or false, not 'yes'",
        ),
        ({"loadBalancingPolicy": 1}, "loadBalancingPolicy: 1 is not a string"),
        (
            {"loadBalancingPolicy": "roundrobin"},
            f"loadBalancingPolicy: no balancer 'roundrobin'. Did you mean 'round_robin'? {KNOWN}",
        ),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named_with_its_place(config: Any, problem: str) -> None:
    (found,) = problems(config)
    assert found.startswith(problem) if problem.endswith(KNOWN) else found == problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1, column 1: Expecting value"),
        ('{\n  "a": 1,\n  b: 2\n}', "line 3, column 3: Expecting property name enclosed in double quotes"),
        ('{"a": 1, "b": 2, "a": 3}', "an object has the field 'a' twice"),
        ('{"a": NaN}', "there is no NaN in JSON"),
        ('{"a": -Infinity}', "there is no -Infinity in JSON"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
    ],
)
def test_what_is_no_json_is_named_with_its_place(text: str, problem: str) -> None:
    (found,) = problems(text)
    assert found.startswith(f"the service config is not JSON: {problem}")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_deep_nesting_is_refused(text: str) -> None:
    assert problems(text) == ("the service config is nested too deeply",)


def test_all_problems_are_told_and_many_are_counted() -> None:
    config = {**all_methods(timeout=1, waitForReady=2), "healthCheckConfig": 3}
    assert len(problems(config)) == 3
    with pytest.raises(
        ServiceConfigError, match=r"healthCheckConfig: 3 .*; methodConfig\[0\].timeout: 1 .*; meth"
    ):
        parse(config)
    with pytest.raises(ServiceConfigError, match=r"methodConfig\[9\]: 9 is not an object; and 990 more$"):
        parse({"methodConfig": list(range(1000))})


def test_long_values_are_cut() -> None:
    (problem,) = problems(all_methods(timeout="x" * 1000))
    assert len(problem) < 120


def test_error_is_a_value_error_of_lbkits() -> None:
    assert issubclass(ServiceConfigError, ValueError)
    assert issubclass(ServiceConfigError, Error)


def test_config_shows_what_it_was_made_of_and_does_not_change() -> None:
    found = parse('{"methodConfig": [], "x": 1}')
    assert repr(found) == 'ServiceConfig({"methodConfig": [], "x": 1})'
    assert repr(EMPTY) == "ServiceConfig({})"
    with pytest.raises(AttributeError, match="immutable"):
        found.policy = None


# Whatever comes

FIELDS = st.sampled_from(
    [
        "methodConfig", "name", "service", "method", "timeout", "waitForReady", "maxRequestMessageBytes",
        "retryPolicy", "maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "hedgingPolicy",
        "retryableStatusCodes", "nonFatalStatusCodes", "hedgingDelay", "retryThrottling", "maxTokens", "tokenRatio",
        "healthCheckConfig", "serviceName", "connectionScaling", "maxConnectionsPerSubchannel",
        "loadBalancingConfig", "loadBalancingPolicy", "round_robin", "pick_first", "shuffleAddressList", "x",
    ]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        ["1s", "0.5s", "UNAVAILABLE", "unavailable", 14, 2, "round_robin", "1e400", "nan", "9" * 30]
    )
)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=5),
    max_leaves=30,
)


def is_read_or_refused(config: Any) -> None:
    """Parse, and let nothing but a ServiceConfigError through."""
    try:
        found = parse(config)
    except ServiceConfigError as error:
        said: object = error.problems and str(error)
    else:
        said = isinstance(found, ServiceConfig) and isinstance(found.method("/a/b"), MethodConfig)
    assert said


@given(ANY_JSON)
def test_any_value_is_read_or_refused(config: Any) -> None:
    is_read_or_refused(config)


@given(st.dictionaries(FIELDS, ANY_JSON, max_size=4).map(json.dumps))
def test_any_json_is_read_or_refused(config: str) -> None:
    is_read_or_refused(config)


@given(st.text(max_size=50))
def test_any_text_is_read_or_refused(config: str) -> None:
    is_read_or_refused(config)
