"""The engine, which knows torch and nothing else of the program: network.py (trace, record) with lowering.py, rules.py, and
walk.py (the reverse walk, cascade substitution) over gradients.py."""
