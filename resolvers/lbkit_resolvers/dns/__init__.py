"""dns: every address of a name is a backend."""

from lbkit_resolvers.dns.resolver import DnsResolver, System

__all__ = ["DnsResolver", "System"]
