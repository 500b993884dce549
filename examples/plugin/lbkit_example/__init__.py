"""Plug-ins for lbkit: the resolver ``env`` and the policy ``sticky``. Nobody has to import them."""
