"""Takes a picture of the page's map with Chromium: ``page_picture.py URL FILE``. It is a process of its own, so that
the demo can end it and its browser. Its last line of output says why there is no picture."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

WIDTH, HEIGHT = 1360, 900
PATIENCE_MS = 150_000


def missing() -> str:
    """Return what this machine lacks for a picture; empty if nothing."""
    if shutil.which("chromium") is None:
        return "Debian's chromium is not installed (make setup)"
    try:
        import playwright.sync_api  # noqa: F401 - only asked whether it is there
    except ImportError:
        return "Playwright is not in the virtual environment (make setup)"
    return ""


def main(url: str, file: Path) -> int:
    from playwright.sync_api import Error, sync_playwright

    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with sync_playwright() as playwright:
            # Chromium has no sandbox for root, and opens nothing here but the demo's own page.
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.goto(url, timeout=PATIENCE_MS)
            page.wait_for_function("() => performance.getEntriesByName('map-shown').length", timeout=PATIENCE_MS)
            page.screenshot(path=file)
            browser.close()
    except Error as error:
        print(error.message.splitlines()[0])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
