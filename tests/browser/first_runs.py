"""Shows every template's first run as somebody new sees it: opened by clicks, run, 1366 x 768.

COMFYUI_PATH=... python -m tests.browser.first_runs FOLDER [TEMPLATE ...]

Writes FOLDER/<template>-<renderer>-<theme>.png, and the list of templates. Knows the page alone;
the pictures are for the eye.
"""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from .comfy_server import ComfyServer
from .conftest import CHROMIUM, FLAGS, open_canvas
from .on_the_canvas import DETAILER, RUN, SMALL_LAPTOP, WORKFLOWS, open_templates

SETTING = "([name, value]) => window.app.extensionManager.setting.set(name, value)"


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base, sync_playwright() as playwright:
        server = ComfyServer(Path(base) / "base")
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            for renderer in ("classic", "newer"):
                page = open_canvas(browser, server, renderer == "newer", SMALL_LAPTOP)
                for theme in ("dark", "light"):
                    page.evaluate(SETTING, ["Comfy.ColorPalette", theme])
                    for name in sys.argv[2:] or WORKFLOWS:
                        show(page, name, folder / f"{name}-{renderer}-{theme}.png")
                    open_templates(page)
                    page.screenshot(path=folder / f"templates-{renderer}-{theme}.png")
                    page.keyboard.press("Escape")
                page.close()
        finally:
            server.close()


def show(page, name: str, path: Path) -> None:
    open_templates(page)
    page.locator(f'[data-testid="template-workflow-{name}"]').click()
    page.mouse.move(SMALL_LAPTOP["width"] / 2, SMALL_LAPTOP["height"] - 10)  # off every tooltip
    page.wait_for_timeout(2500)
    if name != DETAILER:  # its weights are not here
        page.evaluate(RUN)
    page.wait_for_timeout(1500)
    page.screenshot(path=path)


if __name__ == "__main__":
    main()
