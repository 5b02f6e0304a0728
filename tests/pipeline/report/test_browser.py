"""The page in a browser: nothing on the console, every picture there, the keyboard goes everywhere, all text can be
read in light and in dark, and a phone is wide enough."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.report.conftest import Shop

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="NOT CHECKED: chromium and chromedriver are not there"
    ),
]

#: The smallest contrast (WCAG 2) between a text and what is behind it, and which text that is.
CONTRAST = """
const part = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = c => 0.2126 * part(c[0]) + 0.7152 * part(c[1]) + 0.0722 * part(c[2]);
const numbers = text => (text.match(/[\\d.]+/g) || []).map(Number);
const behind = element => {
  for (; element; element = element.parentElement) {
    const colour = numbers(getComputedStyle(element).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
let worst = [99, ""], seen = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
  if (!text || element.closest("style, details:not([open]) > pre")) continue;
  const style = getComputedStyle(element), svg = element.closest("svg");
  const pair = [light(numbers(svg ? style.fill : style.color)), light(behind(svg ? svg.parentElement : element))];
  const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  seen += 1;
  if (ratio < worst[0]) worst = [ratio, text];
}
return [...worst, seen];
"""
#: How many places the tabulator comes by: nothing within what is folded away.
REACHABLE = """
const found = [...document.querySelectorAll('a[href], summary, [tabindex="0"]')];
return found.filter(element => element.tagName === "SUMMARY" || !element.closest("details:not([open])")).length;
"""
#: Pixels of the smallest text in a chart; labels of axes are turned.
SMALLEST = """
const boxes = [...document.querySelectorAll("svg text")].map(text => text.getBoundingClientRect());
return Math.min(...boxes.map(box => Math.max(box.width, box.height)));
"""
FOCUSED = """
const element = document.activeElement, box = element.getBoundingClientRect(), style = getComputedStyle(element);
return [element.tagName, element.getAttribute("href") || element.textContent.slice(0, 40), style.outlineStyle,
        box.left >= 0 && box.width > 0];
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu", "dev-shm-usage")
    for argument in ("headless", "no-sandbox", "no-first-run", *(f"disable-{name}" for name in quiet)):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, shop: Shop) -> Any:
    show(browser, shop.page, width=1200)
    return browser


def show(browser: Any, page: Path, *, width: int, scheme: str = "light") -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.absolute().as_uri())


def test_nothing_is_said_on_the_console_and_every_picture_is_there(opened: Any) -> None:
    assert opened.get_log("browser") == []
    widths = opened.execute_script("return [...document.images].map(image => image.complete ? image.naturalWidth : 0)")
    assert len(widths) > 20
    assert min(widths) > 0
    loaded = opened.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert opened.execute_script("return document.title") == "Report of tiny"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(browser: Any, shop: Shop, scheme: str) -> None:
    show(browser, shop.page, width=1200, scheme=scheme)
    ratio, text, seen = browser.execute_script(CONTRAST)
    assert seen > 300
    assert ratio >= 4.5, text
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(253, 253, 251)") == (scheme == "light")


def test_the_keyboard_goes_everywhere_and_one_sees_where_it_is(opened: Any) -> None:
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    body = opened.find_element("tag name", "body")
    reachable = opened.execute_script(REACHABLE)
    found = []
    for _ in range(reachable):
        opened.switch_to.active_element.send_keys(keys.TAB)
        found.append(opened.execute_script(FOCUSED))
    assert found[0][:2] == ["A", "#main"], "first of all the way past the head of the page"
    assert all(outline != "none" and visible for _, _, outline, visible in found)
    assert "SUMMARY" in {tag for tag, *_ in found}
    opened.switch_to.active_element.send_keys(keys.TAB)
    assert opened.switch_to.active_element.tag_name in ("body", "html", "a"), "and round again"
    body.click()
    summary = opened.find_element("tag name", "summary")
    summary.send_keys(keys.ENTER)
    assert opened.execute_script("return arguments[0].parentElement.open", summary)


def test_a_phone_is_wide_enough(browser: Any, shop: Shop) -> None:
    show(browser, shop.page, width=375)
    assert browser.execute_script("return document.scrollingElement.scrollWidth") <= 375
    assert browser.execute_script(SMALLEST) >= 9, "pixels of a number in a chart"
