"""At which size images are looked at where no flag says so."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from finetune_kit import data, results, similarity
from recipes import auto, looking, sizing
from tests.recipes import coloured


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Images of 64 px, whose originals have enough for twice the bundled network's default."""
    small = coloured.write(tmp_path_factory.mktemp("small") / "squares", per_class=6)
    for path in small.rglob("*.png"):
        Image.open(path).resize((64, 64)).save(path)
    return str(small)


def config(folder, **values):
    return auto.Config(data=folder, workdir="unused", **values)


def test_originals_that_have_the_pixels_are_looked_at_in_twice_the_size(squares) -> None:
    loaded = sizing.load(config(squares))
    assert loaded.images.image_size == loaded.classifier.backbone.image_size == 64
    assert loaded.config.image_size == 64
    assert loaded.why["resolution"].startswith("64 px; the originals have 64 px; a probe")
    assert loaded.seconds.keys() == {"start_up", "data", "backbone"}


@pytest.mark.parametrize("flags", [{"image_size": 32}, {"time_budget": "5m"}, {"weights": "none"}])
def test_the_default_is_kept_where_it_is_not_to_be_asked(squares, flags, monkeypatch) -> None:
    monkeypatch.setattr(similarity, "recognised", None)
    loaded = sizing.load(config(squares, **flags))
    assert loaded.images.image_size == 32 and "resolution" not in loaded.why


def test_a_size_that_is_clearly_worse_is_not_taken(squares, monkeypatch) -> None:
    shown = []

    def recognised(features, labels, **rest):
        shown.append(features)
        return np.full(len(labels), len(shown) == 1)

    monkeypatch.setattr(similarity, "recognised", recognised)
    loaded = sizing.load(config(squares))
    assert loaded.images.image_size == 32
    assert loaded.why["resolution"] == (
        "32 px; the originals have 64 px, but a probe recognises 0.0 % at 64 px, 100.0 % at 32 px"
    )


def test_each_size_has_its_own_network_and_its_own_pixels(squares, monkeypatch) -> None:
    seen = []
    observe = similarity.observe

    def noted(backbone, split):
        seen.append((backbone.image_size, split.store.batch(split.indices)))
        return observe(backbone, split)

    monkeypatch.setattr(similarity, "observe", noted)
    sizing.load(config(squares))
    assert [size for size, _ in seen] == [32, 64]
    for size, pixels in seen:
        train = data.load(squares, image_size=size, hold_out=False).train
        sample = looking.sample(train, sizing.MOST, seed=0)
        np.testing.assert_array_equal(pixels, sample.store.batch(sample.indices))


def test_a_run_that_goes_on_keeps_what_was_decided(squares, tmp_path) -> None:
    fresh = config(squares)
    going_on = dataclasses.replace(fresh, resume=True, workdir=str(tmp_path))
    assert auto._as_decided(fresh) == fresh and auto._as_decided(going_on) == going_on
    for written, size in [(64, 64), ([48, 64], (48, 64))]:
        results.write_advice({"image_size": written, "augment": "shift"}, tmp_path)
        decided = auto._as_decided(going_on)
        assert decided.image_size == size and decided.augment == "shift"
    told = dataclasses.replace(going_on, image_size=96, augment="light")
    assert auto._as_decided(told) == told


def test_a_run_trains_and_exports_at_the_advised_size(squares, tmp_path) -> None:
    workdir = str(tmp_path / "run")
    report = auto.run(auto.Config(data=squares, workdir=workdir, plan="head"))
    assert report.data["image_size"] == report.backbone["image_size"] == 64
    assert report.config["image_size"] == results.read_advice(workdir)["image_size"] == 64
    assert report.config["augment"] == results.read_advice(workdir)["augment"] == "light"
    reasons = {d["what"]: d["value"] for d in report.advice["plan"]["decisions"]}
    assert reasons["resolution"] == "64 px"
