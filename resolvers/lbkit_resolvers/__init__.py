"""The resolvers that ship with lbkit; each is found through the ``lbkit.resolvers`` entry points."""
