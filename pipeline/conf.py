"""Where the yaml files are: conf/ of the checkout, or of the installed package; and rules by name for the Python API."""

from pathlib import Path

_installed, _checkout = Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf"
CONF = (_checkout if (_checkout / "config.yaml").is_file() else _installed).resolve()
