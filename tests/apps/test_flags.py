"""Every field of every command is a flag, and a flag reaches its field and no other."""

import dataclasses
import importlib
import json
import re
import subprocess
import sys
import typing
import zipfile

import h5py
import pytest
from PIL import Image

from apps import benchmark, finetune, flags, main
from finetune_kit import checks
from finetune_kit.data import sizes
from recipes import settings

pytestmark = pytest.mark.usefixtures("untouched_process")

# Words without which a command's Config is refused.
NEEDED = {
    **{f"finetune {recipe}": ["--data={photos}", "--workdir=run"] for recipe in finetune.RECIPES},
    "finetune selective_joint": [
        "--data={photos}",
        "--source_data={photos}",
        "--workdir=run",
    ],
    "advise": ["--data={photos}"],
    "source-card": ["--data={photos}", "--output=card.npz"],
    "benchmark cell": ["--data={photos}", "--per_class=5"],
    "evaluate": ["--model=run"],
    "predict": ["--model=run"],
    "benchmark guide": ["--data={photos}"],
    "benchmark plain": ["--data={photos}"],
    "benchmark feed": ["--data={photos}"],
    "pretrain": ["--data={photos}", "--workdir=run"],
    "pretrain-arrays": ["--arrays={card}", "--output=net.weights.h5"],
    "benchmark bundled": ["--source={photos}", "--data_root={root}"],
}
# Text that a field of this name can hold; the first that is not its default is taken.
TEXTS = {
    "data": ["{others}"],
    "data_root": ["{root}"],
    "source_data": ["{others}"],
    "source_card": ["{card}"],
    "per_class": ["7,9"],
    "time_budget": ["90s"],
    "sizes": ["200,300"],
    "candidates": ["mobilenet,resnet50"],
    "plans": ["head"],
    "races": ["head"],
    "backbone": ["mobilenet", "mobilenet_v2"],
    "backbone_args": ["alpha=0.5"],
    "weights": ["none", "imagenet"],
    "recipes": ["head_only"],
    "baselines": ["none"],
    "peer": [sys.executable],
    "output": ["elsewhere.csv"],
    "also": ["fractals:3x4"],
    "source": ["{others}"],
    "sets": ["photos"],
}
# What a command takes in the place of that.
OWN_TEXTS = {
    ("pretrain", "weights"): "{weights}",
    ("pretrain-arrays", "arrays"): "{weights}",
    ("pretrain-arrays", "weights"): "{weights}",
    ("pretrain-arrays", "backbone"): "spec:8|16",
    ("pretrain-arrays", "output"): "elsewhere.weights.h5",
    ("benchmark bundled", "data_root"): "{nested}",
    ("benchmark bundled", "photos"): "fractals:3x4",
    ("benchmark scratch", "weights"): "none",
}


# What a field needs beside it, for the default network refuses it.
COMPANY = {"preprocessing": "--backbone={own}", "backbone_args": "--backbone=mobilenet"}


def configs():
    """Returns the words of each command to its Config."""
    named = {f"finetune {name}": f"recipes.{name}" for name in finetune.RECIPES}
    named |= {name: module for name, (module, _) in main.COMMANDS.items()}
    named |= {f"benchmark {name}": module for name, (module, _) in benchmark.SUITES.items()}
    found = {
        words: getattr(importlib.import_module(module), "Config", None)
        for words, module in named.items()
    }
    return {words: config for words, config in found.items() if config is not None}


CONFIGS = configs()
every_command = pytest.mark.parametrize("command", list(CONFIGS))


@pytest.fixture
def fill(tmp_path):
    """Returns a function that puts the paths of folders of images into a text."""
    folders = {"photos": tmp_path / "photos", "others": tmp_path / "others"}
    for folder in folders.values():
        for name in ("a", "b"):
            (folder / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / name / "1.png")

    card = tmp_path / "card.npz"
    card.write_bytes(b"numbers")
    weights = tmp_path / "net.weights.h5"
    h5py.File(weights, "w").close()
    (tmp_path / "nested" / "photos").mkdir(parents=True)
    (tmp_path / "nested" / "photos" / "a").mkdir()
    own = tmp_path / "own.keras"
    pixels = {"class_name": "InputLayer", "module": "keras.layers",
              "config": {"batch_shape": [None, 32, 32, 3]}}  # fmt: skip
    with zipfile.ZipFile(own, "w") as archive:
        archive.writestr(
            "config.json", json.dumps({"class_name": "Functional", "config": {"layers": [pixels]}})
        )
    paths = {"root": tmp_path, "card": card, "own": own, "weights": weights}
    return lambda text: text.format(**paths, nested=tmp_path / "nested", **folders)


def needed(command, fill):
    return [fill(word) for word in NEEDED.get(command, ())]


def parse(words, command):
    config, rest = flags.parse(words, CONFIGS[command], command=command)
    assert rest == []
    return config


def other_value(field, fill, command=""):
    """Returns an allowed value that is not the default, or None if there is none."""
    default, rule = field.default, field.metadata
    if (command, field.name) in OWN_TEXTS:
        return fill(OWN_TEXTS[command, field.name])
    if isinstance(default, bool):
        return not default
    if rule["choices"]:
        return next((choice for choice in rule["choices"] if choice != default), None)
    if isinstance(default, str):
        if ".npz" in rule["help"]:
            return "elsewhere.npz"
        known = TEXTS.get(field.name, ["elsewhere"])
        # Not every command takes random weights; its help says what it takes.
        allowed = [text for text in known if field.name != "weights" or text in rule["help"]]
        return next(text for text in map(fill, allowed) if text != default)
    low = -float("inf") if rule["low"] is None else rule["low"]
    high = float("inf") if rule["high"] is None else rule["high"]
    if isinstance(default, int):
        # Beyond a side of 0, which stands for a default, come sides that networks refuse.
        steps = [default + 1, default - 1] if field.name != "image_size" else [96]
    else:
        steps = [default + 0.125, default / 2]
    return next(step for step in steps if low <= step <= high)


def as_word(name, value):
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    return f"--{name}={value}"


@every_command
def test_a_flag_reaches_its_field_and_no_other(command, fill) -> None:
    alone = needed(command, fill)
    names = {field.name for field in dataclasses.fields(CONFIGS[command])}
    for field in dataclasses.fields(CONFIGS[command]):
        company = COMPANY.get(field.name) if "backbone" in names else None
        words = [*alone, *([fill(company)] if company else [])]
        before = dataclasses.asdict(parse(words, command))
        value = other_value(field, fill, command)
        if value is None:
            continue
        config = parse([*words, as_word(field.name, value)], command)
        after = dataclasses.asdict(config)
        assert after == before | {field.name: value}, field.name
        assert type(after[field.name]) is type(field.default), field.name
        assert parse(flags.as_words(config), command) == config, field.name


@every_command
def test_fields_have_the_type_of_their_default_and_a_sentence_of_help(command) -> None:
    hints = typing.get_type_hints(CONFIGS[command])
    for field in dataclasses.fields(CONFIGS[command]):
        is_size = "parse" in field.metadata
        assert hints[field.name] == (sizes.Size if is_size else type(field.default)), field.name
        assert field.metadata["help"].endswith("."), field.name


@every_command
def test_values_out_of_range_are_refused(command, fill) -> None:
    words, refused = needed(command, fill), 0
    for field in dataclasses.fields(CONFIGS[command]):
        ends = [(field.metadata["low"], -1), (field.metadata["high"], 1)]
        for end, step in ends:
            if end is not None:
                with pytest.raises(checks.ConfigError, match=field.name):
                    parse([*words, f"--{field.name}={end + step}"], command)
                refused += 1
        if field.metadata["choices"]:
            with pytest.raises(checks.ConfigError, match=f"{field.name}.*should be one of"):
                parse([*words, f"--{field.name}=xyzzy"], command)
            with pytest.raises(checks.ConfigError, match=f"{field.name} must be one of"):
                dataclasses.replace(parse(words, command), **{field.name: "xyzzy"})
    numbers = [f for f in dataclasses.fields(CONFIGS[command]) if f.metadata["low"] is not None]
    assert refused >= len(numbers)


sized = pytest.mark.parametrize("command", [
    words for words, config in CONFIGS.items()
    if "image_size" in {field.name for field in dataclasses.fields(config)}
])  # fmt: skip


@sized
def test_images_have_a_side_or_a_height_and_a_width(command, fill) -> None:
    words = needed(command, fill)
    if command.split()[0] in ("pretrain", "benchmark") and command != "benchmark cell":
        wanted = "^flag --image_size=96x128: one whole number is needed, the side of a square. Rec"
        with pytest.raises(checks.ConfigError, match=wanted):
            parse([*words, "--image_size=96x128"], command)
        return
    config = parse([*words, "--image_size=96x128"], command)
    assert config.image_size == (96, 128)
    assert "--image_size=96x128" in flags.as_words(config)
    assert parse(flags.as_words(config), command) == config
    square = parse([*words, "--image_size=96"], command)
    assert parse([*words, "--image_size=96x96"], command) == square and square.image_size == 96
    refused = {"96x": "look like 96, or like 96x128", "96x0": "each at least 1"}
    if hasattr(config, "backbone"):  # where it is no flag, it is known later
        refused["31x96"] = "at least 32 px. Received: image_size=.31, 96"
        refused["96x31"] = "at least 32 px. Received: image_size=.96, 31"
    for text, reason in refused.items():
        with pytest.raises(checks.ConfigError, match=reason):
            parse([*words, f"--image_size={text}"], command)


@every_command
def test_help_shows_every_flag_its_default_and_its_choices(command, capsys) -> None:
    assert main.run([*command.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: finetune-kit {command}") and err == ""
    # A value that could not be copied if it were broken may stand out.
    assert all(len(line) <= 100 or line.count(" ") == 6 for line in out.splitlines())
    plain = " ".join(out.split())
    for field in dataclasses.fields(CONFIGS[command]):
        no = "[no]" if isinstance(field.default, bool) else ""
        text = f" --{no}{field.name} {field.metadata['help']} (default {field.default!r}"
        assert text in plain
        assert ", ".join(field.metadata["choices"] or ()) in plain
    assert "--flagfile" in out


def test_the_help_of_finetune_lists_the_recipes(capsys) -> None:
    assert main.run(["finetune", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: finetune-kit finetune {finetune.DEFAULT}")
    for name, text in finetune.RECIPES.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", out, re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """An example.

    Not shown.
    """

    epochs: int = settings.option("Passes.", 3, low=0)
    rate: float = settings.option("Speed.", 0.5)
    kind: str = settings.option("Which.", "one", choices=("one", "two"))
    name: str = settings.option("Any text.", "")
    deep: bool = settings.option("Whether.", True)


def example(*words):
    return flags.parse(list(words), Example, command="try", positional="FILE…")


def test_the_help_text_word_by_word() -> None:
    assert flags.usage(Example, command="try", positional="FILE…") == "\n".join(
        [
            "usage: finetune-kit try FILE… [--FLAG=VALUE …]",
            "",
            "An example.",
            "",
            "  --epochs",
            "      Passes. (default 3)",
            "  --rate",
            "      Speed. (default 0.5)",
            "  --kind",
            "      Which. (default 'one'; one of one, two)",
            "  --name",
            "      Any text. (default '')",
            "  --[no]deep",
            "      Whether. (default True)",
            "  --flagfile",
            "      A file with flags, one a line.",
        ]
    )


@pytest.mark.parametrize("word", ["--help", "-help", "-h", "--helpfull"])
def test_help_goes_before_whatever_else_is_wrong(word) -> None:
    with pytest.raises(flags.HelpRequested, match="usage: finetune-kit try FILE…"):
        example("--xyzzy", word, "--epochs=many")


def test_words_and_flags_may_be_mixed() -> None:
    config, words = example(
        "a", "--epochs=7", "b", "--rate", "1e-3", "--epochs=8", "-kind=two", "--nodeep", "c"
    )
    assert config == Example(epochs=8, rate=1e-3, kind="two", deep=False)
    assert words == ["a", "b", "c"]


def test_behind_two_dashes_all_is_words() -> None:
    config, words = example("--epochs=7", "--", "--rate=1", "--help", "-x")
    assert config == Example(epochs=7) and words == ["--rate=1", "--help", "-x"]


def test_a_value_may_be_anything() -> None:
    for text in ("", "a=b", "--x", "two words", "日本", "'"):
        assert example(f"--name={text}")[0].name == text


def test_flags_from_a_file(tmp_path) -> None:
    (tmp_path / "more").write_text("--rate=0.25\n")
    file = tmp_path / "flags"
    file.write_text(f"# What was good last time\n--epochs=9\n\n--flagfile={tmp_path / 'more'}\n")
    assert example(f"--flagfile={file}", "a") == (Example(epochs=9, rate=0.25), ["a"])
    assert example(f"--flagfile={file}", "--epochs=1")[0].epochs == 1


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--epoch=1", r"^try has no flag --epoch\. Did you mean --epochs\? `finetune-kit try --h"),
        ("--noepochs", "no flag --noepochs. Did you mean --epochs"),
        ("--xyzzy", "^try has no flag --xyzzy. `finetune-kit try --help` lists all.$"),
        ("--epochs=1.5", "^flag --epochs=1.5: "),
        ("--epochs=", "^flag --epochs=: "),
        ("--rate=fast", "^flag --rate=fast: "),
        ("--kind=three", "^flag --kind=three: value should be one of <one.two>"),
        ("--deep=perhaps", "^flag --deep=perhaps: "),
        ("--name", "^Missing value for flag --name$"),
        ("--flagfile=nowhere", "^Unable to open flagfile: .*'nowhere'$"),
    ],
)
def test_what_a_flag_cannot_be_is_one_line(word, message) -> None:
    with pytest.raises(checks.ConfigError, match=message) as caught:
        example(word)
    assert "\n" not in str(caught.value)


def test_commands_share_no_flags() -> None:
    with pytest.raises(checks.ConfigError, match="compare has no flag --epochs"):
        flags.parse(["--epochs=1"], CONFIGS["compare"], command="compare")


def test_other_words_can_be_refused() -> None:
    flags.refuse_words("try", [])
    with pytest.raises(checks.ConfigError, match="^try takes flags alone. Received: a b. `finetu"):
        flags.refuse_words("try", ["a", "b"])


def test_only_what_differs_from_the_defaults_is_words() -> None:
    assert flags.as_words(Example()) == []
    config = Example(epochs=0, rate=1e-9, name="a b", deep=False)
    assert flags.as_words(config) == ["--epochs=0", "--rate=1e-09", "--name=a b", "--nodeep"]


def test_no_field_has_the_name_of_a_flag_that_a_library_defines() -> None:
    code = (
        "import json\nimport absl.app, absl.flags, absl.logging, tensorflow, tensorflow_datasets\n"
        "absl.app.define_help_flags()\nprint(json.dumps(list(absl.flags.FLAGS)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    taken = set(json.loads(found.stdout.splitlines()[-1]))
    assert {"help", "verbosity", "log_dir"} <= taken
    ours = {field.name for config in CONFIGS.values() for field in dataclasses.fields(config)}
    assert ours & (taken | {"debug", "flagfile", "undefok"}) == set()


def test_all_commands_are_covered() -> None:
    words = {name.split()[0] for name in CONFIGS}
    assert words == set(main.COMMANDS) and len(CONFIGS) == len(words) - 2 + len(
        finetune.RECIPES
    ) + len(benchmark.SUITES)
