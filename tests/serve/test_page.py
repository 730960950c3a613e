"""The page in a real browser, which reaches the server of the test and nothing else."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnncodes import Classifier
from cnncodes.app.overlays import AGAINST, FOR
from tests.helpers import run_command
from tests.serve.servers import Server, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTHS = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 360, "height": 740}}
DROP = """
(files) => {
  const transfer = new DataTransfer();
  for (const { name, bytes } of files) {
    transfer.items.add(new File([new Uint8Array(bytes)], name));
  }
  for (const kind of ["dragover", "drop"]) {
    const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
    document.getElementById("drop").dispatchEvent(new DragEvent(kind, options));
  }
}
"""
PASTE = """
(files) => {
  const transfer = new DataTransfer();
  for (const { name, bytes } of files) {
    transfer.items.add(new File([new Uint8Array(bytes)], name));
  }
  document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
}
"""

Open = Callable[..., "Page"]


@contextmanager
def opened(browser: Browser, url: str, **options: object) -> Iterator[Page]:
    """Open the page; fail at any error of it, and at a request to elsewhere."""
    context = browser.new_context(**options)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: (
            message.type == "error"
            and "status of 422" not in message.text  # an image that cannot be used
            and problems.append(message.text)
        ),
    )
    origin = url.partition("?")[0]
    page.on(
        "request",
        lambda request: (
            request.url.startswith((origin, f"blob:{origin}")) or problems.append(request.url)
        ),
    )
    page.goto(url)
    try:
        yield page
        assert problems == []
    finally:
        context.close()


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Browser, server: Server) -> Iterator[Page]:
    is_phone = request.param == "phone"
    with opened(
        browser, server.url, viewport=WIDTHS[request.param], has_touch=is_phone, is_mobile=is_phone
    ) as page:
        yield page


def as_dropped(paths: list[Path]) -> list[dict[str, object]]:
    return [{"name": path.name, "bytes": list(path.read_bytes())} for path in paths]


def wait_for_results(page: Page, n: int) -> None:
    count(page, ".classes:has(button)", n)


def count(page: Page, selector: str, n: int) -> None:
    """Wait until `n` elements are there; the page's own policy forbids other ways to wait."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_count(n, timeout=60_000)


def pixels_of_map(page: Page, index: int = 0) -> list[int]:
    """The colours of a map, empty while none is shown."""
    pixels: list[int] = page.evaluate(
        """(index) => {
          const canvas = document.querySelectorAll(".card canvas")[index];
          if (canvas.hidden) return [];
          const context = canvas.getContext("2d");
          return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
        }""",
        index,
    )
    return pixels


def test_results_equal_those_of_the_command(
    page: Page, app: Path, images: list[Path], tmp_path: Path
) -> None:
    page.evaluate(DROP, as_dropped(images))
    wait_for_results(page, 3)
    assert page.inner_text("#status") == "3 images classified."
    output = run_command("predict", app, *images, "--top", 5, "--format", "csv").stdout
    wanted = list(csv.DictReader(output.splitlines()))
    shown = page.locator(".classes button").all_inner_texts()
    assert [text.split() for text in shown] == [
        [row["label"], f"{100 * float(row['probability']):.1f}", "%"] for row in wanted
    ]

    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "predictions.csv"
    download.value.save_as(tmp_path / "predictions.csv")
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text("utf-8").splitlines()))
    assert len(rows) == len(wanted) == 15
    for row, expected in zip(rows, wanted, strict=True):
        assert row["path"] == Path(expected["path"]).name
        assert float(row["probability"]) == pytest.approx(float(expected["probability"]), abs=2e-6)
        assert {row[key] == expected[key] for key in ("rank", "label", "problem")} == {True}


def test_pointing_at_a_class_shows_its_map(page: Page, app: Path, images: list[Path]) -> None:
    page.evaluate(DROP, as_dropped(images))
    wait_for_results(page, 3)
    second = page.locator(".card").nth(1)
    button = second.locator("button").nth(1)
    label = second.locator(".label").nth(1).inner_text()
    is_phone = page.viewport_size == WIDTHS["phone"]
    button.tap() if is_phone else button.hover()
    page.wait_for_selector(".card canvas:not([hidden])")
    contributions = Classifier(app).explain(images[1], label).contributions
    pixels = pixels_of_map(page, 1)
    assert len(pixels) == 4 * contributions.size
    largest = abs(contributions).max()
    for index, value in enumerate(contributions.ravel()):
        *colour, alpha = pixels[4 * index : 4 * index + 4]
        assert alpha == pytest.approx(0.8 * 255 * abs(value) / largest, abs=1.5)
        if alpha > 20:  # browsers round the colours of what is almost transparent
            assert colour == pytest.approx(FOR if value > 0 else AGAINST, abs=8)
    assert second.locator(".evidence").inner_text().startswith(f"Evidence for {label}: most")
    # The map lies on the picture, and nowhere else.
    map_box, image_box = (second.locator(each).bounding_box() for each in ("canvas", "img"))
    assert map_box == pytest.approx(image_box, abs=0.1)
    if is_phone:
        button.tap()
    else:
        page.mouse.move(0, 0)
    count(page, ".card canvas:not([hidden])", 0)


def test_keyboard_reaches_everything(browser: Browser, server: Server, images: list[Path]) -> None:
    with opened(browser, server.url) as page:
        page.set_input_files("#choose", images[0])
        wait_for_results(page, 1)
        assert page.inner_text("#status").startswith(images[0].name)
        reached = []
        page.evaluate("document.activeElement.blur()")
        while len(reached) < 9:
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || 'class'"))
        assert reached == ["choose", "photo", "download", "clear", *["class"] * 5]
        page.wait_for_selector(".card canvas:not([hidden])")  # of the class that has the focus
        page.keyboard.press("Enter")
        button = page.locator(".classes button").nth(4)
        assert button.get_attribute("aria-pressed") == "true"
        page.keyboard.press("Tab")  # away; the map stays
        assert pixels_of_map(page)
        button.focus()
        page.keyboard.press("Space")
        assert button.get_attribute("aria-pressed") == "false"
        page.click("#clear")
        assert page.locator(".card").count() == 0
        assert page.inner_text("#status") == ""


def test_pasted_image_is_classified(page: Page, images: list[Path]) -> None:
    page.evaluate(PASTE, as_dropped(images[:1]))
    wait_for_results(page, 1)


def test_file_that_is_no_image_is_reported_beside_the_others(
    page: Page, images: list[Path], tmp_path: Path
) -> None:
    other = tmp_path / "=notes,<b>.txt"
    other.write_text("no image")
    page.evaluate(DROP, as_dropped([other, images[0]]))
    wait_for_results(page, 1)
    problem = page.locator(".card").first.locator(".problem")
    assert problem.inner_text().startswith("not a JPEG")
    assert page.locator(".card h2").first.inner_text() == other.name
    page.wait_for_selector(".placeholder:not([hidden])")
    with page.expect_download() as download:
        page.click("#download")
    first, *_ = csv.DictReader(download.value.path().read_text("utf-8").splitlines())
    assert first["path"] == f"'{other.name}"
    assert first["problem"].startswith("not a JPEG")


def test_many_images_come_in_order(browser: Browser, server: Server, photos: Path) -> None:
    paths = sorted(photos.rglob("*.png"))[:30]
    with opened(browser, server.url) as page:
        page.set_input_files("#choose", paths)
        wait_for_results(page, 30)
        assert page.locator(".card h2").all_inner_texts() == [path.name for path in paths]
        assert page.inner_text("#status") == "30 images classified."


def test_page_waits_for_a_busy_server(browser: Browser, app: Path, photos: Path) -> None:
    paths = sorted(photos.rglob("*.png"))[:24]
    with running(app, limits={"max_requests": 1}) as busy:
        context = browser.new_context()
        page = context.new_page()
        page.goto(busy.url)
        page.set_input_files("#choose", paths)
        wait_for_results(page, 24)
        context.close()


def test_page_reports_a_server_that_has_stopped(
    browser: Browser, app: Path, images: list[Path]
) -> None:
    with running(app) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        count(page, "#about:not(:empty)", 1)
        server.interrupt()
        server.process.wait(60)
        page.set_input_files("#choose", images[0])
        page.wait_for_selector(".card .problem:not([hidden])")
        assert "the server does not answer" in page.inner_text(".card .problem")
        context.close()


def test_address_with_a_token_opens_the_page(
    browser: Browser, app: Path, images: list[Path]
) -> None:
    with running(app, token="a-token-of-the-test") as server:
        url = server.url
        with opened(browser, url) as page:
            assert "token" not in page.url
            page.set_input_files("#choose", images[0])
            wait_for_results(page, 1)
            assert "stay on this machine" in page.inner_text("#privacy")


def test_camera_takes_a_photo(browser: Browser, server: Server) -> None:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    options = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with (
        closing(browser.browser_type.launch(executable_path=path, args=options)) as with_camera,
        opened(with_camera, server.url) as page,
    ):
        page.click("#photo")
        page.click("#camera .take")
        wait_for_results(page, 1)
        assert page.inner_text(".card h2").startswith("photo 2")
        page.click("#photo")
        page.click("#camera .close")
        count(page, ".card", 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_page_is_accessible(
    browser: Browser, server: Server, images: list[Path], scheme: str, width: str, tmp_path: Path
) -> None:
    script = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"x")
    with opened(browser, server.url, color_scheme=scheme, viewport=WIDTHS[width]) as page:
        page.evaluate(script)
        for step in ("empty", "results", "map"):
            if step == "results":
                page.evaluate(DROP, as_dropped([*images, broken]))
                wait_for_results(page, 3)
            if step == "map":
                page.locator(".classes button").first.click()
                page.wait_for_selector(".card canvas:not([hidden])")
            found = page.evaluate("axe.run()")
            assert len(found["passes"]) > 10
            serious = [
                (each["id"], [node["html"] for node in each["nodes"]])
                for each in found["violations"]
                if each["impact"] in ("serious", "critical")
            ]
            assert serious == [], json.dumps(serious, indent=1)
        # Nothing is cut off or needs scrolling sideways.
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
