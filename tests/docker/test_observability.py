"""Dashboard, alerts and their services in the compose file: they name only what the service really says."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparserve.service.observability.metrics import Metrics

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DASHBOARD = json.loads((DOCKER / "grafana" / "dashboards" / "sparserve.json").read_text())
ALERTS = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
WORDS = {"and", "or", "unless", "bool", "offset"}
# What Prometheus itself adds to every target.
ADDED_METRICS, ADDED_LABELS = {"up"}, {"instance", "job", "le"}


def exposed() -> dict[str, set[str]]:
    """Names of all series, histograms' included, with the labels that the service gives them."""
    metrics = Metrics()
    labels: dict[str, set[str]] = {}
    groups = [group for group in vars(metrics).values() if type(group).__name__.endswith("Metrics")]
    for one in (metric for group in (metrics, *groups) for metric in vars(group).values()):
        if hasattr(one, "_labelnames"):
            for name in one._get_metric().name, f"{one._name}_total":
                labels[name] = set(one._labelnames)
    kinds = re.findall(r"^# TYPE (\S+) (\S+)$", metrics.exposition().decode(), re.MULTILINE)
    found: dict[str, Any] = {}
    for name, kind in kinds:
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + suffix: labels.get(name, set()) for suffix in suffixes}
    return found


def metrics_in(expression: str) -> dict[str, set[str]]:
    """Names of the series in a PromQL expression, with the labels they are chosen by."""
    found: dict[str, set[str]] = {}
    plain = re.sub(r'"(\\.|[^"\\])*"', '""', expression)
    plain = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", plain)
    plain = re.sub(r"\[[^\]]*\]", " ", plain)
    for name, chosen in re.findall(r"([A-Za-z_:][\w:]*)\s*(\{[^}]*\}|\()?", plain):
        if chosen != "(" and name not in WORDS:
            found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", chosen))
    return found


def grouped_by(expression: str) -> set[str]:
    groups = re.findall(r"\bby\s*\(([^)]*)\)", expression)
    return {label.strip() for group in groups for label in group.split(",")}


EXPRESSIONS = {
    **{f"panel {panel['title']} {one['refId']}": one["expr"] for panel in PANELS for one in panel["targets"]},
    **{f"alert {rule['alert']}": rule["expr"] for rule in RULES},
}


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
def test_every_metric_and_label_exists(expression: str) -> None:
    series, used = exposed(), metrics_in(expression)
    assert used and used.keys() <= series.keys() | ADDED_METRICS
    for name, labels in used.items():
        assert labels <= series.get(name, set()) | ADDED_LABELS, name
    every = set().union(*(series.get(name, set()) for name in used))
    assert grouped_by(expression) <= every | ADDED_LABELS


def test_names_are_read_out_of_expressions() -> None:
    expression = 'histogram_quantile(0.9, sum by (le, x) (rate(a_bucket{b="c{d}", e=~"f"}[5m]))) / (time() - g) and h'
    assert metrics_in(expression) == {"a_bucket": {"b", "e"}, "g": set(), "h": set()}
    assert grouped_by(expression) == {"le", "x"}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_dashboard_panels_have_units(panel: dict[str, Any]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for expression in (target["expr"] for target in panel["targets"]):
        if "duration_seconds" in expression or "timestamp_seconds" in expression:
            assert unit == "s"
        elif expression.startswith("process_") and "_bytes" in expression:
            assert unit == "bytes"
        elif re.fullmatch(r"sum.*rate\(sparserve_(http_)?requests.*\)", expression) and " / " not in expression:
            assert unit == "reqps"
        elif " / " in expression and "batch_inputs_sum" not in expression:
            assert unit == "percentunit"
        else:
            assert unit


def test_dashboard_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_dashboard_shows_required_metrics() -> None:
    shown = " ".join(EXPRESSIONS.values())
    for name in (
        "http_requests_total",
        "stage_duration_seconds",
        "inputs_waiting",
        "batch_inputs",
        "padding_tokens_total",
        "padding_saved_tokens_total",
        "requests_shed_total",
        "deadline_misses_total",
        "model_info",
        "bundles_refused",
        "store_readable",
        "batches_failed_total",
    ):
        assert f"sparserve_{name}" in shown
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_what_is_provisioned_is_mounted() -> None:
    services = COMPOSE["services"]
    grafana, prometheus = services["grafana"], services["prometheus"]
    mounts = dict(volume.removesuffix(":ro").rsplit(":", 1) for volume in grafana["volumes"])
    (provider,) = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/sparserve.yml").read_text())["providers"]
    assert mounts["./docker/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./docker/grafana/provisioning"] == "/etc/grafana/provisioning"
    (source,) = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert DASHBOARD["templating"]["list"][0]["current"]["value"] == source["uid"]
    assert "./docker/prometheus:/etc/prometheus:ro" in prometheus["volumes"]
    config = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())
    assert all((DOCKER / "prometheus" / name).is_file() for name in config["rule_files"])
    ((target,),) = (one["targets"] for job in config["scrape_configs"] for one in job["static_configs"])
    assert target == "service:8000" and {job["job_name"] for job in config["scrape_configs"]} == {"sparserve"}


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_monitoring_profile_is_optional_pinned_and_local(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["profiles"] == ["observability"]
    assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["read_only"] and service["cap_drop"] == ["ALL"]


@pytest.mark.parametrize(("password", "status"), [("", 1), ("chosen", 0)])
def test_grafana_requires_a_password(password: str, status: int) -> None:
    grafana = COMPOSE["services"]["grafana"]
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "${GRAFANA_ADMIN_PASSWORD:-}"
    *shell, script = grafana["entrypoint"]
    script = script.replace("$$", "$").replace("exec /run.sh", "exit 0")
    environment = {"GF_SECURITY_ADMIN_PASSWORD": password}
    done = subprocess.run([*shell, script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(status)
    assert ("GRAFANA_ADMIN_PASSWORD" in done.stderr) == bool(status)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "docker/prometheus/alerts.yml"],
        ["check", "config", "docker/prometheus/prometheus.yml"],
        ["test", "rules", "tests/docker/alerts_test.yml"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_agrees(arguments: list[str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
