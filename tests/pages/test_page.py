"""The page in a real browser: Debian's chromium, driven over its debugging pipe. Skipped where there is none."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src import report
from tests.test_report import project

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

    def open(self, page: Path, width: int) -> None:
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self("Page.navigate", url="about:blank")
        self("Page.navigate", url=page.as_uri())
        self.until(lambda found: found.get("method") == "Page.loadEventFired")

    def run(self, script: str) -> Any:
        found = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        text = {"Enter": "\r"}.get(key, "")
        self("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, text=text, windowsVirtualKeyCode=13)
        self("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=13)


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
    browser.run(BUTTON % "Task" + ".focus()")
    browser.press("Enter")
    first, *tasks = browser.run(ORDER % "Task")
    assert first == "ascending"
    assert tasks == sorted(tasks)


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_overflows(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    wide = """[...document.querySelectorAll("body *")].filter(each => !each.closest(".box") &&
      each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"""
    assert browser.run(wide) == []


def test_links_lead_somewhere(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    links = browser.run('[...document.querySelectorAll("a[href]")].map(each => each.getAttribute("href"))')
    jumps = browser.run('[...document.querySelectorAll("[data-go]")].map(each => each.dataset.go)')
    ids = set(browser.run('[...document.querySelectorAll("[id]")].map(each => each.id)'))
    assert jumps
    assert {link[1:] for link in [*links, *jumps] if link.startswith("#")} <= ids
    assert [link for link in links if not link.startswith("#") and not (page.parent / link).is_file()] == []


def test_ids_are_unique(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    ids = browser.run('[...document.querySelectorAll("[id]")].map(each => each.id)')
    assert len(ids) == len(set(ids))


def test_a_click_on_a_number_shows_its_cell(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    browser.run('document.querySelector("#own_runs td[data-go]").click()')
    target = '(() => { const row = document.querySelector("tr:target"), box = row.getBoundingClientRect();' + (
        "return [row.id, box.top >= 0 && box.bottom <= innerHeight]; })()"
    )
    browser.run("new Promise(done => setTimeout(done, 200))")
    found, visible = browser.run(target)
    assert f"#{found}" == browser.run('document.querySelector("#own_runs td[data-go]").dataset.go')
    assert visible


def test_figures_are_drawn_and_described(browser: Browser, page: Path) -> None:
    browser.open(page, 400)
    images = browser.run("[...document.images].map(each => [each.complete && each.naturalWidth > 0, each.alt.length])")
    assert len(images) == len(list((page.parent / "figures").glob("*.svg"))) > 2
    assert all(drawn and words > 60 for drawn, words in images)


def test_a_script_in_the_data_does_not_run(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    assert browser.run('[...document.scripts].filter(each => each.textContent.includes("alert")).length') == 0
    assert browser.run('document.body.textContent.includes("<script>alert")')
