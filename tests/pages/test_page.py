"""The page in a real browser: Debian's chromium, driven over its debugging pipe. Skipped where there is none."""

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src import report
from src.base.files import ROOT
from tests.test_report import CHOICES, EVIL, STATEMENTS, project

CHROMIUM = shutil.which("chromium")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]


class Browser:
    """One page of a headless chromium. Commands are JSON, each ended by a NUL byte, on its file descriptors 3 and 4."""

    def __init__(self, profile: Path) -> None:
        theirs_in, self.to = os.pipe()
        self.back, theirs_out = os.pipe()
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        wired = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command]
        self.process = subprocess.Popen(wired, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.buffer, self.number, self.session = b"", 0, None
        target = next(t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        self("Page.enable")

    def __call__(self, method: str, **params: Any) -> Any:
        self.number += 1
        session = {"sessionId": self.session} if self.session else {}
        message = {"id": self.number, "method": method, "params": params, **session}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        return self.until(lambda found: found.get("id") == self.number)["result"]

    def until(self, wanted: Any) -> Any:
        while True:
            while b"\0" not in self.buffer:
                chunk = os.read(self.back, 1 << 20)
                assert chunk, "chromium closed its pipe"
                self.buffer += chunk
            line, _, self.buffer = self.buffer.partition(b"\0")
            found = json.loads(line)
            if wanted(found):
                return found

    def open(self, page: Path, width: int, state: str = "", scheme: str = "light", media: str = "") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self("Emulation.setEmulatedMedia", media=media, features=features)
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self("Page.navigate", url="about:blank")
        self("Page.navigate", url=page.as_uri() + state)
        self.until(lambda found: found.get("method") == "Page.loadEventFired")

    def run(self, script: str) -> Any:
        found = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        text, number = {"Enter": ("\r", 13), "Tab": ("", 9)}[key]
        self("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, text=text, windowsVirtualKeyCode=number)
        self("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=number)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = project(tmp_path_factory.mktemp("page"))
    report.build(root)
    return root / "reports/index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.process.terminate()
    started.process.wait(timeout=20)


ORDER = """(() => { const table = document.getElementById("own_runs");
  const i = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent.trim() === "%s");
  const cells = [...table.tBodies[0].rows].map(row => row.cells[i].textContent);
  return [table.tHead.rows[0].cells[i].getAttribute("aria-sort"), ...cells];
})()"""
BUTTON = """[...document.querySelectorAll("#own_runs th button")].find(each => each.textContent.trim() === "%s")"""


def test_a_click_sorts_numbers_by_value_and_again_the_other_way(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    before = browser.run(ORDER % "Accuracy")
    assert before[0] == "none"
    browser.run(BUTTON % "Accuracy" + ".click()")
    up = browser.run(ORDER % "Accuracy")
    browser.run(BUTTON % "Accuracy" + ".click()")
    down = browser.run(ORDER % "Accuracy")
    assert up == ["ascending", *sorted(before[1:], key=float)]
    assert down == ["descending", *sorted(before[1:], key=float, reverse=True)]


def test_the_keyboard_sorts_too(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    browser.run(BUTTON % "Task" + '.closest("details").open = true')
    browser.run(BUTTON % "Task" + ".focus()")
    browser.press("Enter")
    first, *tasks = browser.run(ORDER % "Task")
    assert first == "ascending"
    assert tasks == sorted(tasks)


@pytest.mark.parametrize("width", [400, 1000, 1600])
def test_nothing_overflows(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    browser.run('document.querySelectorAll("details").forEach(each => { each.open = true; })')
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    wide = """[...document.querySelectorAll("body *")].filter(each => !each.closest(".box, .hidden, .defs") &&
      each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"""
    assert browser.run(wide) == []


def test_links_lead_somewhere(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    links = browser.run('[...document.querySelectorAll("a[href]")].map(each => each.getAttribute("href"))')
    jumps = browser.run('[...document.querySelectorAll("[data-go]")].map(each => each.dataset.go)')
    ids = set(browser.run('[...document.querySelectorAll("[id]")].map(each => each.id)'))
    assert jumps
    assert {link[1:] for link in [*links, *jumps] if link.startswith("#") and link[1] != "?"} <= ids
    states = {link for link in links if link.startswith("#?")}
    assert states == {f"#?question={question}" for question in {row[1] for row in ROWS if row[2]}}
    assert [link for link in links if not link.startswith("#") and not (page.parent / link).is_file()] == []


def test_ids_are_unique(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    ids = browser.run('[...document.querySelectorAll("[id]")].map(each => each.id)')
    assert len(ids) == len(set(ids))


def test_a_click_on_a_number_shows_its_cell(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    browser.run('document.querySelector("#own_runs tr[data-go] td[data-v]").click()')
    target = '(() => { const row = document.querySelector("tr:target"), box = row.getBoundingClientRect();' + (
        "return [row.id, box.top >= 0 && box.bottom <= innerHeight]; })()"
    )
    browser.run("new Promise(done => setTimeout(done, 200))")
    found, visible = browser.run(target)
    assert f"#{found}" == browser.run('document.querySelector("#own_runs tr[data-go]").dataset.go')
    assert visible


def test_figures_are_drawn_and_described(browser: Browser, page: Path) -> None:
    browser.open(page, 400)
    browser.run('document.querySelectorAll("details").forEach(each => { each.open = true; })')
    drawn = """[...document.querySelectorAll("svg.plot")].map(each => [each.closest("figure").id,
      each.getBoundingClientRect().height > 100 && each.querySelectorAll("text").length > 3,
      (each.getAttribute("aria-label") || "").length])"""
    plots = browser.run(drawn)
    assert len(plots) > 1
    assert all(large and words > 60 for _, large, words in plots)
    assert {name for name, _, _ in plots} <= {path.stem for path in (page.parent / "figures").glob("*.svg")}


def test_a_script_in_the_data_does_not_run(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    assert (
        browser.run('[...document.scripts].filter(each => !each.type && each.textContent.includes("alert")).length')
        == 0
    )
    assert browser.run('document.body.textContent.includes("<script>alert")')


SHOWN = """[...document.querySelectorAll("li.statement")].filter(each => each.offsetParent)
  .map(each => [each.dataset.word, each.dataset.question, each.dataset.item])"""
COUNT = 'document.querySelector(".count").textContent'
ROWS = [[word, question, item.replace("_", " ")] for _, item, question, word, _ in STATEMENTS]


def choose(browser: Browser, name: str, value: str) -> None:
    browser.run(f"""(() => {{ const control = document.querySelector("form.panel").elements[{json.dumps(name)}];
      control.value = {json.dumps(value)}; control.dispatchEvent(new Event("input", {{ bubbles: true }})); }})()""")


def test_filters_show_the_statements_that_meet_them_all(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    assert browser.run(SHOWN) == ROWS
    choose(browser, "word", "supported")
    assert browser.run(SHOWN) == [row for row in ROWS if row[0] == "supported"]
    choose(browser, "question", "RQ1")
    choose(browser, "task", "kinds of stone")
    assert browser.run(SHOWN) == [row for row in ROWS if row[0] == "supported" and row[2] == "kinds of stone"]
    assert browser.run(COUNT).startswith(f"1 of {len(ROWS)} statements shown.")
    browser.run('document.querySelector("button.reset").click()')
    assert browser.run(SHOWN) == ROWS
    choose(browser, "text", "RIDDLES depends")
    assert browser.run(SHOWN) == [row for row in ROWS if row[2] == "old riddles"]


def test_a_switched_choice_shows_each_result_under_it(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    controls = browser.run('[...document.querySelectorAll("select[data-choice]")].map(each => each.dataset.choice)')
    assert controls == list(CHOICES)
    assert browser.run('[...document.querySelectorAll(".now")].every(each => each.hidden)')
    choose(browser, "set-bar", "content_free")
    now = browser.run('[...document.querySelectorAll(".now")].map(each => each.textContent)')
    by_rule = {"supported": "holds", "depends": "holds", "contradicted": "opposite holds"}
    switched = {"holds": "opposite holds", "opposite holds": "holds"}
    for (_, _, _, word, _), text in zip(STATEMENTS, now, strict=True):
        rule = by_rule.get(word)
        if rule:
            assert text == f"Under these choices: {switched[rule]}. By the rule: {rule}."
        else:
            assert text.startswith("Under these choices: as by the rule")
    assert browser.run(COUNT).endswith("4 moved.")
    assert "holds 1, opposite holds 3" in browser.run(COUNT)


def test_an_analysis_without_a_result_says_why(browser: Browser, page: Path) -> None:
    browser.open(page, 1400, "#?set-bar=content_free&word=not+comparable")
    [row] = browser.run(SHOWN)
    text = browser.run('[...document.querySelectorAll("li.statement")].find(each => each.offsetParent).innerText')
    assert row[0] == "not comparable"
    assert "no result" in text


def test_the_address_keeps_filters_and_choices(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    choose(browser, "word", "depends")
    choose(browser, "set-bar", "content_free")
    state = browser.run("location.hash")
    seen, count = browser.run(SHOWN), browser.run(COUNT)
    browser.open(page, 1400, state)
    assert (browser.run(SHOWN), browser.run(COUNT)) == (seen, count)
    browser.run('document.querySelector("button.reset").click()')
    assert browser.run("location.hash") == ""


def test_a_link_shows_the_statements_of_a_question(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    browser.run(
        """document.querySelector('a[href="#?question=RQ4"]').click(); new Promise(done => setTimeout(done, 200))"""
    )
    assert browser.run(SHOWN) == [row for row in ROWS if row[1] == "RQ4"]


def test_an_unknown_state_in_the_address_shows_everything(browser: Browser, page: Path) -> None:
    browser.open(page, 1400, "#?word=nonsense&set-bar=nonsense&other=1")
    assert browser.run(SHOWN) == ROWS


def test_a_link_to_a_statement_opens_it_even_where_a_filter_hid_it(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    choose(browser, "word", "depends")
    target = browser.run('document.querySelector("li.statement[data-word=contradicted]").id')
    browser.run(f'location.hash = "#{target}"; new Promise(done => setTimeout(done, 200))')
    box = """(() => { const found = document.getElementById("%s"), box = found.getBoundingClientRect();
      return found.querySelector("details").open && box.height > 0 && box.top >= -1 && box.top < innerHeight; })()"""
    assert browser.run(box % target)


LIGHT = """(selector => { const colour = getComputedStyle(document.querySelector(selector));
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const part = value => { value /= 255; return value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4; };
  return ["color", "backgroundColor"].map(name => { paint.fillStyle = colour[name]; paint.fillRect(0, 0, 1, 1);
    const [r, g, b] = paint.getImageData(0, 0, 1, 1).data; 
    return .2126 * part(r) + .7152 * part(g) + .0722 * part(b); });
})(%s)"""


def brightness(browser: Browser, selector: str) -> tuple[float, float]:
    text, ground = browser.run(LIGHT % json.dumps(selector))
    return text, ground


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_either_theme_can_be_read(browser: Browser, page: Path, scheme: str) -> None:
    browser.open(page, 1400, scheme=scheme)
    _, ground = brightness(browser, "body")
    assert (ground > 0.5) == (scheme == "light")
    for selector in ("body", ".lede", "nav a", ".said", *(f".w-{row[0].replace(' ', '-')}" for row in ROWS)):
        text = brightness(browser, selector)[0]
        high, low = max(text, ground), min(text, ground)
        assert (high + 0.05) / (low + 0.05) >= 4.5, selector
    plain = browser.run('getComputedStyle(document.querySelector("svg.plot text:not([style*=fill])")).fill')
    assert plain == browser.run("getComputedStyle(document.body).color")


def test_the_theme_can_be_switched_and_is_kept(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    grounds = []
    for _ in range(3):
        browser.run('document.querySelector("button.theme").click()')
        grounds.append(
            (browser.run('document.querySelector("button.theme").textContent'), brightness(browser, "body")[1] > 0.5)
        )
    assert grounds == [("Theme: light", True), ("Theme: dark", False), ("Theme: as the system", True)]


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    wanted = set(
        browser.run("""[...document.querySelectorAll("button.theme, form.panel :is(select, input, button)")]
      .map((each, i) => each.dataset.n = each.name || each.className)""")
    )
    reached, outlined = [], []
    for _ in range(browser.run('document.querySelectorAll("a, button, select, input, summary, [tabindex]").length')):
        browser.press("Tab")
        name, style = browser.run("""(each => [each.dataset.n || each.className,
          getComputedStyle(each).outlineStyle])(document.activeElement)""")
        reached.append(name)
        outlined.append(style != "none")
        if wanted <= set(reached):
            break
    assert reached[0] == "skip"
    assert wanted <= set(reached)
    assert all(outlined)


def test_the_page_is_whole_without_a_script(browser: Browser, page: Path) -> None:
    browser("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page, 1000)
        assert browser.run(SHOWN) == ROWS
        assert browser.run('[...document.querySelectorAll(".needs-script")].every(each => each.offsetParent === null)')
        text = browser.run('document.body.textContent.replace(/\\s+/g, " ")')
        assert "The published scores support" in text
        browser.run('document.querySelector("li.statement summary").click()')
        assert browser.run('document.querySelector("li.statement .body").getBoundingClientRect().height > 0')
    finally:
        browser("Emulation.setScriptExecutionDisabled", value=False)


def test_print_opens_everything_and_drops_the_controls(browser: Browser, page: Path) -> None:
    browser.open(page, 800, media="print")
    bodies = browser.run(
        '[...document.querySelectorAll("li.statement .body")].map(each => each.getBoundingClientRect().height)'
    )
    assert all(height > 0 for height in bodies)
    assert browser.run("""[...document.querySelectorAll("form.panel, button.theme, nav, .count")]
      .every(each => each.getBoundingClientRect().height === 0)""")


def test_a_screen_reader_finds_its_way(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    assert (
        browser.run(
            '["main", "header", "nav[aria-label]", "footer"].map(each => document.querySelectorAll(each).length)'
        )
        == [1] * 4
    )
    assert browser.run('document.querySelector(".count").getAttribute("aria-live")') == "polite"
    unnamed = """[...document.querySelectorAll("select, input, table, figure, svg[role=img], [role=region]")]
      .filter(each => !(each.labels && each.labels.length) && !each.getAttribute("aria-label") && !each.caption &&
      !each.querySelector("figcaption")).map(each => each.outerHTML.slice(0, 80))"""
    assert browser.run(unnamed) == []
    levels = browser.run('[...document.querySelectorAll("h1, h2, h3")].map(each => Number(each.tagName[1]))')
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_a_word_is_explained_once(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    explained = browser.run('[...document.querySelectorAll(".legend dt")].map(each => each.textContent.trim())')
    assert explained == ["supported", "contradicted", "depends", "undetermined", "not comparable", "no number"]


def test_a_task_whose_name_is_markup_stays_text(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    choose(browser, "task", EVIL)
    assert browser.run(SHOWN) == [row for row in ROWS if row[2] == EVIL]


def test_the_committed_page_is_small() -> None:
    assert (ROOT / "reports/index.html").stat().st_size < 2_000_000
