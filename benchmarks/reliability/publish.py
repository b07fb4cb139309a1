"""Write the tables of docs/benchmarks/reliability.md from benchmarks/results/reliability.json."""

import json
from pathlib import Path
from typing import Any

from benchmarks.markdown_tables import table, write_between
from benchmarks.reliability.run import RESULTS

PAGE = Path(__file__).parent.parent.parent / "docs" / "benchmarks" / "reliability.md"
MB = 1e6
ONE = "one worker"
HELD = {
    "rss_bytes": ("resident memory, MB", MB),
    "pss_bytes": ("proportional share (PSS), MB", MB),
    "private_bytes": ("private (USS), MB", MB),
    "descriptors": ("file descriptors", 1),
    "threads": ("threads", 1),
}
# Titles of the figures, in the order of the page.
SEEN = {
    "exit_status": "exit status",
    "swaps": "swaps",
    "seconds_a_swap": "time per swap, s",
    "store_whole": "store whole",
    "old_version_stays": "old version stays",
    "new_start_whole": "a restarted service serves it",
    "first_answer_by": "first answer from version",
    "seconds_to_replacement": "worker replaced after, s",
    "seconds_to_ready": "ready again after, s",
    "seconds_to_new_version": "new version after, s",
    "seconds_to_refusal": "refused after, s",
    "seconds_to_notice": "noticed after, s",
    "logged": "logged",
    "ready": "stays ready",
    "connections": "connections",
    "answered_408": "ended with 408",
    "closed": "ended without answer",
    "bytes_held_each": "bytes per connection",
    "seconds_to_answer_again": "answers again after, s",
    "seconds_to_the_last": "last one ended after, s",
    "seconds_to_idle": "idle after, s",
    "inputs_sent": "inputs sent",
    "inputs_answered": "inputs answered",
    "status": "status",
    "batches_halved": "batches halved",
    "batches_failed": "batches failed",
    "rows_lost": "rows lost",
    "logged_lines": "log lines",
    "probes_failed": "probes failed",
    "seconds_to_end": "ended after, s",
}
COUNTED = ("accepted", "answered", "refused", "lost")
LONGEST = ("longest_answer_seconds", "longest_probe_seconds")


def page(results: dict[str, Any]) -> str:
    """Return the generated section of the page."""
    sections = []
    for workers, recorded in sorted(results.items(), key=lambda item: int(item[0])):
        title = ONE if workers == "1" else f"{workers} workers"
        sections += [soak(record, title) for record in recorded["soaks"].values()]
        sections += [counts(recorded["faults"], title), seen(recorded["faults"], title)]
    return "\n\n".join(sections) + "\n"


def conditions(record: dict[str, Any]) -> str:
    machine = record["machine"]
    return (
        f"{record['measured_at']}: {machine['cpu']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}, onnxruntime {machine['onnxruntime']}."
    )


def soak(record: dict[str, Any], workers: str) -> str:
    """Return the section of a soak."""
    samples = record["samples"]
    half = samples[len(samples) // 2 :]
    rows = []
    for name, (title, unit) in HELD.items():
        growth = record["growth_per_100000"][name]
        interval = f"{growth['low'] / unit:.2f} to {growth['high'] / unit:.2f}"
        values = [sample[name] / unit for sample in (samples[0], half[0], samples[-1])]
        most = max(sample[name] for sample in samples) / unit
        rows.append([title, *map(number, values), number(most), f"{growth['value'] / unit:.2f}", interval])
    statuses = ", ".join(f"{count:,} x {status}" for status, count in record["statuses"].items())
    died = f"; {record['restarts']} workers died" if "restarts" in record and workers != ONE else ""
    text = (
        f"### {record['requests']:,} requests to {record['model']}, {workers}\n\n"
        f"{conditions(record)} {record['requests_per_second']:,.0f} per second over {record['connections']} "
        f"connections; one thread per worker; {record['seconds'] / 60:.1f} minutes. Answers: {statuses}; "
        f"{record['wrong']} with a wrong status or label; {record['lost']} lost; {record['abandoned']} abandoned by "
        f"the client{died}. Exit status: {record['exit_status']}. Growth is the slope of a straight line through the "
        f"second half of {len(samples)} samples, with its 95 % interval."
    )
    first, last = samples[0]["requests"], samples[-1]["requests"]
    head = ["resource", f"after {first:,}", f"after {half[0]['requests']:,}", f"after {last:,}", "maximum"]
    return text + "\n\n" + table([*head, "growth per 100,000 requests", "95 % interval"], rows)


def counts(faults: dict[str, Any], workers: str) -> str:
    """Return the table of faults during which clients asked."""
    rows = []
    for name, record in faults["scenarios"].items():
        if "accepted" in record:
            statuses = ", ".join(record["statuses"])
            longest = [1000 * record[key] if key in record else None for key in LONGEST]
            cells = ["-" if value is None else f"{value:,.0f}" for value in longest]
            rows.append([name, *(f"{record[key]:,}" for key in COUNTED), statuses, *cells])
    head = ["fault", *COUNTED, "statuses", "longest answer, ms", "longest /livez, ms"]
    return f"### Faults under load, {workers}\n\n{conditions(faults)}\n\n{table(head, rows)}"


def seen(faults: dict[str, Any], workers: str) -> str:
    """Return the list of other observations per fault."""
    lines = []
    for name, record in faults["scenarios"].items():
        if unknown := record.keys() - SEEN.keys() - {*COUNTED, *LONGEST, "statuses", "lost_to"}:
            raise KeyError(f"{name}: {', '.join(unknown)}")
        figures = [f"{title} {number(record[key])}" for key, title in SEEN.items() if key in record]
        lines.append(f"- {name}: {'; '.join(figures)}.")
    settings = faults["settings"]
    note = (
        f"Slow clients had {settings['receive_timeout_seconds']:g} seconds (`receive_timeout_seconds`); "
        f'in "no descriptors left" a process may open {settings["descriptors"]} files.'
    )
    return f"### Observations, {workers}\n\n{note}\n\n" + "\n".join(lines)


def number(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() or abs(value) >= 1000 else f"{value:,.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    write_between(PAGE, page(json.loads(RESULTS.read_bytes())))


if __name__ == "__main__":
    main()
