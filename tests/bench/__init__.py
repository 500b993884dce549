"""Side-by-side benchmarks of lbkit and its peers: ``python -m tests.bench``."""
