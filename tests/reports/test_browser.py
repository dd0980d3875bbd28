"""The report in a real browser: it draws, answers, fits a phone, runs nothing but its own code."""

from __future__ import annotations

import itertools
import json
import shutil

import pytest

from curiojax.reports import page, tokens
from curiojax.reports.training import write_training_report
from tests.waiting import wait_until

from . import samples
from .test_comparison_report import NAMES
from .test_comparison_report import write as write_comparison

pytestmark = pytest.mark.browser

CHROMIUM = next(
    (p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))),
    None,
)
DRIVER = shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    reason = "needs Chromium and its driver: apt-get install chromium chromium-driver"
    pytest.skip(reason, allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
WebDriverException = pytest.importorskip("selenium.common.exceptions").WebDriverException

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage"
).split()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = start(tmp_path_factory)
    driver.set_script_timeout(300)
    yield driver
    driver.quit()


def start(tmp_path_factory, tries=3):
    """A browser; its driver gives up early on one that takes long to start."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    except WebDriverException:
        if tries == 1:
            raise
        return start(tmp_path_factory, tries - 1)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_training_report(
        tmp_path_factory.mktemp("report") / "report.html",
        title="Report",
        runs={**samples.comparison(120), "GRPO": samples.rl(100), "GRPO 2": samples.rl(90, seed=6)},
        table=samples.TABLE,
        token_view=samples.token_view(2, hostile=True),
        notes=["A note."],
        config_text="seed: 0",
    )


def open_page(driver, path, *, width=1280, height=900, dark=False):
    """Loads a file, waits until it is drawn, and returns the addresses it asked for."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme]})
    driver.get("about:blank")
    driver.get_log("browser"), driver.get_log("performance")
    driver.get(path.as_uri())
    wait_until(lambda: driver.execute_script("return document.documentElement.dataset.ready"))
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


def complaints(driver):
    return [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize("dark", [False, True])
def test_every_chart_is_drawn_without_error_or_request(browser, report, dark):
    requests = open_page(browser, report, dark=dark)
    assert {url.split(":")[0] for url in requests} <= {"file", "data", "blob"}, requests
    assert complaints(browser) == []
    charts = browser.execute_script(
        """return [...document.querySelectorAll(".plot")].map((plot) => {
             const area = plot.querySelector(".nsewdrag").getBoundingClientRect();
             const box = plot.getBoundingClientRect();
             const marks = plot.querySelectorAll(".scatterlayer path, .heatmaplayer image").length;
             return [plot.id, marks, area.width / box.width, area.height / box.height];
           })"""
    )
    assert len(charts) > 15
    for identifier, marks, width, height in charts:
        assert marks > 0, identifier
        assert width > 0.6 and height > 0.5, identifier


def test_themes_differ_and_labels_stay_readable(browser, report):
    colours = {}
    for dark in (False, True):
        open_page(browser, report, dark=dark)
        colours[dark] = browser.execute_script(
            """const style = (q) => getComputedStyle(document.querySelector(q));
               return [style(".card").backgroundColor, style(".plot .xtick text").fill]"""
        )
    for card, label in colours.values():
        assert contrast(parse(card), parse(label)) > 4.5
    assert luminance(parse(colours[False][0])) > 0.8 > 0.1 > luminance(parse(colours[True][0]))


def test_nothing_scrolls_sideways_on_a_phone(browser, report):
    open_page(browser, report, width=390, height=844)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    tall = browser.execute_script(
        "return [...document.querySelectorAll('.narrow')].map((e) => e.offsetHeight)"
    )
    assert min(tall) > 0
    outside = browser.execute_script(
        """return [...document.querySelectorAll(".card, .table, .tokens, h1, p, pre")]
             .filter((e) => e.getBoundingClientRect().right > 390).map((e) => e.className)"""
    )
    assert outside == []
    assert complaints(browser) == []


def test_pointing_at_a_token_shows_its_numbers(browser, report):
    open_page(browser, report)
    view = samples.token_view(2, hostile=True)["tokens"]
    token = browser.find_elements("css selector", ".t")[4]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", token)
    webdriver.ActionChains(browser).move_to_element(token).perform()
    wait_until(lambda: browser.find_element("id", "token-panel").is_displayed())
    text = browser.find_element("id", "token-panel").text
    assert f"token 5 of {len(view)}" in text
    assert f"{view[4]['entropy']:.3f} nats" in text
    assert f"{view[4]['tau']:.3f}" in text and f"{view[4]['weight']:.3f}" in text
    webdriver.ActionChains(browser).move_to_element(
        browser.find_element("tag name", "h1")
    ).perform()
    wait_until(lambda: not browser.find_element("id", "token-panel").is_displayed())


def test_keyboard_and_tap_reach_the_tokens(browser, report):
    open_page(browser, report)
    panel = browser.find_element("id", "token-panel")
    tabs = browser.execute_script("return document.querySelectorAll('.t[tabindex=\"0\"]').length")
    assert tabs == 1
    browser.execute_script("document.querySelector('.t').focus()")
    assert "token 1 of" in panel.text
    webdriver.ActionChains(browser).send_keys(
        webdriver.Keys.ARROW_RIGHT, webdriver.Keys.ARROW_RIGHT
    ).perform()
    assert "token 3 of" in panel.text
    webdriver.ActionChains(browser).send_keys(webdriver.Keys.END).perform()
    count = browser.execute_script("return document.querySelectorAll('.t').length")
    assert f"token {count} of {count}" in panel.text
    webdriver.ActionChains(browser).send_keys(webdriver.Keys.ESCAPE).perform()
    assert not panel.is_displayed()

    open_page(browser, report, width=390, height=844)
    browser.find_elements("css selector", ".t")[9].click()
    panel = browser.find_element("id", "token-panel")
    assert "token 10 of" in panel.text
    box = panel.rect
    assert 0 <= box["x"] and box["x"] + box["width"] <= 390


def test_the_colour_switch_recolours_the_tokens_and_changes_the_legend(browser, report):
    open_page(browser, report)
    seen = set()
    for field in ("entropy", "tau", "weight"):
        browser.execute_script(f"document.querySelector('input[value={field}]').click()")
        colours = browser.execute_script(
            """return [...document.querySelectorAll(".t")]
                 .map((token) => getComputedStyle(token).backgroundColor)"""
        )
        assert len(set(colours)) > 3
        seen.add(tuple(colours))
        legends = browser.find_elements("css selector", ".legend")
        assert [e.get_attribute("data-mode") for e in legends if e.is_displayed()] == [field]
    assert len(seen) == 3


def test_a_run_can_be_dropped_from_all_charts_and_smoothing_turned_off(browser, report):
    open_page(browser, report)
    raw = [row["sft_nll"] for row in samples.comparison(120)["SFT"]]
    drawn = "return document.getElementById('plot-sft_nll').data[0].y"
    assert browser.execute_script(drawn) != pytest.approx(raw, rel=1e-4)
    want = sum(raw[9:12]) / 3  # 120 points are averaged over three neighbours
    assert browser.execute_script(drawn)[10] == pytest.approx(want, rel=1e-4)
    browser.execute_script("document.getElementById('smooth').click()")
    assert browser.execute_script(drawn) == pytest.approx(raw, rel=1e-4)

    browser.execute_script("document.querySelector('.chip').click()")
    shown = browser.execute_script(
        """return [...document.querySelectorAll(".plot")].flatMap((plot) =>
             plot.data.map((trace) => [trace.meta.run, trace.visible]))"""
    )
    assert shown and all(visible == (run != 0) for run, visible in shown)
    chip = browser.find_element("css selector", ".chip")
    assert chip.get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize("dark", [False, True])
def test_token_colours_are_ordered_even_and_keep_the_text_readable(browser, report, dark):
    open_page(browser, report, dark=dark)
    for field, prefix in (("entropy", "e"), ("tau", "u"), ("weight", "w")):
        colours = browser.execute_script(
            """const [field, prefix, bins] = arguments;
               const box = document.getElementById("tokens");
               box.className = `tokens by-${field}`;
               const brush = document.createElement("canvas").getContext("2d");
               return [...Array(bins).keys()].map((i) => {
                 const token = document.createElement("span");
                 token.className = `t ${prefix}${i}`;
                 box.append(token);
                 brush.fillStyle = getComputedStyle(token).backgroundColor;
                 brush.fillRect(0, 0, 1, 1);
                 token.remove();
                 return [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3);
               })""",
            field,
            prefix,
            tokens.BINS,
        )
        text = parse(
            browser.execute_script(
                "return getComputedStyle(document.getElementById('tokens')).color"
            )
        )
        assert min(contrast(text, colour) for colour in colours) >= 4.5
        light = [luminance(colour) for colour in colours]
        if field == "weight":
            middle = tokens.BINS // 2
            halves = [light[: middle + 1][::-1], light[middle:]]
        else:
            halves = [light]
        for half in halves:
            steps = [b - a for a, b in itertools.pairwise(half)]
            assert all(s > 0 for s in steps) if dark else all(s < 0 for s in steps)


def test_a_comparison_draws_all_methods_and_drops_one_everywhere(browser, tmp_path):
    path = write_comparison(tmp_path / "comparison.html")
    requests = open_page(browser, path)
    assert {url.split(":")[0] for url in requests} <= {"file", "data", "blob"}, requests
    assert complaints(browser) == []
    assert browser.find_element("id", "plot-entropy_all").rect["width"] > 250
    lines = "#plot-entropy_all .scatterlayer .js-line"
    drawn = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((l) => l.getTotalLength())", lines
    )
    assert len(drawn) == len(NAMES) and min(drawn) > 50
    chips = browser.find_elements("css selector", ".chip")
    assert [chip.text for chip in chips] == NAMES
    chips[8].click()
    for plot in ("entropy_all", "sft_nll"):
        left = browser.find_elements("css selector", f"#plot-{plot} .scatterlayer .js-line")
        assert len(left) == len(NAMES) - 1
    ring = chips[8].find_element("css selector", ".dot")
    assert ring.value_of_css_property("background-color") == "rgba(0, 0, 0, 0)"


def test_hostile_text_is_shown_and_never_run(browser, tmp_path):
    bad = "".join(samples.HOSTILE)
    path = write_training_report(
        tmp_path / "report.html",
        title=f"Title {bad}",
        runs={f"run {bad}": samples.run(5, curio=True), "<b>b</b>": samples.run(5, curio=False)},
        table={"columns": [bad, "x"], "rows": [[bad, bad]], "caption": bad},
        token_view={
            "title": bad,
            "prompt": bad,
            "tokens": [{"text": text, "entropy": 1.0} for text in samples.HOSTILE],
        },
        notes=[bad],
        config_text=bad,
    )
    open_page(browser, path)
    assert complaints(browser) == []
    assert browser.title.startswith("Title <script>")
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert browser.execute_script("return document.querySelectorAll('script').length") == 5
    text = browser.execute_script("return document.querySelector('.t').textContent")
    assert text == samples.HOSTILE[0]
    # plotly has a markup of its own: names of runs must come out as text there, too
    browser.execute_script(
        """const points = [0, 1].map((curve) => ({ curveNumber: curve, pointNumber: 1 }));
           Plotly.Fx.hover("plot-loss", points)"""
    )
    hover = "return document.querySelector('#plot-loss .hoverlayer').textContent"
    wait_until(lambda: browser.execute_script(hover))
    assert "<b>b</b>" in browser.execute_script(hover)


def test_a_script_that_slipped_in_would_not_run(browser, tmp_path):
    path = tmp_path / "page.html"
    body = "<script>document.title = 'owned'</script><p onclick=\"document.title='owned'\">x</p>"
    ready = "document.documentElement.dataset.ready = 'true'"
    path.write_text(page.page("safe", body, scripts=[ready]), encoding="utf-8")
    open_page(browser, path)
    browser.find_element("tag name", "p").click()
    assert browser.title == "safe"


def test_thousands_of_tokens_stay_fast(browser, tmp_path):
    view = samples.token_view(80)
    assert len(view["tokens"]) > 8000
    path = write_training_report(tmp_path / "r.html", title="t", runs={}, token_view=view)
    open_page(browser, path)
    work = """document.activeElement.blur();
           const start = performance.now();
           for (const field of ["tau", "weight", "entropy"]) {
             document.querySelector(`input[value=${field}]`).click();
             document.getElementById("tokens").getBoundingClientRect();
           }
           document.querySelectorAll(".t")[8000].focus();
           return performance.now() - start"""
    # Milliseconds: some 150 on an idle machine; on a busy one, some tries may be held up.
    assert any(browser.execute_script(work) < 3000 for _ in range(5))
    assert "token 8001 of" in browser.find_element("id", "token-panel").text


def test_it_prints_in_black_on_white(browser, report):
    open_page(browser, report, dark=True)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    text, background = browser.execute_script(
        "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    )
    assert luminance(parse(background)) == pytest.approx(1.0)
    assert luminance(parse(text)) < 0.05
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def parse(colour: str) -> list[float]:
    assert colour.startswith("rgb"), colour
    return [float(x) for x in colour[colour.index("(") + 1 : -1].split(",")][:3]


def luminance(colour) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = []
    for value in colour:
        x = value / 255
        linear.append(x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b) -> float:
    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)
