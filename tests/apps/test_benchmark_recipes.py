"""The suite `recipes`: what is run, what becomes of it, and that it goes on where it stopped."""

import json
import pathlib

import numpy as np
import pytest

from apps.benchmarks import methods, peers, recipes, records
from finetune_kit import checks, console, metrics
from finetune_kit.results import report


@pytest.fixture
def root(tmp_path):
    for name in ("birds", "cats"):
        for split, count in (("train", 5), ("test", 4)):
            for label in ("x", "y"):
                folder = tmp_path / "sets" / name / split / label
                folder.mkdir(parents=True)
                for i in range(count):
                    (folder / f"{i}.png").write_bytes(b"")
    return tmp_path


def config(root, **values):
    (root / "w.weights.h5").write_bytes(b"")
    (root / "quick.py").write_text("")
    return recipes.Config(
        **{
            "data_root": str(root / "sets"),
            "weights": str(root / "w.weights.h5"),
            "per_class": 2,
            "seeds": 2,
            "recipes": "head_only,from_scratch",
            "baselines": "guide",
            "peer": f"{root / 'quick.py'} --plan=full",
            "rows": str(root / "rows.jsonl"),
            "output": str(root / "page.md"),
            "workdir": str(root / "work"),
            **values,
        }
    )


class Runner:
    """Answers as the real programs do, at once; `broken` fails on words that hold it."""

    def __init__(self, *, broken="", test=8) -> None:
        self.commands, self.broken, self.test = [], broken, test

    def __call__(self, words):
        self.commands.append(list(words))
        if self.broken and any(self.broken in word for word in words):
            raise checks.EnvironmentFault("A program must end. Received: 1")
        if "finetune" in words:
            return peers.Finished(self.finetune(words), 7.0)
        name = "guide" if "guide" in words else "quick"
        line = {"peer": name, "accuracy": 0.25, "seconds": 3.5, "n": 4, "test": self.test}
        return peers.Finished(json.dumps(line) + "\n", 6.0)

    def finetune(self, words) -> str:
        workdir = pathlib.Path(self.value(words, "workdir"))
        images = pathlib.Path(self.value(words, "data"))
        assert len([*(images / "train").rglob("*.png")]) == 4
        assert len([*(images / "test").rglob("*.png")]) == 8
        workdir.mkdir(parents=True, exist_ok=True)
        labels = np.arange(self.test) % 2
        predicted = np.where(np.arange(self.test) < self.test // 4, 1 - labels, labels)
        report.Report(
            recipe=words[words.index("finetune") + 1],
            config={},
            data={"images": {"train": 4, "test": self.test}},
            backbone={"parameters": 218_544},
            scores={"test": metrics.score(labels, np.eye(2)[predicted] * 0.8 + 0.1)},
            seconds={"total": 10.0, "start_up": 1.0, "data": 2.0, "training": 4.0, "export": 0.5},
            device="CPU, 2 cores",
        ).write(workdir)
        return ""

    @staticmethod
    def value(words, name):
        start = f"--{name}="
        (found,) = [word.removeprefix(start) for word in words if word.startswith(start)]
        return found


def test_every_run_becomes_a_row_and_the_page_shows_it(root) -> None:
    runner = Runner()
    assert recipes.run(config(root), runner=runner) == 0
    rows = records.load(root / "rows.jsonl")
    # 2 sets x (head_only and guide with two seeds, the two others with one)
    assert len(rows) == len(runner.commands) == 12
    assert [(row.data, row.method, row.seed) for row in rows[:4]] == [
        ("birds", "head_only", 0),
        ("birds", "from_scratch", 0),
        ("birds", "guide", 0),
        ("birds", "quick", 0),
    ]
    assert [(row.method, row.seed) for row in rows[8:]] == [("head_only", 1), ("guide", 1)] * 2
    head, _, guide, quick = rows[:4]
    assert (head.kind, head.accuracy, head.n, head.test) == ("recipe", 0.75, 4, 8)
    assert (head.seconds, head.total, head.process) == (6.5, 10.0, 7.0), "training, report, process"
    assert (head.parameters, head.device) == (218_544, "CPU, 2 cores")
    assert head.program == "finetune-kit finetune head_only"
    assert (guide.kind, guide.seconds, guide.process) == ("baseline", 3.5, 6.0)
    assert (quick.kind, quick.program) == ("peer", "quick.py --plan=full")
    assert head.protocol == records.Protocol(
        backbone="mobilenet",
        backbone_args="",
        weights="w.weights.h5",
        image_size=128,
        per_class=2,
    )
    page = (root / "page.md").read_text()
    assert "head_only" in page and "quick (peer)" in page and str(root) not in page
    assert str(root) not in (root / "rows.jsonl").read_text()


def test_the_same_command_runs_only_what_is_missing(root) -> None:
    recipes.run(config(root, recipes="head_only", peer=""), runner=Runner())
    runner = Runner()
    assert recipes.run(config(root), runner=runner) == 0
    assert len(runner.commands) == 4, "from_scratch and the peer, on two sets"
    runner = Runner()
    recipes.run(config(root), runner=runner)
    assert runner.commands == [] and len(records.load(root / "rows.jsonl")) == 12


def test_an_interrupted_study_keeps_what_is_finished(root) -> None:
    class Interrupted(Runner):
        def __call__(self, words):
            if len(self.commands) == 3:
                raise KeyboardInterrupt
            return super().__call__(words)

    with pytest.raises(KeyboardInterrupt):
        recipes.run(config(root), runner=Interrupted())
    assert len(records.load(root / "rows.jsonl")) == 3
    assert "guide (baseline)" in (root / "page.md").read_text()
    runner = Runner()
    recipes.run(config(root), runner=runner)
    assert len(runner.commands) == 9


def test_other_settings_are_other_runs(root) -> None:
    recipes.run(config(root, recipes="head_only", peer="", baselines="none"), runner=Runner())
    for values in ({"image_size": 64}, {"backbone_args": "alpha=0.5"}, {"backbone": "vgg16"}):
        runner = Runner()
        recipes.run(
            config(root, recipes="head_only", peer="", baselines="none", **values), runner=runner
        )
        assert len(runner.commands) == 4
        page = (root / "page.md").read_text()
        assert "4 rows" in page, "rows of other settings are not mixed in"


def test_a_run_that_fails_does_not_stop_the_others(root, capsys) -> None:
    console.activate(plain=True)
    try:
        assert recipes.run(config(root), runner=Runner(broken="quick.py")) == recipes.INCOMPLETE
    finally:
        console.deactivate()
    assert len(records.load(root / "rows.jsonl")) == 10
    out, err = capsys.readouterr()
    assert "quick.py --plan=full on birds, seed 0: A program must end" in err
    assert "2 of 12 runs failed; the same command tries them again" in err
    assert "birds, seed 0: head_only 75.0 %, training 6 s, process 7 s" in out
    assert recipes.run(config(root), runner=Runner()) == 0
    assert len(records.load(root / "rows.jsonl")) == 12


def test_figures_on_other_images_are_refused(root) -> None:
    assert recipes.run(config(root), runner=Runner(test=7)) == recipes.INCOMPLETE
    assert records.load(root / "rows.jsonl") == []
    method = methods.of_recipe("head_only", seeds=1)
    chosen = config(root)
    bench = methods.Bench(
        root / "sets", chosen.weights, root / "again", chosen.protocol, Runner(test=7)
    )
    with pytest.raises(checks.DataError, match="head_only must train and test on the images.*7"):
        methods.measure(method, bench, data="birds", seed=0)


def test_refresh_runs_what_other_code_has_measured(root, monkeypatch) -> None:
    recipes.run(config(root), runner=Runner())
    runner = Runner()
    recipes.run(config(root, refresh=True), runner=runner)
    assert runner.commands == []
    again = config(root, refresh=True)
    (root / "quick.py").write_text("# better now")
    recipes.run(again, runner=runner)
    assert [command[1].endswith("quick.py") for command in runner.commands] == [True, True]
    monkeypatch.setattr(methods, "_code_of", lambda *packages: "0123456789ab")
    runner = Runner()
    recipes.run(again, runner=runner)
    assert len(runner.commands) == 6, "both recipes on both sets, one of them with two seeds"
    assert "12 rows" in (root / "page.md").read_text(), "the newest row of each run counts"


def test_the_commands_are_those_that_a_user_types(root) -> None:
    runner = Runner()
    recipes.run(config(root, backbone_args="alpha=0.25"), runner=runner)
    head, scratch, guide, quick = runner.commands[:4]
    weights = f"--weights={root / 'w.weights.h5'}"
    shared = ["--backbone=mobilenet", "--image_size=128", "--backbone_args=alpha=0.25"]
    assert head[1:5] == ["-m", "apps.main", "finetune", "head_only"]
    assert {*shared, weights, "--per_class=2", "--seed=0", "--notensorboard"} <= set(head)
    assert weights not in scratch and set(shared) <= set(scratch), "it starts from nothing"
    assert guide[1:5] == ["-m", "apps.main", "benchmark", "guide"]
    assert {*shared, weights, f"--data={root / 'sets' / 'birds'}"} <= set(guide)
    assert quick[2:] == [
        "--plan=full",
        f"--data={root / 'sets' / 'birds'}",
        weights,
        "--per_class=2",
        "--seed=0",
    ]


def test_the_flags_of_the_commands_exist(root) -> None:
    """What the suite passes on is parsed by the real commands, down to the value."""
    from apps import flags
    from apps.benchmarks import guide

    runner = Runner()
    recipes.run(config(root, recipes=",".join(recipes.MEASURED)), runner=runner)
    for command in runner.commands:
        if "finetune" in command:
            start = command.index("finetune") + 1
            module = __import__(f"recipes.{command[start]}", fromlist=["Config"])
            parsed, _ = flags.parse(command[start + 1 :], module.Config, command="finetune")
            assert parsed.per_class == 2 and parsed.overwrite and not parsed.tensorboard
        elif "guide" in command:
            start = command.index("guide") + 1
            parsed, _ = flags.parse(command[start:], guide.Config, command="guide")
            assert parsed.per_class == 2 and parsed.plan == "guide"


def test_without_images_only_the_page_is_written(root) -> None:
    recipes.run(config(root), runner=Runner())
    before = (root / "page.md").read_text()
    (root / "page.md").unlink()
    runner = Runner()
    assert recipes.run(config(root, data_root=""), runner=runner) == 0
    assert runner.commands == [] and (root / "page.md").read_text() == before


def test_sets_can_be_chosen(root) -> None:
    runner = Runner()
    recipes.run(config(root, sets="cats"), runner=runner)
    assert {row.data for row in records.load(root / "rows.jsonl")} == {"cats"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"recipes": "head"}, "recipes must be one of .* Did you mean 'head_only'"),
        ({"baselines": "guid"}, "baselines must be one of guide, full"),
        ({"sets": "dogs"}, "sets must be one of birds, cats"),
        ({"peer": "absent.py"}, "program that exists"),
        ({"backbone": "mobilnet"}, "mobilenet"),
        ({"backbone_args": "alpha"}, "alpha=0.25"),
        ({"seeds": 0}, "seeds must lie in"),
        ({"weights": "absent.h5"}, "absent.h5.*does not exist"),
        ({"data_root": "absent"}, "one set of images a folder"),
    ],
)
def test_what_cannot_be_measured_is_found_at_the_start(root, values, words) -> None:
    with pytest.raises(checks.KitError, match=words):
        config(root, **values)


def test_a_flag_that_is_repeated_keeps_all_values(root) -> None:
    chosen = config(root)
    words = [
        f"--data_root={chosen.data_root}",
        f"--weights={chosen.weights}",
        f"--peer={root / 'quick.py'} --plan=full",
        "--recipes=none",
        f"--peer={root / 'quick.py'} --plan=guide",
    ]
    together = recipes.together(words, "peer")
    parsed, _ = recipes.flags.parse(together, recipes.Config, command="benchmark recipes")
    labels = [method.program for method, _, _ in recipes.planned(parsed)]
    assert labels.count("quick.py --plan=full") == labels.count("quick.py --plan=guide") == 2
    assert recipes.together(["--rows=x"], "peer") == ["--rows=x"]


def test_lists_of_names() -> None:
    assert recipes.listed("a, b,") == ("a", "b")
    assert recipes.listed("none") == recipes.listed("") == ()
