"""file: the backends stand in a JSON file, which is watched."""

from lbkit_resolvers.file.resolver import FileResolver

__all__ = ["FileResolver"]
