"""The evaluation report in a real browser; skipped without one, as `test_browser` is."""

from __future__ import annotations

import base64
import math

import pytest

from curiojax.reports.completion_rows import VERDICTS, verdict
from curiojax.reports.evaluation import write_evaluation_report
from tests.waiting import wait_until

from . import evaluation_samples as samples
from . import test_browser
from .samples import HOSTILE
from .test_browser import browser, complaints, contrast  # noqa: F401
from .test_evaluation_report import row

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
ActionChains, Keys = webdriver.ActionChains, webdriver.Keys
pytestmark = pytest.mark.browser

RESULTS, ROWS = samples.evaluations(2, questions=12)
A, B = samples.MODELS
QUESTIONS = 9 * 12


def write(path, results, rows):
    tables = samples.tables(results) if results else []
    return write_evaluation_report(
        path, title="Report", results=results, tables=tables, completions=rows
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write(tmp_path_factory.mktemp("report") / "report.html", RESULTS, ROWS)


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """The list alone, which loads faster."""
    return write(tmp_path_factory.mktemp("list") / "report.html", [], ROWS)


def open_page(driver, path, **more):
    requests = test_browser.open_page(driver, path, **more)
    settle(driver)
    return requests


def settle(driver):
    """Waits for the end of a search, which goes on in parts where it takes long."""
    wait_until(lambda: not found(driver).startswith("Searching"))


def choose(driver, **values):
    """Sets fields of the list and waits for what they lead to."""
    driver.execute_script(
        """for (const [name, value] of Object.entries(arguments[0])) {
             const field = document.getElementById(`list-${name}`);
             field.value = value;
             const type = name === "text" ? "input" : "change";
             field.dispatchEvent(new Event(type, { bubbles: true }));
           }""",
        values,
    )
    if "text" in values:
        driver.execute_async_script("setTimeout(arguments[0], 400)")
    settle(driver)


def found(driver) -> str:
    return driver.find_element("id", "list-found").text


def names(driver) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll('.item .id')].map((e) => e.textContent)"
    )


def open_question(driver, place=0):
    driver.execute_script(
        """const head = document.querySelectorAll(".item .head")[arguments[0]];
           head.scrollIntoView();
           head.click()""",
        place,
    )


def expected(question_fits=lambda rows: True, sample_fits=lambda row: True, models=(A, B)) -> str:
    """What the list says it found."""
    completions = questions = 0
    for bench in ROWS[A]:
        for name in dict.fromkeys(r["question"] for r in ROWS[A][bench]):
            by_model = {m: [r for r in ROWS[m][bench] if r["question"] == name] for m in (A, B)}
            left = [r for m in models for r in by_model[m] if sample_fits(r)]
            if left and question_fits(by_model):
                completions, questions = completions + len(left), questions + 1
    assert questions > 1
    return f"{completions:,} completions of {questions:,} questions"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_draws_fits_and_asks_for_nothing(browser, report, width, dark):  # noqa: F811
    requests = open_page(browser, report, width=width, dark=dark)
    assert {url.split(":")[0] for url in requests} <= {"file", "data", "blob"}, requests
    open_question(browser)
    assert complaints(browser) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    outside = browser.execute_script(
        """return [...document.querySelectorAll(".card, .table, .stack, .tokens, .item, .field")]
             .filter((e) => e.getBoundingClientRect().right > arguments[0])
             .map((e) => e.className)""",
        width,
    )
    assert outside == []
    drawn = browser.execute_script(
        """return [...document.querySelectorAll(".plot")].map((plot) => [
             plot.id, plot.querySelectorAll(".scatterlayer path, .barlayer path").length])"""
    )
    assert len(drawn) == 2 + 3 + 9 and all(marks > 0 for _, marks in drawn), drawn
    left = browser.execute_script(
        """return [...document.querySelectorAll(".side")]
             .map((side) => side.getBoundingClientRect().left)"""
    )
    assert len(left) == 2 and (left[0] < left[1] if width == 1280 else left[0] == left[1])


def test_the_pointer_shows_the_numbers_of_a_figure(browser, report):  # noqa: F811
    open_page(browser, report)
    part = RESULTS[0]["benchmarks"]["aime24"]
    text = point_at(browser, "plot-pass-0", 0.65)
    assert text.startswith("k = 4") and f"{part['pass']['4']['value']:.1%}" in text
    assert f"\u00b1 {part['pass']['4']['se']:.1%}" in text
    text = browser.execute_script(
        """Plotly.Fx.hover("plot-length-0", [{ curveNumber: 0, pointNumber: 23 }]);
           return document.querySelector("#plot-length-0 .hoverlayer").textContent"""
    )
    assert text.startswith(A) and "1,151 to 1,201 tokens" in text and "responses" in text


def point_at(driver, identifier, across) -> str:
    """What is shown when the mouse is in a figure, at a share of its width."""
    plot = driver.find_element("id", identifier)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    offset = int((across - 0.5) * plot.rect["width"])
    ActionChains(driver).move_to_element_with_offset(plot, offset, 0).perform()
    text = f"return document.querySelector('#{identifier} .hoverlayer').textContent"
    wait_until(lambda: driver.execute_script(text))
    return driver.execute_script(text)


def test_the_list_shows_pages_of_fifty(browser, listed):  # noqa: F811
    open_page(browser, listed)
    assert found(browser) == expected()
    assert len(names(browser)) == 50
    more = browser.find_element("id", "list-more")
    assert more.text == "Show 50 more"
    more.click()
    assert len(names(browser)) == 100
    focused = browser.execute_script("return document.activeElement.querySelector('.id').innerText")
    assert focused == names(browser)[50]
    assert more.text == f"Show {QUESTIONS - 100} more"
    more.click()
    assert not more.is_displayed() and len(set(names(browser))) == QUESTIONS


def test_filters_leave_what_they_say(browser, listed):  # noqa: F811
    open_page(browser, listed)
    for code, _, _ in VERDICTS[:5]:
        choose(browser, verdict=code)
        if code == "truncated":
            assert found(browser) == expected(sample_fits=lambda r: r["finish"] == "length")
        else:
            assert found(browser) == expected(sample_fits=lambda r, c=code: verdict(r) == c)
    choose(browser, verdict="not_correct", model="1")
    assert found(browser) == expected(sample_fits=lambda r: not r["correct"], models=(B,))
    choose(browser, verdict="any", model="any", benchmark="2")
    assert found(browser) == "192 completions of 12 questions"
    assert all(name.startswith("amc23/") for name in names(browser))


def test_questions_that_only_one_model_has_right(browser, listed):  # noqa: F811
    open_page(browser, listed)

    def right(rows, model):
        return any(r["correct"] for r in rows[model])

    for value, wanted in (
        ("only-0", (True, False)),
        ("only-1", (False, True)),
        ("all", (True, True)),
        ("none", (False, False)),
    ):
        choose(browser, compare=value)
        fits = lambda rows, w=wanted: (right(rows, A), right(rows, B)) == w  # noqa: E731
        assert found(browser) == expected(question_fits=fits)
    label = browser.execute_script("return document.getElementById('list-compare')[1].text")
    assert label == f"Only {A} right"


def test_sorting_puts_the_extreme_first_and_opens_it(browser, listed):  # noqa: F811
    open_page(browser, listed)
    every = [r for model in ROWS.values() for rows in model.values() for r in rows]

    def entropy(r):
        return sum(r["entropies"]) / len(r["entropies"])

    least = min(r["tokens"] for r in every)
    choose(browser, sort="shortest")
    assert names(browser)[0] in {r["question"] for r in every if r["tokens"] == least}
    open_question(browser)
    assert f"{least:,} tokens" in browser.find_element("css selector", ".sides").text
    open_question(browser)
    choose(browser, sort="uncertain")
    top = max(every, key=entropy)
    assert names(browser)[0] == top["question"]
    open_question(browser)
    assert f"{entropy(top):.3f} nats" in browser.find_element("css selector", ".sides").text
    choose(browser, sort="hardest", verdict="wrong", benchmark="1")
    correct = {}
    for r in [*ROWS[A]["aime25"], *ROWS[B]["aime25"]]:
        correct[r["question"]] = correct.get(r["question"], 0) + r["correct"]
    shown = [correct[name] for name in names(browser)]
    assert shown == sorted(shown) and shown[0] < shown[-1]


def test_the_search_finds_prompts_answers_and_responses(browser, tmp_path):  # noqa: F811
    rows = {
        "A": {
            "x": [
                row("one", 0, prompt="The PRIME numbers"),
                row("two", 0, pieces=["a pri", "me"]),
                row("two", 1, pieces=["nothing"]),
                row("three", 0, extracted="prime"),
                row("four", 0, pieces=None, text="plain text"),
            ]
        }
    }
    open_page(browser, write(tmp_path / "r.html", [], rows))
    choose(browser, text=" Prime ")
    assert names(browser) == ["one", "two", "three"]
    assert found(browser) == "3 completions of 3 questions"
    faint = browser.execute_script("return document.querySelectorAll('.sign.faint').length")
    assert faint == 1  # the other sample of "two"
    choose(browser, text="Plain")
    assert names(browser) == ["four"]
    choose(browser, text="no such text")
    assert found(browser) == "Nothing matches." and names(browser) == []
    choose(browser, text="")
    assert len(names(browser)) == 4


def test_an_open_question_shows_everything_about_a_sample(browser, listed):  # noqa: F811
    open_page(browser, listed)
    wanted = next(r for r in ROWS[A]["aime24"] if r["question"] == "aime24/1" and r["sample"] == 2)
    open_question(browser, 1)
    head = browser.find_elements("css selector", ".head")[1]
    assert head.get_attribute("aria-expanded") == "true"
    body = browser.find_element("id", head.get_attribute("aria-controls"))
    assert body.find_element("css selector", ".ask pre").text == wanted["prompt"]
    assert f"Ground truth {wanted['ground_truth']}" in body.text
    side = body.find_element("css selector", ".side")
    side.find_elements("css selector", ".pick")[2].click()
    pressed = [
        pick.get_attribute("aria-pressed") for pick in side.find_elements("css selector", ".pick")
    ]
    assert pressed == ["false", "false", "true"] + ["false"] * 5
    name = {code: name for code, name, _ in VERDICTS}[verdict(wanted)]
    assert name in side.find_element("css selector", ".badge").text
    assert f"{wanted['tokens']:,} tokens" in side.text
    shown = browser.execute_script(
        """return [...arguments[0].querySelectorAll(".t")].map((t) => [
             [...t.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join(""),
             getComputedStyle(t).backgroundColor])""",
        side,
    )
    assert [text for text, _ in shown] == wanted["pieces"]
    assert len({colour for _, colour in shown}) > 8
    same = {}
    for entropy, (_, colour) in zip(wanted["entropies"], shown, strict=True):
        place = min(round(1000 * entropy) / 1000, 2) / 2 * 24
        same.setdefault(math.floor(place + 0.5), set()).add(colour)
    assert all(len(colours) == 1 for colours in same.values())
    assert body.find_element("css selector", ".legend").text.startswith("0\n1\n\u2265 2 nats")
    head.click()
    assert not body.is_displayed()
    assert browser.execute_script("return document.querySelectorAll('.t').length") == 0


def test_keyboard_and_tap_show_a_tokens_entropy(browser, listed):  # noqa: F811
    wanted = ROWS[A]["aime24"][0]
    open_page(browser, listed)
    browser.execute_script("document.querySelector('.head').focus()")
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    panel = browser.find_element("id", "list-panel")
    assert (
        browser.execute_script("return document.querySelectorAll('.t[tabindex=\"0\"]').length") == 2
    )
    browser.execute_script("document.querySelector('.t').focus()")
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).perform()
    wait_until(panel.is_displayed)
    assert f"token 3 of {len(wanted['pieces'])}" in panel.text
    assert f"{wanted['entropies'][2]:.3f} nats" in panel.text
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not panel.is_displayed()

    open_page(browser, listed, width=390, height=844)
    open_question(browser)
    token = browser.find_elements("css selector", ".t")[20]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", token)
    token.click()
    assert "token 21 of" in panel_text(browser)
    box = browser.find_element("id", "list-panel").rect
    assert 0 <= box["x"] and box["x"] + box["width"] <= 390


def panel_text(driver) -> str:
    return driver.find_element("id", "list-panel").text


def test_one_model_private_questions_and_plain_text(browser, tmp_path):  # noqa: F811
    rows = {"A": {"x": [row("secret", prompt=None, ground_truth=None, pieces=None)]}}
    open_page(browser, write(tmp_path / "r.html", [], rows))
    assert "not published" in browser.find_element("css selector", ".head").text
    assert not browser.find_elements("id", "list-model")
    open_question(browser)
    body = browser.find_element("css selector", ".body")
    assert "ask not to publish" in body.text and "secret" in body.text
    assert "Ground truth" not in body.text
    assert body.find_element("css selector", ".plain").text == "a b"
    assert not body.find_elements("css selector", ".legend, .t, .picker")


def test_hostile_text_is_shown_and_never_run(browser, tmp_path):  # noqa: F811
    bad = "".join(HOSTILE)
    changes = {"prompt": bad, "ground_truth": bad, "extracted": bad, "status": bad}
    rows = [row(bad, pieces=HOSTILE, **changes), row("2", pieces=None, text=bad, **changes)]
    results = [{"name": f"m{bad}", "benchmarks": {"x": {"title": bad}}}]
    path = write_evaluation_report(
        tmp_path / "r.html",
        title=f"Title {bad}",
        results=results,
        tables=[],
        completions={f"m{bad}": {"x": rows}, f"n{bad}": {"x": rows[:1]}},
    )
    open_page(browser, path)
    for place in range(2):
        open_question(browser, place)
    choose(browser, text="<img")
    assert len(names(browser)) == 2
    assert complaints(browser) == []
    assert browser.title.startswith("Title <script>")
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    text = browser.execute_script("return document.querySelector('.t').textContent")
    assert text == HOSTILE[0]
    assert HOSTILE[0] in browser.execute_script("return document.querySelector('.plain').innerText")


@pytest.mark.parametrize("dark", [False, True])
def test_labels_stay_readable(browser, listed, dark):  # noqa: F811
    open_page(browser, listed, dark=dark)
    open_question(browser)
    pairs = browser.execute_script(
        """const item = document.querySelector(".item"), pairs = [];
           const brush = document.createElement("canvas").getContext("2d");
           const rgb = (colour) => {
             brush.fillStyle = colour;
             brush.fillRect(0, 0, 1, 1);
             return [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3);
           };
           for (const code of arguments[0]) {
             const mark = document.createElement("span");
             mark.className = `badge v-${code}`;
             item.append(mark);
             const style = getComputedStyle(mark);
             pairs.push([rgb(style.color), rgb(style.backgroundColor)]);
           }
           const back = rgb(getComputedStyle(item).backgroundColor);
           for (const e of document.querySelectorAll(".item .hint, .item .id, .facts dt")) {
             pairs.push([rgb(getComputedStyle(e).color), back]);
           }
           return pairs""",
        [code for code, _, _ in VERDICTS],
    )
    assert len(pairs) > 50
    assert min(contrast(a, b) for a, b in pairs) >= 4.5


def test_thousands_of_long_completions_stay_fast(browser, tmp_path):  # noqa: F811
    pieces = ["word "] * 4000
    rows = {
        "A": {"x": [row(f"q{i}", s, pieces=pieces[:100]) for i in range(500) for s in range(4)]}
    }
    rows["A"]["x"].append(row("long", pieces=pieces * 8, extracted="needle"))
    path = write(tmp_path / "r.html", [], rows)

    def milliseconds():
        open_page(browser, path)
        assert found(browser) == "2,001 completions of 501 questions"
        return browser.execute_async_script(
            """const [done] = arguments, start = performance.now();
               const sort = document.getElementById("list-sort");
               sort.value = "longest";
               sort.dispatchEvent(new Event("change", { bubbles: true }));
               const open = () => {
                 const found = document.getElementById("list-found").textContent;
                 if (found.startsWith("Searching")) { requestAnimationFrame(open); return; }
                 document.querySelector(".head").click();
                 document.querySelector(".tokens").getBoundingClientRect();
                 done(performance.now() - start);
               };
               requestAnimationFrame(open);"""
        )

    # Some 150 on an idle machine; on a busy one, some tries may be held up.
    assert any(milliseconds() < 3000 for _ in range(5))
    wait_until(
        lambda: browser.execute_script("return document.querySelectorAll('.t').length") == 32000
    )
    choose(browser, text="needle")
    wait_until(lambda: names(browser) == ["long"])


def test_paper_gets_what_is_open(browser, report):  # noqa: F811
    open_page(browser, report, dark=True)
    open_question(browser, 1)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = browser.execute_script(
        """const shown = (e) => e.offsetHeight > 0;
           const tokens = document.querySelector(".tokens");
           return [[...document.querySelectorAll(".item")].map(shown).indexOf(true),
                   [...document.querySelectorAll(".item")].filter(shown).length,
                   shown(document.getElementById("list-filters")),
                   tokens.scrollHeight <= tokens.clientHeight + 1]"""
    )
    assert shown == [1, 1, False, True]
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF") and 4 <= pdf.count(b"/Type /Page\n") <= 30
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert complaints(browser) == []
