"""The HTML of reports in a browser: what it asks for, what works with and without a script, who can use it.

It takes chromium with its driver, and for the last test axe-core: ``axe.min.js`` in the folder that
MMDUMP_AXE_CORE names.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmdump.document import Report
from mmdump.render.report import REPORT_FORMATS
from mmdump.report import Choice
from tests.report.dumps import dump_of, planted_dump, report_of
from tests.report.test_hostile import COMMS, FUNCTIONS

selenium = pytest.importorskip("selenium")
if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
    pytest.skip("there is no chromium with its driver", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

#: Nothing of its own shall ask a network for anything, either.
_ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--window-size=1440,900", "--disable-dev-shm-usage"),
)
PAGES = ("cma-failure", "leak", "thp", "hostile", "redacted")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or ""))
        yield driver
        driver.quit()


def written(report: Report, file: Path) -> str:
    with file.open("wb") as out:
        REPORT_FORMATS["html"].write(report, out)
    return file.as_uri()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The address of a report of each of :data:`PAGES`."""
    made, base = tmp_path_factory.mktemp("pages"), tmp_path_factory.getbasetemp()
    found = {}
    for name in PAGES[:3]:
        report = report_of(dump_of(name, base / f"report-{name}"))
        found[name] = written(report, made / f"{name}.html")
    hostile = planted_dump(made / "hostile", COMMS, [each.decode() for each in FUNCTIONS], renamed=FUNCTIONS)
    found["hostile"] = written(report_of(hostile), made / "hostile.html")
    cma = base / "report-cma-failure"
    found["redacted"] = written(
        report_of(dump_of("cma-failure", cma), Choice(redact=True)), made / "redacted.html"
    )
    return found


def media(browser: Any, **features: str) -> None:
    """Emulate what a reader has set: ``print``, or features such as prefers-color-scheme."""
    kind = features.pop("kind", "")
    chosen = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": kind, "features": chosen})


def opened(browser: Any, address: str) -> Any:
    media(browser)
    browser.get_log("performance")
    browser.get(address)
    return browser


def of(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements(By.CSS_SELECTOR, selector))


@pytest.mark.parametrize("name", PAGES)
def test_no_request_leaves_the_file_and_nothing_is_wrong(
    browser: Any, pages: dict[str, str], name: str
) -> None:
    opened(browser, pages[name])
    # All that a reader may touch.
    for button in of(browser, "th button, .tools button"):
        browser.execute_script("arguments[0].click()", button)
    asked = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    assert [url for url in asked if not url.startswith("data:image/png")] == [pages[name]]
    assert browser.get_log("browser") == []


def test_planted_markup_is_text(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["hostile"])
    assert "<img/src=x:q> 2000" in browser.find_element(By.TAG_NAME, "body").text
    assert len(of(browser, "svg, iframe, script:not(:last-of-type)")) == 0


def test_a_table_is_sorted_by_its_headers(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["cma-failure"])
    table = of(browser, "#page-owner-groups, #page-owner-chains, section#s-page-owner table.data")[0]
    headers = table.find_elements(By.CSS_SELECTOR, "thead th")
    column = [header.text.strip() for header in headers].index("bytes")

    def values() -> list[int]:
        cells = table.find_elements(By.CSS_SELECTOR, f"tbody td:nth-child({column + 1})")
        return [int(cell.get_attribute("data-v")) for cell in cells]

    button = headers[column].find_element(By.TAG_NAME, "button")
    button.send_keys(Keys.ENTER)
    assert headers[column].get_attribute("aria-sort") == "descending"
    assert values() == sorted(values(), reverse=True)
    button.send_keys(Keys.ENTER)
    assert headers[column].get_attribute("aria-sort") == "ascending"
    assert values() == sorted(values())
    assert len(set(values())) > 1


def test_rows_are_filtered_by_what_is_typed(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["cma-failure"])
    box = next(each for each in of(browser, "details.table .tools input") if each.is_displayed())
    table = box.find_element(By.XPATH, "../following-sibling::*//table")
    rows = table.find_elements(By.CSS_SELECTOR, "tbody tr")
    word = rows[-1].text.split()[-1]
    browser.execute_script("arguments[0].scrollIntoView()", box)
    box.send_keys(word)
    shown = [row for row in rows if row.is_displayed()]
    assert 0 < len(shown) <= len(rows)
    assert all(word.lower() in row.get_attribute("textContent").lower() for row in shown)
    box.send_keys("no row has this")
    assert not [row for row in rows if row.is_displayed()]


def test_long_tables_are_cut_until_asked_for(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["thp"])
    browser.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    button = next(each for each in of(browser, ".tools button") if each.text.startswith("Show all"))
    rows = button.find_elements(By.XPATH, "../following-sibling::*//tbody/tr")
    assert sum(row.is_displayed() for row in rows) == 25
    browser.execute_script("arguments[0].click()", button)
    assert all(row.is_displayed() for row in rows)


def test_call_chains_unfold(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["cma-failure"])
    chain = of(browser, ".finding details.chain")[0]
    frames = chain.find_elements(By.TAG_NAME, "li")
    assert not frames[0].is_displayed()
    chain.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    assert frames[0].is_displayed()
    assert frames[0].text.startswith("post_alloc_hook+0x")
    assert "do_anonymous_page" in chain.find_element(By.TAG_NAME, "summary").text


def test_a_function_of_the_flame_graph_takes_the_whole_width(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["leak"])
    [holder] = of(browser, ".flame .frames")
    frame = next(each for each in of(browser, ".flame .frame") if each.text == "e1000_alloc_rx_buffers")
    before, whole = frame.size["width"], holder.size["width"]
    assert before < whole / 2
    browser.execute_script("arguments[0].focus()", frame)
    frame.send_keys(Keys.ENTER)
    assert frame.size["width"] > whole - 5
    other = of(browser, ".flame .frame[title^='do_anonymous_page:']")[0]
    assert not other.is_displayed()
    frame.send_keys(Keys.ESCAPE)
    assert abs(frame.size["width"] - before) <= 2


def test_functions_are_found_in_the_flame_graph(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["leak"])
    box = of(browser, ".flame input")[0]
    box.send_keys("e1000")
    assert {each.text for each in of(browser, ".flame .frame.found")} >= {"e1000_clean_rx_irq", "e1000e_poll"}
    # The leak's 600 pages, a quarter of all; what such functions call is in them, and not counted again.
    said = of(browser, ".flame .tools [role=status]")[0].text
    assert said.endswith(" % are in such functions")
    assert 20 < float(said.split()[0]) < 30


def test_the_map_says_what_a_block_holds(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["cma-failure"])
    canvas = browser.find_element(By.CSS_SELECTOR, ".map canvas")
    says = browser.find_element(By.CSS_SELECTOR, ".map output")
    canvas.send_keys(Keys.HOME)
    assert says.text.startswith("PFN 0x0 on, 512 pages (2 MiB), node 0, zone DMA, migratetype Movable:")
    canvas.send_keys(Keys.ARROW_RIGHT)
    assert says.text.startswith("PFN 0x200 on")
    choice = browser.find_element(By.CSS_SELECTOR, ".map select")
    choice.send_keys("pinned")
    assert "migratetype CMA" in says.text
    assert " pinned" in says.text
    small = canvas.size["height"]
    for _ in range(8):
        canvas.send_keys("+")
    assert canvas.size["height"] > small


def test_all_of_it_is_there_without_a_script(browser: Any, pages: dict[str, str]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened(browser, pages["cma-failure"])
        picture = browser.find_element(By.CSS_SELECTOR, ".map img")
        assert picture.is_displayed()
        assert picture.size["width"] > 500
        assert "postgres 1204" in browser.find_element(By.CSS_SELECTOR, "#findings").text
        assert of(browser, ".flame .frame")[0].is_displayed()
        assert of(browser, ".bars .bar")[0].is_displayed()
        chain = of(browser, ".finding details.chain")[0]
        chain.find_element(By.TAG_NAME, "summary").click()
        assert chain.find_elements(By.TAG_NAME, "li")[0].is_displayed()
        assert not of(browser, ".tools")
        # Nothing is hidden that only a script would show.
        assert all(row.is_displayed() for row in of(browser, "details.table[open] tbody tr"))
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_first_screen_names_who_must_let_go(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["cma-failure"])
    first = of(browser, ".finding h3")[0]
    assert first.location["y"] + first.size["height"] < 400
    assert "12 by FOLL_PIN (allocated by postgres 1204)" in first.text


def test_on_paper_evidence_is_unfolded_and_tools_are_gone(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["cma-failure"])
    media(browser, kind="print")
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert not browser.find_element(By.TAG_NAME, "nav").is_displayed()
    assert not [each for each in of(browser, ".tools") if each.is_displayed()]
    assert of(browser, ".finding details.chain li")[0].is_displayed()
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert not of(browser, ".finding details.chain li")[0].is_displayed()


def test_what_the_reader_has_set_is_respected(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["cma-failure"])
    style = "const s = getComputedStyle({}); return s.{};"
    media(browser, prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    ground = browser.execute_script(style.format("document.body", "backgroundColor"))
    assert all(int(part) < 64 for part in ground.removeprefix("rgb(").removesuffix(")").split(","))
    assert browser.execute_script(style.format("document.documentElement", "scrollBehavior")) == "auto"


def axe_core() -> Path | None:
    folder = os.environ.get("MMDUMP_AXE_CORE")
    script = Path(folder) / "axe.min.js" if folder else None
    return script if script is not None and script.exists() else None


@pytest.mark.skipif(axe_core() is None, reason="MMDUMP_AXE_CORE names no folder with axe.min.js")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES[:2])
def test_axe_finds_nothing_serious(browser: Any, pages: dict[str, str], name: str, scheme: str) -> None:
    script = axe_core()
    assert script is not None
    browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
    try:
        opened(browser, pages[name])
        media(browser, prefers_color_scheme=scheme)
        browser.execute_script(
            "for (const each of document.querySelectorAll('details.table')) each.open = true"
        )
        browser.execute_script(script.read_text())
        browser.set_script_timeout(300)
        found, passed = browser.execute_async_script(
            "const done = arguments[0]; axe.run(document, {resultTypes: ['violations', 'passes']}).then("
            "(all) => done([all.violations, all.passes.length]), (error) => done([String(error), 0]))"
        )
    finally:
        browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": False})
    assert isinstance(found, list), found
    assert passed > 20
    serious = [
        (each["id"], each["help"], [node["html"][:200] for node in each["nodes"][:3]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert not serious
