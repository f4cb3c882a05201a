"""The rules of the house, read from the source text: who imports whom, who may do what."""

import ast
import configparser
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Rooms of the library; each imports only from those before it.
ORDER = (
    "checks", "metrics", "console", "data", "backbones", "features", "similarity", "strategy",
    "training", "results",
)  # fmt: skip
EVERYWHERE = ("lazy", "cores")
MAX_FILE, MAX_FUNCTION = 400, 50
# What is imported to look something up must not start TensorFlow.
LIGHT = (
    "finetune_kit",
    "finetune_kit.checks",
    "finetune_kit.console",
    "finetune_kit.metrics",
    "finetune_kit.results.report",
    "recipes.settings",
    "apps.main",
    "apps.compare",
    "apps.finetune",
)


def sources(*folders):
    """Returns path relative to the root to syntax tree."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8")) for path in paths}


LIBRARY, RECIPES, APPS = sources("finetune_kit"), sources("recipes"), sources("apps")
TESTS = sources("tests")
CODE = LIBRARY | RECIPES | APPS


def module_name(path):
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(tree, path):
    """Returns (line, dotted name) of all that is imported, also inside functions and for types."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is relative"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def offences(trees, offends):
    """Returns `path:line` of the nodes for which `offends(node)` is true."""
    return [
        f"{path}:{node.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if offends(node)
    ]


def is_call_of(node, *methods):
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in methods
    )


def is_name(node, name):
    return isinstance(node, ast.Name) and node.id == name


def writes_trainable(node):
    if isinstance(node, ast.Attribute):
        return node.attr == "trainable" and isinstance(node.ctx, ast.Store)
    return (
        isinstance(node, ast.Call)
        and is_name(node.func, "setattr")
        and any(isinstance(word, ast.Constant) and word.value == "trainable" for word in node.args)
    )


def room(path):
    return pathlib.PurePath(path).parts[1].removesuffix(".py")


def test_every_room_is_in_the_order() -> None:
    rooms = {room(path) for path in LIBRARY} - {"__init__", *EVERYWHERE}
    assert rooms <= set(ORDER), rooms - set(ORDER)
    assert len(rooms) >= 9


def test_a_room_imports_only_from_those_above_it() -> None:
    wrong = []
    for path, tree in LIBRARY.items():
        known = (*ORDER, *EVERYWHERE)
        above = ORDER[: ORDER.index(room(path)) + 1] if room(path) in ORDER else ()
        for line, name in imports(tree, path):
            package, _, rest = name.partition(".")
            if package == "finetune_kit" and rest.split(".")[0] not in (*above, *EVERYWHERE):
                wrong.append(f"{path}:{line} imports {name}")
            assert package != "finetune_kit" or rest.split(".")[0] in known, (path, name)
    assert wrong == []


def test_the_library_knows_neither_recipes_nor_apps_and_recipes_know_no_apps() -> None:
    wrong = [
        f"{path}:{line} imports {name}"
        for trees, above in ((LIBRARY, ("recipes", "apps")), (RECIPES, ("apps",)))
        for path, tree in trees.items()
        for line, name in imports(tree, path)
        if name.split(".")[0] in (*above, "tests")
    ]
    assert wrong == []


def test_only_the_library_names_tensorflow() -> None:
    # Recipes and commands speak to the library; benchmarks of others' code are their own peers.
    trees = {path: tree for path, tree in (RECIPES | APPS).items() if "/benchmarks/" not in path}
    wrong = [
        f"{path}:{line} imports {name}"
        for path, tree in trees.items()
        for line, name in imports(tree, path)
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets")
    ]
    assert wrong == []


def test_files_are_short() -> None:
    lines = {path: (ROOT / path).read_text("utf-8").count("\n") for path in CODE | TESTS}
    assert {path: count for path, count in lines.items() if count > MAX_FILE} == {}


def test_functions_are_short() -> None:
    long = {
        f"{path}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path, tree in (CODE | TESTS).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION
    }
    assert long == {}


def test_recipes_say_what_and_never_how() -> None:
    assert offences(RECIPES, lambda node: is_call_of(node, "compile", "fit")) == []
    assert offences(RECIPES, lambda node: is_name(node, "print") or is_name(node, "tf")) == []
    assert offences(RECIPES, lambda n: isinstance(n, ast.Attribute) and n.attr == "trainable") == []
    recipes = {path: tree for path, tree in RECIPES.items() if path != "recipes/jobs.py"}
    assert offences(recipes, lambda node: isinstance(node, ast.While | ast.AsyncFor)) == []


def test_one_file_writes_trainable() -> None:
    found = {line.partition(":")[0] for line in offences(CODE, writes_trainable)}
    # What others do is measured as it stands.
    others = {"apps/benchmarks/guide.py", "apps/benchmarks/plain.py"}
    assert found - others == {"finetune_kit/strategy/applying.py"}


def test_one_file_compiles_and_fits() -> None:
    def trains(node):
        return is_call_of(node, "compile", "fit") and not is_name(node.func.value, "re")

    found = {line.partition(":")[0] for line in offences(CODE, trains)}
    own = {path for path in found if not path.startswith("apps/benchmarks/")}
    # Where there is no TensorFlow, and so none of what `Fitter` rests on.
    own -= {"finetune_kit/training/on_arrays.py"}
    names = ("training/fitter", "training/course", "features/heads")
    fitter, course, heads = (f"finetune_kit/{name}.py" for name in names)
    assert fitter in own and own <= {fitter, course, heads}
    # What `course` fits is a `Fitter`, what `heads` fits is scikit-learn's.
    assert offences({course: LIBRARY[course]}, lambda node: is_call_of(node, "compile")) == []
    for path in (course, heads):
        receivers = [node.func.value for node in ast.walk(LIBRARY[path]) if trains(node)]
        assert not any(isinstance(node, ast.Attribute) for node in receivers), path
    assert "keras" not in {name.split(".")[0] for _, name in imports(LIBRARY[heads], heads)}


def test_no_loop_of_our_own_over_gradients() -> None:
    names = (
        "train_on_batch",
        "apply_gradients",
        "GradientTape",
        "train_step",
        "make_train_function",
    )
    trees = {path: tree for path, tree in CODE.items() if not path.startswith("apps/benchmarks/")}
    wrong = offences(trees, lambda n: isinstance(n, ast.Attribute) and n.attr in names)
    wrong += offences(trees, lambda n: isinstance(n, ast.FunctionDef) and n.name in names)
    # One file measures gradients; it applies none.
    measured = "finetune_kit/training/gradients.py"
    tapes = offences({measured: CODE[measured]}, lambda n: getattr(n, "attr", "") == "GradientTape")
    assert wrong == tapes and len(tapes) == 1


def test_no_assert_guards_anything_but_tests() -> None:
    assert offences(CODE, lambda node: isinstance(node, ast.Assert)) == []


def test_one_file_writes_to_the_terminal() -> None:
    def writes(node):
        return is_name(node, "print") or (
            isinstance(node, ast.Attribute)
            and node.attr in ("stdout", "stderr")
            and is_name(node.value, "sys")
        )

    found = {line.partition(":")[0] for line in offences(CODE, writes)}
    assert found <= {"apps/main.py", "apps/quiet.py", "finetune_kit/console.py"}


def test_the_library_leaves_the_environment_alone() -> None:
    def is_environ(node):
        return isinstance(node, ast.Attribute) and node.attr == "environ"

    def writes(node):
        if isinstance(node, ast.Subscript):
            return is_environ(node.value) and not isinstance(node.ctx, ast.Load)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            method, owner = node.func.attr, node.func.value
            return method in ("putenv", "unsetenv") or (is_environ(owner) and method != "get")
        return False

    assert offences(LIBRARY | RECIPES, writes) == []


IMPORTER = """
import importlib, json, os, sys
for name in {first}:
    importlib.import_module(name)
ours = ("finetune_kit", "recipes", "apps")
found, missing = {{}}, []
for name in {names}:
    # As if it were the first: no module may rest on another's having been imported before.
    for known in [known for known in sys.modules if known.split(".")[0] in ours]:
        del sys.modules[known]
    before = dict(os.environ)
    module = importlib.import_module(name)
    changed = {{k for k in before.keys() | os.environ.keys() if before.get(k) != os.environ.get(k)}}
    heavy = {{"tensorflow", "keras", "jax", "torch"}} & sys.modules.keys()
    found[name] = [sorted(changed), sorted(heavy)]
    if {members}:
        public = getattr(module, "__all__", ())
        missing += [f"{{name}}.{{member}}" for member in public if not hasattr(module, member)]
print(json.dumps([found, missing]))
"""


def imported(names, *, first=(), members=False):
    """Imports modules one by one in a process of its own, each as if it were the first.

    Returns:
        Name to [changed variables of the environment, heavy packages]; public names that are not
        there, looked for only with `members`; lines of standard output and of standard error.
    """
    code = IMPORTER.format(first=tuple(first), names=tuple(names), members=members)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.splitlines()
    return *json.loads(last), said, done.stderr.splitlines()


def test_what_looks_something_up_starts_no_tensorflow() -> None:
    rooms = [module_name(path) for path in LIBRARY if path.endswith("/__init__.py")]
    names = [*LIGHT, *rooms, *(module_name(path) for path in RECIPES)]
    found, _, said, warned = imported(names)
    assert found == {name: [[], []] for name in names}
    assert said == [] and warned == []


def test_importing_anything_says_nothing_and_sets_nothing() -> None:
    names = [module_name(path) for path in CODE]
    # What others say and set at their start is their own affair.
    others = ("tensorflow", "keras", "tensorflow_datasets", "sklearn", "matplotlib", "jinja2")
    found, missing, said, warned = imported(names, first=others, members=True)
    assert len(found) == len(CODE)
    assert {name: changed for name, (changed, _) in found.items() if changed} == {}
    assert missing == [] and said == []
    assert [line for line in warned if str(ROOT) in line and "site-packages" not in line] == []


def test_every_file_that_the_library_reads_is_part_of_the_package() -> None:
    """A wheel holds Python files and what `package_data` names; an editable install hides it."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    known = {
        path
        for package, patterns in config["options.package_data"].items()
        for pattern in patterns.split(",")
        for path in (ROOT / package.replace(".", "/")).glob(pattern.strip())
    }
    files = {
        path
        for path in (ROOT / "finetune_kit").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert files and files <= known, files - known
