"""The report on a selection in a real browser; skipped without one, as `test_browser` is."""

import pytest

from curiojax.reports.selection import write_selection_report

from .test_browser import browser, complaints, open_page  # noqa: F401
from .test_selection import selected

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("width", [1280, 390])
def test_it_shows(browser, tmp_path, width):  # noqa: F811
    sets = [selected(notes=["Something is missing."]), selected("Suppressed", wanted=False)]
    path = write_selection_report(tmp_path / "r.html", title="OXA", sets=sets, settings="{}")
    requests = open_page(browser, path, width=width, dark=width == 390)
    assert {url.split(":")[0] for url in requests} <= {"file", "data", "blob"}
    assert complaints(browser) == []
    drawn = browser.execute_script(
        """return [...document.querySelectorAll(".plot")].map((plot) => [
             plot.querySelectorAll(".barlayer .point path").length,
             plot.querySelectorAll(".scatterlayer .lines path").length,
             plot.getBoundingClientRect().right <= document.documentElement.clientWidth])"""
    )
    assert [lines > 0 for _, lines, _ in drawn] == [True, False, False, False]
    assert all(bars > 20 and fits for bars, _, fits in drawn), drawn
    overflow = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not browser.execute_script(overflow)
    browser.execute_script(
        'Plotly.Fx.hover("plot-set-0-perplexity", [{ curveNumber: 1, pointNumber: 40 }])'
    )
    hover = browser.execute_script(
        "return document.querySelector('#plot-set-0-perplexity .hoverlayer').textContent"
    )
    assert "after: 3.00 to 3.05" in hover and "records" in hover
