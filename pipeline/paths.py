"""Where the files that come with the code are: conf/ of the checkout or of the installed package, and the shipped checkpoints."""

from pathlib import Path

_installed, _checkout = Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf"
CONF = (_checkout if (_checkout / "config.yaml").is_file() else _installed).resolve()
CHECKPOINTS = Path(__file__).parent / "checkpoints"
