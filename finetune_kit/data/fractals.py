"""Images from formulas: a class is a random iterated function system, an image its attractor.

Networks that learnt to tell them apart transfer to photos (Kataoka et al., 2020, "Pre-training
without Natural Images", section 3); the systems are drawn as Anderson & Farrell do it (2022,
"Improving Fractal Pre-training", section 3), whose attractors are neither dust nor a blot.
"""

import dataclasses
import functools

import numpy as np

SIDE = 64  # pixels that an image is drawn at
MAPS = (2, 4)  # fewest and most maps of a system; with more, attractors resemble each other
WALKERS, STEPS, SETTLING = 256, 60, 20  # points that are moved, how often, and how often unseen
FILLED = 0.1  # least share of pixels that the attractor of a class must reach; Kataoka et al.
JITTER = (0.8, 1.1)  # range of the factor that an image's maps are scaled by; Anderson & Farrell
TILT = 0.5  # radians by which an image is turned at most


@dataclasses.dataclass(frozen=True)
class System:
    """An iterated function system: contractions of the plane, one of which is taken at random.

    Attributes:
        matrices: float64 [n, 2, 2].
        offsets: float64 [n, 2].
    """

    matrices: np.ndarray
    offsets: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """How often each map is taken, float64 [n]: by the area that it leaves."""
        areas = np.abs(np.linalg.det(self.matrices)) + 1e-3
        return np.asarray(areas / areas.sum())


def image(kind: int, number: int) -> np.ndarray:
    """Returns an image of a class, uint8 [SIDE, SIDE, 3], the same whenever it is asked for."""
    return draw(system(kind), np.random.default_rng((1, kind, number)))


@functools.lru_cache(maxsize=4096)
def system(kind: int) -> System:
    """Returns the system of a class, the first of its row whose attractor fills enough pixels."""
    generator = np.random.default_rng((0, kind))
    while True:
        found = _random_system(generator)
        if (_density(_points(found, generator)) > 0).mean() >= FILLED:
            return found


def draw(of: System, generator: np.random.Generator) -> np.ndarray:
    """Returns an image of a system's attractor, uint8 [SIDE, SIDE, 3].

    Maps are scaled, the picture is turned, and colours and ground are drawn at random, so that only
    the shape tells the class.
    """
    factors = generator.uniform(*JITTER, len(of.matrices))
    varied = System(of.matrices * factors[:, None, None], of.offsets)
    points = _points(varied, generator) @ rotation(generator.uniform(-TILT, TILT)).T
    density = _density(points)
    weight = np.where(density > 0, 0.35 + 0.65 * density, 0.0)[..., None]
    dark, light = generator.uniform(0, 255, (2, 3))
    figure = dark + (light - dark) * density[..., None]
    return np.rint(
        (1 - weight) * ground(generator.uniform(0, 255, (2, 2, 3))) + weight * figure
    ).astype(np.uint8)


def _random_system(generator: np.random.Generator) -> System:
    """Returns a system whose singular values keep Anderson & Farrell's bounds.

    Their sum, the smaller of each pair counted twice, lies in [(5 + n) / 2, (6 + n) / 2]: below it
    attractors are dust, above it blots.
    """
    n = int(generator.integers(MAPS[0], MAPS[1] + 1))
    while True:
        larger = generator.uniform(0, 1, n)
        smaller = larger * generator.uniform(0, 1, n)
        if (5 + n) / 2 <= (larger + 2 * smaller).sum() <= (6 + n) / 2:
            break
    turns = generator.uniform(0, 2 * np.pi, (n, 2))
    flips = generator.choice((-1.0, 1.0), (n, 2))
    matrices = [
        rotation(first) @ np.diag((s1, s2)) @ rotation(second) @ np.diag(flip)
        for (first, second), s1, s2, flip in zip(turns, larger, smaller, flips, strict=True)
    ]
    return System(np.array(matrices), generator.uniform(-1, 1, (n, 2)))


def _points(of: System, generator: np.random.Generator) -> np.ndarray:
    """Returns points of the attractor, float64 [m, 2] (the chaos game of Barnsley, 1988)."""
    place = np.zeros((WALKERS, 2))
    choices = generator.choice(len(of.matrices), (STEPS, WALKERS), p=of.shares)
    seen = []
    for step, taken in enumerate(choices):
        place = np.einsum("wij,wj->wi", of.matrices[taken], place) + of.offsets[taken]
        if step >= SETTLING:
            seen.append(place)
    return np.concatenate(seen)


def _density(points: np.ndarray) -> np.ndarray:
    """Returns how many points are at each pixel, on a logarithmic scale in [0, 1], [SIDE, SIDE].

    A few stray points may lie outside: the picture shows what is between the quantiles.
    """
    low, high = np.quantile(points, (0.005, 0.995), axis=0)
    middle, reach = (low + high) / 2, max(1e-6, float((high - low).max()) * 0.55)
    cells = np.floor(((points - middle) / reach + 1) / 2 * SIDE).astype(int)
    inside = cells[((cells >= 0) & (cells < SIDE)).all(axis=1)]
    counts = np.bincount(inside[:, 1] * SIDE + inside[:, 0], minlength=SIDE * SIDE)
    logs = np.log1p(counts.reshape(SIDE, SIDE))
    return np.asarray(logs / max(1.0, float(logs.max())))


def ground(corners: np.ndarray) -> np.ndarray:
    """Returns a ground that runs between four colours, float64 [SIDE, SIDE, 3].

    Args:
        corners: float64 [2, 2, 3]: rows, columns, channels.
    """
    along = np.linspace(0, 1, SIDE)
    rows = corners[0] + (corners[1] - corners[0]) * along[:, None, None]
    return np.asarray(rows[:, :1] + (rows[:, 1:] - rows[:, :1]) * along[None, :, None])


def rotation(angle: float) -> np.ndarray:
    """Returns the matrix that turns the plane by an angle in radians, float64 [2, 2]."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])
