"""Standard services, built on the public server API: each is a module, added to a server by a function of its own."""
