"""A Kubernetes API server for tests; see ``fake_kubernetes``."""

from lbkit.testing.fake_kubernetes.cluster import FakeKubernetes, Request, fake_kubernetes

__all__ = ["FakeKubernetes", "Request", "fake_kubernetes"]
