"""Elements of HTML: what is no Html is escaped, so that nothing from a table or a file is ever markup."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

VOID = ("img", "input")


class Html(str):
    """Text that is HTML already."""


def tag(name: str, *inner: object, **attributes: object) -> Html:
    """<name attributes>inner</name>. class_ is class, data_x data-x; None and False leave an attribute out, True gives
    it no value."""
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{given}>" if name in VOID else f"<{name}{given}>{joined(inner)}</{name}>")


def joined(parts: Any) -> Html:
    return Html("".join(part if isinstance(part, Html) else escape(str(part)) for part in parts))


def data(identifier: str, value: Any) -> Html:
    """Plain data for a script, as JSON that ends no element."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{escape(identifier)}">{text}</script>')


def fold(summary: str, *inner: object) -> Html:
    return tag("details", tag("summary", summary), *inner)


def scroll(label: str, *inner: object, card: bool = False) -> Html:
    """What may be wider than the page, in a box of its own that the keyboard reaches."""
    return tag("div", *inner, class_="scroll card" if card else "scroll", tabindex=0, role="region", aria_label=label)


def terms(found: Mapping[str, object], class_: str | None = None) -> Html:
    return tag("dl", *(joined([tag("dt", term), tag("dd", text)]) for term, text in found.items()), class_=class_)
