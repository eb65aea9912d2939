import re
from html import unescape
from html.parser import HTMLParser

import pytest
from transformers import BertConfig

from prune2deploy.budget import Budget
from prune2deploy.config import WorkloadPoint
from prune2deploy.models.checkpoint import FitRound, StageResult
from prune2deploy.models.signature import signature_of
from prune2deploy.models.table import Curve, PointTable
from prune2deploy.runtimes.base import DeviceInfo, RuntimeInfo
from prune2deploy.validation.html import duration, number, percent, render
from prune2deploy.validation.record import Check, EngineLatency, MetricRecord, Numerics, PointLatency, Report

POINTS = [WorkloadPoint(batch=1, seq_len=128, weight=3.0), WorkloadPoint(batch=8, seq_len=384, weight=1.0)]


def engine(points, ms):
    rows = [
        PointLatency(point=point, median_ms=t, p90_ms=1.061 * t, p95_ms=1.123 * t, spread=0.0432, n=n)
        for point, t, n in zip(points, (ms, 10 * ms), (317, 318), strict=False)
    ]
    total = sum(row.point.weight * row.median_ms for row in rows)
    return EngineLatency(ms=total / sum(point.weight for point in points), points=rows)


def curves():
    return {
        "attention": Curve(widths=[0, 3, 6, 12], ms=[0, 0.31, 0.52, 0.93], standard_error_ms=[0, 0.01, 0.02, 0.02]),
        "ffn": Curve(widths=[0, 512, 1024, 3072], ms=[0, 0.4, 0.75, 2.05], standard_error_ms=[0, 0.01, 0.05, 0.04]),
    }


def widths_of(attention, ffn):
    by_layer = (zip(("attention", "ffn"), pair, strict=True) for pair in zip(attention, ffn, strict=True))
    return {f"{layer}.{kind}": width for layer, pairs in enumerate(by_layer) for kind, width in pairs}


def report_of(layers=12, points=POINTS, **changes):
    attention = [[12, 6, 5, 0][index % 4] for index in range(layers)]
    ffn = [[3072, 1024, 819, 412, 0][index % 5] for index in range(layers)]
    dense, pruned = engine(points, 48.317), engine(points, 23.571)
    values = {
        "verdict": "passed", "headline": "Passed: 23.6 ms of the 24.2 ms budget, accuracy -1.15 points",
        "name": "bert-sst2-2x", "created_at": "2025-11-03T10:22:31+00:00", "task": "text-classification",
        "source": "textattack/bert-base-uncased-SST-2", "data": "data/sst2", "method": "fisher-knapsack",
        "budget": Budget(kind="speedup", value=2.0), "limit_ms": dense.ms / 2,
        "checks": [
            Check(name="budget", passed=True, detail="measured 76.6 ms, limit 78.5 ms"),
            Check(name="onnx equals pytorch", passed=True, detail="largest difference 3.1e-06 over 64 samples"),
        ],
        "signature": signature_of(BertConfig(num_hidden_layers=layers)),
        "widths": widths_of(attention, ffn),
        "parameters_dense": 109_483_778, "parameters_pruned": 61_204_511,
        "onnx_bytes_dense": 438_100_000, "onnx_bytes_pruned": 244_900_000, "fused": True,
        "numerics": Numerics(samples=64, onnx_max_error=3.1e-6, tolerance=1.7e-4, largest_logit=4.213,
                             dense_mean_difference=0.3127, same_prediction=0.9531),
        "metric_dense": MetricRecord(metric="accuracy", value=92.43, standard_error=0.91, n=872),
        "metric_pruned": MetricRecord(metric="accuracy", value=91.28, standard_error=0.96, n=872),
        "latency_dense": dense, "latency_pruned": pruned, "speedup": 2.0498,
        "predicted_ms": 75.127, "prediction_error": -0.0193,
        "stages": [
            stage("dense", 92.43, 0.0, 31.4, notes=["seconds: calibration"]),
            stage("search", 71.22, 0.5131, 4.2),
            stage("rearrange", 84.29, 0.3311, 12.7),
            stage("mask tuning", 91.28, 0.1207, 75.0, notes=["14 of 24 blocks solved", "ridge 0.01"]),
            stage("re-fit", 90.14, 0.2207, 60.0, notes=["not kept: the divergence rose"], kept=False),
        ],
        "fitted": [
            FitRound(predicted_ms=75.5, measured_ms=80.25, dense_ms=157.1),
            FitRound(predicted_ms=70.5, measured_ms=77.125, dense_ms=157.9),
        ],
        "seconds": {"profile": 431.0, "prune": 183.3, "export": 21.5, "validate": 4012.0},
        "peak_memory_gb": 3.217,
        "device": DeviceInfo(kind="cpu", name="AMD EPYC 7B13", cores=2, memory_gb=15.62),
        "runtime": RuntimeInfo(
            name="onnxruntime", version="1.22.1", provider="CPUExecutionProvider", threads=2, affinity=[0, 1],
            settings={"graph_optimization_level": "all", "allow_spinning": "1"},
        ),
        "table_points": [
            PointTable(point=point, fixed_ms=2.31, fixed_alone_ms=2.17, dense_ms=ms, block_scale=1.037, curves=curves())
            for point, ms in zip(points, (47.13, 471.3), strict=False)
        ],
        "table_error": 0.0117,
        "versions": {"prune2deploy": "0.1.0", "torch": "2.9.1", "transformers": "5.0.0"},
    }  # fmt: skip
    return Report(**{**values, **changes})


def stage(name, score, error, seconds, **more):
    return StageResult(
        stage=name, score=score, standard_error=0.93, metric="accuracy", n=872, reconstruction_error=error,
        divergence=error / 3, seconds=seconds, **more,
    )  # fmt: skip


class Visible(HTMLParser):
    """The text that a reader sees, and every tag with its attributes."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.tags, self.open = [], [], []
        self.feed(page)
        self.text = " ".join(self.texts)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and "head" not in self.open:
            self.texts.append(" ".join(data.split()))


@pytest.fixture(scope="module")
def page():
    return render(report_of())


@pytest.fixture(scope="module")
def visible(page):
    return Visible(page)


def svgs(page):
    return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)


@pytest.mark.parametrize(
    "value",
    [
        "157.0 → 76.61 ms", "2.05×", "78.52 ms", "2× speedup", "97.6 % used",  # summary
        "Metric (accuracy), dense → pruned 92.43 → 91.28 -1.15 points; standard errors ± 0.91 → ± 0.96; n = 872",
        "109.5 → 61.2 M", "438.1 MB → 244.9 MB", "budget ✓ passed measured 76.6 ms, limit 78.5 ms",
        "onnx equals pytorch ✓ passed largest difference 3.1e-06",
        "5 of 24 blocks vanished", "heads kept of 12", "filters kept of 3072", "layer 11",
        "budget 78.52 ms", "75.13 ms", "-1.9 %",  # latency
        "batch 8 × 384 1 dense 483.2 512.6 542.6 4.3 % 318", "batch 1 × 128 3 pruned 23.57 25.01 26.47 4.3 % 317",
        "2.310", "2.170", "1.04", "1.2 %",  # latency table
        "rearrange 84.29 ± 0.93 872 0.331 0.110 12.7 s", "1 min 15 s 14 of 24 blocks solved ridge 0.01",  # stages
        "re-fit (not kept) 90.14 ± 0.93 872 0.221 0.0736 1 min 0 s not kept: the divergence rose", "dense 92.43",
        "1 75.50 77.44 80.25 -3.5 % 157.1 102.2 %", "2 70.50 72.68 77.12 -5.8 % 157.9 97.7 %",  # rounds
        "Samples 64", "3.1e-06 (tolerance 1.7e-04: within)", "4.213", "0.313", "95.3 %", "fused (measured faster",
        "profile 7 min 11 s", "validate 1 h 6 min", "all together 1 h 17 min", "3.22 GB",
        "AMD EPYC 7B13 (cpu)", "Physical cores 2", "15.6 GB", "onnxruntime 1.22.1, CPUExecutionProvider", "0, 1",
        "graph_optimization_level all", "torch 2.9.1",
        "textattack/bert-base-uncased-SST-2", "bert-l12-h768-a12x64-f3072-gelu-o2", "data/sst2", "fisher-knapsack",
        "text-classification", "109,483,778", "61,204,511", "2025-11-03T10:22:31+00:00",
    ],
)  # fmt: skip
def test_reader_finds(visible, value):
    assert value in visible.text


def test_headline_is_the_first_thing_shown(page, visible):
    assert visible.texts[0] == "Passed: 23.6 ms of the 24.2 ms budget, accuracy -1.15 points"
    assert '<h1 class="passed">' in page


def test_failure_is_said_first_and_in_words():
    lost = "lost 3.20 points, allowed 1.00"
    checks = [Check(name="quality", passed=False, detail=lost), Check(name="budget", passed=True, detail="kept")]
    headline = f"FAILED quality: {lost}"
    page = render(report_of(verdict="failed", headline=headline, checks=checks))
    visible = Visible(page)
    assert visible.texts[0] == headline
    assert '<h1 class="failed">' in page
    assert "quality ✗ failed lost 3.20 points" in visible.text
    assert "budget ✓ passed kept" in visible.text


def test_what_is_exceeded_is_said():
    numerics = report_of().numerics.model_copy(update={"onnx_max_error": 0.5})
    text = Visible(render(report_of(limit_ms=70.0, numerics=numerics))).text
    assert "109.4 % used: over the budget" in text
    assert "0.500 (tolerance 1.7e-04: exceeded)" in text


def test_values_are_escaped_everywhere():
    evil = "<img src=x onerror=alert(1)> & \"quoted\" 'a' $x_{$ {{ 7 * 7 }}"
    base = report_of()
    changes = dict.fromkeys(("headline", "name", "created_at", "source", "task", "data", "method"), evil)
    changes["checks"] = [Check(name=evil, passed=True, detail=evil)]
    changes["stages"] = [stage(evil, 50, 0.1, 1, notes=[evil]).model_copy(update={"metric": evil})]
    changes["seconds"] = {evil: 1.0}
    changes["versions"] = {evil: evil}
    changes["device"] = base.device.model_copy(update={"name": evil})
    changes["runtime"] = base.runtime.model_copy(update={"provider": evil, "settings": {evil: evil}})
    changes["metric_pruned"] = base.metric_pruned.model_copy(update={"metric": evil})
    page = render(report_of(**changes))
    assert "<img" not in page
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in Visible(page).tags)
    assert "{{ 7 * 7 }}" in page
    assert page.count("&lt;img src=x onerror") > 15
    assert evil in unescape(page)


def test_nothing_is_loaded_from_elsewhere(page, visible):
    loading = ("src", "srcset", "href", "xlink:href", "data", "poster", "action", "background")
    targets = [attributes[name] for _, attributes in visible.tags for name in loading if name in attributes]
    assert all(target.startswith("#") for target in targets)
    assert not {tag for tag, _ in visible.tags} & {"script", "link", "iframe", "object", "embed", "img", "base"}
    assert not re.search(r"@import|https?://", page)
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", page))


def test_page_and_its_figures_are_well_formed(page, visible):
    assert visible.open == []
    assert len(svgs(page)) == 4
    ids = [attributes["id"] for _, attributes in visible.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)
    assert {one or other for one, other in used} <= set(ids)


def test_page_fits_phone_paper_and_both_schemes(page):
    for part in ('name="viewport"', "@media print", "prefers-color-scheme: dark", "background: #fff"):
        assert part in page


def test_same_report_gives_the_same_page(page):
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):  # a caller's own style
        assert render(report_of()) == page
        assert matplotlib.rcParams["font.size"] == 30


def test_no_pyplot_state_is_made():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    render(report_of(layers=1))
    assert pyplot.get_fignums() == before


def test_flops_budget_has_no_table_and_no_limit():
    changes = dict.fromkeys(("limit_ms", "table_error", "predicted_ms", "prediction_error"))
    page = render(report_of(budget=Budget(kind="flops", value=0.5), table_points=[], fitted=[], **changes))
    text = Visible(page).text
    assert len(svgs(page)) == 3
    for part in ("0.5 of the dense FLOPs", "no latency limit", "No latency table was used", "No engine was measured"):
        assert part in text
    assert "% used" not in text
    assert "dashed line is the budget" not in text
    assert "None" not in text.replace("None of the", "")


@pytest.mark.parametrize("points", [0, 1])
def test_rounds_without_the_whole_table_show_what_was_measured(points):
    text = Visible(render(report_of(table_points=report_of().table_points[:points]))).text
    assert "1 75.50 – 80.25 – 157.1 102.2 %" in text


def test_vanished_blocks_are_named_in_the_figure():
    vanished = widths_of([0, 12], [0, 3072])
    page = render(report_of(layers=2, widths=vanished))
    assert svgs(page)[0].count(">vanished<") == 2
    assert "2 of 4 blocks vanished" in Visible(page).text
    kept = render(report_of(layers=2, widths=widths_of([12, 1], [1, 3072])))
    assert ">vanished<" not in kept
    assert "None of the 4 blocks vanished" in Visible(kept).text


@pytest.mark.parametrize("layers", [1, 48])
def test_few_and_many_layers(layers):
    page = render(report_of(layers=layers, points=POINTS[:1]))
    assert f">layer {layers - 1}<" in svgs(page)[0]
    assert f">layer {layers}<" not in svgs(page)[0]


def test_workload_of_images_has_no_length():
    text = Visible(render(report_of(points=[WorkloadPoint(batch=16)]))).text
    assert "batch 16 1 pruned" in text


def test_report_without_stages_checks_or_times():
    text = Visible(render(report_of(stages=[], checks=[], seconds={}))).text
    for part in ("records no stages", "Nothing was checked", "all together 0.0 s"):
        assert part in text


def test_numbers_keep_four_digits():
    values = (0, None, 12345.6, 123.456, 0.012346, 3.14e-7, -2.5)
    assert [number(value) for value in values] == ["0", "–", "12,346", "123.5", "0.01235", "3.14e-07", "-2.500"]


def test_shares_and_durations():
    assert (percent(0.97612), percent(0.02, True), percent(None)) == ("97.6 %", "+2.0 %", "–")
    shown = ["0.0 s", "59.9 s", "1 min 0 s", "1 min 1 s", "1 h 0 min", "2 h 1 min"]
    assert [duration(s) for s in (0.04, 59.94, 59.97, 61, 3599.9, 7260)] == shown
