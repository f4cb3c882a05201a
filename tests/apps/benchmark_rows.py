"""Rows that the tests of the benchmark share."""

from apps.benchmarks import records

PROTOCOL = records.Protocol(
    backbone="mobilenet",
    backbone_args="",
    weights="w.weights.h5",
    image_size=128,
    per_class=20,
)


def row(method="head_only", *, kind="recipe", data="birds", seed=0, accuracy=0.5, **values):
    return records.Row(
        **{
            "kind": kind,
            "method": method,
            "program": f"run {method}",
            "data": data,
            "seed": seed,
            "protocol": PROTOCOL,
            "n": 40,
            "test": 200,
            "accuracy": accuracy,
            "seconds": 3.0,
            "total": 9.0,
            "process": 12.0,
            "parameters": 1000,
            "code": "c0de",
            "device": "CPU",
            "machine": "Abacus, 2 cores, 8 GiB",
            "versions": {"python": "3.11.7"},
            "finished": "2026-01-02T03:04:05+00:00",
            **values,
        }
    )
