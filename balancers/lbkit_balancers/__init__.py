"""The balancing policies that ship with lbkit; each is found through the ``lbkit.balancers`` entry points."""
