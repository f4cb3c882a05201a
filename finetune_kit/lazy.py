"""Attributes that are imported when they are first used, so that `import finetune_kit` is instant.

Synopsis, in the `__init__.py` of a package:

    __getattr__, __dir__, __all__ = lazy.attach(__name__, {"load": "load", "Split": "types"})
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(
    package: str, members: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Returns `__getattr__`, `__dir__` and `__all__` for a package (PEP 562).

    Args:
        package: The package's `__name__`.
        members: Public name to the submodule that defines it; a submodule that is public itself
            maps to its own name. A module and a function of one name cannot both be public: Python
            binds an imported submodule to its package and so would hide the function.

    Raises:
        AttributeError: From the returned `__getattr__`, for a name that is not in `members`.
    """

    def getattribute(name: str) -> Any:
        if name not in members:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}. It has {', '.join(sorted(members))}"
            )
        module = importlib.import_module(f"{package}.{members[name]}")
        return module if members[name] == name else getattr(module, name)

    names = sorted(members)
    return getattribute, lambda: names, names
