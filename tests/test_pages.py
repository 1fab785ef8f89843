"""The report and the demo, in a real browser."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import predict
import report
from conftest import call, image, put

pytestmark = pytest.mark.slow

WIDTHS = (375, 768, 1280)  # a phone, a tablet, a screen: pixels


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    paths = [path for name in ("chromium", "google-chrome", "chromium-browser") if (path := shutil.which(name))]
    if not paths:
        pytest.skip("no Chromium here (Debian, Ubuntu: apt install chromium)")
    quiet = ("networking", "extensions")
    flags = ["--no-sandbox", "--disable-component-update", *(f"--disable-background-{name}" for name in quiet)]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=paths[0], args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that notes what goes wrong on it and what it asks for."""
    page = browser.new_page()
    page.faults, page.requests = [], []
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    yield page
    page.close()


def opened(page, clone, width=1280):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((clone.folder / "reports/report.html").as_uri())
    return page


@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_asks_for_nothing_and_draws_every_plot_at_every_width(clone, page, width):
    opened(page, clone, width)
    assert page.faults == [] and [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # wide tables scroll by themselves
    plots = page.locator("main svg")
    assert plots.count() == 9
    for number in range(8):
        plot = plots.nth(number)
        box = plot.bounding_box()
        assert 250 < box["width"] <= width and box["height"] > 120
        # Something is drawn beside the frame: a line or a mark with an extent.
        assert (
            plot.evaluate("""svg => [...svg.querySelectorAll('[id*="line2d"] path, [id*="patch"] path, use')]
            .filter(path => path.getBBox().width + path.getBBox().height > 1).length""")
            > 5
        )
        assert plot.locator("text").count() > 4
    names = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(names) == len(set(names))


def test_the_report_says_what_the_metrics_say(clone, page):
    opened(page, clone)
    shown = page.locator("main").inner_text()
    figures = clone.metrics("evaluate")
    area = figures["test"]["roc_auc"]
    assert f"ROC AUC\t{area['value']:.3f}" in shown
    headline = re.search(r"\*\*(.*)\*\*", (clone.folder / "metrics/verdict.md").read_text())[1]
    assert page.locator(".headline").inner_text() == page.title() == headline
    assert "synthetic" in page.locator(".warning").first.inner_text() and "Research only" in shown
    test = pd.read_csv(clone.folder / "data/predictions.csv").query("split == 'test'")
    called = pd.crosstab(test["label"], test["probability"] >= figures["threshold"])
    for label, name in ((0, "negative"), (1, "positive")):
        counts = [int(called.get(what, pd.Series(0, [0, 1])).get(label, 0)) for what in (False, True)]
        assert f"{name}\t{counts[0]}\t{counts[1]}" in shown
    audit = clone.metrics("audit")
    assert f"images, distinct images\t{audit['images']}, {audit['distinct_images']}" in shown
    page.locator("summary", has_text="All parameters").click()
    assert "train.lr\t0.003" in page.locator("main").inner_text()
    page.locator("summary", has_text="as a table").click()
    patient = test["patient"].iloc[0]
    rows_of_patient = test[test["patient"] == patient]
    row = f"{patient}\t{len(rows_of_patient)}\t{rows_of_patient['label'].sum()}"
    assert row in page.locator("main").inner_text()
    weights = (clone.folder / "models/model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in shown and f"torch {version('torch')}" in shown


def test_the_report_can_be_read_in_the_dark_in_print_and_by_a_screen_reader(clone, page):
    opened(page, clone)

    def light(selector, what):
        rgb = page.locator(selector).first.evaluate(f"element => getComputedStyle(element).{what}")
        return sum(map(int, re.findall(r"\d+", rgb)[:3])) / 3

    for scheme, paper, ink in (("light", (200, 256), (0, 60)), ("dark", (0, 60), (200, 256))):
        page.emulate_media(color_scheme=scheme)
        assert paper[0] <= light("body", "backgroundColor") < paper[1]
        assert ink[0] <= light("body", "color") < ink[1] and ink[0] <= light("svg text", "fill") < ink[1]
    page.emulate_media(media="print", color_scheme="dark")
    assert light("body", "backgroundColor") > 250 and light("svg text", "fill") < 10
    assert all(table.bounding_box()["height"] > 20 for table in page.locator("details table").all())  # unfolded
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("main svg").count() == page.locator("[role=img][aria-label] svg").count()
    assert page.locator("main table").count() == page.locator("main table:has(th[scope])").count()
    assert page.evaluate("[...document.querySelectorAll('h1, h2')].every(heading => heading.innerText.trim())")


def test_patients_images_are_on_the_page_only_where_that_was_asked_for(clone, page):
    opened(page, clone)
    assert page.locator("img").count() == 0 and "data:image" not in page.content()
    clone.change("report.images", True)
    call(report, clone.folder)
    opened(page, clone)
    assert page.locator("img").count() > 1 and "This page shows images of patients" in page.locator("main").inner_text()
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 50)")


@pytest.fixture(scope="module")
def demo(clone):
    """The demo of the clone's model, and where it is."""
    server = subprocess.Popen(
        [sys.executable, "stages/demo.py", "--port", "0", "--device", "cpu"], cwd=clone.folder,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    line = server.stdout.readline()
    assert "Open http://127.0.0.1:" in line, line + server.stdout.read()
    yield SimpleNamespace(server=server, address=re.search(r"http://\S+", line)[0])
    server.terminate()
    assert "Traceback" not in server.communicate(timeout=20)[0]


def test_an_image_dropped_on_the_demo_shows_what_predict_says(clone, demo, page, tmp_path):
    with zipfile.ZipFile(clone.folder / "data/raw/images.zip") as archive:
        put(tmp_path, {"known.bmp": archive.read(archive.namelist()[0]), "broken.png": b"no image"})
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    put(tmp_path, {"noise.png": image(noise, mode="RGB")})
    call(predict, tmp_path, "known.bmp", "noise.png", "--out", "o.json", "--models", clone.folder / "models")
    familiar, strange = json.loads((tmp_path / "o.json").read_text())
    assert strange["ood_score"] > 1

    page.goto(demo.address)
    page.locator("#choose").set_input_files([tmp_path / name for name in ("known.bmp", "noise.png", "broken.png")])
    page.locator("article").nth(2).wait_for()
    page.locator("article", has_text="broken.png").locator("[role=alert]").wait_for()
    articles = {name: page.locator("article", has_text=name) for name in ("known.bmp", "noise.png", "broken.png")}
    shown = articles["known.bmp"].locator(".probability").inner_text()
    assert shown == f"Probability of positive: {familiar['probability']:.3f}"
    pictures = articles["known.bmp"].locator("img")
    assert pictures.count() == 2 and pictures.evaluate_all("all => all.every(one => one.naturalWidth === 256)")
    rows = articles["known.bmp"].locator("tbody tr")
    points = clone.metrics("evaluate")["operating_points"]
    assert rows.count() == 1 + sum(point["threshold"] is not None for point in points.values())
    for number in range(rows.count()):
        threshold = float(rows.nth(number).get_attribute("data-threshold"))
        expected = "positive" if familiar["probability"] >= threshold else "negative"
        assert rows.nth(number).locator(".called").inner_text() == expected
    assert "Out of distribution" in articles["noise.png"].locator("[role=alert]").inner_text()
    assert articles["broken.png"].locator("[role=alert]").inner_text() == "No result: not an image"
    assert not articles["broken.png"].locator(".probability").is_visible()
    assert all(url.startswith((demo.address, "data:", "blob:")) for url in page.requests)
    assert [fault for fault in page.faults if "422" not in fault] == []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.mouse.wheel(0, 5000)  # the warning stays in sight
    banner = page.locator(".banner")
    assert "Research only" in banner.inner_text() and "SYNTHETIC" in banner.inner_text()
    assert banner.bounding_box()["y"] == 0


def status(address, **headers):
    request = urllib.request.Request(address, headers=headers, data=b"x" if "Origin" in headers else None)
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_demo_answers_to_no_other_page(demo):
    assert status(demo.address) == 200
    assert status(demo.address, Host="evil.example") == 403
    assert status(demo.address + "/classify", Origin="http://evil.example") == 403
    assert status(demo.address + "/classify", Origin=demo.address) == 422  # its own page; x is no image


def test_a_port_that_is_taken_is_said(clone, demo):
    port = demo.address.rpartition(":")[2]
    output = clone.run("python", "stages/demo.py", "--port", port, good=False)
    assert f"Port {port} is in use" in output and "Traceback" not in output
