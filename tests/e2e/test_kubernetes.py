"""The Kubernetes resolver against an API server that fails in every way that is known."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from lbkit.backoff import BackoffPolicy
from lbkit.target import Target
from lbkit.testing import FakeKubernetes, FaultProxy, check_resolver, fake_kubernetes
from lbkit_resolvers.kubernetes import KubernetesResolver, System, Timing
from tests.support.certificates import certificates
from tests.support.fakes import FakeSink
from tests.support.servers import until

# Every watch that is taken up is a good one.
QUICK = Timing(request_s=30.0, watch_s=60.0, slack_s=0.2, good_s=0.0, slow_s=0.05)


class QuickResolver(KubernetesResolver):
    backoff = BackoffPolicy(initial_s=0.02, maximum_s=0.05)


@asynccontextmanager
async def followed(
    target: str, *, timing: Timing = QUICK, system: System | None = None
) -> AsyncGenerator[FakeSink, None]:
    """Run the resolver; give what the channel hears."""
    sink = FakeSink()
    sink.clock = asyncio.get_running_loop()
    resolver = QuickResolver(Target.parse(target, {"kubernetes"}), system=system, timing=timing)
    task = asyncio.create_task(resolver.run(sink))
    try:
        yield sink
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def says(sink: FakeSink, *addresses: str) -> None:
    """Wait for this answer to be the last."""
    await until(lambda: sink.addresses[-1:] == [[*addresses]])


async def watching(cluster: FakeKubernetes) -> None:
    """Wait until there is a watch."""
    await until(lambda: cluster.watchers)


def verbs(cluster: FakeKubernetes) -> list[str]:
    return [request.verb for request in cluster.asked]


async def test_changes_arrive_through_one_watch() -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        cluster.set("other", "10.9.9.9:1")
        cluster.set("greeter", "10.8.8.8:1", namespace="elsewhere")
        async with followed(cluster.target("greeter")) as sink:
            await says(sink, "10.0.0.1:1")
            await until(lambda: cluster.watchers)
            cluster.set("greeter", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:7")
            await says(sink, "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:7")
            cluster.set("greeter", "10.0.0.3:7")
            await says(sink, "10.0.0.3:7")
            cluster.set("greeter")
            await says(sink)
        assert verbs(cluster) == ["list", "watch"]
        assert not sink.errors
        query = cluster.asked[1].query
        assert query["labelSelector"] == "kubernetes.io/service-name=greeter"
        assert (query["allowWatchBookmarks"], query["resourceVersion"]) == ("true", "1003")


async def test_namespace_and_port_of_the_target() -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1", namespace="shop", port_name="grpc")
        for form in ("greeter.shop:grpc", "greeter.shop.svc.cluster.local:grpc"):
            async with followed(cluster.target(form)) as sink:
                await says(sink, "10.0.0.1:1")
        async with followed(cluster.target("greeter.shop:9")) as sink:
            await says(sink, "10.0.0.1:9")
        async with followed(cluster.target("greeter.shop:grcp")) as sink:
            await until(lambda: sink.errors)
        assert "it has no port named 'grcp'. Did you mean 'grpc'?" in str(sink.errors[0])
        assert not sink.answers


async def test_long_list_comes_in_pages() -> None:
    async with fake_kubernetes() as cluster:
        ports = range(1, 121)
        cluster.set("greeter", *(f"10.0.0.1:{port}" for port in ports))
        async with followed(cluster.target("greeter")) as sink:
            await until(lambda: sink.answers)
        assert len(sink.answers) == 1
        assert len(sink.answers[0].endpoints) == 120
        assert verbs(cluster)[:3] == ["list"] * 3


async def test_list_that_expires_between_two_pages_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", *(f"10.0.0.1:{port}" for port in range(1, 61)))
        page = cluster.store.page

        def compacting(*args: Any) -> Any:
            found = page(*args)
            if len(cluster.asked) == 1:
                cluster.compact()
            return found

        monkeypatch.setattr(cluster.store, "page", compacting)
        async with followed(cluster.target("greeter")) as sink:
            await until(lambda: sink.answers)
        assert ["continue" in request.query for request in cluster.asked[:4]] == [False, True, False, True]
        assert len(sink.answers[0].endpoints) == 60
        assert not sink.errors


@pytest.mark.parametrize("how", ["cleanly", "cut"])
async def test_watch_that_ends_goes_on_where_it_was(how: Any) -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        async with followed(cluster.target("greeter")) as sink:
            for number in range(2, 5):
                await watching(cluster)
                before = len(cluster.asked)
                cluster.set("greeter", f"10.0.0.{number}:1")
                await says(sink, f"10.0.0.{number}:1")
                assert cluster.end_watches(how) == 1
                await until(lambda: len(cluster.asked) > before)  # noqa: B023 -- awaited at once
                assert cluster.asked[-1].query["resourceVersion"] == str(cluster.store.version)
        assert verbs(cluster) == ["list", *["watch"] * 4]
        assert not sink.errors
        assert len(sink.answers) == 4


async def test_change_while_nobody_watches_is_not_missed() -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        async with followed(cluster.target("greeter")) as sink:
            await watching(cluster)
            cluster.fail(503, "watch")
            cluster.end_watches()
            await until(lambda: len(sink.errors) >= 3)
            cluster.set("greeter", "10.0.0.2:1")
            cluster.heal()
            await says(sink, "10.0.0.2:1")
        assert verbs(cluster).count("list") == 1
        assert [[*each] for each in sink.addresses] == [["10.0.0.1:1"], ["10.0.0.2:1"]]


@pytest.mark.parametrize("how", ["expired", "compacted", "status"])
async def test_expired_version_is_listed_again_and_keeps_the_list(how: str) -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        async with followed(cluster.target("greeter")) as sink:
            await watching(cluster)
            if how == "expired":
                cluster.end_watches("expired")
            else:
                cluster.compact()
                if how == "status":
                    cluster.fail(410, "watch", times=1)
                cluster.end_watches()
            await until(lambda: verbs(cluster).count("list") == 2)
            await watching(cluster)
            cluster.set("greeter", "10.0.0.2:1")
            await says(sink, "10.0.0.2:1")
        assert sink.addresses[-2:] == [["10.0.0.1:1"], ["10.0.0.2:1"]]
        assert [] not in sink.addresses
        assert not sink.errors


async def test_bookmark_saves_a_list_after_a_compaction() -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        async with followed(cluster.target("greeter")) as sink:
            await watching(cluster)
            cluster.compact()
            cluster.bookmark()
            cluster.end_watches()
            await until(lambda: verbs(cluster).count("watch") == 2)
            cluster.set("greeter", "10.0.0.2:1")
            await says(sink, "10.0.0.2:1")
        assert verbs(cluster).count("list") == 1


async def test_watch_time_out_of_the_server_is_the_normal_end() -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        async with followed(
            cluster.target("greeter"), timing=QUICK._replace(watch_s=1.0, slack_s=30.0)
        ) as sink:
            await until(lambda: verbs(cluster).count("watch") == 3)
        assert verbs(cluster)[0] == "list"
        assert verbs(cluster).count("list") == 1
        assert not sink.errors


async def test_silent_watch_is_given_up_soon_after_its_time() -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        async with followed(cluster.target("greeter"), timing=QUICK._replace(watch_s=1.0)) as sink:
            await until(lambda: cluster.watchers)
            cluster.hold()
            cluster.set("greeter", "10.0.0.2:1")
            await until(lambda: verbs(cluster).count("watch") == 2)
            assert sink.addresses == [["10.0.0.1:1"]]
            cluster.heal()
            await says(sink, "10.0.0.2:1")
        assert verbs(cluster).count("list") == 1


async def test_silent_list_is_given_up_and_asked_again() -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        cluster.fail("silence", "list", times=1)
        async with followed(cluster.target("greeter"), timing=QUICK._replace(request_s=0.2)) as sink:
            await says(sink, "10.0.0.1:1")
        assert {"said nothing for too long" in str(error) for error in sink.errors} == {True}


async def test_server_that_falls_silent_is_reported_and_keeps_the_list() -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        async with followed(cluster.target("greeter"), timing=QUICK._replace(request_s=0.2)) as sink:
            await watching(cluster)
            cluster.fail("silence")  # it takes connections and requests, and says nothing
            cluster.end_watches()
            await until(lambda: len(sink.errors) >= 3)  # long before the minute that a watch lasts
            cluster.set("greeter", "10.0.0.2:1")
            cluster.heal()
            await says(sink, "10.0.0.2:1")
        assert {"said nothing for too long" in str(error) for error in sink.errors} == {True}
        assert sink.addresses == [["10.0.0.1:1"], ["10.0.0.2:1"]]


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (403, 'verbs: ["get", "list", "watch"]} in namespace default'),
        (404, "Kubernetes 1.21 or later is needed"),
        (429, "answered 429: the server has received too many requests"),
        (500, "answered 500: Internal error occurred"),
        (503, "answered 503"),
        (418, "answered 418"),
        ("garbage", "sent what is no JSON"),
        ("hang up", "the connection broke"),
    ],
)
async def test_list_that_fails_is_reported_and_tried_again_until_it_succeeds(fault: Any, text: str) -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        cluster.fail(fault, "list")
        async with followed(cluster.target("greeter")) as sink:
            await until(lambda: len(sink.errors) >= 3)
            assert not sink.answers
            cluster.heal()
            await says(sink, "10.0.0.1:1")
            await watching(cluster)
            cluster.fail(fault)
            cluster.end_watches()
            await until(lambda: len(sink.errors) >= 6)
        assert text in str(sink.errors[0])
        assert str(sink.errors[0]).startswith(
            f"{cluster.url.removeprefix('http://')}, service default/greeter: "
        )
        assert {str(error) for error in sink.errors if "\n" in str(error)} == set()
        assert sink.addresses == [["10.0.0.1:1"]]


async def test_server_in_trouble_is_not_asked_more_often_than_the_back_off_says() -> None:
    async with fake_kubernetes() as cluster:
        cluster.fail(500)
        began = asyncio.get_running_loop().time()
        async with followed(cluster.target("greeter")):
            await until(lambda: len(cluster.asked) >= 6)
        policy = QuickResolver.backoff
        least = (1 - policy.jitter) * (policy.initial_s + policy.initial_s * policy.multiplier)
        assert asyncio.get_running_loop().time() - began >= least + 3 * (1 - policy.jitter) * policy.maximum_s


async def test_retry_after_is_obeyed() -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        cluster.fail(429, "list", times=1, retry_after="1")
        began = asyncio.get_running_loop().time()
        async with followed(cluster.target("greeter")) as sink:
            await says(sink, "10.0.0.1:1")
        assert asyncio.get_running_loop().time() - began >= 1.0


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        b"{}\n",
        b'{"type": "ADDED", "object": {}}\n',
        b'{"type": "ADDED", "object": 7}\n',
        b"\xff\xfe\x00\n",
        b"x" * (5 * 1024 * 1024),
    ],
)
async def test_watch_that_talks_nonsense_is_listed_again(line: bytes) -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        async with followed(cluster.target("greeter")) as sink:
            await watching(cluster)
            cluster.send(line)
            await until(lambda: verbs(cluster).count("list") == 2)
            await until(lambda: cluster.watchers)
            cluster.set("greeter", "10.0.0.2:1")
            await says(sink, "10.0.0.2:1")
        assert len(sink.errors) == 1
        assert str(sink.errors[0]).isprintable()


async def test_event_of_an_unknown_status_is_reported_and_the_watch_goes_on() -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        async with followed(cluster.target("greeter")) as sink:
            await watching(cluster)
            cluster.send(
                b'{"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd is away"}}\n'
            )
            await until(lambda: sink.errors)
            await until(lambda: cluster.watchers)
            cluster.set("greeter", "10.0.0.2:1")
            await says(sink, "10.0.0.2:1")
        assert "answered 500: etcd is away" in str(sink.errors[0])
        assert verbs(cluster).count("list") == 1


async def test_everything_is_listed_again_when_it_is_time() -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        async with followed(cluster.target("greeter?resync=1s"), timing=QUICK._replace(slack_s=30.0)):
            await until(lambda: verbs(cluster).count("list") >= 2)
        assert verbs(cluster)[0] == "list"


async def test_outage_of_the_server_keeps_the_list(tmp_path: Path) -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        async with FaultProxy(cluster.url.removeprefix("http://")) as proxy:
            kubeconfig = tmp_path / "config"
            text = cluster.kubeconfig.read_text().replace(cluster.url, f"http://{proxy.address}")
            kubeconfig.write_text(text)
            async with followed(f"kubernetes:///greeter?kubeconfig={kubeconfig}") as sink:
                for number in range(1, 4):
                    await until(lambda: verbs(cluster).count("watch") == number)  # noqa: B023 -- awaited at once
                    proxy.reset()
                await until(lambda: verbs(cluster).count("watch") == 4)
                cluster.set("greeter", "10.0.0.2:1")
                await says(sink, "10.0.0.2:1")
            assert sink.addresses == [["10.0.0.1:1"], ["10.0.0.2:1"]]
    async with followed(f"kubernetes:///greeter?kubeconfig={kubeconfig}") as sink:
        await until(lambda: len(sink.errors) >= 2)
    assert "cannot be reached: " in str(sink.errors[0])


# TLS and tokens


async def test_token_that_is_replaced_is_used_at_the_next_request(tmp_path: Path) -> None:
    pod = tmp_path / "serviceaccount"
    pod.mkdir()
    (pod / "namespace").write_text("shop")
    (pod / "ca.crt").write_bytes(certificates().ca.read_bytes())
    (pod / "token").write_text("first")
    tls = (certificates().cert, certificates().key)
    async with fake_kubernetes(tls=tls, tokens=["first"]) as cluster:
        cluster.set("greeter", "10.0.0.1:1", namespace="shop")
        port = cluster.url.rpartition(":")[2]
        environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}
        async with followed("kubernetes:///greeter", system=System(environment, str(pod))) as sink:
            await says(sink, "10.0.0.1:1")
            await watching(cluster)
            (pod / "token").write_text("second")
            cluster.tokens = ["second"]
            cluster.end_watches()
            await until(lambda: cluster.asked[-1].authorization == "Bearer second")
            await watching(cluster)
            assert not sink.errors
            cluster.tokens = ["third"]  # and the file is late
            cluster.end_watches()
            await until(lambda: len(sink.errors) >= 2)
            (pod / "token").write_text("third")
            cluster.set("greeter", "10.0.0.2:1", namespace="shop")
            await says(sink, "10.0.0.2:1")
        assert "answered 401: Unauthorized; the token or certificate is not accepted any more" in str(
            sink.errors[0]
        )


async def test_plugin_is_run_again_when_its_token_is_refused(tmp_path: Path) -> None:
    tls = (certificates().cert, certificates().key)
    async with fake_kubernetes(tls=tls, tokens=["first"], ca=certificates().ca) as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        (tmp_path / "token").write_text("first")
        script = f'echo run >> {tmp_path}/runs; echo "{{\\"status\\": {{\\"token\\": \\"$(cat {tmp_path}/token)\\"}}}}"'
        document = json.loads(cluster.kubeconfig.read_text())
        document["users"][0]["user"] = {"exec": {"command": "sh", "args": ["-c", script]}}
        cluster.kubeconfig.write_text(json.dumps(document))
        async with followed(cluster.target("greeter")) as sink:
            await says(sink, "10.0.0.1:1")
            await watching(cluster)
            (tmp_path / "token").write_text("second")
            cluster.tokens = ["second"]
            cluster.end_watches()
            await until(lambda: cluster.asked[-1].authorization == "Bearer second")
        assert (tmp_path / "runs").read_text() == "run\nrun\n"
        assert not sink.errors


async def test_client_certificate_is_sent_and_the_server_name_verified(tmp_path: Path) -> None:
    made = certificates()
    async with fake_kubernetes(tls=(made.cert, made.key), ca=made.ca, client_ca=made.ca) as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        document = json.loads(cluster.kubeconfig.read_text())
        document["users"][0]["user"] = {
            "client-certificate": str(made.client_cert),
            "client-key": str(made.client_key),
        }
        document["clusters"][0]["cluster"]["tls-server-name"] = "api.test.example"
        cluster.kubeconfig.write_text(json.dumps(document))
        async with followed(cluster.target("greeter")) as sink:
            await says(sink, "10.0.0.1:1")
        document["clusters"][0]["cluster"]["tls-server-name"] = "elsewhere.example"
        cluster.kubeconfig.write_text(json.dumps(document))
        async with followed(cluster.target("greeter")) as sink:
            await until(lambda: sink.errors)
        assert "TLS failed: " in str(sink.errors[0])
        assert "is the CA in the kubeconfig, or in the pod, that of this server?" in str(sink.errors[0])


async def test_redirection_is_not_followed_with_the_token() -> None:
    async with fake_kubernetes() as cluster:
        cluster.fail(302, "list")
        async with followed(cluster.target("greeter")) as sink:
            await until(lambda: sink.errors)
        assert "redirections are not followed, as the token would go with them" in str(sink.errors[0])


async def test_kubeconfig_that_is_put_right_is_read_again(tmp_path: Path) -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.1:1")
        path = tmp_path / "config"
        async with followed(f"kubernetes:///greeter?kubeconfig={path}") as sink:
            await until(lambda: sink.errors)
            path.write_text("[")
            await until(lambda: "cannot be read" in str(sink.errors[-1]))
            path.write_text(cluster.kubeconfig.read_text())
            await says(sink, "10.0.0.1:1")
        assert f"nor {path}; name a kubeconfig" in str(sink.errors[0])


# The contract


@pytest.mark.parametrize("scheme", ["kubernetes", "k8s"])
async def test_resolver_keeps_the_rules(scheme: str) -> None:
    async with fake_kubernetes() as cluster:
        cluster.set("greeter", "10.0.0.2:1", "10.0.0.1:1", "10.0.0.3:2")

        @contextmanager
        def outage() -> Iterator[None]:
            cluster.fail(500)
            cluster.end_watches()
            yield
            cluster.heal()

        await check_resolver(
            cluster.target("greeter").replace("kubernetes", scheme, 1),
            expect=["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:2"],
            outage=outage,
            lookups=lambda: len(cluster.asked),
        )


def test_without_aiohttp_the_cure_is_said() -> None:
    code = """
    import sys
    sys.modules["aiohttp"] = None
    import lbkit
    try:
        lbkit.Channel("kubernetes:///greeter")
    except lbkit.errors.BrokenPluginError as error:
        print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30, check=False
    )
    assert "kubernetes targets need aiohttp: pip install 'lbkit[kubernetes]'" in done.stdout, done.stderr
