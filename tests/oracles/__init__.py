"""Independent implementations to compare the engine with: peers (other libraries) and dense (slow and literal)."""
