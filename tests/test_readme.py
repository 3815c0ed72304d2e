"""The README's lines are run as they stand."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from pipeline.claims import ledger
from pipeline.measures.weights import isotropy
from pipeline.run.parsing import parse
from pipeline.weights.states import WEIGHTS
from scripts.blocks import written
from tests import tiny

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.S)


def test_the_api_example_runs():
    (code,) = [body for kind, body in BLOCKS if kind == "python" and body.startswith("import torch")]
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "rectgrad" in done.stdout


def test_the_example_for_quantus_and_captum_runs():
    for library in ("quantus", "captum"):
        pytest.importorskip(library, exc_type=ImportError)
    (code,) = [body for kind, body in BLOCKS if kind == "python" and body.startswith("import quantus")]
    assert len(code.splitlines()) < 15
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "original" in done.stdout and "tensor" in done.stdout


def additions() -> dict[str, list[tuple[str, str]]]:
    """{kind of addition: [(file, lines)]} from the section on adding, in order."""
    section = TEXT.split("## Adding to it")[1].split("\n## ")[0]
    found = {}
    for part in re.split(r"\n(?=An? [\w ]+, `python)", section):
        title = re.match(r"\s*An? ([\w ]+), `python -m pipeline (\S+)`", part)
        if title:
            found[title[2]] = [
                (re.match(r"# (\S+)\n", body)[1], body.split("\n", 1)[1])
                for _, body in re.findall(r"```(\w+)\n(.*?)```", part, re.S)
            ]
    return found


ADDITIONS = additions()


def test_there_are_four_kinds():
    assert [option.split("=")[0] for option in ADDITIONS] == ["rule", "weights", "data", "figure"]


@pytest.mark.parametrize("option", ADDITIONS)
def test_adding_as_the_readme_says(option, tmp_path):
    blocks = ADDITIONS[option]
    assert sum(len([line for line in body.splitlines() if line.strip()]) for _, body in blocks) < 15
    for name in ("pipeline", "conf", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for file, body in blocks:
        with open(tmp_path / file, "a") as f:
            f.write("\n\n" + body)
    images = tiny.images(tmp_path / "images")
    common = [
        "model=own",
        "model.call=tests.tiny:network",
        "model.resize=16",
        "model.crop=16",
        "run.device=cpu",
        "run.output=out",
    ]
    data = [] if option.startswith("data") else ["data=folder", f"data.root={images}"]
    command = [sys.executable, "-m", "pipeline", option, *common, *data]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / done.stdout.strip().splitlines()[-1]).is_file()


def test_the_isotropy_scores_are_measured_ones():
    """Of one layer of many neurons, to the two digits that the table shows."""
    found = re.findall(r"^\| `(\w+)` \| .* \| (-?[\d.]+) \| (-?[\d.]+) \|$", TEXT, re.M)
    shown = {name: (float(score), float(mean)) for name, score, mean in found}
    laws = [name for name, law in WEIGHTS.items() if getattr(law, "DRAWS", False)]
    assert set(shown) == set(laws)
    for name in laws:
        settings = yaml.safe_load((ROOT / "conf" / "weights" / f"{name}.yaml").read_text())
        law = parse(settings, WEIGHTS[name], name)
        measured = isotropy(law.draw(torch.Size((4000, 64, 3, 3)), 100, 1).flatten(1))
        np.testing.assert_allclose(measured, shown[name], atol=0.01, rtol=0.01, err_msg=name)


def test_the_findings_are_those_of_the_ledger():
    """README's block from the csv beside it, whose claims are those of ledger.yaml, word for word."""
    findings = runpy.run_path(str(ROOT / "scripts" / "findings.py"))
    kept = pd.read_csv(findings["KEPT"])
    assert written(TEXT, findings["MARKS"], findings["findings"](kept)) == TEXT, "run scripts/findings.py"
    one = kept.drop_duplicates("claim").set_index("claim")
    assert {*one.index} == {*ledger()}
    for name, claim in ledger().items():
        assert one.loc[name, "words"] == claim.claim and one.loc[name, "number"] == claim.number


def test_the_costs_are_those_measured():
    costs = runpy.run_path(str(ROOT / "scripts" / "costs.py"))
    kept = pd.read_csv(costs["KEPT"])
    assert written(TEXT, costs["MARKS"], costs["costs"](kept, costs["BENCHMARK"].read_text())) == TEXT, (
        "run scripts/costs.py"
    )
    inside = TEXT.split(costs["MARKS"][0])[1].split(costs["MARKS"][1])[0]
    outside = TEXT.replace(inside, "")
    assert not re.findall(r"\d+ (?:min|s|h)\b", outside), "a time that was typed"
    assert "make fig2" in inside and (kept["again"] <= kept["nothing"]).all()


def test_the_commands_are_make_targets():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "fig2" in listed
    for target in re.findall(r"^make (\w+)", "\n".join(body for kind, body in BLOCKS if kind == "sh"), re.M):
        assert f"make {target}" in listed or target in listed


def test_files_that_the_readme_names_are_there():
    for path in re.findall(r"\]\((?!http|#)([^)]+)\)", TEXT):
        assert (ROOT / path).is_file(), path
