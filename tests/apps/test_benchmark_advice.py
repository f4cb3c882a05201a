"""The study of advice: its cells, its regrets, its page."""

import json
import pathlib
import signal
import sys
import time

import numpy as np
import pytest

from apps import main as apps_main
from apps.benchmarks import advice, advice_page, advice_rivals, cell, records, regret
from finetune_kit import checks, console
from finetune_kit.strategy import experience
from finetune_kit.strategy.candidates import CANDIDATES

PROTOCOL = {
    "backbone": "mobilenet", "backbone_args": "", "weights": "w.h5", "image_size": 128
}  # fmt: skip
SETS, NUMBERS, SEEDS = ("cats", "dogs", "maps"), (5, 20), (0, 1, 2)
TEST = 40


def accuracy_of(name, per_class, seed, plan):
    """Far sets gain from bold fine-tuning, near ones lose by it; seeds shift all plans alike."""
    gain = {"deep_head": 0.0, "bold_finetune": 0.1 if name == "maps" else -0.05,
            "by_depth": 0.05}.get(plan, -0.2)  # fmt: skip
    return 0.6 + gain + 0.005 * seed + 0.001 * per_class


def line(kind, name, per_class, seed, **values):
    return {
        "kind": kind, "data": name, "per_class": per_class, "seed": seed, "protocol": PROTOCOL,
        "machine": "m", "versions": {"python": "3"}, "finished": "2026-01-01T00:00:00", **values,
    }  # fmt: skip


def evidence_of(name, per_class):
    fit = {"cats": 0.8, "dogs": 0.75, "maps": 0.3}[name]
    return {
        "images": 10 * per_class, "per_class": per_class, "classes": 10, "fit": fit,
        "deep_fit": fit, "similarity": {"value": 0.9, "low": 0.8, "high": 1.0}, "shift": "middle",
    }  # fmt: skip


def lines(*, races=False):
    found = []
    for name in SETS:
        for per_class in NUMBERS:
            for seed in SEEDS:
                found.append(
                    line("evidence", name, per_class, seed, evidence=evidence_of(name, per_class))
                )
                for plan in CANDIDATES:
                    value = accuracy_of(name, per_class, seed, plan)
                    right = np.arange(TEST) < round(value * TEST)
                    found.append(
                        line("run", name, per_class, seed, plan=plan, accuracy=value, test=TEST,
                             right=cell.packed(right), seconds=3.0)
                    )  # fmt: skip
                    if races:
                        wrong = np.arange(30) >= round(value * 30)
                        found.append(
                            line("race", name, per_class, seed, plan=plan, images=30,
                                 errors=cell.packed(wrong), seconds=9.0)
                        )  # fmt: skip
    return found


@pytest.fixture
def draws():
    return regret.study(lines())


def test_bits_survive_their_packing() -> None:
    bits = np.random.default_rng(0).random(77) < 0.5
    np.testing.assert_array_equal(cell.unpacked(cell.packed(bits), 77), bits)


def test_a_policy_that_takes_the_best_plan_everywhere_regrets_nothing(draws) -> None:
    def oracle(draw):
        return max(draw.accuracies, key=draw.accuracies.get)

    assert [loss.regret for loss in regret.losses(draws, oracle)] == pytest.approx([0.0] * 6)


def test_regret_is_what_the_best_plan_would_have_gained(draws) -> None:
    found = {x.place: x.regret for x in regret.losses(draws, regret.always("by_depth"))}
    assert found["cats", 5] == pytest.approx(0.0)
    assert found["maps", 5] == pytest.approx(0.05)
    mean = regret.over_sets(regret.losses(draws, regret.always("by_depth")), lambda x: x.regret)
    assert mean.value == pytest.approx(0.05 / 3)


def test_the_oracle_of_a_seed_is_chosen_by_the_other_seeds() -> None:
    """A plan that is best by luck on one seed is not the oracle of that seed."""
    changed = lines()
    for row in changed:
        if row["kind"] == "run" and row["seed"] == 0 and row["plan"] == "surgical":
            row["accuracy"] = 0.99
    found = regret.losses(regret.study(changed), regret.always("by_depth"))
    # On seed 0 the others' best is by_depth itself. On seeds 1 and 2 surgical is best by its mean
    # with seed 0, (0.99 + 0.4) / 2 against 0.65, and there it is 25 points behind.
    cats = next(x for x in found if x.place == ("cats", 5))
    assert cats.regret == pytest.approx((0.0 - 0.25 - 0.25) / 3)


def test_the_advisor_learns_from_the_other_sets_alone(draws) -> None:
    learnt = regret.learnt_without(draws)
    without_maps = experience.learn([c for c in regret.cells(draws) if c.group != "maps"])
    assert learnt["maps"] == without_maps
    picks = {x.place[0]: set(x.picks) for x in regret.losses(draws, regret.advised(draws, learnt))}
    assert picks["cats"] == {"by_depth"}
    assert picks["maps"] == {"by_depth"}  # nothing else has shown what bold fine-tuning is good for


def test_without_similarity_the_advisor_sees_all_images_alike() -> None:
    """Sets that differ in nothing else get the same advice once their similarity is hidden."""
    changed = lines()
    for row in changed:
        if row["kind"] == "evidence":
            value = 0.2 if row["data"] == "maps" else 0.9
            row["evidence"] |= {
                "fit": 0.5,
                "deep_fit": 0.5,
                "per_class": 20,
                "similarity": {"value": value, "low": value, "high": value},
            }
    hidden = regret.without_similarity(regret.study(changed))
    assert {draw.evidence.similarity for draw in hidden} == {None}
    known = experience.learn(regret.cells(hidden))
    first, *others = [known.gains(draw.evidence) for draw in hidden]
    assert all(gains == first for gains in others)


def test_a_race_lets_the_runner_up_win_where_it_is_clearly_better() -> None:
    raced = regret.study(lines(races=True))
    learnt = regret.learnt_without(raced)

    def forced(draw):
        return regret.advised(raced, learnt, race=True)(draw)

    order = experience.Experience(
        (0,) * 5, (1,) * 5, (0,) * 5, (0,) * 5,
        {"by_depth": (0.05, *[0] * 5), "bold_finetune": (0.04, *[0] * 5)}, (), 1,
    )  # fmt: skip
    pick = regret.advised(raced, dict.fromkeys(SETS, order), race=True)
    assert {draw.place[0]: pick(draw) for draw in raced} == {
        "cats": "by_depth", "dogs": "by_depth", "maps": "bold_finetune"
    }  # fmt: skip
    assert forced(raced[0]) in CANDIDATES


def test_the_best_fixed_plan_is_that_of_the_other_sets(draws) -> None:
    assert {d.place[0]: regret.best_fixed(draws)(d) for d in draws} == dict.fromkeys(
        SETS, "by_depth"
    )
    assert {regret.by_number(draws)(d) for d in draws} == {"by_depth"}


def test_differences_have_intervals_of_paired_images(draws) -> None:
    found = regret.against(draws, regret.always("by_depth"), regret.always("deep_head"))
    estimate, seeds = found["cats", 20]
    assert seeds == 3
    right = {p: np.array([round(accuracy_of("cats", 20, s, p) * TEST) for s in SEEDS])
             for p in ("by_depth", "deep_head")}  # fmt: skip
    assert estimate.value == pytest.approx((right["by_depth"] - right["deep_head"]).mean() / TEST)
    assert estimate.low < estimate.value < estimate.high


def test_the_page_shows_every_cell_and_the_losing_ones(tmp_path) -> None:
    advice_page.write(lines(races=True), tmp_path / "advice.md")
    text = (tmp_path / "advice.md").read_text()
    for name in SETS:
        assert f"{name}, 5" in text
    assert "auto with a race" in text
    assert "maps, 20 a class: regret 5.0 points" in text
    for plan in CANDIDATES:
        assert plan in text
    (figure,) = tmp_path.glob("*.svg")
    assert figure.name in text
    assert "<svg" in figure.read_text()


def test_networks_are_kept_apart_and_the_one_of_most_draws_teaches(tmp_path) -> None:
    other = {**PROTOCOL, "backbone": "vgg16"}
    # On the other network every plan but the head's is ruinous, so what it taught would show.
    few = [
        {**row, "protocol": other, "accuracy": 0.9 if row["plan"] == "head" else 0.1}
        if row["kind"] == "run" else {**row, "protocol": other}
        for row in lines() if row["seed"] == 0
    ]  # fmt: skip
    found = regret.studies([*few, *lines()])
    assert list(found) == [regret.title(PROTOCOL), regret.title(other)]
    assert len(found[regret.title(other)]) == len(SETS) * len(NUMBERS)
    learnt = regret.learnt_without(found[regret.title(other)], found[regret.title(PROTOCOL)])
    assert set(learnt) == set(SETS)
    assert learnt["maps"].gains(found[regret.title(other)][0].evidence)["head"] < 0
    advice_page.write([*few, *lines()], tmp_path / "advice.md")
    text = (tmp_path / "advice.md").read_text()
    assert text.index(f"## {regret.title(PROTOCOL)}") < text.index(f"## {regret.title(other)}")


def test_what_is_hardly_measured_yet_is_left_out() -> None:
    some = [row for row in lines() if row["kind"] == "evidence" or row["seed"] > 0
            or row["plan"] in ("head", "deep_head")]  # fmt: skip
    assert {draw.seed for draw in regret.usable(regret.study(some))} == {1, 2}
    alone = [row for row in lines() if row["data"] == "cats" or row["per_class"] == 5]
    assert {draw.place[1] for draw in regret.usable(regret.study(alone))} == {5}


def test_a_plan_that_was_not_trained_everywhere_has_no_overall_figure(tmp_path) -> None:
    some = [row for row in lines() if row.get("plan") != "full" or row["per_class"] == 5]
    advice_page.write(some, tmp_path / "advice.md")
    line = next(
        row for row in (tmp_path / "advice.md").read_text().splitlines() if "| always full" in row
    )
    cells = [part.strip() for part in line.strip("| ").split("|")]
    assert cells[1:3] == ["–", "–"]
    assert cells[3] != "–" and cells[4] == "–"


def test_a_network_that_was_seen_at_another_size_was_seen(tmp_path) -> None:
    page = tmp_path / "advice.md"
    for weights, told in [("w.h5", False), ("v.h5", True)]:
        other = {**PROTOCOL, "image_size": 64, "weights": weights}
        advice_page.write([*lines(), *({**row, "protocol": other} for row in lines())], page)
        assert ("| auto, network not seen" in page.read_text()) == told


def config(tmp_path, **values):
    root = tmp_path / "sets"
    for name in ("one", "two"):
        for label in ("a", "b"):
            (root / name / label).mkdir(parents=True, exist_ok=True)
    return advice.Config(**{
        "data_root": str(root), "seeds": 2, "per_class": "5", "plans": "head,by_depth",
        "rows": str(tmp_path / "rows.jsonl"),
    } | values)  # fmt: skip


def test_only_what_has_no_row_is_missing(tmp_path) -> None:
    own = config(tmp_path)
    everything = list(advice.missing(own, []))
    assert [(c.data, c.seed) for c in everything] == [
        ("one", 0), ("two", 0), ("one", 1), ("two", 1)
    ]  # fmt: skip
    done = line("run", "one", 5, 0, plan="head") | {"protocol": own.protocol}
    first = next(advice.missing(own, [done]))
    assert (first.plans, first.fits) == (("by_depth",), True)
    elsewhere = done | {"protocol": {**own.protocol, "image_size": 64}}
    assert next(advice.missing(own, [elsewhere])).plans == ("head", "by_depth")


def test_a_row_that_was_measured_again_replaces_the_old_one() -> None:
    old, new = (line("run", "one", 5, 0, plan="head", accuracy=x) for x in (0.1, 0.2))
    assert advice.latest([old, new]) == [new]


PROGRAM = """
import json, sys
print("Decoding")
print(json.dumps({"kind": "run", "plan": "head", "accuracy": 0.5, "seconds": 1.0}), flush=True)
if "--seed=1" in sys.argv:
    sys.exit("no space left")
"""


def with_images(tmp_path, monkeypatch):
    own = config(tmp_path, plans="head", workdir=str(tmp_path / "work"))
    for place in (tmp_path / "sets").glob("*/*"):
        for number in range(12):
            (place / f"{number}.png").write_bytes(b"an image to nobody here")
    monkeypatch.setattr(advice.methods, "KIT", (sys.executable, "-c", PROGRAM))
    return own


def test_every_line_of_a_cell_is_a_row_and_a_failure_stops_no_other(
    tmp_path, monkeypatch, capsys, untouched_process
) -> None:
    own = with_images(tmp_path, monkeypatch)
    console.activate(plain=True)
    cells = list(advice.missing(own, []))
    assert advice._measure(own, cells) == 2
    rows = [json.loads(row) for row in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert sorted((r["data"], r["seed"]) for r in rows) == [
        ("one", 0), ("one", 1), ("two", 0), ("two", 1)
    ]  # fmt: skip
    assert rows[0]["protocol"] == own.protocol
    assert "said last: no space left" in capsys.readouterr().err


def test_an_interruption_ends_the_cells_that_run(tmp_path, monkeypatch) -> None:
    own = with_images(tmp_path, monkeypatch)
    waiting = PROGRAM + "import time; time.sleep(60)"
    monkeypatch.setattr(advice.methods, "KIT", (sys.executable, "-c", waiting))

    started = []

    class Recorded(advice.subprocess.Popen):
        def __init__(self, *arguments, **keywords) -> None:
            super().__init__(*arguments, **keywords)
            started.append(self)

    def interrupted(futures):
        while not (tmp_path / "rows.jsonl").exists():
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(advice.subprocess, "Popen", Recorded)
    monkeypatch.setattr(advice.concurrent.futures, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        advice._measure(own, list(advice.missing(own, [])))
    assert [process.wait() for process in started] == [-signal.SIGTERM]


def test_weights_that_do_not_exist_are_refused(tmp_path) -> None:
    with pytest.raises(checks.WeightsError, match="nowhere.h5"):
        config(tmp_path, weights="nowhere.h5")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"plans": "by_dept"}, "Did you mean 'by_depth'"),
        ({"per_class": "5,x"}, "needs numbers from 2 on"),
        ({"per_class": "1"}, "needs numbers from 2 on"),
        ({"sets": "three"}, "sets must be one of"),
        ({"races": "fast"}, "plans must be one of"),
    ],
)
def test_bad_flags_are_refused(tmp_path, values, message) -> None:
    with pytest.raises(checks.ConfigError, match=message):
        config(tmp_path, **values)


def test_the_page_is_written_from_the_rows_alone(tmp_path, capsys) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in lines()))
    page = tmp_path / "advice.md"
    code = apps_main.run(["benchmark", "advice", f"--rows={rows}", f"--output={page}"])
    assert code == 0
    assert "# Does the advice help?" in page.read_text()
    assert str(page) in capsys.readouterr().out


def test_the_study_of_the_kit_stands_beside_its_page() -> None:
    docs = pathlib.Path(__file__).parents[2] / "docs"
    found = [json.loads(row) for row in (docs / "results/advice.jsonl").read_text().splitlines()]
    draws = [d for of in regret.studies(advice.latest(found)).values() for d in of]
    learned = experience.learn(regret.cells(draws))
    known = experience.read()
    assert known.cells == learned.cells
    for name, weights in learned.weights.items():
        assert known.weights[name] == pytest.approx(weights, abs=1e-4)


def peer(name, seed, accuracy, *, process=None, method="fast", kind="peer"):
    return records.Row(
        kind=kind, method=method, program=method, data=name, seed=seed,
        protocol=records.Protocol(**PROTOCOL, per_class=20), n=200, test=400, accuracy=accuracy,
        seconds=1.0, total=None, process=process, parameters=None, code="0", device="CPU",
        machine="m", versions={}, finished="2026-01-01",
    )  # fmt: skip


def test_rivals_are_compared_draw_by_draw(draws) -> None:
    """By hand: by_depth has 0.67 on every set at 20 labels a class and seed 0."""
    theirs = [peer("cats", 0, 0.60), peer("dogs", 0, 0.65), peer("maps", 0, 0.70),
              peer("maps", 7, 0.0)]  # fmt: skip
    text = advice_rivals.section(theirs, draws, regret.always("by_depth"))
    line = next(row for row in text.splitlines() if "fast" in row)
    cells = [part.strip() for part in line.strip("| ").split("|")]
    assert cells[2] == "65.0"
    gaps = np.array([0.07, 0.02, -0.03])
    spread = 4.3027 * gaps.std(ddof=1) / np.sqrt(3)
    assert cells[3] == f"+2.0 [{100 * (0.02 - spread):+.1f}, {100 * (0.02 + spread):+.1f}]".replace(
        "-", "−"
    )
    shares = np.array([0.60, 0.65, 0.70])
    error = np.sqrt(((shares * (1 - shares) + 0.67 * 0.33) / 400).sum()) / 3
    assert cells[
        4
    ] == f"[{100 * (0.02 - 1.96 * error):+.1f}, {100 * (0.02 + 1.96 * error):+.1f}]".replace(
        "-", "−"
    )
    assert cells[5:] == ["maps (-3.0)", "3"]


def test_whole_processes_are_timed_side_by_side(draws) -> None:
    rows = [
        *(peer(name, 0, 0.6, process=30.0) for name in SETS),
        *(peer(name, 0, 0.6, process=20.0, method="auto", kind="recipe") for name in SETS),
    ]
    text = advice_rivals.section(rows, draws, regret.always("by_depth"))
    assert "| auto    |   20 |   20 |   20 |" in text
    assert "| fast    |   30 |   30 |   30 |" in text
    assert advice_rivals.section([], draws, regret.always("by_depth")) == ""
