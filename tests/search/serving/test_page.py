"""The page in a real Chromium: typing, dropping, combining, filters, keyboard, phone, dark, and axe."""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Iterator
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ..helpers import FakeEncoder
from .kit import Live, live, picture

pytestmark = pytest.mark.browser

Page = Any
KEY = "a-key-of-some-length"


# Read here: a fixture of all tests takes such variables away. CI sets it where it can install what is needed.
REQUIRED = os.environ.get("BINDERCLIP_BROWSER") == "required"


def missing(what: str) -> None:
    """Skips, or fails where the browser must be there."""
    (pytest.fail if REQUIRED else pytest.skip)(f"browser tests need: {what}")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's browser; none is ever downloaded."""
    if find_spec("playwright") is None:
        missing("pip install playwright")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        missing("apt-get install chromium")
    from playwright import sync_api as playwright

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, server: Live) -> Iterator[Page]:
    """A page on the small index; nothing may go wrong on it, and nothing may come from elsewhere."""
    yield from opened(chromium, server.url)


def opened(chromium: Any, url: str, **options: Any) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1200, "height": 800}, **options)
    context.set_default_timeout(20_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on(
        "request", lambda sent: wrong.append(sent.url) if not sent.url.startswith((url, "data:", "blob:")) else None
    )
    page.goto(url)
    page.wait_for_selector(".shot, #key[open]")
    yield page
    context.close()
    assert [one for one in wrong if "401" not in one] == []


def names(page: Page) -> list[str]:
    page.wait_for_selector("#results:not([aria-busy])")
    found: list[str] = page.locator(".shot .label").all_inner_texts()
    return found


def wait_first(page: Page, start: str) -> None:
    page.wait_for_function(
        "start => document.querySelector('.shot .label')?.textContent.startsWith(start)"
        " && !document.querySelector('#results').hasAttribute('aria-busy')",
        arg=start,
    )


def test_search_as_you_type_and_the_address(page: Page, server: Live) -> None:
    assert len(names(page)) == 30
    page.keyboard.type("red")  # the field has the focus from the start
    wait_first(page, "red")
    assert "30 pictures" in page.inner_text("#status")
    assert "q=red" in page.url
    page.fill("#text", "blue")
    wait_first(page, "blue")
    page.goto(f"{server.url}/?q=green")
    wait_first(page, "green")
    assert page.input_value("#text") == "green"
    image = page.locator(".shot img").first
    assert image.evaluate("one => one.decode().then(() => one.naturalWidth)") > 0


def test_a_text_with_signs_is_a_mix(page: Page) -> None:
    page.fill("#text", "red - white")
    wait_first(page, "red")
    page.fill("#text", "- red")
    page.wait_for_function("() => !document.querySelector('.shot .label').textContent.startsWith('red')")


def drop(page: Page, data: bytes, name: str, kind: str) -> None:
    page.evaluate(
        """([data, name, type]) => {
          const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name, { type }));
          for (const kind of ["dragenter", "dragover", "drop"])
            window.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [base64.b64encode(data).decode(), name, kind],
    )


def test_a_dropped_picture_searches_and_can_be_turned_round(page: Page) -> None:
    drop(page, picture((30, 40, 220), (900, 700)), "sea.png", "image/png")
    page.wait_for_selector("#parts li.plus")  # the pictures of before may begin with blue too
    wait_first(page, "blue")
    assert page.is_hidden("#drop")
    assert page.locator("#parts li").count() == 1
    page.click("#parts .sign")
    page.wait_for_function("() => !document.querySelector('.shot .label').textContent.startsWith('blue')")
    page.click("#parts .gone")
    page.wait_for_selector("#parts", state="hidden")
    drop(page, b"no picture", "notes.txt", "text/plain")
    page.wait_for_selector("#empty >> text=notes.txt is no picture")


def test_a_chosen_file_searches(page: Page, tmp_path: Path) -> None:
    (tmp_path / "grass.jpg").write_bytes(picture((30, 200, 40), (300, 200), "JPEG"))
    page.set_input_files("#file", str(tmp_path / "grass.jpg"))
    wait_first(page, "green")


def test_more_less_and_similar(page: Page) -> None:
    page.fill("#text", "red")
    wait_first(page, "red")
    page.hover(".shot >> nth=0")
    page.click(".shot >> nth=0 >> [title='Similar pictures']")
    page.wait_for_selector("#parts li.plus")
    wait_first(page, "red")
    assert page.input_value("#text") == ""
    assert "like=" in page.url
    page.fill("#text", "blue")
    wait_first(page, "")
    page.hover(".shot >> nth=0")
    page.click(".shot >> nth=0 >> [title='Less like this']")
    page.wait_for_selector("#parts li.minus")
    address = page.url
    assert "unlike=" in address
    page.go_back()
    page.wait_for_selector("#parts li.minus", state="detached")
    page.go_forward()
    page.wait_for_selector("#parts li.minus")
    page.reload()
    page.wait_for_selector("#parts li.minus")


def test_filters(page: Page) -> None:
    page.click("#filter")
    page.fill("#filters [name=path]", "day1")
    page.wait_for_function("() => document.querySelectorAll('.shot').length === 10")
    assert page.inner_text("#filter-count") == "1"
    page.select_option("#filters [name=type]", "jpg")
    page.wait_for_selector("#empty h2:has-text('Nothing matches')")
    page.fill("#filters [name=path]", "a \"quoted' and path~x")
    page.wait_for_selector("#empty h2:has-text('Nothing matches')")
    page.click("#filters [type=reset]")
    page.wait_for_function("() => document.querySelectorAll('.shot').length === 30")


def test_the_keyboard_alone(page: Page) -> None:
    page.keyboard.type("red")
    wait_first(page, "red")
    page.keyboard.press("ArrowDown")
    focused = "[...document.querySelectorAll('.shot')].indexOf(document.activeElement.closest('.shot'))"
    assert page.evaluate(focused) == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == 1
    page.keyboard.press("ArrowDown")
    below = page.evaluate(focused)
    assert below > 1
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == 1
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open]")
    name = page.inner_text("#name")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#name") != name
    page.keyboard.press("Escape")
    page.wait_for_selector("#viewer", state="hidden")
    page.wait_for_function(f"() => {focused} === 2")  # the dialog's close event comes a task later
    page.keyboard.press("s")
    page.wait_for_selector("#parts li.plus")
    page.keyboard.press("?")
    page.wait_for_selector("#keys[open]")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"


def test_the_viewer_shows_the_picture_and_its_facts(page: Page) -> None:
    page.fill("#text", "red")
    wait_first(page, "red")
    page.click(".shot >> nth=0 >> .open")
    assert page.locator("#large").evaluate("one => one.decode().then(() => one.naturalWidth)") > 0
    facts = page.inner_text("#details")
    assert re.search(r"photos/day\d", facts)
    assert "48 × 32" in facts
    assert page.locator("#original").get_attribute("href")
    page.click("#viewer [data-act=minus]")
    page.wait_for_selector("#parts li.minus")


def test_a_key_is_asked_for_once(chromium: Any, library: tuple[Path, Path]) -> None:
    with live(library[1], FakeEncoder(), api_keys=(KEY,)) as server:
        for page in opened(chromium, server.url):
            page.fill("#key-text", "a-wrong-key")
            page.click("#key button")
            page.wait_for_selector("text=That key is not right")
            page.fill("#key-text", KEY)
            page.click("#key button")
            page.wait_for_selector(".shot")
            assert page.locator(".shot img").first.evaluate("one => one.decode().then(() => one.naturalWidth)") > 0
            page.reload()
            page.wait_for_selector(".shot")
            assert page.locator("#key[open]").count() == 0


def test_nothing_of_a_name_is_markup(chromium: Any, tmp_path: Path) -> None:
    from binderclip.search.index import LocalIndex

    from ..helpers import paint

    name = "<img src=x onerror=alert(1)>&quot;.png"
    paint(tmp_path / "p" / name.replace("/", ""), (220, 30, 30))
    with LocalIndex(tmp_path / "db", FakeEncoder()) as index:
        index.add([tmp_path / "p"])
    with live(tmp_path / "db", FakeEncoder()) as server:
        for page in opened(chromium, server.url):
            assert names(page) == [name]
            page.click(".open")
            assert page.inner_text("#name") == name


def test_a_server_that_goes_away_is_told(chromium: Any, library: tuple[Path, Path]) -> None:
    context = chromium.new_context()
    page = context.new_page()
    with live(library[1], FakeEncoder()) as server:
        page.goto(server.url)
        page.wait_for_selector(".shot")
    page.fill("#text", "red")
    page.wait_for_selector("#empty >> text=The server does not answer")
    context.close()


PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


def test_a_phone_has_no_sideways_scroll_and_large_targets(chromium: Any, server: Live) -> None:
    context = chromium.new_context(**PHONE)
    page = context.new_page()
    page.goto(f"{server.url}/?q=red")
    page.wait_for_selector(".shot")
    page.tap("#filter")
    wide = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(wide)
    page.tap(".shot >> nth=0 >> .open")
    page.wait_for_selector("#viewer[open]")
    assert page.evaluate(wide)
    small = page.evaluate(
        """() => [...document.querySelectorAll("#viewer button, #viewer a, .bar button, .bar label")]
          .map(one => [one.id || one.textContent, one.getBoundingClientRect()])
          .filter(([, box]) => box.width && (box.width < 36 || box.height < 36)).map(([name]) => name)"""
    )
    assert small == []
    context.close()


def axe() -> str:
    """axe-core, from the package that carries it."""
    if find_spec("axe_playwright_python") is None:
        missing("pip install axe-playwright-python")
    return (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def first_id(page: Page) -> str:
    return str(page.locator(".shot img").first.get_attribute("src")).split("/")[-2]


SCENES = {
    "search": lambda page: None,
    "parts": lambda page: page.goto(f"{page.url}&like={first_id(page)}"),
    "filters": lambda page: page.click("#filter"),
    "viewer": lambda page: page.click(".shot >> nth=0 >> .open"),
    "keys": lambda page: page.click("#help"),
    "nothing": lambda page: page.goto(page.url.split("?")[0] + "?path=nowhere"),
    "docs": lambda page: page.goto(page.url.split("?")[0] + "docs"),
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(chromium: Any, server: Live, scheme: str) -> None:
    source = axe()
    found: list[str] = []
    for name, scene in SCENES.items():
        # The policy of the page lets no script in but its own; a tester's script needs an exception.
        context = chromium.new_context(color_scheme=scheme, bypass_csp=True, viewport={"width": 1200, "height": 800})
        page = context.new_page()
        page.goto(f"{server.url}/?q=red")
        page.wait_for_selector(".shot")
        scene(page)
        page.wait_for_selector("section" if name == "docs" else "#empty h2" if name == "nothing" else ".shot")
        page.wait_for_timeout(300)
        page.add_script_tag(content=source)
        for one in page.evaluate("() => axe.run().then(result => result.violations)"):
            where = "; ".join(node["html"][:90] for node in one["nodes"][:3])
            found.append(f"{name}/{scheme}: {one['impact']} {one['id']}: {where}")
        context.close()
    assert found == []


def test_axe_would_find_something(chromium: Any, server: Live) -> None:
    context = chromium.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(server.url)
    page.evaluate("() => document.body.append(Object.assign(new Image(), { src: 'assets/icon.svg' }))")
    page.add_script_tag(content=axe())
    assert "image-alt" in [one["id"] for one in page.evaluate("() => axe.run().then(result => result.violations)")]
    context.close()
