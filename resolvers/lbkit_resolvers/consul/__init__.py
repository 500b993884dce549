"""consul: the backends are the instances of a service in a Consul catalogue; and servers that register there."""

from lbkit_resolvers.consul.registrar import ConsulRegistrar
from lbkit_resolvers.consul.resolver import ConsulResolver

__all__ = ["ConsulRegistrar", "ConsulResolver"]
