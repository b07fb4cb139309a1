"""The exposition as `promtool check metrics` wants it: by its rules, and by itself where it is installed."""

import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from sparserve.models.bundle.store import Store
from sparserve.service.version import VERSION
from tests.support.tiny_bundles import TASK

URL = f"/v1/models/{TASK}/classify"
BASE_UNITS = ("seconds", "bytes", "ratio")
OTHER_UNITS = re.compile(
    r"(^|_)((milli|micro|nano|kilo|mega|giga|kibi|mebi|gibi)\w*|minutes?|hours?|days?|weeks?|percent|bits|ms|us|ns|sec|secs|kb|mb|gb)(_|$)"
)
TYPES = ("counter", "gauge", "histogram", "summary", "untyped")


@pytest.fixture(scope="module")
def exposition(module_client: TestClient) -> str:
    """Everything that a service says of itself once it has answered."""
    module_client.post(URL, json={"inputs": ["good", "bad film"]})
    module_client.post(URL, json={"inputs": []})
    module_client.get("/nowhere")
    return module_client.get("/metrics").text


def faults_of(exposition: str) -> list[str]:
    """Findings of promtool's linter and violations of the naming conventions."""
    described = dict(re.findall(r"^# HELP (\S+) (.*)$", exposition, re.MULTILINE))
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", exposition, re.MULTILINE))
    samples = [
        sample for family in text_string_to_metric_families(exposition) for sample in family.samples
    ]  # raises where a line is none
    faults = [f"{name}: no help" for name in kinds if not described.get(name)]
    for name, kind in kinds.items():
        words = name.split("_")
        if (kind == "counter") != name.endswith("_total"):
            faults.append(f"{name}: _total is for counters, and they need it")
        if kind != "histogram" and name.endswith(("_bucket", "_count", "_sum")):
            faults.append(f"{name}: _bucket, _count and _sum are for histograms")
        if set(words) & set(TYPES):
            faults.append(f"{name}: its type is in its name")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            faults.append(f"{name}: not in lower case")
        if OTHER_UNITS.search(name):
            faults.append(f"{name}: not in a base unit")
        if any(unit in words for unit in BASE_UNITS) and not re.search(
            rf"_({'|'.join(BASE_UNITS)})(_total|_created)?$", name
        ):
            faults.append(f"{name}: its unit does not come last")
    for sample in samples:
        if "le" in sample.labels and not sample.name.endswith("_bucket"):
            faults.append(f"{sample.name}: le is for histograms")
        faults += [f"{sample.name}: label {label}" for label in sample.labels if not re.fullmatch("[a-z_]+", label)]
    return faults


def test_it_keeps_the_rules(exposition: str) -> None:
    # What collectors of the library say is theirs to name.
    ours = "\n".join(line for line in exposition.splitlines() if "sparserve_" in line) + "\n"
    assert ours.count("# TYPE") > 30
    assert faults_of(ours) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("# TYPE x_seconds gauge\nx_seconds 1", "no help"),
        ("# HELP x X.\n# TYPE x counter\nx 1", "_total is for counters"),
        ("# HELP x_total X.\n# TYPE x_total gauge\nx_total 1", "_total is for counters"),
        ("# HELP x_count X.\n# TYPE x_count gauge\nx_count 1", "are for histograms"),
        ("# HELP x_gauge X.\n# TYPE x_gauge gauge\nx_gauge 1", "its type"),
        ("# HELP xY X.\n# TYPE xY gauge\nxY 1", "lower case"),
        ("# HELP x_milliseconds X.\n# TYPE x_milliseconds gauge\nx_milliseconds 1", "base unit"),
        ("# HELP x_seconds_waited X.\n# TYPE x_seconds_waited gauge\nx_seconds_waited 1", "come last"),
        ('# HELP x X.\n# TYPE x gauge\nx{le="1"} 1', "le is for histograms"),
    ],
)
def test_the_rules_find_what_is_wrong(line: str, fault: str) -> None:
    (found,) = faults_of(line + "\n")
    assert fault in found


def test_promtool_finds_nothing(exposition: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, "check", "metrics"], input=exposition, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_exposition_of_models_build_and_store(store: Store, serve: Callable[..., TestClient], service_of: Any) -> None:
    client = serve(watch_seconds=0)
    registry = service_of(client).metrics.registry

    def value(name: str, **labels: str) -> float | None:
        found: float | None = registry.get_sample_value(f"sparserve_{name}", labels)
        return found

    assert "sparserve_build_info{onnxruntime=" in client.get("/metrics").text
    assert f'version="{VERSION}"' in client.get("/metrics").text
    first = value("store_last_look_timestamp_seconds")
    assert first
    assert value("model_loads_total", task=TASK, variant="dense", outcome="served") == 1
    hidden = store.root.rename(store.root.with_name("hidden"))
    service_of(client).catalog.refresh()
    assert value("store_last_look_timestamp_seconds") == first  # it could not be read
    hidden.rename(store.root)
    service_of(client).catalog.refresh()
    assert (value("store_last_look_timestamp_seconds") or 0) > first
    assert value("model_loads_total", task=TASK, variant="dense", outcome="served") == 1
