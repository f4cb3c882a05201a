"""The suite that finds out which source images make the best bundled network."""

import dataclasses
import pathlib
import shlex

import pytest

from apps import flags, pretrain, pretrain_arrays
from apps import main as apps_main
from apps.benchmarks import bundled, bundled_page, records
from finetune_kit import checks
from finetune_kit.backbones import card, network
from tests.recipes import coloured

MACHINE = {"machine": "m", "versions": {"python": "3"}}


@pytest.fixture
def squares(tmp_path):
    """Returns a folder of sets and one of source images, all of coloured squares."""
    coloured.write(tmp_path / "sets" / "near")
    coloured.write(tmp_path / "sets" / "far")
    return tmp_path / "sets", coloured.write(tmp_path / "source", per_class=12)


def judged(mixture, data, accuracy, *, per_class=5, recipe="head_only"):
    shown = 2_500_000 if mixture == "fractals" else 800_000
    return {"mixture": mixture, "images_shown": shown, "data": data, "per_class": per_class,
            "seed": 0, "recipe": recipe, "accuracy": accuracy, **MACHINE}  # fmt: skip


def cells(text, first):
    (line,) = [x for x in text.splitlines() if x.startswith(f"| {first} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_is_a_function_of_the_rows() -> None:
    rows = [
        {"mixture": "source", "images_shown": 100, "data": "source", "accuracy": 0.8, **MACHINE},
        judged("source", "a", 0.50), judged("source", "b", 0.60),
        judged("source", "a", 0.70, per_class=50), judged("source", "b", 0.90, per_class=50),
        judged("fractals", "a", 0.52), judged("fractals", "b", 0.66),
        judged("fractals", "a", 0.72, per_class=50), judged("fractals", "b", 0.94, per_class=50),
    ]  # fmt: skip
    text = bundled_page.page(rows, None)
    assert cells(text, "source") == ["source", "0.8", "80.0", "55.0", "80.0", "–"]
    # 2 and 5 points on the two sets, so 3.5; Student's quantile for one degree is 12.7.
    assert cells(text, "fractals") == [
        "fractals", "2.5", "–", "59.0", "83.0", "+3.5 [−15.6, +22.6]"
    ]  # fmt: skip
    assert "in all passes, then judged on a, b, which" in text
    assert "own test images" in text and "Photos come" not in text
    rows.append(judged("source, photos", "a", 0.62))
    rows.append(judged("source, photos", "b", 0.76))
    text = bundled_page.page(rows[1:], None)
    assert "own test images" not in text
    # Of the columns that both have, 10 points on either set.
    assert (
        "ships, `fractals`, unless they gain more than 2 points: `source, photos` gains +10.0"
        in text
    )


def test_the_page_says_so_where_another_network_than_the_best_ships() -> None:
    own = card.read(network.FILES)
    rows = [judged(mixture, data, accuracy + more)
            for mixture, more in [("source", 0.0), ("source, photos", 0.05), ("source, new", 0.04)]
            for data, accuracy in [("a", 0.5), ("b", 0.6)]]  # fmt: skip
    for weights, told in [("source.weights.h5", True), ("source-new.weights.h5", False)]:
        made = dataclasses.replace(own, recipe={**own.recipe, "weights": weights})
        text = bundled_page.page(rows, made)
        assert "ships, `source, new`, unless they gain more than 2 points" in text
        assert ("`source` ships; `source, new`, which is +4.0 [+4.0, +4.0] points" in text) == told


def test_the_page_says_how_the_shipped_weights_were_made() -> None:
    text = bundled_page.page([], card.read(network.FILES), further=card.further(network.FILES))
    assert "    finetune-kit pretrain --data=" in text and "Krizhevsky" in text
    assert "    finetune-kit source-card --data=" in text and "--image_size=64" in text
    assert "What else was tried" not in text


@pytest.mark.slow
def test_what_is_missing_is_trained_and_judged(squares, tmp_path, monkeypatch, capsys) -> None:
    sets, source = squares
    drawn = ("fractals:2x8",)
    monkeypatch.setattr(
        bundled,
        "MIXTURES",
        {
            "source": bundled.Mixture(),
            "source, fractals": bundled.Mixture(drawn=drawn, rotation=0.3),
            "fractals": bundled.Mixture(drawn=drawn, alone=True),
        },
    )
    rows, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    words = [f"--source={source}", f"--data_root={sets}", "--images_shown=40", "--per_class=3",
             f"--rows={rows}", f"--output={page}", f"--workdir={tmp_path / 'work'}"]  # fmt: skip
    assert apps_main.run(["benchmark", "bundled", *words]) == 0
    found = records.load_lines(rows)
    judged_by = {(r["mixture"], r["data"], r["recipe"]) for r in found if "recipe" in r}
    assert judged_by == {
        (mixture, data, recipe)
        for mixture in ("source", "source, fractals", "fractals")
        for data in ("near", "far")
        for recipe in bundled.RECIPES
    }
    seen = {path.name: card.read(path / pretrain.FOLDER).recipe
            for path in (tmp_path / "work").glob("*-40")}  # fmt: skip
    assert {name: (recipe["also"], recipe["rotation"]) for name, recipe in seen.items()} == {
        "source-40": ("", 0.0), "source-fractals-40": ("fractals:2x8", 0.3),
        "fractals-40": ("", 0.0),
    }  # fmt: skip
    assert seen["fractals-40"]["data"] == "fractals:2x8"
    assert all(r["n"] == 9 and 0 <= r["accuracy"] <= 1 for r in found if "recipe" in r)
    assert "| source, fractals " in page.read_text("utf-8")
    # A row that is lost is measured again, and nothing else.
    left = rows.read_text().splitlines(keepends=True)[:-1]
    rows.write_text("".join(left))
    assert apps_main.run(["benchmark", "bundled", *words]) == 0
    again = records.load_lines(rows)
    assert len(again) == len(found)
    assert {k: again[-1][k] for k in ("mixture", "data", "recipe", "accuracy")} == {
        k: found[-1][k] for k in ("mixture", "data", "recipe", "accuracy")
    }


def mixtures_for_elsewhere(monkeypatch):
    """Makes and returns mixtures of all kinds: on images, turned, going on, at two sizes."""
    drawn = {"drawn": ("textures:2x8",)}
    mixtures = {
        "source": bundled.Mixture(),
        "source, turned": bundled.Mixture(drawn=("fractals:2x8",), rotation=0.2, augment="medium"),
        "then": bundled.Mixture(**drawn, begins_with="source, turned"),
        "two": bundled.Mixture(**drawn, two_sizes=True),
    }
    monkeypatch.setattr(bundled, "MIXTURES", mixtures)
    monkeypatch.setattr(bundled, "BATCH_SIZE", 8)
    monkeypatch.setattr(bundled, "FURTHER_SHOWN", 60)
    monkeypatch.setattr(bundled, "TWO_SIZES_SHOWN", 16)
    return mixtures


def left_for_elsewhere(squares, tmp_path) -> tuple[list[str], pathlib.Path, list[list[str]]]:
    """Leaves images and script in `there`; returns the suite's words, `there` and the commands."""
    there = tmp_path / "there"
    words = [f"--source={squares[1]}", f"--data_root={squares[0]}", "--sets=near",
             "--images_shown=80", "--per_class=3", f"--elsewhere={there}",
             f"--rows={tmp_path / 'rows.jsonl'}", f"--output={tmp_path / 'page.md'}"]  # fmt: skip
    assert apps_main.run(["benchmark", "bundled", *words]) == 0
    script = [shlex.split(line) for line in (there / "train.sh").read_text().splitlines()]
    assert script[:2] == [["set", "-e"], ["export", "KERAS_BACKEND=jax"]]
    return words, there, script[2:]


def test_another_machine_is_told_what_to_train(squares, tmp_path, monkeypatch, capsys) -> None:
    mixtures_for_elsewhere(monkeypatch)
    _, there, script = left_for_elsewhere(squares, tmp_path)
    assert not (tmp_path / "rows.jsonl").exists() and not (tmp_path / "page.md").exists()
    assert f"run in a copy of {there}" in capsys.readouterr().out
    # Networks of the same images share them.
    assert sorted(path.name for path in there.glob("*.npz")) == [
        "source-fractals.npz", "source-textures-64_px.npz", "source-textures.npz", "source.npz"
    ]  # fmt: skip
    expected = ((3, 0.0, 80, 8, "", 32), (5, 0.2, 80, 8, "", 32),
                (5, 0.0, 60, 4, "source-turned.weights.h5", 32),
                (5, 0.0, 96, 8, "", 64))  # fmt: skip
    monkeypatch.chdir(there)
    for command, (classes, share, shown, size, weights, side) in zip(script, expected, strict=True):
        assert command[:2] == ["finetune-kit", "pretrain-arrays"]
        found = flags.parse(command[2:], pretrain_arrays.Config, command="pretrain-arrays")[0]
        images, labels = pretrain_arrays.read(found.arrays)
        assert images.shape[1] == side and found.halved == (0.5 if side == 64 else 0.0)
        assert labels.max() + 1 == classes and found.rotation == share
        assert found.epochs == max(1, round(shown / len(labels))) and found.batch_size == size
        assert found.weights == weights
        assert (found.precision != "float32") == (bool(weights) or side == 64)
        pathlib.Path(found.output).touch()  # a later one goes on from it
    # Without another machine, nothing goes on from what another has left, nor sees two sizes.
    left = bundled.Config(source=str(squares[1]), data_root=str(squares[0])).mixtures
    assert left == ("source", "source, turned")


@pytest.mark.slow
def test_what_another_machine_trains_is_judged_here(squares, tmp_path, monkeypatch) -> None:
    mixtures = mixtures_for_elsewhere(monkeypatch)
    words, there, script = left_for_elsewhere(squares, tmp_path)
    monkeypatch.chdir(there)
    for command in script:
        assert apps_main.run(command[1:]) == 0
    monkeypatch.chdir(tmp_path)
    assert apps_main.run(["benchmark", "bundled", *words, f"--workdir={tmp_path / 'work'}"]) == 0
    judged_by = [(r["mixture"], r["recipe"], r["images_shown"])
                 for r in records.load_lines(tmp_path / "rows.jsonl") if "recipe" in r]  # fmt: skip
    shown = {"source": 80, "source, turned": 80, "then": 140, "two": 96}
    assert judged_by == [(m, r, shown[m]) for m in mixtures for r in bundled.RECIPES]
    page = (tmp_path / "page.md").read_text("utf-8")
    assert "own test images" not in page
    assert cells(page, "then")[1] == "0.00014"


def test_a_network_is_not_judged_by_photos_that_it_has_seen(squares) -> None:
    sets, source = squares
    given = {"data_root": str(sets), "source": str(source), "photos": str(sets / "near")}
    with pytest.raises(checks.ConfigError, match="which is one of them. Name the others by --sets"):
        bundled.Config(**given)
    assert bundled.Config(**given, sets="far").names == ("far",)


def test_images_for_elsewhere_need_a_source(tmp_path) -> None:
    with pytest.raises(checks.ConfigError, match="--elsewhere needs --source. Received: source=''"):
        bundled.Config(elsewhere=str(tmp_path))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--per_class=5,x"], "per_class must be numbers with commas. Received: per_class='5,x'"),
        (["--per_class=1"], "per_class must be at least 2|per_class must lie in"),
        (["--source=nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_refused(squares, words, match) -> None:
    given = dict(word.removeprefix("--").split("=", 1) for word in words)
    with pytest.raises(checks.KitError, match=match):
        bundled.Config(data_root=str(squares[0]), **given)
