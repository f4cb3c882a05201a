"""What tests of the commands share."""

import os
import signal
import sys

import pytest

from finetune_kit import console


@pytest.fixture
def untouched_process(monkeypatch):
    """Takes back what `main.run_app` does to environment, imports, signals and console."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
    console.deactivate()
