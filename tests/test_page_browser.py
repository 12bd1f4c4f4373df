"""The report page in a headless Chromium: open, filter, click; nothing is fetched or complained of.

Needs Chromium and the package playwright (in the extra `dev`); skipped where either is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import pytest

from tagger import bundle
from tagger.bundle import Bundle
from tagger.page import TEMPLATES
from tagger.tasks import Task

from .conftest import MakeCatalog, Row, random_titles, save_tiny, tiny_config
from .test_page import (
    NAMES,
    calibrated,
    hostile,
    hostile_catalog,
    labelled_rows,
    of_a_tree,
    written,
)

__all__ = ["hostile", "hostile_catalog"]  # fixtures

if TYPE_CHECKING:
    from playwright import sync_api
else:
    sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")

OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
Scheme = Literal["light", "dark"]
PAIR = ("given", "said", "choose")
SHOWN = "section.task:not([hidden]) .card:not([hidden])"


@dataclass
class Opened:
    """A page in the browser, what it said on the console, and what it asked for."""

    page: sync_api.Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def choose(self, **fields: str) -> list[dict[str, str]]:
        """Fill in the filter; returns the attributes of the cards that are left."""
        for name, value in fields.items():
            if name == "label":
                self.page.fill("input[name=label]", value)
            else:
                self.page.select_option(f"select[name={name}]", value)
        return self.shown()

    def shown(self) -> list[dict[str, str]]:
        found = self.page.eval_on_selector_all(
            SHOWN,
            "cards => cards.map(c => ({...c.dataset, task: c.closest('section').dataset.task}))",
        )
        count = f"{len(found)} {'answer' if len(found) == 1 else 'answers'} shown"
        assert self.page.text_content("output") == count
        return list(found)


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        yield browser
        browser.close()


def show(
    browser: sync_api.Browser, text: str, folder: Path, width: int = 1200, scheme: Scheme = "light"
) -> Opened:
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    viewport: sync_api.ViewportSize = {"width": width, "height": 800}
    opened = Opened(browser.new_page(viewport=viewport, color_scheme=scheme))
    page = opened.page
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(path.as_uri())
    return opened


@pytest.fixture
def opened(
    browser: sync_api.Browser, tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> Iterator[Opened]:
    catalog = make_catalog(labelled_rows(tmp_path, 120))
    opened = show(browser, written(tiny, catalog), tmp_path)
    yield opened
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [
        opened.page.url.split("#")[0]
    ]
    opened.page.close()


def test_filters_leave_what_they_name(opened: Opened) -> None:
    everything = opened.shown()
    assert {card["task"] for card in everything} == set(NAMES)
    assert {card["task"] for card in opened.choose(task="color")} == {"color"}
    doubtful = opened.choose(kind="most doubtful")
    assert doubtful
    assert all("most doubtful" in card["kinds"].split("|") for card in doubtful)
    red = opened.choose(kind="", label="rED")
    assert red
    assert all("Red" in (card["given"], card["said"]) for card in red)
    assert opened.choose(label="no such label") == []
    assert opened.page.is_visible("section.task:not([hidden]) .nothing")
    opened.page.click("button[type=reset]")
    opened.page.wait_for_timeout(50)
    assert opened.shown() == everything


def test_number_in_the_matrix_shows_products_of_that_pair(opened: Opened) -> None:
    buttons = opened.page.locator(".matrix button")
    assert buttons.count() > 0
    for button in buttons.all():
        opened.choose(task="", kind="surest error")
        given, said, task = (button.get_attribute(f"data-{name}") for name in PAIR)
        button.click()
        assert opened.page.input_value("input[name=label]") == f"{given} → {said}"
        assert opened.page.input_value("select[name=kind]") == ""
        cards = opened.shown()
        assert cards
        assert {(c["given"], c["said"], c["task"]) for c in cards} == {(given, said, task)}
        assert opened.page.evaluate("document.activeElement.className") == "cards"


def test_pair_in_the_label_field_is_taken_to_the_letter(opened: Opened) -> None:
    card = next(card for card in opened.shown() if card["given"] != card["said"])
    pair = f"{card['given']} → {card['said']}"
    assert card in opened.choose(label=pair)
    assert opened.choose(label=pair.lower()) == []
    assert opened.choose(label=pair[:-1]) == []


def test_pairs_of_labels_with_arrows_are_told_apart(
    browser: sync_api.Browser, tmp_path: Path
) -> None:
    """As text, unescaped, all these pairs are the same."""
    pairs = [("a", "b → c"), ("a → b", "c"), ("a\\", "b → c"), ("a\\ → b", "c")]
    shown = [browsed(browser, tmp_path, pairs, pair) for pair in pairs]
    assert shown == [[list(pair)] for pair in pairs]


def browsed(
    browser: sync_api.Browser,
    folder: Path,
    pairs: Sequence[tuple[str, str]],
    wanted: tuple[str, str],
) -> list[list[str]]:
    """The pairs of the cards that the script shows for the number of the pair `wanted`."""
    page = browser.new_page()
    card = '<div class="card" data-kinds="" data-status="" data-given="{}" data-said="{}"></div>'
    button = '<button data-choose="t" data-given="{}" data-said="{}">1</button>'
    page.set_content(
        '<form id="filters"><select name="task"><option value=""><option>t</select>'
        '<input type="search" name="label"><select name="kind"></select>'
        '<select name="status"></select><output name="count"></output></form>'
        f'<section class="task" data-task="t"><h2>t</h2>{button.format(*wanted)}'
        f'<div class="cards">{"".join(card.format(*pair) for pair in pairs)}</div>'
        '<p class="nothing"></p></section>'
    )
    page.add_script_tag(content=(TEMPLATES / "report.js").read_text(encoding="utf-8"))
    page.click("button")
    found = page.eval_on_selector_all(
        ".card:not([hidden])", "cards => cards.map(c => [c.dataset.given, c.dataset.said])"
    )
    page.close()
    return list(found)


def test_one_map_at_a_time_lies_on_the_picture(opened: Opened) -> None:
    card = opened.page.locator(".card:has(.attended)").first
    for name in ("evidence", "attended", ""):
        card.locator(f"[data-map='{name}']").click()
        visible = [m for m in ("evidence", "attended") if card.locator(f"img.{m}").is_visible()]
        assert visible == ([name] if name else [])
        pressed = card.locator("[aria-pressed=true]")
        assert pressed.count() == 1
        assert pressed.get_attribute("data-map") == name


def test_task_in_the_overview_leads_to_its_part(opened: Opened) -> None:
    opened.page.click("#overview button[data-choose=pattern]")
    assert {card["task"] for card in opened.shown()} == {"pattern"}
    assert opened.page.locator("section.task:not([hidden])").count() == 1


def test_chosen_task_has_the_focus(opened: Opened) -> None:
    opened.page.click("#overview button[data-choose=pattern]")
    focused = opened.page.evaluate(
        "[document.activeElement.tagName, document.activeElement.innerText]"
    )
    assert focused == ["H2", "pattern"]


def test_first_tab_leads_to_the_filters(opened: Opened) -> None:
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.className") == "skip"
    assert opened.page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    opened.page.keyboard.press("Enter")
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.name") == "task"


def test_buttons_of_a_phone_are_high_enough(
    browser: sync_api.Browser, tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    text = written(tiny, make_catalog(labelled_rows(tmp_path, 40)))
    opened = show(browser, text, tmp_path, width=375)
    heights = opened.page.eval_on_selector_all(
        "button, select, input", "all => all.map(one => one.getBoundingClientRect().height)"
    )
    assert len(heights) > 10
    assert min(heights) >= 28
    opened.page.close()


def test_print_has_no_filters_and_no_cut_cards(opened: Opened) -> None:
    opened.page.emulate_media(media="print")
    for hidden in ("#filters", ".skip", ".maps"):
        assert not opened.page.locator(hidden).first.is_visible()
    card = opened.page.locator(".card").first
    assert card.is_visible()
    assert card.evaluate("card => getComputedStyle(card).breakInside") == "avoid"
    sticky = "all => all.filter(e => getComputedStyle(e).position === 'sticky').length"
    assert opened.page.eval_on_selector_all("body *", sticky) == 0


CONTRASTS = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const over = (colors) => {
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (color) => color.map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (element.closest("script, style") || !(own || element.matches("input"))) continue;
    const style = getComputedStyle(element, element.matches("input") ? "::placeholder" : null);
    const grounds = [];
    for (let e = element; e; e = e.parentElement) {
      grounds.unshift(getComputedStyle(e).backgroundColor);
    }
    const ground = ["white", ...grounds];
    const ink = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [over([...ground, ink]), over(ground)].map(luminance).sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.tagName + "." + element.getAttribute("class")]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(
    browser: sync_api.Browser,
    make_catalog: MakeCatalog,
    tmp_path: Path,
    scheme: Scheme,
) -> None:
    """At least 4.5:1, as the Web Content Accessibility Guidelines ask for (1.4.3)."""
    rows: list[Row] = [
        *labelled_rows(tmp_path, 120),
        {**labelled_rows(tmp_path, 1)[0], "color": "Teal"},
    ]
    # With these weights some answers are right and some wrong, so that all styles are seen.
    model = calibrated(bundle.load(save_tiny(tmp_path / "model", tiny_config(), seed=5)), 0.5)
    opened = show(browser, written(model, make_catalog(rows)), tmp_path, scheme=scheme)
    opened.page.eval_on_selector_all("details", "all => all.forEach((one) => { one.open = true; })")
    found = opened.page.evaluate(CONTRASTS)
    opened.page.close()
    texts = {name for _, name in found}
    assert {"SPAN.abstain", "SPAN.ok", "TD.miss", "TD.hit", "SPAN.unknown", "INPUT.null"} <= texts
    assert "BUTTON.weak" in texts or "BDI.null" in texts
    assert [pair for pair in found if pair[0] < 4.5] == []


@pytest.mark.parametrize("title", ["shirt " * 2500, "s" * 15_000], ids=["words", "one word"])
def test_long_title_makes_no_long_card(
    browser: sync_api.Browser, tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path, title: str
) -> None:
    rows: list[Row] = [{"title": title, "color": "Red", "pattern": "X", "id": "i" * 15_000}]
    opened = show(browser, written(tiny, make_catalog(rows)), tmp_path, width=375)
    heights = opened.page.eval_on_selector_all(".card", "all => all.map((one) => one.offsetHeight)")
    opened.page.close()
    assert heights
    assert max(heights) < 1000


CUT = """
(selector) => [...document.querySelectorAll(selector)]
  .filter((e) => e.scrollHeight > e.clientHeight + 1 || e.scrollWidth > e.clientWidth + 1)
  .map((e) => e.innerText)
"""


@pytest.mark.parametrize("media", ["screen", "print"])
@pytest.mark.parametrize("width", [390, 1200])
def test_labels_of_a_deep_tree_are_seen_whole_in_cards_and_told_apart_in_the_matrix(
    browser: sync_api.Browser,
    make_catalog: MakeCatalog,
    tmp_path: Path,
    width: int,
    media: Literal["screen", "print"],
) -> None:
    model, rows = of_a_tree(tmp_path, 60)
    opened = show(browser, written(model, make_catalog(rows)), tmp_path, width)
    opened.page.emulate_media(media=media)
    cut = opened.page.evaluate(CUT, ".answer, .second, .id, .matrix th span, .matrix th bdi")
    given = opened.page.locator(".answer .bad").all_inner_texts()
    opened.page.close()
    assert cut == []
    assert any(len(label) > 100 for label in given)


@pytest.mark.parametrize("width", [390, 1000])
def test_long_names_of_tasks_break_no_page(
    browser: sync_api.Browser, make_catalog: MakeCatalog, tmp_path: Path, width: int
) -> None:
    name = "who wears it, and another very long name of a task that goes on and on and on"
    task = Task(name.replace(",", ""), ("Men", "Women"))
    config = msgspec.structs.replace(tiny_config(), tasks=(task,))
    model = bundle.load(save_tiny(tmp_path / "model", config))
    rows: list[Row] = [{"title": title, task.name: "Men"} for title in random_titles(40)]
    opened = show(browser, written(model, make_catalog(rows)), tmp_path, width)
    sizes = opened.page.evaluate(
        """[document.documentElement.scrollWidth,
          document.querySelector("#overview th button").offsetWidth]"""
    )
    cut = opened.page.evaluate(CUT, "#overview tbody th, .choose")
    opened.page.close()
    assert sizes[0] <= width
    assert sizes[1] <= 0.4 * width + 1
    assert cut == []


def test_boxes_that_scroll_can_be_reached_by_the_keyboard(opened: Opened) -> None:
    boxes = opened.page.locator(".scroll")
    assert boxes.count() > 3
    assert {box.get_attribute("tabindex") for box in boxes.all()} == {"0"}


@pytest.mark.parametrize("width", [375, 1200])
def test_markup_and_long_words_of_a_catalog_break_nothing(
    browser: sync_api.Browser, hostile: Bundle, hostile_catalog: Path, tmp_path: Path, width: int
) -> None:
    opened = show(browser, written(hostile, hostile_catalog), tmp_path, width)
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [opened.page.url]
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert "<script>alert(1)</script>" in (opened.page.inner_text("main"))
    assert opened.choose(label="<script>")
    opened.page.close()


def test_five_thousand_labels_open_and_filter(
    browser: sync_api.Browser, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    labels = tuple(f"Label {number:04d}" for number in range(5000))
    model = many_labels(tmp_path / "model", labels)
    rows: list[Row] = [
        {"title": title, "node": labels[number]}
        for number, title in enumerate(random_titles(len(labels)))
    ]
    text = written(model, make_catalog(rows))
    assert len(text) < 4_000_000
    opened = show(browser, text, tmp_path, width=375)
    assert opened.complaints == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 375
    wanted = opened.shown()[0]["given"]
    opened.page.click("summary")
    assert wanted in {card["given"] for card in opened.choose(label=wanted)}
    assert opened.page.locator(".labels tbody tr:not([hidden])").count() == 1
    opened.page.close()


def many_labels(path: Path, labels: tuple[str, ...]) -> Bundle:
    config = msgspec.structs.replace(tiny_config(), tasks=(Task("node", labels),))
    return bundle.load(save_tiny(path, config, seed=1))


def test_without_javascript_nothing_is_shown_that_needs_it(
    browser: sync_api.Browser, tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(written(tiny, make_catalog(labelled_rows(tmp_path, 40))), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator(".card .maps").count() > 0
    for needless in ("#filters", ".maps", ".skip"):
        assert not page.locator(needless).first.is_visible()
    assert page.locator(".card").first.is_visible()
    context.close()


def test_print_keeps_the_colors_that_say_something_and_fits_the_paper(opened: Opened) -> None:
    opened.page.emulate_media(media="print")
    opened.page.set_viewport_size({"width": 718, "height": 1000})  # A4 within 10 mm
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 718
    for told in (".weight", ".weight span", ".key", ".word", ".matrix td"):
        style = opened.page.locator(told).first.evaluate(
            "one => getComputedStyle(one).printColorAdjust"
        )
        assert style == "exact"
