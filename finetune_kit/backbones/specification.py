"""A network in one line: the filters of its convolutions, block by block, as in 32-32|64-64|128.

No Keras is imported here, so that a wrong line is found at once.
"""

from finetune_kit import checks

PREFIX = "spec:"  # what a line is called by as the name of a backbone
FORM = "filters joined by -, blocks by |, as in 32-32|64-64|128"
MAX_FILTERS = 65_536  # beyond it a number was meant for something else
MAX_BLOCKS = 10  # each but the first halves the side, so that 512 px become 1

Blocks = tuple[tuple[int, ...], ...]


def parse(line: str) -> Blocks:
    """Returns the filters of the convolutions, block by block.

    Args:
        line: Positive whole numbers joined by `-`, blocks by `|`; spaces are left out.

    Raises:
        ConfigError: Not of that form.
    """
    blocks = [block.split("-") for block in line.replace(" ", "").split("|")]
    for block in blocks:
        for word in block:
            if not (word.isascii() and word.isdecimal() and 0 < int(word) <= MAX_FILTERS):
                raise checks.ConfigError(
                    f"A specification must be {FORM}, with 1 to {MAX_FILTERS} filters. "
                    f"Received: {line!r}, in which {word!r} is no number of filters"
                )
    if len(blocks) > MAX_BLOCKS:
        raise checks.ConfigError(
            f"A specification must have at most {MAX_BLOCKS} blocks. "
            + checks.received(specification=line, blocks=len(blocks))
        )
    return tuple(tuple(int(word) for word in block) for block in blocks)


def refuse_odd_filters(blocks: Blocks) -> None:
    """Raises `ConfigError` unless every number of filters is a power of two (S4)."""
    odd = sorted({filters for block in blocks for filters in block if filters.bit_count() != 1})
    if odd:
        raise checks.ConfigError(
            "The number of filters must be a power of two (S4). Received: "
            f"{', '.join(map(str, odd))}. To keep them, give --backbone_args=any_filters=True."
        )


def line_of(blocks: Blocks) -> str:
    """Returns the line that `parse` reads back to the same blocks."""
    return "|".join("-".join(map(str, block)) for block in blocks)


def least_side(blocks: Blocks) -> int:
    """Returns the smallest side in px of which the poolings leave a map of 2x2 at the end."""
    return int(2 ** len(blocks))
