"""Resolvers made of resolvers: fallback, merge, filter, debounce, last-good and guard."""

from lbkit_resolvers.combinators.cache import LastGood
from lbkit_resolvers.combinators.debounce import Debounce
from lbkit_resolvers.combinators.fallback import Fallback
from lbkit_resolvers.combinators.filter import Filter
from lbkit_resolvers.combinators.guard import Guard
from lbkit_resolvers.combinators.merge import Merge

__all__ = ["Debounce", "Fallback", "Filter", "Guard", "LastGood", "Merge"]
