"""The Python API, for a network of your own: trace it, explain with a rule, run a cascade."""

from collections.abc import Iterable
from enum import Enum
from typing import Any, get_type_hints

import pandas as pd
import yaml
from torch import Tensor

from pipeline.engine import walk
from pipeline.engine.network import Network, trace
from pipeline.engine.rules import RULES, Gbp, Rule
from pipeline.errors import UserError
from pipeline.files import CONF
from pipeline.measures.maps import alignment

__all__ = ["attribute", "cascade", "rule", "trace"]


def rule(name: str, **settings: Any) -> Rule:
    """A rule by name, with the settings of conf/rule/<name>.yaml where none are given: rule("lrp", first_layer="split").

    Raises UserError for a name or a setting that there is not, ValueError for a value out of range.
    """
    if name not in RULES:
        raise UserError(f"there is no rule '{name}'; choose one of {', '.join(RULES)}")
    values = {**(yaml.safe_load((CONF / "rule" / f"{name}.yaml").read_text()) or {}), **settings}
    cls = RULES[name]
    types = get_type_hints(cls)
    unknown = [key for key in values if key not in types]
    if unknown:
        raise UserError(f"the rule {name} has no setting '{unknown[0]}'; it has {', '.join(types) or 'none'}")
    convert = {k: t for k, t in types.items() if isinstance(t, type) and issubclass(t, Enum)}
    return cls(**{k: convert[k](v) if k in convert and not isinstance(v, Enum) else v for k, v in values.items()})


def attribute(
    network: Network,
    x: Tensor,
    by: str | Rule = "gbp",
    *,
    target: Tensor | None = None,
    bottom: bool = False,
    layer: int | None = None,
) -> Tensor:
    """The attribution map of each image, of x's shape (B, C, H, W).

    by: a rule or its name; target: (B,) classes to explain, by default the decisions; bottom: with the method's bottom
    process, as published (without it, maps are comparable: Table I's "W/O B"); layer: for "activation", the layer l whose
    A_l is sent down, with GBP below it. Raises UserError if the rule can't explain this network.
    """
    record = network.forward(x)
    if by == "activation":
        if layer is None or not 1 <= layer <= network.depth:
            raise UserError(f"the activation needs layer=l, a number from 1 to {network.depth}")
        return walk.walk(record, record.activation(layer), lambda _: Gbp(), top=layer)
    r = walk.attribute(record, rule(by) if isinstance(by, str) else by, target, bottom)
    if bool(r.isnan().any()):
        raise UserError("an explained class has logit 0, so relevance 1 has no gradient form; set start_at=logit")
    return r


def cascade(
    network: Network,
    x: Tensor,
    by: Iterable[str | Rule] = ("gbp", "rectgrad", "lrp", "activation"),
    *,
    target: Tensor | None = None,
) -> pd.DataFrame:
    """Input alignment (1) under cascade substitution (19): a row per rule, image (its position in x) and N = 0..L."""
    rules = [(r, rule(r)) if isinstance(r, str) else (type(r).__name__, r) for r in by]
    record = network.forward(x)
    rows = [
        {"rule": rules[i][0], "image": b, "n": n, "alignment": float(value)}
        for i, n, r in walk.cascade(record, [r for _, r in rules], target)
        for b, value in enumerate(alignment(r, record.x))
    ]
    return pd.DataFrame(rows).sort_values(["rule", "image", "n"], ignore_index=True)
