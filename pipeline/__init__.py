"""Modified-BP attributions through the alignment perspective (arXiv 2503.11160): reproduction pipeline and Python API.

Reading order: network.py (trace, record) -> rules.py -> walk.py (gradients, the loop, cascade substitution) -> metrics.py
-> weights.py, models.py, data.py, images.py -> experiments/ -> cell.py, store.py, runner.py -> parsing.py, cli.py, figures/.
"""

from pipeline.api import attribute, cascade, rule, trace
from pipeline.engine.network import Network
from pipeline.errors import UserError
from pipeline.measures.maps import alignment

__all__ = ["Network", "UserError", "alignment", "attribute", "cascade", "rule", "trace"]
