"""Independent implementations to compare the engine with: peers (autograd, Captum, Zennit), dense (the paper's rules as loops
over small matrices), local (one step of a rule at a few units of a layer of any size). Captum and Zennit are optional."""
