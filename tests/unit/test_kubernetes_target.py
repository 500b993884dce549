"""The ways to write a ``kubernetes:`` target."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbkit.errors import TargetError
from lbkit.resolver import make_resolver
from lbkit.target import Target
from lbkit_resolvers.kubernetes.target import service_of

SCHEMES = {"kubernetes", "k8s"}


@pytest.mark.parametrize(
    ("text", "name", "namespace", "port", "authority"),
    [
        ("kubernetes:///greeter", "greeter", "", "", "greeter"),
        ("kubernetes:greeter:50051", "greeter", "", "50051", "greeter:50051"),
        ("kubernetes:///greeter.shop", "greeter", "shop", "", "greeter.shop"),
        ("kubernetes:///greeter.shop:50051", "greeter", "shop", "50051", "greeter.shop:50051"),
        ("kubernetes:///greeter.shop:grpc", "greeter", "shop", "grpc", "greeter.shop"),
        ("kubernetes:///greeter.shop.svc", "greeter", "shop", "", "greeter.shop.svc"),
        (
            "kubernetes:///greeter.shop.svc.cluster.local:50051",
            "greeter",
            "shop",
            "50051",
            "greeter.shop.svc.cluster.local:50051",
        ),
        ("kubernetes://shop/greeter:grpc", "greeter", "shop", "grpc", "greeter.shop"),
        ("kubernetes://shop/greeter:80", "greeter", "shop", "80", "greeter.shop:80"),
        ("kubernetes://shop/greeter.shop", "greeter", "shop", "", "greeter.shop"),
        ("kubernetes://greeter.shop:50051/", "greeter", "shop", "50051", "greeter.shop:50051"),
        ("kubernetes://greeter.shop:grpc", "greeter", "shop", "grpc", "greeter.shop"),
        ("k8s:///greeter.shop:grpc", "greeter", "shop", "grpc", "greeter.shop"),
        ("k8s:///1-is-a-name-too", "1-is-a-name-too", "", "", "1-is-a-name-too"),
    ],
)
def test_every_form_is_read(text: str, name: str, namespace: str, port: str, authority: str) -> None:
    service = service_of(Target.parse(text, SCHEMES))
    assert (service.name, service.namespace, service.port) == (name, namespace, port)
    assert make_resolver(text).authority == authority


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("kubernetes:///", "names no service; write kubernetes:///service.namespace:port"),
        ("kubernetes:///:80", "names no service"),
        ("kubernetes:///.shop", "names no service"),
        ("kubernetes:///greeter.shop.cluster.local", "is no name of a service; write kubernetes:///"),
        ("kubernetes:///10.0.0.1:80", "'10.0.0.1' is no name of a service"),
        ("kubernetes://shop/greeter.mall", "names two namespaces, 'shop' and 'mall'"),
        ("kubernetes://Shop/greeter", "'Shop' cannot be the name of a namespace"),
        ("kubernetes:///gree_ter", "'gree_ter' cannot be the name of a service"),
        ("kubernetes:///-greeter", "no '-' at its ends"),
        ("kubernetes:///greeter-", "no '-' at its ends"),
        (f"kubernetes:///{'a' * 64}", "up to 63"),
        ("kubernetes:///shop/greeter", "'shop/greeter' cannot be the name of a service"),
        ("kubernetes:///greeter:", "neither a port nor a port's name; leave out the colon"),
        ("kubernetes:///greeter:0", "port 0 is not between 1 and 65535"),
        ("kubernetes:///greeter:65536", "port 65536 is not between 1 and 65535"),
        ("kubernetes:///greeter:GRPC", "'GRPC' is neither a port nor a port's name"),
        ("kubernetes:///a:b:c", "'b:c' is neither a port nor a port's name"),
        ("kubernetes:///greeter?kubeconfg=/x", "has no parameter 'kubeconfg'. Did you mean 'kubeconfig'?"),
        ("k8s:///greeter?contxt=x", "Did you mean 'context'?"),
        ("kubernetes:///greeter?resync=soon", "resync=soon is no duration"),
        ("kubernetes:///greeter?resync=10ms", "resync=10ms is not between 1 s and a day"),
    ],
)
def test_bad_target_says_the_cure(text: str, cure: str) -> None:
    with pytest.raises(TargetError) as caught:
        make_resolver(text)
    assert cure in str(caught.value)


@settings(max_examples=300)
@given(st.text(alphabet="abz019-.:/%?[]@ÄA_", max_size=30))
def test_any_text_is_a_service_or_a_target_error(text: str) -> None:
    try:
        service = service_of(Target.parse(f"kubernetes://{text}", SCHEMES))
    except TargetError:
        return
    assert 0 < len(service.name) < 64
