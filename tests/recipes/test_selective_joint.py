"""Training beside source images, whole: what is asked for, what is chosen, what is kept."""

import json
import re
import shutil

import keras
import numpy as np
import pytest

from finetune_kit import checks, training
from recipes import jobs, selective_joint
from tests.recipes import coloured

QUICK = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 8, "neighbours": 3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return str(coloured.write(tmp_path_factory.mktemp("photos") / "squares", per_class=10))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Other squares, in four classes: blue ones are of two."""
    root = coloured.write(tmp_path_factory.mktemp("source") / "zoo", per_class=30, seed=5)
    (root / "indigo").mkdir()
    for image in sorted((root / "blue").iterdir())[::2]:
        image.rename(root / "indigo" / image.name)
    return str(root)


def configure(photos, source, workdir, **values):
    return selective_joint.Config(
        **{"data": photos, "source_data": source, "workdir": str(workdir), **QUICK, **values}
    )


@pytest.fixture
def companions(monkeypatch):
    """Returns what the loop was given; it stops there."""
    given = []

    class Enough(Exception):
        pass

    def run(*args, companion=None, identity=None, **kwargs):
        given.append((companion, identity))
        raise Enough

    monkeypatch.setattr(jobs.training, "run", run, raising=False)

    def look(config):
        with pytest.raises(Enough):
            selective_joint.run(config)
        return given[-1]

    return look


def test_the_report_says_what_trained_beside_and_the_model_knows_the_target_alone(
    photos, source, tmp_path
) -> None:
    report = selective_joint.run(configure(photos, source, tmp_path / "run"))
    (note,) = [note for note in report.notes if "source images" in note]
    found = re.fullmatch(
        r"(\d+) of 90 source images train with the target's, in 4 classes: nearest, 3 for each",
        note,
    )
    assert 3 < int(found[1]) <= 3 * report.data["images"]["train"]
    assert {"source", "selection", "forward"} <= report.seconds.keys()
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert model.output_shape == (None, 3)
    assert [weight.shape for weight in model.weights if "head" in weight.path] == [(256, 3), (3,)]
    assert json.loads((tmp_path / "run" / "classes.json").read_text()) == sorted(coloured.CLASSES)


def test_the_control_chooses_as_many_and_others(photos, source, tmp_path, companions) -> None:
    chosen = {}
    for selection in ("nearest", "random"):
        config = configure(photos, source, tmp_path / selection, selection=selection, seed=2)
        chosen[selection], _ = companions(config)
    near, blind = chosen["nearest"], chosen["random"]
    assert len(near.images) == len(blind.images)
    np.testing.assert_array_equal(
        np.unique(near.neighbours, return_counts=True)[1].sum(), blind.neighbours.size
    )
    assert set(near.images.names) != set(blind.images.names)


def test_near_ones_are_more_often_of_the_same_colour(photos, source, tmp_path, companions) -> None:
    share = {}
    for selection in ("nearest", "random"):
        config = configure(photos, source, tmp_path / selection, selection=selection, neighbours=5)
        companion, _ = companions(config)
        names = np.array([name.split("/")[0].replace("indigo", "blue") for name in
                          companion.images.names])  # fmt: skip
        # The store of the target holds the images by class: blue, green, red.
        own = np.array(sorted(coloured.CLASSES))[companion.places // 10]
        share[selection] = (names[companion.neighbours] == own[:, None]).mean()
    assert share["nearest"] > share["random"] + 0.15


def test_flags_reach_what_they_name(photos, source, tmp_path, companions) -> None:
    config = configure(
        photos, source, tmp_path / "run", source_limit=40, source_weight=0.25, neighbours=4
    )
    companion, identity = companions(config)
    assert companion.weight == 0.25 and companion.neighbours.shape[1] == 4
    assert len(companion.images) <= 40
    assert identity["source_fingerprint"] == companion.fingerprint
    assert identity["source_fingerprint"] != identity["fingerprint"]
    assert identity["neighbours"] == 4 and identity["recipe"] == "selective_joint"


def test_a_run_goes_on_only_beside_the_same_source(photos, source, tmp_path, monkeypatch) -> None:
    mine = shutil.copytree(source, tmp_path / "zoo")

    def killed(self) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs.Job, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            selective_joint.run(configure(photos, str(mine), tmp_path / "run"))
    config = configure(photos, str(mine), tmp_path / "run", resume=True)
    report = selective_joint.run(config)
    assert any("gone on with an interrupted run" in note for note in report.notes)
    image = next((mine / "red").iterdir())
    shutil.copyfile(next((mine / "green").iterdir()), image)
    with pytest.raises(checks.ConfigError, match="source_fingerprint"):
        selective_joint.run(config)


def test_a_source_is_needed_and_must_be_one(photos, tmp_path) -> None:
    with pytest.raises(checks.ConfigError, match="--source_data is needed: .*probe_then_finetune"):
        selective_joint.Config(data=photos, workdir="run")
    with pytest.raises(checks.DataError, match="^--source_data cannot be used. .*nowhere"):
        selective_joint.Config(data=photos, workdir="run", source_data="nowhere")


def test_what_is_left_out_of_the_source_is_named(photos, source, tmp_path) -> None:
    mine = shutil.copytree(source, tmp_path / "zoo")
    (mine / "red" / "00.png").write_bytes(b"no image")
    config = configure(photos, str(mine), tmp_path / "run", max_bad_fraction=0.1, epochs=1)
    report = selective_joint.run(config)
    assert any("red/00.png of the source was left out" in note for note in report.notes)
    assert any("of 89 source images" in note for note in report.notes)


def test_a_source_that_is_too_small_says_so(photos, source, tmp_path) -> None:
    config = configure(photos, source, tmp_path / "run", source_limit=2)
    with pytest.raises(checks.ConfigError, match=r"neighbours must lie in \[1, 2\]"):
        selective_joint.run(config)


def test_training_is_told_nothing_by_other_recipes() -> None:
    assert training.run.__kwdefaults__["companion"] is None
