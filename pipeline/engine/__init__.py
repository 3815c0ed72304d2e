"""The engine, which knows torch and nothing else of the program: graph.py and lowering.py (an nn.Module as operations),
network.py (trace, record), gradients.py (the gradient of each operation), place.py and rules.py, walk.py (the reverse
walk, cascade substitution)."""
