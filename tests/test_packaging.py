"""What is said twice about the package agrees: pyproject.toml, the oldest torch, conda, the citation and CI."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(file: str) -> dict:
    return yaml.safe_load((ROOT / file).read_text())


def test_the_oldest_torch_is_the_lower_end_of_the_range():
    lowest = dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in PROJECT["dependencies"] if ">=" in line)
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)\.\*$", (ROOT / ".ci" / "oldest.txt").read_text(), re.M))
    assert pins == {name: lowest[name] for name in ("torch", "torchvision")}


def test_conda_installs_the_package_itself():
    python, pip, installed = read("environment.yml")["dependencies"]
    assert python.startswith(f"python{PROJECT['requires-python']},") and pip == "pip"
    assert installed == {"pip": ["-e .[test,cluster]"]}


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = read("CITATION.cff")
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    (paper,) = citation["references"]
    assert f"{paper['title']} ({paper['identifiers'][0]['value'].replace(':', ' ')})" in PROJECT["description"]


def test_ci_runs_on_the_oldest_python_and_once_on_the_oldest_torch():
    job = read(".github/workflows/ci.yml")["jobs"]["run"]
    matrix = job["strategy"]["matrix"]
    assert matrix["python"][0] == PROJECT["requires-python"].removeprefix(">=")
    assert [row["torch"] for row in matrix["include"]] == ["oldest"] and "/.ci/oldest.txt" in job["env"][
        "PIP_CONSTRAINT"
    ]
    assert job["steps"][-1] == {"run": ".ci/run"}
