"""The report: its page from planted data, and the command on the tiny network."""

import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import yaml
from PIL import Image

from pipeline.claims import ledger
from pipeline.figures.claims import COLUMNS
from pipeline.files import CONF
from pipeline.report.claims import FILTER
from pipeline.report.content import OUTPUT, Content, Drawn, Map, Origin
from pipeline.report.page import page
from pipeline.report.pictures import pixels_uri
from pipeline.report.words import HERE, words
from pipeline.run.reported import claims_of
from tests import tiny

BAD = '<script>alert("x")</script> & </script>'
STARTS = (("GBP", OUTPUT), ("LRP", OUTPUT), ("Activation", "conv1"), ("Activation", "conv2"))
ORIGIN = Origin({"cascade": 42}, ["0123456789ab"], {"torch": ["2.1"]}, ["x86_64, float32"])


class Cells(HTMLParser):
    """Texts of the cells of each table's rows, by the label of the box that a table stands in; and all that is text."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.boxes: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.attributes.append((tag, given))
        if tag not in ("img", "input", "meta", "link"):
            self.open.append(tag)
        if tag == "div":
            self.boxes.append(given.get("aria-label") or "")
        if tag == "tr":
            self.rows.setdefault(self.boxes[-1], []).append([])
        if tag in ("td", "th"):
            self.rows[self.boxes[-1]][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "elements are nested"
        if tag == "div":
            self.boxes.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)
            if {"td", "th"} & {*self.open} and self.rows.get(self.boxes[-1]):
                self.rows[self.boxes[-1]][-1][-1] += data


def rows(
    claim: str,
    verdict: str,
    headline: int,
    parts: list[tuple],
    group: str = "Headline",
    tags: str = "P",
    reading: str = "",
) -> list:
    """parts: name, estimate, half of the interval, target."""
    about = [
        claim,
        reading,
        group,
        headline,
        "Fig 2a",
        f"words of {claim}",
        "α ≥ .05",
        tags,
        verdict,
        "",
        verdict == "holds",
    ]
    return [
        [*about, name, y, y - half, y + half, y - 1.2 * half, y + 1.2 * half, low, high, "20 images x 10 seeds"]
        for name, y, half, (low, high) in parts
    ]


def planted(tmp_path) -> pd.DataFrame:
    """Claims as they come from a csv."""
    least, most = (0.05, np.inf), (-np.inf, 0.9)
    given = [
        *rows("rise", "holds", 1, [("gbp", 0.31415926, 0.02, least), ("lrp", 0.27182818, 0.03, least)]),
        *rows("random>trained", "does not hold", 2, [("gbp", -0.0123456, 0.001, least)]),
        *rows("random>trained-bands", "not decided", 2, [("b", 0.055, 0.01, least)], tags="P C"),
        *rows("specific", "holds", 0, [("own", 12.3456, 0.5, least)], "Maps", "C"),
        *rows("prior-gauss", "does not hold", 0, [("gbp", 0.95, 0.01, most)], "Cascade and weights"),
        *rows("filter-gap", "holds", 0, [("gbp", 1e-9, 1e-10, most), ("lrp", 0.5, 0.01, most)], FILTER, "P C"),
        *rows("bd-asr", "not computed", 0, [("", np.nan, np.nan, (np.nan, np.nan))], "Backdoors"),
        *rows("gamma", "holds", 0, [("lrp", 2.0, 0.0, least)], "Theory"),
    ]  # fmt: skip
    pd.DataFrame(given, columns=COLUMNS).assign(level=0.97).to_csv(tmp_path / "claims.csv", index=False)
    return claims_of(tmp_path / "claims.csv")


def picture(shade: int, side: int = 8) -> str:
    return pixels_uri(Image.new("RGB", (side, side), (shade, 90, 200 - shade)))


def content(claims: pd.DataFrame | None, name: str = "fig2") -> Content:
    wide = picture(10, 900)
    maps = [
        Map(image, weights, rule, layer, f"net {weights}", 0.1 * i, picture(20 + i))
        for image in ("one.png", "two.png")
        for weights in ("random", "trained")
        for i, (rule, layer) in enumerate(STARTS)
    ]  # fmt: skip
    images = {"one.png": picture(120), "two.png": picture(130)}
    figures = [Drawn(name, r"a caption, $\alpha$", wide, picture(40), "data:text/csv;base64,YSxi", ORIGIN)]
    return Content("demo", figures, {"fig9": "profile=demo lends it no networks."}, claims, images, maps, ORIGIN)


def test_numbers_are_the_csvs(tmp_path):
    claims = planted(tmp_path)
    found = Cells(page(content(claims)))
    known = claims.dropna(subset="estimate")
    for claim, parts in known.groupby("claim"):
        shown = found.rows[f"The parts of {claim}"]
        shown = [row for row in shown if row[0] != "part"]
        times = 2 if claim in ("rise", "random>trained", "random>trained-bands", "filter-gap") else 1
        assert len(shown) == times * len(parts), "in the ledger, and among the findings"
        for row, (_, part) in zip(shown, pd.concat([parts] * times).iterrows(), strict=True):
            assert row[0] == part["part"] and row[5] == part["n"]
            assert float(row[1]) == pytest.approx(part["estimate"], rel=1e-3)
            for text, ends in ((row[2], ("low", "high")), (row[3], ("decision_low", "decision_high"))):
                if part["low"] == part["high"]:
                    assert text == ""
                else:
                    assert [float(end) for end in text.split(" to ")] == pytest.approx(list(part[[*ends]]), rel=1e-3)
    overview = {row[0].split(" ")[0]: row for row in found.rows["All claims"] if len(row) == 5 and row[0] != "Claim"}
    assert {*overview} == {*claims["claim"]}
    assert overview["rise"][2:] == ["0.27 [0.24, 0.30] lrp", "≥ 0.05", "✓ holds†"], (
        "the part that is nearest to failing"
    )
    assert overview["filter-gap"][2:4] == ["0.50 [0.49, 0.51] lrp", "≤ 0.9"]
    assert overview["gamma"][2] == "2.00" and overview["bd-asr"][2:] == ["", "", "– not computed"]
    numbers = {a["data-name"]: a["data-number"] for tag, a in found.attributes if tag == "tbody" and "data-name" in a}
    assert float(numbers["prior-gauss"]) == 0.95 and float(numbers["rise"]) == 0.27182818 and numbers["bd-asr"] == ""
    text = " ".join("".join(found.texts).split())
    for what in (
        "Of 8 claims", "✓ holds 4", "✗ does not hold 2", "? not decided 1", "0.27 [0.24, 0.30], target ≥ 0.05",
        "Refuted if: one of the curves is flat or falls.", "Words of random>trained; words of random>trained-bands",
    ):  # fmt: skip
        assert what in text, what


def test_our_own_finds_say_what_would_kill_them(tmp_path):
    text = " ".join("".join(Cells(page(content(planted(tmp_path)))).texts).split())
    for find in ("specific", "filter-gap"):
        assert f"What would kill it: {words()['finds'][find]['killer']}" in text
        assert f"What was tried: {words()['finds'][find]['tried']}" in text
    own = {name for name, claim in ledger().items() if "C" in claim.tags.split()}
    assert {*words()["finds"]} == own, "pipeline/report/words.yaml has an entry for each claim with the tag C"


def test_the_words_name_what_there_is():
    figures = {file.stem for file in (CONF / "figure").glob("*.yaml")} - {"all"}
    assert figures <= {*words()["figures"]}
    assert {*words()["headlines"].values()} <= {*words()["figures"]}
    assert [*words()["headlines"]] == [*range(1, 11), FILTER]
    assert {*words()["profiles"]} == {file.stem for file in (CONF / "profile").glob("*.yaml")}
    assert FILTER in {claim.group for claim in ledger().values()}
    for text in [*words()["easy"], *words()["hard"]]:
        assert not re.search(r"\d*\.\d|\d+ %", text), "results come from tables"


def test_nothing_from_a_table_is_markup(tmp_path):
    claims = planted(tmp_path)
    for column in ("words", "number", "why", "part", "place", "n"):
        claims[column] = BAD
    given = content(claims)
    bad = Content(
        BAD, [Drawn("fig2", BAD, *("data:,",) * 3, Origin({BAD: 1}, [BAD], {BAD: [BAD]}, [BAD]))], {"fig9": BAD},
        claims, {BAD: "data:,"}, [Map(BAD, BAD, BAD, BAD, BAD, 0.5, "data:,")], given.origin,
    )  # fmt: skip
    text = page(bad)
    assert "<script>alert" not in text and text.count("</script>") == 2 and "&lt;script&gt;alert" in text
    Cells(text)


def test_other_readings_stand_beside_the_claim(tmp_path):
    claims = planted(tmp_path)
    other = rows("rise", "does not hold", 1, [("gbp", -0.2, 0.01, (0.05, np.inf))], reading="R from 0 to 1")
    readings = pd.DataFrame(other, columns=COLUMNS)
    found = Cells(page(replace(content(claims), readings=readings))).rows["Other readings of rise"]
    assert [row for row in found if row[0] != "other reading"] == [
        ["R from 0 to 1", "✗ does not hold", "gbp -0.20 [-0.21, -0.19]", "≥ 0.05"]
    ] * 2
    assert "Other readings of rise" not in Cells(page(content(claims))).rows


def test_what_is_missing_is_said_in_a_sentence():
    text = " ".join(Cells(page(content(None))).texts)
    assert "is not here: profile=demo lends it no networks." in " ".join(text.split())
    assert "claims is not drawn here: it was not asked for." in text
    empty = Content("demo", [], {"claims": "no disk.", "gallery": "no maps"}, None, {}, [], ORIGIN)
    text = " ".join(" ".join(Cells(page(empty)).texts).split())
    assert "claims is not drawn here: no disk." in text and "no maps" in text


def test_the_page_is_one_file_and_the_same_again(tmp_path):
    claims = planted(tmp_path)
    text = page(content(claims))
    assert text == page(content(claims_of(tmp_path / "claims.csv")))
    found = Cells(text)
    for tag, given in found.attributes:
        for name in ("src", "href"):
            assert re.match(r"data:|#", given.get(name) or "#"), (tag, given)
        assert tag != "img" or given["alt"]
    places = [given["id"] for _, given in found.attributes if "id" in given]
    assert len(places) == len({*places})
    assert {given["href"][1:] for _, given in found.attributes if (given.get("href") or "").startswith("#")} <= {
        *places
    }
    assert not re.search(r"https?:", text.replace("https://www.w3.org", ""))
    for file in ("style.css", "page.js", "template.html"):
        assert "url(" not in (HERE / file).read_text() and "@import" not in (HERE / file).read_text()


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def report(run, tmp_path):
    """The command on the tiny network, whose profile lends Fig. 9 none."""
    file = tmp_path / "net.safetensors"
    safetensors.torch.save_file(tiny.network().state_dict(), file)
    trained = f"{{weights: checkpoint, weights.path: {file}}}"
    given = [
        *tiny.OWN, "data=folder", f"data.root={tiny.images(tmp_path / 'images', count=3)}", f"checkpoint.path={file}",
        f"profile.trained={trained}", f"++profile.pictures.trained={trained}",
        "profile.backdoors.attacked=[]", "profile.backdoors.clean=[]", "rectgrad.quantile=0.5",
    ]  # fmt: skip
    return lambda *more: run("report", *given, *more)


def test_the_command_draws_what_is_missing_and_says_what_it_can_not(report, run, tmp_path):
    ended = report("report.figures=[fig1,fig9]")
    assert ended.code == 0, ended.err
    assert ended.made == [tmp_path / "outputs" / "report" / "index.html"]
    assert "left out of the report: fig9: figure=fig9 has nothing for its sweep" in ended.err
    text = ended.made[0].read_text()
    found = Cells(text)
    assert "lends it no networks" in " ".join(found.texts) and "make fig1 PROFILE=demo" in " ".join(found.texts)
    assert any(text.startswith("One network of") and "(here demo)" in text for text in found.texts), "the caption"
    given = yaml.safe_load(re.search(r'id="maps">(.*?)</script>', text)[1])
    assert [*given["images"]] == [f"image{i:03d}.png" for i in range(3)]
    assert {one["weights"] for one in given["maps"]} == {"random", "trained"}
    assert len(given["maps"]) == 3 * 2 * (4 + 2), "images, weights, and four rules and two layers of the activation"
    table = pd.concat(
        [
            pd.read_parquet(path).assign(
                rule=yaml.safe_load((path.parent / "config.yaml").read_text())["rule"]["choice"]
            )
            for path in (tmp_path / "outputs").glob("results/attribute/*/table.parquet")
        ]
    )
    gbp = {round(one["alignment"], 12) for one in given["maps"] if one["rule"] == "GBP"}
    assert gbp == set(table.loc[table["rule"] == "gbp", "alignment"].round(12))

    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "outputs").rglob("*.p*") if path.is_file()}
    again = report("report.figures=[fig1,fig9]")
    assert again.made[0].read_text() == text and stamps == {path: path.stat().st_mtime_ns for path in stamps}
    there = report("report.figures=[]")
    assert there.code == 0 and there.err.count("left out") == 0, there.err
    assert there.made[0].read_text().count('class="plot"') == 1
    command = next(text for text in found.texts if text.startswith("make fig1"))
    told = shlex.split(command)
    assert told[:3] == ["make", "fig1", "PROFILE=demo"] and told[3].startswith("ARGS=model=own ")
    assert "rectgrad.quantile=0.5" in shlex.split(told[3]) and "report" not in command and "run.output" not in command
    other = run("report", "report.figures=[]", "profile=laptop").made[0].read_text()
    assert 'class="plot"' not in other and "of another profile, other settings or an older version" in other
    assert "there is no figure 'fig99'" in report("report.figures=[fig99]").complaint
    assert "leave figure=... out" in report("figure=fig2").complaint
