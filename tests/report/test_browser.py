"""The page in Chromium: divider by mouse, touch and keys, choice of pictures, contrast, narrow screens, paper."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stbn_cli.report.model import Report
from stbn_cli.report.page import write_report
from tests.conftest import PATIENCE
from tests.report.conftest import COLORS, NASTY, PICTURE_HEIGHT, PICTURE_WIDTH

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="Chromium and chromedriver are not installed"
)

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
)
DESKTOP = {"width": 1000, "height": 900, "deviceScaleFactor": 1, "mobile": False}
PHONE = {"width": 380, "height": 800, "deviceScaleFactor": 2, "mobile": True}
CONTRAST_OF_TEXT = 4.5  # WCAG 2.2, success criterion 1.4.3, level AA
CONTRAST_OF_GRAPHICS = 3.0  # WCAG 2.2, success criterion 1.4.11

# The colours of every text that is shown, as (text, its colour, the colours behind it from the nearest on).
TEXT_COLORS = """
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("script")) continue;
  const style = getComputedStyle(element);
  const behind = [];
  for (let around = element; around; around = around.parentElement)
    behind.push(getComputedStyle(around).backgroundColor);
  found.push([walker.currentNode.data.trim(), element.closest("svg") ? style.fill : style.color, behind]);
}
return found;
"""

# The colours of lines and markers in plots: the stroke, and the fill where there is one.
SHAPE_COLORS = """
const shapes = [...document.querySelectorAll(".plot [style*=series]")].map((shape) => getComputedStyle(shape));
return shapes.flatMap(({ stroke, fill }) => (fill == "none" ? [stroke] : [fill]));
"""


class Browser:
    """A page in Chromium, with what the tests do to it."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url

    def open(self, screen: dict[str, Any], scheme: str = "light") -> None:
        """Load the page anew and wait until its comparisons are there."""
        self.cdp("Emulation.setDeviceMetricsOverride", **screen)
        self.cdp("Emulation.setTouchEmulationEnabled", enabled=screen["mobile"])
        self.emulate(scheme)
        self.driver.get(self.url)
        WebDriverWait(self.driver, PATIENCE, 0.05).until(
            lambda _: self.run("return document.querySelectorAll('.crops.live').length == 2")
        )

    def emulate(self, scheme: str, media: str = "") -> None:
        self.cdp(
            "Emulation.setEmulatedMedia",
            media=media,
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        """An element of the first comparison."""
        return self.driver.find_element("css selector", f"#picture-1 {selector}")

    def select(self, name: str) -> Select:
        return Select(self.find(f"select.{name}"))

    def split(self) -> float:
        """The divider's place as the page's layout has it, 0 to 1."""
        clip = self.run("return getComputedStyle(arguments[0]).clipPath", self.find("img.right"))
        return float(re.findall(r"[\d.]+", clip)[-1]) / 100.0

    def seen(self) -> tuple[str, str, float]:
        """What a screenshot of the stage shows: colour names at its left and right end, and where they meet, 0 to 1."""
        png = np.frombuffer(self.find(".viewport").screenshot_as_png, np.uint8)
        shown = np.asarray(cv2.imdecode(png, cv2.IMREAD_COLOR))[:, :, ::-1]
        row = shown[len(shown) * 9 // 10].astype(int)  # below tags and grip
        names = list(COLORS)
        distances = np.abs(row[:, None] - np.array(list(COLORS.values()))).sum(axis=2)
        nearest = [names[index] for index in distances.argmin(axis=1)]
        return nearest[1], nearest[-2], nearest.index(nearest[-2], 1) / len(nearest)

    def touch(self, start: tuple[float, float], stop: tuple[float, float]) -> None:
        """A finger dragged across the screen, CSS pixels of the window."""
        steps = np.linspace(start, stop, 8)
        self.cdp(
            "Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": steps[0][0], "y": steps[0][1]}]
        )
        for x, y in steps[1:]:
            self.cdp("Input.dispatchTouchEvent", type="touchMove", touchPoints=[{"x": x, "y": y}])
        self.cdp("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def box(self, selector: str) -> dict[str, float]:
        """An element's rectangle in the window, after scrolling to it."""
        script = "arguments[0].scrollIntoView({block: 'center'}); return arguments[0].getBoundingClientRect().toJSON()"
        return self.run(script, self.find(selector))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def session(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder: Path = tmp_path_factory.mktemp("browser")
    write_report(folder / "report.html", report)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield Browser(driver, (folder / "report.html").as_uri())
    driver.quit()


@pytest.fixture
def browser(session: Browser) -> Iterator[Browser]:
    """The page as loaded on a desktop; no test may make it complain."""
    session.open(DESKTOP)
    yield session
    assert session.complaints() == []


def contrast(text: str, behind: list[str]) -> float:
    """Contrast ratio of WCAG 2.2 between CSS colours; `behind` from the nearest on, over white."""
    color = np.ones(3)
    for layer in reversed(behind):
        red, green, blue, *alpha = (float(number) for number in re.findall(r"[\d.]+", layer))
        opacity = alpha[0] if alpha else 1.0
        color = opacity * np.array([red, green, blue]) / 255.0 + (1.0 - opacity) * color
    front = np.array([float(number) for number in re.findall(r"[\d.]+", text)[:3]]) / 255.0
    light, dark = sorted((_luminance(front), _luminance(color)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(srgb: np.ndarray) -> float:
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_the_stage_starts_halfway(browser: Browser) -> None:
    assert browser.split() == 0.5
    left, right, place = browser.seen()
    assert (left, right) == ("red", "blue")
    assert place == pytest.approx(0.5, abs=0.01)
    assert browser.find(".tag.left").text == "red"
    assert browser.find(".tag.right").text == "blue"
    assert browser.find(".caption.right").text == "blue!"
    assert not browser.find(".gallery").is_displayed()
    # Focus must not be able to scroll the stage to the far end of its wide slider.
    scroll = "arguments[0].scrollLeft = 9; return arguments[0].scrollLeft"
    assert browser.run(scroll, browser.find(".stage")) == 0


@pytest.mark.parametrize("target", [0.2, 0.85, -0.03])  # the last leaves the stage
def test_the_mouse_drags_the_divider(browser: Browser, target: float) -> None:
    stage = browser.box(".stage")
    shift = round((target - 0.5) * stage["width"])
    ActionChains(browser.driver, 10).click_and_hold(browser.find(".stage")).move_by_offset(
        shift, 30
    ).release().perform()
    assert browser.split() == pytest.approx(max(0.0, target), abs=0.01)
    left, right, place = browser.seen()
    if target > 0:
        assert (left, right) == ("red", "blue")
        assert place == pytest.approx(target, abs=0.01)
    else:
        assert right == "blue"


def test_a_click_brings_the_divider(browser: Browser) -> None:
    stage = browser.box(".stage")
    target = browser.find(".stage")
    ActionChains(browser.driver, 10).move_to_element_with_offset(
        target, round(stage["width"] / 4), 0
    ).click().perform()
    assert browser.split() == pytest.approx(0.75, abs=0.01)


def test_a_finger_drags_the_divider(browser: Browser) -> None:
    browser.open(PHONE)
    stage = browser.box(".stage")
    middle = stage["y"] + stage["height"] / 2
    browser.touch((stage["x"] + stage["width"] * 0.5, middle), (stage["x"] + stage["width"] * 0.8, middle))
    assert browser.split() == pytest.approx(0.8, abs=0.02)
    assert browser.seen()[2] == pytest.approx(0.8, abs=0.02)


def test_a_finger_scrolls_what_is_larger_than_the_screen(browser: Browser) -> None:
    browser.open(PHONE)
    browser.select("zoom").select_by_value("4")
    view = browser.box(".viewport")
    before = browser.run("return arguments[0].scrollLeft", browser.find(".viewport"))
    middle = view["y"] + view["height"] / 2
    grip = browser.find(".divider").rect["x"]
    assert view["x"] < grip < view["x"] + view["width"]
    browser.touch((view["x"] + 60, middle), (view["x"] + 20, middle))
    assert browser.split() == 0.5
    assert browser.run("return arguments[0].scrollLeft", browser.find(".viewport")) > before + 10
    stage, divider = browser.box(".stage"), browser.box(".divider")
    browser.touch((divider["x"] + 1, middle), (divider["x"] + 101, middle))
    assert browser.split() == pytest.approx(0.5 + 100 / stage["width"], abs=0.02)


def test_keys_move_the_divider_and_choose(browser: Browser) -> None:
    slider = browser.find(".slider")
    slider.send_keys(Keys.ARROW_RIGHT * 3)
    assert browser.split() == pytest.approx(0.53)
    slider.send_keys(Keys.ARROW_LEFT * 5)
    assert browser.split() == pytest.approx(0.48)
    slider.send_keys(Keys.HOME)
    assert browser.split() == 0.0
    slider.send_keys(Keys.END, Keys.PAGE_DOWN)
    assert browser.split() == pytest.approx(0.9)
    slider.send_keys("2")
    assert browser.seen()[:2] == ("red", "green")
    slider.send_keys("9x")
    assert browser.seen()[:2] == ("red", "green")
    assert "red left, green right" in str(slider.get_attribute("aria-label"))


def test_the_choices_change_the_pictures(browser: Browser) -> None:
    browser.select("left").select_by_visible_text("blue")
    browser.select("right").select_by_visible_text("green")
    assert browser.seen()[:2] == ("blue", "green")
    assert [browser.find(f".tag.{side}").text for side in ("left", "right")] == ["blue", "green"]
    assert [browser.find(f".caption.{side}").text for side in ("left", "right")] == ["blue!", "green!"]
    second = browser.driver.find_element("css selector", "#picture-2 .tag.left")
    assert second.text == NASTY.replace("  ", " ")


def test_zoom_is_in_whole_pixels(browser: Browser) -> None:
    assert browser.select("zoom").first_selected_option.get_attribute("value") == "4"  # the largest that fits
    assert browser.find("img.right").value_of_css_property("image-rendering") == "pixelated"
    for zoom in (1, 2, 4):
        browser.select("zoom").select_by_value(str(zoom))
        size = {"width": zoom * PICTURE_WIDTH, "height": zoom * PICTURE_HEIGHT}
        assert browser.find("img.right").size == browser.find("img.left").size == size
        assert browser.seen()[2] == pytest.approx(0.5, abs=0.01)


def test_a_picture_can_be_made_to_fit(browser: Browser) -> None:
    browser.cdp("Emulation.setDeviceMetricsOverride", **{**DESKTOP, "width": 150})
    browser.select("zoom").select_by_value("fit")
    width = browser.find(".comparison").rect["width"]
    assert width < PICTURE_WIDTH and browser.find(".stage").rect["width"] == pytest.approx(width, abs=0.5)
    assert browser.find("img.right").value_of_css_property("image-rendering") == "auto"
    assert browser.seen()[:2] == ("red", "blue")
    # It follows the window, and is never magnified.
    browser.cdp("Emulation.setDeviceMetricsOverride", **DESKTOP)
    WebDriverWait(browser.driver, PATIENCE, 0.05).until(
        lambda _: browser.find(".stage").rect["width"] == PICTURE_WIDTH
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_legible(browser: Browser, scheme: str) -> None:
    browser.emulate(scheme)
    texts = browser.run(TEXT_COLORS)
    assert {"PSNR [dB]", "seconds per frame", "Bold: the best.", "command"} <= {text for text, *_ in texts}
    poor = [(text, color) for text, color, behind in texts if contrast(color, behind) < CONTRAST_OF_TEXT]
    assert poor == []
    page = browser.run("return getComputedStyle(document.documentElement).backgroundColor")
    assert (contrast("rgb(255, 255, 255)", [page]) > 10) == (scheme == "dark")
    shapes = browser.run(SHAPE_COLORS)
    assert shapes
    assert [color for color in shapes if contrast(color, [page]) < CONTRAST_OF_GRAPHICS] == []


def test_a_phone_scrolls_no_page_sideways(browser: Browser) -> None:
    browser.open(PHONE)
    widths = "const page = document.documentElement; return [page.scrollWidth, innerWidth, page.clientWidth]"
    for zoom in ("1", "4"):
        browser.select("zoom").select_by_value(zoom)
        assert browser.run(widths) == [380, 380, 380]
    boxes = browser.run(
        "return [...document.querySelectorAll('.scroll, .plot')].map((box) => [box.scrollWidth, box.clientWidth])"
    )
    assert len(boxes) == 5 and all(needed == there <= 380 for needed, there in boxes)
    # A row of the wide table is a list that names the columns.
    cell = browser.driver.find_element("css selector", "#table-1 tbody td:nth-child(3)")
    before = browser.run("return getComputedStyle(arguments[0], '::before').content", cell)
    assert (before, cell.text) == ('"column 1"', "20.01")
    drawing = "return document.querySelector('.plot text').getBoundingClientRect().height"
    assert browser.run(drawing) > 9


def test_a_wide_table_scrolls_in_its_box(browser: Browser) -> None:
    table = browser.driver.find_element("css selector", "#table-1 .scroll")
    assert browser.run("return arguments[0].scrollWidth > arguments[0].clientWidth", table)
    browser.run("arguments[0].focus()", table)
    assert browser.run("return document.activeElement == arguments[0]", table)


def test_pictures_come_first(browser: Browser) -> None:
    ids = browser.run("return [...document.querySelectorAll('section')].map((section) => section.id)")
    assert ids == [f"picture-{n}" for n in (1, 2)] + [f"table-{n}" for n in (1, 2)] + [
        f"plot-{n}" for n in (1, 2, 3)
    ]


def test_paper_shows_every_picture_in_light_colours(browser: Browser) -> None:
    browser.emulate("dark", media="print")
    assert browser.find(".gallery").is_displayed()
    assert not browser.find(".comparison").is_displayed()
    assert (
        browser.run("return getComputedStyle(document.documentElement).backgroundColor")
        == "rgb(255, 255, 255)"
    )


def test_without_scripts_the_pictures_are_a_list(browser: Browser) -> None:
    browser.cdp("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.driver.get(browser.url)
        gallery = browser.find(".gallery")
        assert gallery.is_displayed()
        assert [image.is_displayed() for image in gallery.find_elements("tag name", "img")] == [True] * len(
            COLORS
        )
        assert not browser.find(".comparison").is_displayed()
    finally:
        browser.cdp("Emulation.setScriptExecutionDisabled", value=False)
