"""kubernetes: the ready pods behind a Service, from its EndpointSlices. Needs ``lbkit[kubernetes]``."""

from lbkit_resolvers.kubernetes.config import System
from lbkit_resolvers.kubernetes.resolver import KubernetesResolver
from lbkit_resolvers.kubernetes.watching import Timing

__all__ = ["KubernetesResolver", "System", "Timing"]
