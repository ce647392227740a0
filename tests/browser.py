"""Pages in a real browser, headless Chromium: what is wrong with one, and pictures of it.

python -m tests.browser PAGE.html PICTURE.png
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


class View(NamedTuple):
    """A window's width in CSS pixels, and the colours that its user prefers."""

    width: int
    colours: str

    def __str__(self) -> str:
        return f"{self.width} {self.colours}"


VIEWS = tuple(View(width, colours) for width in (360, 768, 1280) for colours in ("light", "dark"))

# Elements whose text is wider than they are and neither scrolls nor is cut with an ellipsis; the page, if it scrolls.
_OVERFLOW = """() => {
  const found = [];
  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth) found.push(`the page: ${page.scrollWidth} px`);
  for (const e of document.querySelectorAll('body *')) {
    const style = getComputedStyle(e);
    const cut = style.textOverflow === 'ellipsis' || style.webkitLineClamp !== 'none';
    if (e.closest('svg') || style.display === 'inline' || cut) continue;
    const scrolls = ['auto', 'scroll'].includes(style.overflowX);
    if (!scrolls && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0)
      found.push(`${e.tagName.toLowerCase()}.${e.className}: ${e.scrollWidth} in ${e.clientWidth} px`);
  }
  return found;
}"""
_BROKEN_PICTURES = """async () => {
  const found = [];
  for (const image of document.images) {
    image.loading = 'eager';
    try { await image.decode(); } catch (error) { found.push(`${image.alt}: ${error.message}`); }
  }
  return found;
}"""
# Where Tab leads: a number for each element, so that the same place twice is the end of the round.
_FOCUSED = """() => {
  const e = document.activeElement;
  if (e === document.body) return null;
  const style = getComputedStyle(e);
  const seen = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
  const box = e.getBoundingClientRect();
  return {tag: e.tagName, at: [...document.querySelectorAll('*')].indexOf(e), seen: seen && box.width > 0};
}"""
_REACHABLE = (
    "() => [...document.querySelectorAll('a, summary')].filter(e => e.checkVisibility()).length"
)


def browser_path() -> str | None:
    """The installed Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A headless Chromium; closed at the end."""
    with sync_playwright() as driver:
        # Root, as CI is, has no sandbox; /dev/shm is small in containers.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = driver.chromium.launch(executable_path=browser_path(), args=arguments)
        yield browser
        browser.close()


@contextmanager
def _opened(browser: Browser, file: Path, view: View) -> Iterator[tuple[Page, list[str]]]:
    """A page, and what its console says or it asks of others while it is open."""
    said: list[str] = []
    context = browser.new_context(
        viewport={"width": view.width, "height": 800}, color_scheme=view.colours
    )
    page = context.new_page()
    page.on("console", lambda message: said.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda asked: _outside(asked.url, said))
    page.goto(file.resolve().as_uri())
    yield page, said
    context.close()


def _outside(url: str, said: list[str]) -> None:
    if not url.startswith(("file:", "data:")):
        said.append(f"asks for {url}")


def faults(browser: Browser, file: Path, view: View) -> list[str]:
    """What is wrong with a page in a window: messages of its console, requests, pictures that do not load, text that
    overflows, what Tab does not reach or does not show, and what axe-core finds (contrast, names, headings, tables).
    """
    with _opened(browser, file, view) as (page, found):
        found += [f"picture {one}" for one in page.evaluate(_BROKEN_PICTURES)]
        found += [f"overflows: {one}" for one in page.evaluate(_OVERFLOW)]
        found += _by_keyboard(page)
        for rule in Axe().run(page).response["violations"]:
            nodes = [f"{n['html'][:120]}: {n['failureSummary'][:300]}" for n in rule["nodes"][:3]]
            found.append(f"{rule['id']} ({len(rule['nodes'])}): {' | '.join(nodes)}")
        return list(found)


def _by_keyboard(page: Page) -> list[str]:
    """Tab visits every link and summary once, each with an outline."""
    wanted, visited, found = page.evaluate(_REACHABLE), set(), []
    for _ in range(wanted + 50):  # regions that scroll are visited as well
        page.keyboard.press("Tab")
        focused = page.evaluate(_FOCUSED)
        if focused is None or focused["at"] in visited:
            break
        if focused["tag"] in ("A", "SUMMARY"):
            visited.add(focused["at"])
        if not focused["seen"]:
            found.append(f"no outline where Tab stops: {focused}")
    if len(visited) != wanted:
        found.append(f"Tab reaches {len(visited)} of {wanted} links and summaries")
    return found


def take_picture(browser: Browser, file: Path, picture: Path, view: View, *, height: int) -> None:
    """A PNG of the top of a page, `height` CSS pixels of it."""
    with _opened(browser, file, view) as (page, _):
        page.set_viewport_size({"width": view.width, "height": height})
        page.evaluate(_BROKEN_PICTURES)  # waits for all
        page.screenshot(path=picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1000)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--colours", choices=("light", "dark"), default="light")
    asked = parser.parse_args()
    with open_browser() as browser:
        view = View(asked.width, asked.colours)
        take_picture(browser, asked.page, asked.picture, view, height=asked.height)


if __name__ == "__main__":
    main()
