"""A registry in memory that speaks etcd v3: for development, demonstrations and tests, where production has an etcd.

``lbkit registry`` runs one, ``lbkit.testing.registry()`` gives one to a test. docs/registry.md says what it has, and where it
differs from etcd.
"""

from lbkit.registry.registry import Registry

__all__ = ["Registry"]
