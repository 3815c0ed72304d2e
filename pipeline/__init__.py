"""Modified-BP attributions through the alignment perspective (arXiv 2503.11160): reproduction pipeline and Python API.

Reading order: engine/ (network.py: trace, record; rules.py; walk.py: the loop, cascade substitution) -> measures/ ->
networks/, weights/, images/ -> experiments/ -> run/ (cell.py, store.py, runner.py, parsing.py) -> cli.py, figures/.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.adapters import Attribution, explain_func
    from pipeline.api import attribute, cascade, explained_by_filter, rule, trace
    from pipeline.engine.network import Network
    from pipeline.errors import UserError
    from pipeline.measures.maps import alignment

__all__ = [
    "Attribution", "Network", "UserError", "alignment", "attribute", "cascade", "explain_func", "explained_by_filter",
    "rule", "trace",
]  # fmt: skip
_HOMES = {  # the others': api
    "Attribution": "adapters", "explain_func": "adapters", "Network": "engine.network", "UserError": "errors",
    "alignment": "measures.maps",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Public names are imported when they are asked for: torch takes seconds, and --help needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    return getattr(import_module(f"pipeline.{_HOMES.get(name, 'api')}"), name)
