"""The report in a real browser: it opens without network or console errors, draws, and answers mouse and
keys.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

pytest.importorskip("matplotlib", reason="matplotlib comes with the extra `report`")
pytest.importorskip("plotly", reason="plotly comes with the extra `report`")

from probecache.analyze.findings.claims import findings
from probecache.analyze.findings.redundancy import redundancy
from probecache.analyze.report.write import report_files, write_report
from probecache.analyze.results.saved import save_dataset
from probecache.analyze.similarity.cka import cka
from probecache.store.errors import DamagedStore, InputError
from tests.analyze.synthetic import MemoryStore, features, synthetic_results

TABS = ["findings", "scores", "redundancy", "classes", "calibration", "layers", "similarity", "provenance"]


def with_scores(results, samples=50):
    """Results that kept logits of their classes, right more often than not."""
    rng, classes = np.random.default_rng(0), results.sizes["class"]
    truth = rng.integers(0, classes, samples)
    noise = rng.normal(size=(*results.accuracy.shape, classes, samples)) * 2
    scores = (noise + 3 * (np.arange(classes)[:, None] == truth)).astype(np.float32)
    return results.assign(
        scores=((*results.accuracy.dims, "class", "sample"), scores),
        truth=(("target", "sample"), truth[None]),
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    selections = ("random", "pca", "pca-least")
    studies = {
        "Lite0 / <b>CIFAR</b>": with_scores(
            synthetic_results(layers=("blocks.3", "penultimate"), selections=selections, n_classes=10)
        ),
        "Lite1 / Pets": synthetic_results(selections=selections, n_classes=2),
    }
    store = MemoryStore({("test", "penultimate"): features(n=100, d=40)})
    similarity = cka(store, layer="penultimate", split="test", fractions=(0.1, 0.5, 1.0), seeds=3)
    write_report(
        studies,
        folder,
        similarities={"Lite0 / <b>CIFAR</b>": similarity},
        commands=["probecache report A --out B"],
    )
    return folder, studies


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    selenium = pytest.importorskip("selenium", reason="selenium is in the dev group")
    del selenium
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver on this machine: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.execute_cdp_cmd("Network.enable", {})
        browser.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
        )
        yield browser
    finally:
        browser.quit()


def open_page(browser, folder, width=1280, height=900):
    browser.set_window_size(width, height)
    browser.get((folder / "index.html").as_uri())
    browser.get_log("browser")  # what came before this page
    browser.refresh()


def by_id(browser, name):
    from selenium.webdriver.common.by import By

    return browser.find_element(By.ID, name)


@pytest.mark.parametrize("width", [1280, 390])
def test_every_tab_draws_without_a_console_error(browser, report, width):
    open_page(browser, report[0], width)
    drawn = {}
    for name in TABS:
        by_id(browser, f"tab-{name}").click()
        assert by_id(browser, name).is_displayed()
        assert [t for t in TABS if by_id(browser, t).is_displayed()] == [name]
        drawn[name] = browser.execute_script(
            "const marks = '.main-svg .trace, .main-svg .heatmaplayer image, .main-svg .bars .point';"
            "return [...document.querySelectorAll(`#${arguments[0]} .plot`)].filter(p => p.offsetParent)"
            ".map(p => p.querySelectorAll(marks).length)",
            name,
        )
        wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{name} is {wide} px wider than the window"
    assert {n: len(d) for n, d in drawn.items()} == {
        "findings": 0,
        "scores": 1,
        "redundancy": 3,
        "classes": 3,
        "calibration": 1,
        "layers": 1,
        "similarity": 1,
        "provenance": 0,
    }
    assert all(min(d) > 0 for d in drawn.values() if d)
    assert [e for e in browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")] == []


def test_a_page_opens_at_its_title_and_an_address_at_its_tab(browser, report):
    open_page(browser, report[0])
    time.sleep(0.5)  # a page that scrolls does it once all of it is there
    assert browser.execute_script("return [scrollY, location.hash]") == [0, ""]
    by_id(browser, "tab-classes").click()
    assert browser.execute_script("return location.hash") == "#classes"
    browser.refresh()
    assert by_id(browser, "tab-classes").get_attribute("aria-selected") == "true"


def test_arrow_keys_move_between_tabs(browser, report):
    from selenium.webdriver.common.keys import Keys

    open_page(browser, report[0])
    by_id(browser, "tab-findings").click()
    for key, name in (
        (Keys.ARROW_RIGHT, "scores"),
        (Keys.END, "provenance"),
        (Keys.ARROW_RIGHT, "findings"),
    ):
        browser.switch_to.active_element.send_keys(key)
        assert browser.switch_to.active_element.get_attribute("id") == f"tab-{name}"
        assert by_id(browser, name).is_displayed()


def test_hover_names_the_subset(browser, report):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    open_page(browser, report[0])
    by_id(browser, "tab-scores").click()
    points = browser.find_elements(By.CSS_SELECTOR, "#plot-scores .scatterlayer .points path")
    assert points
    ActionChains(browser).move_to_element(points[1]).perform()
    label = WebDriverWait(browser, 5).until(
        lambda b: b.find_elements(By.CSS_SELECTOR, "#plot-scores .hoverlayer .hovertext")
    )
    assert re.search(r"\d+ of 40 neurons \(\d", label[0].text)


def test_choosing_other_results_and_layers_redraws(browser, report):
    from selenium.webdriver.support.ui import Select

    open_page(browser, report[0])
    by_id(browser, "tab-scores").click()
    heights = "return document.getElementById('plot-scores').data.map(t => t.y[t.y.length - 1])"
    first = browser.execute_script(heights)
    Select(by_id(browser, "layer")).select_by_value("blocks.3")
    other = browser.execute_script(heights)
    assert first != other
    Select(by_id(browser, "study")).select_by_visible_text("Lite1 / Pets")
    assert not browser.find_elements("id", "layer")  # one layer leaves nothing to choose
    by_id(browser, "tab-classes").click()
    assert "fewer than three classes" in by_id(browser, "classes-none").text


def test_page_is_self_contained_and_escapes_names(report):
    page = (report[0] / "index.html").read_text()
    markup = re.sub(r'<script(?: type="text/plain" id="plotly")?>.*?</script>', "", page, flags=re.S)
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', markup)
    assert "<b>CIFAR</b>" not in re.sub(
        r'<script type="application/json".*?</script>', "", markup, flags=re.S
    )
    assert "&lt;b&gt;CIFAR&lt;/b&gt;" in markup


def test_numbers_of_the_page_are_those_of_the_results(report):
    folder, studies = report
    page = (folder / "index.html").read_text()
    payload = json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    )
    results = studies["Lite1 / Pets"]
    study = payload["studies"][1]
    assert study["coords"]["selection"] == ["random", "pca", "pca-least"]
    means = np.array(study["scores"]["accuracy"]["mean"], float).reshape(3, 5)
    want = results.accuracy.sel({"selection": "pca"}).mean("seed").squeeze().values
    assert means[1] == pytest.approx(want, rel=1e-4)
    found = redundancy(results, 0.9).sel({"selection": "random"}).squeeze()
    assert study["at"]["critical_mass"][0] == float(found.critical_mass)
    assert study["at"]["dr"][0] == pytest.approx(float(found.dr), rel=1e-4)


def test_several_results_are_summed_up_claim_by_claim(report):
    page = (report[0] / "index.html").read_text()
    said = [
        {f.claim for f in findings(results) if f.claim and f.agrees is not None}
        for results in report[1].values()
    ]
    rows = dict(re.findall(r'<td class="text wrap">([^<]*)</td><td>(\d+ of \d+)</td>', page))
    assert set(rows) == said[0] | said[1]
    both = [f for results in report[1].values() for f in findings(results) if f.topic == "pca"]
    assert rows[both[0].claim] == f"{sum(bool(f.agrees) for f in both)} of 2"


def test_the_frontier_is_that_of_the_chosen_results_task(browser, tmp_path):
    studies = {name: synthetic_results(seed=i) for i, name in enumerate(("a / x", "b / x", "c / y"))}
    write_report(studies, tmp_path, tasks={"a / x": "x", "b / x": "x", "c / y": "y"})
    open_page(browser, tmp_path)
    by_id(browser, "tab-redundancy").click()
    drawn = "return document.getElementById('plot-pareto').data.map(t => t.name)"
    assert browser.execute_script(drawn) == ["a / x / penultimate", "b / x / penultimate"]
    browser.execute_script(
        "const s = document.getElementById('study'); s.value = 2; s.dispatchEvent(new Event('change'))"
    )
    assert browser.execute_script(drawn) == ["c / y / penultimate"]


@pytest.fixture(scope="module")
def beside_control(tmp_path_factory):
    folder, control = tmp_path_factory.mktemp("control"), synthetic_results(seed=1)
    control["accuracy"] = control["accuracy"] * 0 + 0.25
    control["class_accuracy"] = control["class_accuracy"] * 0 + 0.25
    write_report({"trained": synthetic_results(), "control": control}, folder)
    return folder


def test_a_control_at_chance_is_drawn_hollow_and_named(browser, beside_control):
    open_page(browser, beside_control)
    by_id(browser, "tab-redundancy").click()
    trained, control = browser.execute_script(
        "return document.getElementById('plot-pareto').data"
        ".map(t => [t.name, t.marker.symbol, t.marker.color])"
    )
    assert (trained[0], control[0]) == ("trained / penultimate", "control / penultimate (at chance)")
    assert any(not symbol.endswith("-open") for symbol in trained[1])
    assert all(symbol.endswith("-open") for symbol in control[1])
    assert control[2] == "#9aa4ad" != trained[2]


def test_the_printed_frontier_and_its_table_name_a_control_at_chance(beside_control):
    svg = (beside_control / "figures/pareto.svg").read_text()
    assert ">control / penultimate (at chance)<" in svg
    assert ">trained / penultimate<" in svg
    table = pd.read_csv(beside_control / "tables/pareto.csv")
    assert (table.at_chance == (table.study == "control")).all()
    assert not table.frontier[table.at_chance].any()


def test_files_beside_the_page(report):
    folder, studies = report
    for name in ("accuracy", "dr", "layers", "classes", "cka"):
        for end in ("svg", "png", "pdf"):
            assert (folder / f"figures/Lite0-b-CIFAR-b/{name}.{end}").stat().st_size > 2000
    table = pd.read_csv(folder / "tables/Lite1-Pets-accuracy.csv")
    assert len(table) == studies["Lite1 / Pets"].accuracy.size
    row = table[(table.selection == "pca") & (table.fraction == 0.2) & (table.seed == 3)].iloc[0]
    want = studies["Lite1 / Pets"].accuracy.sel({"selection": "pca", "fraction": 0.2, "seed": 3}).item()
    assert row.accuracy == pytest.approx(want, rel=1e-5)
    page = (folder / "index.html").read_text()
    for link in re.findall(r'href="((?:tables|figures)/[^"]+)"', page):
        assert (folder / link).is_file()


def test_report_command_on_results_and_cka_folders(tmp_path):
    results = synthetic_results()
    results.attrs["fingerprint"] = "penultimate: aaa+digest-of-test-penultimate"
    save_dataset(results, tmp_path / "lite0__cifar10.zarr")
    store = MemoryStore({("test", "penultimate"): features(n=100, d=40)})
    similarity = cka(store, layer="penultimate", split="test", fractions=(0.1, 1.0), seeds=2)
    save_dataset(similarity, tmp_path / "similarity.zarr")
    without = {"score_change": ("group", [0.02, -0.5, 0.0]), "removed": ("group", [1, 1, 1])}
    said = {"digest": "digest-of-test-penultimate", "layer": "penultimate", "probe": "ridge"}
    neurons = xr.Dataset({**without, "neuron": ("member", [0, 1, 2])}, attrs=said)
    save_dataset(neurons, tmp_path / "neurons.zarr")
    line = [
        "report",
        str(tmp_path / "lite0__cifar10.zarr"),
        str(tmp_path / "similarity.zarr"),
        str(tmp_path / "neurons.zarr"),
        "--out",
        str(tmp_path / "out"),
    ]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "probecache", *line], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "out" / "index.html") in done.stdout
    page = (tmp_path / "out" / "index.html").read_text()
    assert "lite0 / cifar10" in page
    assert '"change":[0.02,-0.5,0.0]' in page
    assert (tmp_path / "out/figures/lite0-cifar10/cka.svg").is_file()
    assert (tmp_path / "out/figures/lite0-cifar10/neurons.svg").is_file()


def test_what_is_no_results_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "plain").mkdir()
    with pytest.raises(InputError, match="which holds no sweep results"):
        report_files([str(tmp_path / "plain")], tmp_path / "out")
    (tmp_path / "plain" / "zarr.json").write_text("{")
    with pytest.raises(
        DamagedStore, match=r"plain/zarr\.json: it cannot be read .*; the same sweep mends it"
    ):
        report_files([str(tmp_path / "plain")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fractions", [(1.0,), (0.2, 1.0)])
@pytest.mark.parametrize("n_seeds", [1, 3])
def test_the_smallest_results_make_a_report(tmp_path, fractions, n_seeds):
    """One layer, selection and l2, and perhaps one fraction and seed: nothing may be squeezed away."""
    results = synthetic_results(selections=("random",), fractions=fractions, n_seeds=n_seeds, n_classes=2)
    assert write_report({"a": results}, tmp_path).is_file()


def test_a_report_is_not_written_into_a_store(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "zarr.json").write_text("{}")
    for out in (tmp_path / "r", tmp_path / "r" / "zarr.json"):
        with pytest.raises(InputError, match="name a folder for the report"):
            report_files([str(tmp_path / "r")], out)
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["zarr.json"]
