"""The claims on the report's page: the headlines, and the ledger of all of them. Numbers are those of the csv."""

from collections.abc import Iterable, Mapping

import numpy as np

from pipeline.claims import fixed_text
from pipeline.claims import ledger as fixed
from pipeline.claims.verdicts import FAILS, HOLDS, UNDECIDED
from pipeline.figures.claims import DESCRIBED, OPEN, estimate_text, target_text, worst
from pipeline.measures.tables import Table, where
from pipeline.report.content import Content, Drawn
from pipeline.report.html import Html, fold, joined, scroll, tag
from pipeline.report.words import title, words

MARKS = {HOLDS: "✓", FAILS: "✗", UNDECIDED: "?", DESCRIBED: "○", OPEN: "–"}  # verdicts, in the order of a sort
TAGS = {
    "P": "glimpsed in a pilot before it was fixed",
    "A": "the answer was known or suspected from algebra",
    "X": "exact: enumerated or searched, no interval",
    "L": "one law of the weights against another",
    "C": "our own control, not the paper's claim",
    "D": "a description, no verdict",
}
FILTER = "Fixed filter"  # the group that stands beside the ten headlines


# ---- the headlines ---------------------------------------------------------------------------------------------------


def findings(content: Content) -> Iterable[Html]:
    claims = content.claims
    if claims is None:
        yield absent("claims", content)
        return
    yield counts(claims)
    shown = {one.name: one for one in content.figures}
    for headline, name in words()["headlines"].items():
        chosen = where(claims, group=FILTER) if headline == FILTER else where(claims, headline=headline)
        if len(chosen):
            yield finding(headline, by_claim(chosen), by_claim(content.readings), name, shown.get(name))


def absent(name: str, content: Content) -> Html:
    why = content.missing.get(name, "it was not asked for")
    return tag("p", f"{name} is not drawn here: {why.rstrip('.')}.", class_="missing")


def by_claim(claims: Table | None) -> dict[str, Table]:
    """The rows of each claim, its parts, in order."""
    return {} if claims is None else {str(name): parts for name, parts in claims.groupby("claim", sort=False)}


def counts(claims: Table) -> Html:
    found = claims.drop_duplicates("claim")["verdict"].value_counts()
    items = (tag("li", badge(word), f" {found[word]}") for word in MARKS if word in found)
    return joined([tag("p", f"Of {found.sum()} claims ({fixed_text()}):"), tag("ul", *items, class_="counts")])


def badge(word: str, strict: bool = False) -> Html:
    """A verdict: word and mark, for colour alone tells nothing to some."""
    mark = tag("span", MARKS.get(word, "?"), aria_hidden="true")
    more = tag("abbr", "†", title="also where no false decision is allowed for: at 1 - .05 / m") if strict else ""
    return tag("span", mark, f" {word}", more, class_="badge", data_verdict=word)


def verdict(parts: Table) -> Html:
    return badge(parts["verdict"].iloc[0], bool(parts["strict"].iloc[0]))


def finding(
    headline: int | str, claims: Mapping[str, Table], readings: Mapping[str, Table], name: str, drawn: Drawn | None
) -> Html:
    """One of the headlines: its sentence, each claim's number and verdict, what would refute it, a thumbnail."""
    each = headline == FILTER  # which has no sentence that joins its claims
    sentence = "; ".join(parts["words"].iloc[0] for parts in claims.values())
    heading = [words()["filter"]] if each else [tag("span", headline, class_="nth"), upper(sentence)]
    lines = (
        tag("li", verdict(parts), " ", tag("code", claim), " ", *(own(claim, parts) if each else ()), *result(parts))
        for claim, parts in claims.items()
    )
    answers = [part for text in map(refuted, claims) if text for part in text.split("; ")]
    against = "" if each else "; ".join(dict.fromkeys(answers))
    folded = (
        tag("div", tag("h4", tag("code", claim)), *about(claim, parts, readings.get(claim)))
        for claim, parts in claims.items()
    )
    text = [
        tag("h3", *heading),
        tag("ul", *lines, class_="results"),
        tag("p", tag("b", "Refuted if: "), against, ".") if against else "",
        fold("What was asked, and every part", *folded),
    ]
    if drawn:
        image = tag("img", src=drawn.thumbnail, alt=f"The upper part of {title(name)}")
        picture = tag("a", image, href=f"#figure-{name}", class_="thumb")
    else:
        picture = tag("p", f"{name} is not drawn here.", class_="missing")
    return tag("article", tag("div", *text), picture, class_="finding")


def own(claim: str, parts: Table) -> list[object]:
    """A claim's own sentence, and what would refute it."""
    return [parts["words"].iloc[0], quiet(f" (refuted by {refuted(claim)})"), ": "]


def result(parts: Table) -> list[object]:
    """The number with its interval and target, of the part that is nearest to its target's wrong side."""
    if (row := worst(parts)) is None:
        return [quiet("no number yet")]
    which = quiet(f" ({row['part']}, the worst placed of {len(parts)} parts)") if len(parts) > 1 else ""
    return [tag("span", estimate_text(row), class_="number"), f", target {target_text(row) or 'none'}", which]


def refuted(claim: str) -> str:
    """What would refute it: the ledger's words, or of our own finds what would kill them."""
    known = fixed().get(claim)
    return (known.refuted if known else "") or words()["finds"].get(claim, {}).get("killer", "")


def about(claim: str, parts: Table, readings: Table | None) -> list[Html]:
    """What was asked, why it is no clearer, of our own finds what was tried against them, every part, and what other
    readings of the claim say."""
    row, find = parts.iloc[0], words()["finds"].get(claim, {})
    done = "was" if parts["estimate"].notna().any() else "is to be"
    lines = {
        "Number and target": row["number"],
        upper(row["verdict"]): row["why"],
        "Marked": "; ".join(TAGS[letter] for letter in row["tags"].split() if letter in TAGS),
        "What would kill it": find.get("killer"),
        f"What {done} tried": find.get("tried"),
    }
    return [
        *(tag("p", tag("b", f"{name}: "), text) for name, text in lines.items() if text),
        table_of(claim, parts),
    ] + ([] if readings is None else [matrix_of(claim, readings)])


def table_of(claim: str, parts: Table) -> Html:
    """Every part with its numbers, to four digits."""
    known = parts.dropna(subset="estimate")
    if known.empty:
        return tag("p", quiet("Nothing is computed for it so far."))
    heads = ("part", "number", "95 % interval", "interval of the decision", "target", "n")
    head = tag("tr", *(tag("th", text, scope="col") for text in heads))
    rows = []
    for _, row in known.iterrows():
        intervals = between(row["low"], row["high"]), between(row["decision_low"], row["decision_high"])
        cells = (digits(row["estimate"]), *intervals, target_text(row), row["n"])
        rows.append(tag("tr", tag("th", row["part"] or claim, scope="row"), *(tag("td", text) for text in cells)))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="parts")
    return scroll(f"The parts of {claim}", table)


def matrix_of(claim: str, readings: Table) -> Html:
    """The verdict in each other reading, with the number that is worst placed there."""
    head = tag("tr", *(tag("th", text, scope="col") for text in ("other reading", "verdict", "number", "target")))
    rows = []
    for name, parts in readings.groupby("reading", sort=False):
        row: Table = worst(parts)  # or None
        numbers = ("", "") if row is None else (f"{row['part']} {estimate_text(row)}", target_text(row))
        cells = (verdict(parts), *numbers)
        rows.append(tag("tr", tag("th", str(name), scope="row"), *(tag("td", cell) for cell in cells)))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="parts")
    return scroll(f"Other readings of {claim}", table)


def digits(value: float) -> str:
    return f"{value:.4g}"


def between(low: float, high: float) -> str:
    return "" if np.isnan(low) or low == high else f"{digits(low)} to {digits(high)}"


def quiet(text: str, more: str = "") -> Html:
    return tag("span", text, class_=f"quiet {more}".strip())


def upper(text: str) -> str:
    return text[:1].upper() + text[1:]


# ---- the ledger ------------------------------------------------------------------------------------------------------


def ledger(content: Content) -> Iterable[Html]:
    if content.claims is None:
        yield absent("claims", content)
        return
    claims = by_claim(content.claims)
    verdicts = [word for word in MARKS if word in set(content.claims["verdict"])]
    yield tag("p", words()["ledger"])
    yield tag(
        "form",
        tag("label", "Verdict", select("by-verdict", verdicts)),
        tag("label", "Group", select("by-group", content.claims["group"].unique())),
        tag("label", "Search", tag("input", type="search", id="by-text", autocomplete="off")),
        tag("output", f"{len(claims)} of {len(claims)} claims", id="shown-claims", aria_live="polite"),
        class_="controls",
        id="choose-claims",
    )
    heads = {"name": "Claim", "group": "Group", "number": "Our number", "": "Target", "verdict": "Verdict"}
    head = tag("thead", tag("tr", *(header(key, text) for key, text in heads.items())))
    readings = by_claim(content.readings)
    bodies = (entry(claim, parts, readings.get(claim), len(heads)) for claim, parts in claims.items())
    yield scroll("All claims", tag("table", head, *bodies, id="all-claims", class_="ledger"))


def select(identifier: str, options: Iterable[str]) -> Html:
    every = tag("option", "all", value="")
    return tag("select", every, *(tag("option", text, value=text) for text in options), id=identifier)


def header(key: str, text: str) -> Html:
    """Of a column; where it has a key, a button that sorts by it."""
    if not key:
        return tag("th", text, scope="col")
    return tag("th", tag("button", text, type="button", data_key=key), scope="col", aria_sort="none")


def entry(claim: str, parts: Table, readings: Table | None, columns: int) -> Html:
    """A claim: what the paper says, our number beside it, and folded below them everything else."""
    row = parts.iloc[0]
    placed: Table = worst(parts)  # or None
    place = row["place"] or ("our own" if "C" in row["tags"].split() else "")
    number, target, which = (
        ("", "", "") if placed is None else (estimate_text(placed), target_text(placed), placed["part"])
    )
    cells = [
        tag("th", tag("code", claim), f" {upper(row['words'])} ", quiet(place, "place"), scope="row"),
        tag("td", row["group"]),
        tag("td", tag("span", number, class_="number"), quiet(f" {which}") if len(parts) > 1 else ""),
        tag("td", target, class_="number"),
        tag("td", verdict(parts)),
    ]
    more = fold(f"{len(parts)} parts" if len(parts) > 1 else "details", *about(claim, parts, readings))
    return tag(
        "tbody",
        tag("tr", *cells),
        tag("tr", tag("td", more, colspan=columns), class_="more"),
        data_name=claim,
        data_group=row["group"],
        data_verdict=row["verdict"],
        data_rank=[*MARKS].index(row["verdict"]),
        data_number="" if placed is None else float(placed["estimate"]),
    )
