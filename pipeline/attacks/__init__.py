"""Backdoor attacks by name, each in a module of its own: settings, a frozen dataclass with `build`, and the Attack
(interface.py) that they build.

To add one: write such a module, enter it here, add conf/attack/<name>.yaml.
"""

from pipeline.attacks.badnet import BadNet
from pipeline.attacks.dynamic import Dynamic
from pipeline.attacks.inputaware import InputAware
from pipeline.attacks.interface import Clean
from pipeline.attacks.wanet import WaNet

ATTACKS: dict[str, type] = {
    "none": Clean,
    "badnet": BadNet,
    "dynamic": Dynamic,
    "inputaware": InputAware,
    "wanet": WaNet,
}
