"""Throughput and latency of a real Triton server: pruned against dense at equal concurrency, in one run.

    PYTHONPATH=.:tests python benchmarks/serving.py REPOSITORY PRUNED DENSE --out benchmarks/results

PRUNED and DENSE are models in REPOSITORY, exported with `--serve python --with-tokenizer` (DENSE with `--dense`). The
server, which `make test` installs, and its clients share this machine. Each is asked in turn, several times over; ratios
are of medians. Nothing else may run on the machine meanwhile.
"""

import argparse
import statistics
from pathlib import Path

from tritonserver import Server

from prune2deploy.files import pretty_json, write_text
from prune2deploy.provenance import versions
from prune2deploy.runtimes.devices import cpu_device
from prune2deploy.serving.bench import BenchResult, bench

CONCURRENCY = (1, 4, 8)
COLUMNS = ("asked", "clients", "dense samples/s", "pruned samples/s", "ratio", "dense p50 ms", "pruned p50 ms",
           "dense p95 ms", "pruned p95 ms", "samples an execution, dense", "pruned", "failed or wrong")  # fmt: skip


def median(results: list[BenchResult], name: str) -> float:
    return statistics.median(getattr(result, name) for result in results)


def row(asked: str, clients: int, dense: list[BenchResult], pruned: list[BenchResult]) -> tuple:
    batches = [
        sum(each.executed_samples for each in some) / sum(each.executions for each in some) for some in (dense, pruned)
    ]
    rates = [median(some, "samples_per_second") for some in (dense, pruned)]
    return (
        asked, clients, *(f"{rate:.1f}" for rate in rates), f"{rates[1] / rates[0]:.2f}",
        *(f"{median(some, name):.1f}" for name in ("p50_ms", "p95_ms") for some in (dense, pruned)),
        *(f"{batch:.2f}" for batch in batches), sum(each.failed + each.wrong for each in (*dense, *pruned)),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("pruned")
    parser.add_argument("dense")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    kinds = {"texts to the ensemble": "_text", "the workload's shape to the model": ""}
    found: dict[tuple[str, int, str], list[BenchResult]] = {}
    with Server(arguments.repository) as server:
        for _ in range(arguments.rounds):
            for asked, suffix in kinds.items():
                for clients in CONCURRENCY:
                    for name in (arguments.dense, arguments.pruned):
                        result, _ = bench(
                            server.grpc_url, name + suffix, arguments.repository, clients, seconds=arguments.seconds
                        )
                        found.setdefault((asked, clients, name), []).append(result)
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for asked in kinds:
        for clients in CONCURRENCY:
            rows.append(row(asked, clients, *(found[asked, clients, name] for name in (arguments.dense, arguments.pruned))))
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in rows]
    print("\n".join(lines))
    results = [{"asked": asked, **each.model_dump(mode="json")} for (asked, _, _), some in found.items() for each in some]
    said = {"server": "tritonserver 2.51 (nvidia-pytriton), python backend, gRPC", "device": cpu_device().model_dump(),
            "versions": versions(), "results": results}  # fmt: skip
    write_text(arguments.out / "serving.json", pretty_json(said) + "\n")
    write_text(arguments.out / "serving.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
