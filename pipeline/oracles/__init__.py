"""Independent implementations to compare the engine with: peers (autograd, Captum, Zennit) and local (one step of a
rule at a few units of a layer of any size); checks.py says what is compared. Captum and Zennit are optional."""
