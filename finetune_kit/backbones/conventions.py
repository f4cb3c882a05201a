"""Where a layer departs from the conventions of the source text (S1, S4, S5), and what it costs.

S1: images have a side that is a power of two. S4: convolutions are 3x3 or 5x5 with stride 1,
padding keeps the size, and the number of filters is a power of two. S5: pooling is 2x2 with
stride 2, so that a quarter of the values remain.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

KERNELS = (3, 5)
POOL = 2
# Channels that hardware takes at once: 8 float32 lanes of AVX2, and the multiple that tensor cores
# want of 16-bit numbers; 32, a warp; 128, the side of a large tile of cuBLAS (NVIDIA, "Matrix
# Multiplication Background", on tensor cores and on tile quantization).
TILES = (8, 32, 128)

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Departure:
    """One convention that a layer does not follow.

    Attributes:
        rule: S1, S4 or S5.
        what: In a few words, the same for all layers that depart alike.
        cost: What it costs, or spares, in figures.
    """

    rule: str
    what: str
    cost: str


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What is judged of a convolution or pooling, along height and width.

    Attributes:
        kernel, strides, dilation: Of the window.
        before: Sides of the map that comes in, without padding of any kind.
        after: Sides of the map that goes out.
    """

    kernel: Pair
    strides: Pair
    dilation: Pair
    before: Pair
    after: Pair


def of_image(sides: Pair) -> tuple[Departure, ...]:
    """Judges the sides of the input in pixels (S1)."""
    return tuple(
        Departure("S1", f"side {side}", _side_cost(side))
        for side in dict.fromkeys(sides)
        if side.bit_count() != 1
    )


def of_convolution(geometry: Geometry, filters: int) -> tuple[Departure, ...]:
    """Judges a convolution of any kind (S4).

    Args:
        geometry: Its window and maps.
        filters: Channels that go out.
    """
    return (*_of_kernel(geometry), *_of_strides(geometry), *_of_border(geometry),
            *of_filters(filters))  # fmt: skip


def of_filters(filters: int) -> Iterator[Departure]:
    """Judges a number of filters (S4)."""
    if filters.bit_count() != 1:
        # Tiles beyond the next power of two would be as idle if S4 were followed.
        tiles = [tile for tile in TILES if tile <= max(TILES[0], 1 << filters.bit_length())]
        idle = [(wasted(filters, tile), tile) for tile in tiles]
        parts = [f"{share:.1%} of tiles of {tile} channels" for share, tile in idle if share]
        sizes = " and ".join(map(str, tiles))
        cost = f"idle: {', '.join(parts)}" if parts else f"fills tiles of {sizes} channels"
        yield Departure("S4", f"{filters} filters", cost)


def of_pooling(geometry: Geometry) -> tuple[Departure, ...]:
    """Judges a pooling by windows (S5)."""
    size, strides = geometry.kernel, geometry.strides
    found = []
    if size != (POOL, POOL):
        reads = math.prod(size) / math.prod(strides)
        cost = f"reads every value {reads:.2f} times; 2x2 with stride 2 once"
        found.append(Departure("S5", f"{_text(size)} window, stride {_text(strides)}", cost))
    elif strides != (POOL, POOL):
        cost = f"1 of {math.prod(strides)} values remains; of 2x2 with stride 2, 1 of 4"
        found.append(Departure("S5", f"stride {_text(strides)}", cost))
    elif any(side % POOL for side in geometry.before):
        share = math.prod(geometry.after) / math.prod(geometry.before)
        cost = f"{share:.1%} of the values remain, not a quarter: a border is cut off or filled up"
        found.append(Departure("S5", f"odd map {_text(geometry.before)}", cost))
    return tuple(found)


def wasted(channels: int, tile: int) -> float:
    """Returns the share of hardware lanes that idle when channels are cut into tiles."""
    return 1 - channels / (math.ceil(channels / tile) * tile)


def _side_cost(side: int) -> str:
    halvings = (side & -side).bit_length() - 1
    low = 1 << (side.bit_length() - 1)
    shares = " and ".join(f"{n * n / side**2:.2f} at {n} px" for n in (low, 2 * low))
    return (
        f"halves evenly {halvings} times, to {side >> halvings}; its multiplications times {shares}"
    )


def _of_kernel(geometry: Geometry) -> Iterator[Departure]:
    kernel = geometry.kernel
    if kernel[0] != kernel[1] or kernel[0] not in KERNELS:
        yield Departure("S4", f"{_text(kernel)} kernel", _kernel_cost(kernel))
    if geometry.dilation != (1, 1):
        spans = _text([(k - 1) * d + 1 for k, d in zip(kernel, geometry.dilation, strict=True)])
        yield Departure(
            "S4", f"dilation {_text(geometry.dilation)}",
            f"a {_text(kernel)} kernel spans {spans} and reads {math.prod(kernel)} values of it",
        )  # fmt: skip


def _kernel_cost(kernel: Pair) -> str:
    taps = math.prod(kernel)
    parts = [f"{taps}/9 = {taps / 9:.2f} times the multiplications of a 3x3"]
    if kernel[0] == kernel[1] and kernel[0] % 2 and kernel[0] > max(KERNELS):
        # Simonyan & Zisserman, 2015, section 2.3: n stacked 3x3 see what one of 2 n + 1 sees.
        stack = (kernel[0] - 1) // 2
        parts.append(
            f"{taps}/{9 * stack} = {taps / (9 * stack):.2f} times those of {stack} stacked 3x3, "
            "which see as much"
        )
    if kernel == (1, 1):
        parts.append("sees no neighbour")
    if any(k % 2 == 0 for k in kernel):
        parts.append("no centre, so padding that keeps the size is uneven")
    return "; ".join(parts)


def _of_strides(geometry: Geometry) -> Iterator[Departure]:
    strides = geometry.strides
    if strides == (1, 1):
        return
    positions = math.prod(strides)
    cost = f"1/{positions} of the multiplications of stride 1 with pooling behind it"
    read = math.prod(min(k, s) for k, s in zip(geometry.kernel, strides, strict=True))
    if read < positions and geometry.dilation == (1, 1):
        cost += f"; {1 - read / positions:.0%} of its input is never read"
    yield Departure("S4", f"stride {_text(strides)} under {_text(geometry.kernel)}", cost)


def _of_border(geometry: Geometry) -> Iterator[Departure]:
    """Judges whether padding keeps the size: n positions over the stride, rounded up."""
    kept = tuple(math.ceil(n / s) for n, s in zip(geometry.before, geometry.strides, strict=True))
    if any(n < m for n, m in zip(geometry.after, kept, strict=True)):
        share = 1 - math.prod(geometry.after) / math.prod(kept)
        yield Departure(
            "S4", f"no padding, {_text(kept)} to {_text(geometry.after)}",
            f"{share:.0%} of the positions are lost at the border",
        )  # fmt: skip


def _text(pair: Sequence[int]) -> str:
    """Returns 3x3; for strides of 2 and 2, 2x2."""
    return "x".join(map(str, pair))
