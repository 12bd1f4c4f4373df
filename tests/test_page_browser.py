"""The report page in a headless Chromium: open, filter, click; nothing is fetched or complained of.

Needs Chromium and the package playwright (in the extra `dev`); skipped where either is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from tagger import bundle
from tagger.bundle import Bundle
from tagger.config import Config
from tagger.model import CMAClip
from tagger.tasks import Task
from tagger.tokenizer import learn_pieces

from .conftest import MakeCatalog, Row, random_titles, randomise, tiny_config
from .test_page import NAMES, hostile, hostile_catalog, labelled_rows, written

__all__ = ["hostile", "hostile_catalog"]  # fixtures

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")

OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
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
        assert self.page.text_content("output") == f"{len(found)} products shown"
        return list(found)


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        yield browser
        browser.close()


def show(browser: sync_api.Browser, text: str, folder: Path, width: int = 1200) -> Opened:
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    opened = Opened(browser.new_page(viewport={"width": width, "height": 800}))
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
    assert [url for url in opened.requests if not url.startswith("data:")] == [opened.page.url]
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


def test_number_in_the_matrix_shows_products_of_that_label(opened: Opened) -> None:
    button = opened.page.locator(".matrix button").first
    label, task = button.get_attribute("data-label"), button.get_attribute("data-choose")
    button.click()
    cards = opened.shown()
    assert cards
    assert {card["task"] for card in cards} == {task}
    assert all(label in (card["given"], card["said"]) for card in cards)


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
    tiny = tiny_config()
    config = Config(
        architecture=tiny.architecture,
        fusion=tiny.fusion,
        preprocess=tiny.preprocess,
        tasks=(Task("node", labels),),
    )
    torch.manual_seed(0)
    model = CMAClip(config)
    randomise(model, seed=1)
    bundle.save(path, config, model, learn_pieces(random_titles(60), 200, 16), "# x\n")
    return bundle.load(path)
