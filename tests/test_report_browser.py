"""The report's page in a real browser, by its keyboard. `make test-browser`."""

import pytest

from pipeline.report.page import page
from tests.browser import Browser, program
from tests.test_report import content, planted

if program() is None:
    pytest.skip("no Chromium is installed; scripts/chromium.sh install does it", allow_module_level=True)

WIDE = "document.scrollingElement.scrollWidth"
SHOWN = "[...document.querySelectorAll('#all-claims > tbody:not([hidden])')].map((body) => body.dataset.name)"


@pytest.fixture(scope="module")
def chromium():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium, tmp_path):
    """With the page open at 1,280 px in light; whatever a test does, the console stays free of errors."""
    file = tmp_path / "index.html"
    file.write_text(page(content(planted(tmp_path))), encoding="utf-8")
    chromium.file = file
    chromium.errors.clear()
    chromium.requests.clear()
    chromium.open(file, 1280)
    chromium.run("localStorage.clear()")
    yield chromium
    assert chromium.errors == []
    assert all(url.startswith(("data:", file.as_uri())) for url in chromium.requests), "nothing is fetched"


def focus(browser: Browser, selector: str) -> None:
    browser.run(f"document.querySelector({selector!r}).focus()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_every_picture_is_there(browser, width, scheme):
    browser.open(browser.file, width, scheme)
    assert browser.run(WIDE) <= width
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert browser.run(WIDE) <= width, "with everything unfolded"
    sizes = browser.run("[...document.images].map((image) => image.naturalWidth)")
    assert len(sizes) == 5 and all(size > 0 for size in sizes), "two thumbnails, a figure, and two of the gallery"


def test_the_first_stop_of_the_keyboard_skips_to_the_content(browser):
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "skip"
    assert browser.run("document.activeElement.getBoundingClientRect().left >= 0"), "it shows"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == "main"


def test_the_ledger_sorts(browser):
    order = [
        "rise",
        "random>trained",
        "random>trained-bands",
        "specific",
        "prior-gauss",
        "filter-gap",
        "bd-asr",
        "gamma",
    ]
    assert browser.run(SHOWN) == order
    focus(browser, "#all-claims button[data-key=number]")
    browser.press("Enter")
    up = ["random>trained", "random>trained-bands", "rise", "filter-gap", "prior-gauss", "gamma", "specific", "bd-asr"]
    assert browser.run(SHOWN) == up
    heads = "[...document.querySelectorAll('#all-claims thead [aria-sort]')].map((head) => head.ariaSort)"
    assert browser.run(heads) == ["none", "none", "ascending", "none"]
    browser.press(" ")
    assert browser.run(SHOWN) == [*up[-2::-1], "bd-asr"], "what has no number stays last"
    assert browser.run(heads) == ["none", "none", "descending", "none"]
    focus(browser, "#all-claims button[data-key=name]")
    browser.press("Enter")
    assert browser.run(SHOWN) == sorted(order)
    focus(browser, "#all-claims button[data-key=verdict]")
    browser.press("Enter")
    assert browser.run(SHOWN)[-1] == "bd-asr" and browser.run(SHOWN)[-2] == "random>trained-bands"


def test_the_ledger_filters(browser):
    focus(browser, "#by-verdict")
    browser.press("ArrowDown", "ArrowDown")
    assert browser.run(SHOWN) == ["random>trained", "prior-gauss"]
    assert browser.run("document.getElementById('shown-claims').value") == "2 of 8 claims"
    focus(browser, "#by-text")
    browser.press(*"prior")
    assert browser.run(SHOWN) == ["prior-gauss"]
    browser.press("Enter")
    assert browser.run("location.search") == "", "the form is not sent"
    focus(browser, "#by-verdict")
    browser.press("ArrowUp", "ArrowUp")
    focus(browser, "#by-text")
    browser.run("document.activeElement.select()")
    browser.press(*"words of g")
    assert browser.run(SHOWN) == ["gamma"]
    browser.run("document.activeElement.select()")
    browser.press(" ")
    focus(browser, "#by-group")
    browser.press("ArrowDown", "ArrowDown")
    assert browser.run(SHOWN) == ["specific"]


def test_parts_unfold_by_the_keyboard(browser):
    focus(browser, "#all-claims summary")
    browser.press("Enter")
    assert browser.run("document.querySelector('#all-claims details').open") is True


def test_the_gallery_shows_what_is_chosen(browser):
    both = "[document.getElementById('shown-image'), document.getElementById('shown-map')].map((image) => image.src)"
    first = browser.run(both)
    focus(browser, "#choose-image")
    browser.press("ArrowDown")
    second = browser.run(both)
    assert second[0] != first[0] and browser.run("document.getElementById('shown-image').alt") == "The image two.png"
    focus(browser, "#choose-rule")
    browser.press("ArrowDown", "ArrowDown")
    assert browser.run("[...document.getElementById('choose-layer').options].map((one) => one.value)") == [
        "conv1",
        "conv2",
    ]
    focus(browser, "#choose-weights")
    browser.press("ArrowDown")
    focus(browser, "#choose-layer")
    browser.press("ArrowDown")
    assert browser.run(both)[1] not in (first[1], second[1])
    said = "Activation, from conv2, net trained: alignment 0.3"
    assert browser.run("document.getElementById('map-text').textContent") == said
    assert browser.run("document.getElementById('shown-map').alt") == said
    assert browser.run("document.getElementById('shown-map').naturalWidth") > 0


def test_dark_and_light(browser):
    paper = "getComputedStyle(document.body).backgroundColor"
    light = browser.run(paper)
    focus(browser, "#theme")
    browser.press(" ")
    assert browser.run("document.getElementById('theme').ariaPressed") == "true"
    dark = browser.run(paper)
    assert dark != light
    assert browser.run("getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(255, 255, 255)"
    browser.open(browser.file, 1280, "light")
    assert browser.run(paper) == dark, "it is remembered"
    focus(browser, "#theme")
    browser.press(" ")
    assert browser.run(paper) == light
    browser.run("localStorage.clear()")
    browser.open(browser.file, 1280, "dark")
    assert browser.run(paper) == dark, "as the reader's system has it"


def test_a_script_in_a_table_is_text(browser, tmp_path):
    claims = planted(tmp_path)
    claims["words"] = "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
    browser.file.write_text(page(content(claims)), encoding="utf-8")
    browser.open(browser.file, 1280)
    assert browser.run("window.broken") is None
    assert "<script>" in browser.run("document.getElementById('findings').textContent")
