"""The report as one page of HTML: pure functions from data to text. Every number comes from the data."""

import shlex
from collections.abc import Iterable
from dataclasses import asdict
from string import Template

from pipeline.claims import fixed_text
from pipeline.report.claims import digits, findings, ledger
from pipeline.report.content import GALLERY, OUTPUT, Content, Drawn, Map, Origin
from pipeline.report.html import Html, data, fold, joined, scroll, tag, terms
from pipeline.report.words import HERE, readable, title, words

SECTIONS = {
    "method": "Method",
    "findings": "Findings",
    "ledger": "All claims",
    "figures": "Figures",
    "gallery": "Maps",
    "experience": "Easy and hard",
    "origin": "Provenance",
}


def page(content: Content) -> str:
    """The whole page."""
    sections = {
        "method": method(),
        "findings": findings(content),
        "ledger": ledger(content),
        "figures": figures(content),
        "gallery": gallery(content),
        "experience": experience(),
        "origin": provenance(content),
    }
    return Template((HERE / "template.html").read_text()).substitute(
        title=joined([words()["title"]]),
        scope=joined(tag("p", text) for text in [*words()["scope"], standing(content)]),
        nav=joined(tag("a", SECTIONS[name], href=f"#{name}") for name in sections),
        main=joined(
            tag(
                "section",
                tag("h2", SECTIONS[name], id=f"{name}-title"),
                *parts,
                id=name,
                aria_labelledby=f"{name}-title",
            )
            for name, parts in sections.items()
        ),
        style=(HERE / "style.css").read_text(),
        script=(HERE / "page.js").read_text(),
    )


def standing(content: Content) -> Html:
    """Which profile this is, and what that is worth."""
    return joined([tag("b", f"Profile {content.profile}. "), words()["profiles"].get(content.profile, "")])


def method() -> Iterable[Html]:
    yield terms(words()["terms"])


# ---- figures ---------------------------------------------------------------------------------------------------------


def figures(content: Content) -> Iterable[Html]:
    for one in content.figures:
        yield figure(one, content)
    for name, why in content.missing.items():
        if name != GALLERY:
            yield tag("p", tag("b", title(name)), f" is not here: {why.rstrip('.')}.", class_="missing")


def command(name: str, content: Content) -> str:
    """That makes a figure as it is here."""
    settings = " ".join(map(shlex.quote, content.settings))
    given = f" ARGS={shlex.quote(settings)}" if settings else ""
    return f"make {name} PROFILE={content.profile}{given}"


def figure(one: Drawn, content: Content) -> Html:
    download = [tag("a", f"{one.name}.csv", download=f"{one.name}.csv", href=one.csv)] if one.csv else []
    return tag(
        "figure",
        tag("h3", title(one.name)),
        scroll(title(one.name), tag("img", src=one.picture, alt=title(one.name), decoding="async"), card=True),
        tag("figcaption", readable(one.caption)),
        tag("p", tag("code", command(one.name, content)), *(joined([" ", link]) for link in download)),
        fold("Where it comes from", terms({"profile": content.profile, **origin(one.origin)}, "origin")),
        id=f"figure-{one.name}",
        class_="plot",
    )


# ---- the gallery -----------------------------------------------------------------------------------------------------


def gallery(content: Content) -> Iterable[Html]:
    if not content.maps:
        yield tag("p", content.missing.get(GALLERY, "No maps are there."), class_="missing")
        return
    first = content.maps[0]
    fields = {"image": "Image", "weights": "Weights", "rule": "Rule", "layer": "Starts from"}
    yield tag("p", words()["gallery"])
    yield tag(
        "form",
        *(tag("label", text, tag("select", id=f"choose-{field}")) for field, text in fields.items()),
        class_="controls",
        id="choose-map",
    )
    pictures = [
        tag(
            "figure", tag("img", id=f"shown-{what}", src=source, alt=alt), tag("figcaption", caption, id=f"{what}-text")
        )
        for what, source, alt, caption in (
            ("image", content.images[first.image], f"The image {first.image}", first.image),
            ("map", first.source, map_text(first), map_text(first)),
        )
    ]
    yield tag("div", *pictures, class_="pair", aria_live="polite")
    yield tag("noscript", tag("p", "Choosing another map needs JavaScript."))
    maps = [asdict(one) | {"text": map_text(one)} for one in content.maps]
    yield data("maps", {"images": dict(content.images), "maps": maps, "fields": [*fields]})


def map_text(one: Map) -> str:
    start = f", from {one.layer}" if one.layer != OUTPUT else ""
    return f"{one.rule}{start}, {one.network}: alignment {digits(one.alignment)}"


# ---- the rest --------------------------------------------------------------------------------------------------------


def experience() -> Iterable[Html]:
    for heading in ("easy", "hard"):
        yield tag("h3", f"What was {heading}")
        yield tag("ul", *(tag("li", text) for text in words()[heading]))


def provenance(content: Content) -> Iterable[Html]:
    yield tag("p", words()["origin"])
    yield terms({"profile": content.profile, "claims": fixed_text(), **origin(content.origin)}, "origin")


def origin(found: Origin) -> dict[str, str]:
    """In words."""
    return {
        "tables": ", ".join(f"{count} {name}" for name, count in found.tables.items()) or "none",
        "commit": ", ".join(found.commits) or "not known",
        "versions": ", ".join(f"{name} {' and '.join(each)}" for name, each in found.versions.items()) or "not known",
        "computed on": "; ".join(found.devices) or "not known",
    }
