"""Fixtures: a ComfyUI with the pack, and a page of it in headless Chromium, per renderer."""

import os
import shutil
from pathlib import Path

import pytest

from .comfy_server import ComfyServer, why_not
from .on_the_canvas import put_on_canvas, run, workflow

CHROMIUM = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or "chromium"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
VIEW = {"width": 1800, "height": 1000}


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory):
    if why_not():
        pytest.skip(why_not())
    server = ComfyServer(tmp_path_factory.mktemp("comfyui") / "base")
    yield server
    server.close()


@pytest.fixture(scope="session")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if shutil.which(CHROMIUM) is None:
        pytest.skip("there is no Chromium: install it, or name it in CHROMIUM_PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def open_canvas(browser, server: ComfyServer, newer: bool, view: dict = VIEW):
    """A page that has loaded ComfyUI and every node of the pack, in one of the two renderers."""
    page = browser.new_page(viewport=view)
    page.goto(server.url)
    page.wait_for_function(
        "() => !!(window.app && window.app.graph && window.LiteGraph"
        " && window.LiteGraph.registered_node_types['LaserAnswer'])",
        timeout=120_000,
    )
    page.evaluate(
        "value => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', value)", newer
    )
    return page


@pytest.fixture(scope="session", params=["classic", "newer"])
def canvas(request, comfyui, chromium):
    """(page, renderer)"""
    page = open_canvas(chromium, comfyui, newer=request.param == "newer")
    yield page, request.param
    page.close()


@pytest.fixture
def asked(canvas):
    """(page, renderer) after a run of the workflow with every step."""
    page, renderer = canvas
    put_on_canvas(page, workflow("2 See every step"))
    run(page)
    return page, renderer


@pytest.fixture(scope="session")
def shots(tmp_path_factory):
    """Where screenshots go; LASER_SHOTS names a folder to keep them in."""
    folder = Path(os.environ.get("LASER_SHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
