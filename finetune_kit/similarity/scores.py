"""How well features separate classes, in one number, from arrays alone.

NumPy, SciPy and scikit-learn's conventions: no network is needed to compute, compare or test a
score. All of them say which features suit labels, none how accurate a fine-tuned network will be;
see `ranking`.
"""

import numpy as np
import scipy.linalg

from finetune_kit import checks

CONSTANT = 1e-7  # standard deviation below which a feature says nothing
RANK = 1e-10  # share of the largest variance below which an axis is rounding
ITERATIONS, TOLERANCE = 200, 1e-4  # of the fixed point; a handful is usual
# Bounds of LogME's ratio of precisions, as shares of the largest variance: where all is noise or
# nothing is, the evidence has no inner maximum, and is flat well before these.
RATIOS = (1e-9, 1e9)
LEAST_SHRINKAGE = 1e-6  # keeps the covariance of collinear features invertible


def logme(features: np.ndarray, labels: np.ndarray, *, standardised: bool = True) -> float:
    """Returns LogME, the log evidence of a Bayesian linear model, in nats an image and class.

    A one-hot column is w . f plus noise, w has an isotropic Gaussian prior, and the precisions of
    both are those of greatest evidence, found by a fixed point (You et al., 2021, "LogME:
    Practical Assessment of Pre-trained Models for Transfer Learning", section 4.2; convergence in
    You et al., 2022, section 4.4). Higher is better; values of different label sets are not
    comparable.

    Args:
        features: float [n, d].
        labels: int [n].
        standardised: Brings every feature to mean 0 and deviation 1 first, and the columns to
            mean 0. One prior for all weights presumes features of one scale, which the stages of
            a network do not have: unscaled, the score would compare their units. The model has no
            intercept, so without means of 0 it would also have to spend weights on one. False is
            the published form.

    Raises:
        DataError: Fewer than two classes, a value that is not finite, or shapes that differ.
    """
    rows, labels = _checked(features, labels)
    if standardised:
        return evidence(standardise(rows), labels)
    return _evidence(rows, _one_hot(labels), len(rows))


def evidence(rows: np.ndarray, labels: np.ndarray) -> float:
    """Returns LogME of rows float64 [n, d] whose columns have mean 0, in nats an image and class.

    Centring takes one of the n dimensions, in which neither rows nor columns vary.
    """
    columns = _one_hot(labels)
    return _evidence(rows, columns - columns.mean(axis=0), len(rows) - 1)


def h_score(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of the features' variance that the classes explain, in [0, 1].

    tr(cov(f)^-1 cov(E[f|y])) (Bao et al., 2019) with the covariance shrunk as Ledoit & Wolf (2004)
    do and the numerator by as much (Ibrahim et al., 2021, "Newer is not always better", section
    3.2): unshrunk, it nears its maximum for any labels where images are fewer than features. Even
    so it falls with the number of images, so compare it at one number of them. The maximum is
    C - 1, by which it is divided. Features are standardised, as the shrinkage is towards equal
    variances.

    Args:
        features: float [n, d].
        labels: int [n].

    Raises:
        DataError: Fewer than two classes, a value that is not finite, or shapes that differ.
    """
    rows, labels = _checked(features, labels)
    return explained(standardise(rows), labels, width=rows.shape[1])


def explained(rows: np.ndarray, labels: np.ndarray, *, width: int) -> float:
    """Returns the H-score of rows float64 [n, r] with mean 0 that stand for `width` features."""
    amount = shrinkage(rows, width=width)
    covariance = shrunk(rows, amount, width=width)
    columns = _one_hot(labels)
    counts = columns.sum(axis=0)
    means = (columns.T @ rows) / counts[:, None]
    solved = scipy.linalg.solve(covariance, means.T, assume_a="pos")
    between = float(((counts / len(rows)) * (means * solved.T).sum(axis=1)).sum())
    return (1 - amount) * between / (len(counts) - 1)


def leep(source_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns LEEP in nats, in [-log C, 0]; higher is better.

    The mean log likelihood of the labels under P(y|x) = sum_z P(y|z) p(z|x), where p(z|x) is what
    the source's head says and P(y|z) its share in each class (Nguyen et al., 2020, "LEEP: A New
    Measure to Evaluate Transferability of Learned Representations", section 3).

    Args:
        source_probabilities: float [n, Z], rows that sum to 1.
        labels: int [n].

    Raises:
        DataError: A value that is not finite or is negative, or shapes that differ.
    """
    given, labels = _checked(source_probabilities, labels, classes=1)
    if given.min() < 0:
        raise checks.DataError(
            "LEEP needs probabilities; logits need a softmax first. "
            + checks.received(smallest=float(given.min()))
        )
    joint = _one_hot(labels).T @ given
    # A source class that is nowhere given any probability adds nothing to the sum.
    conditional = joint / np.maximum(joint.sum(axis=0), np.finfo(np.float64).tiny)
    expected = (given * conditional[labels]).sum(axis=1)
    return float(np.log(expected).mean())


def nce(source_labels: np.ndarray, labels: np.ndarray) -> float:
    """Returns the negative conditional entropy -H(Y|Z) in nats, in [-log C, 0].

    0 where the source's class determines the target's (Tran et al., 2019, "Transferability and
    Hardness of Supervised Classification Tasks", section 4). The entropy of few images is too
    small: with as many source classes as images the value is near 0 for any labels.

    Args:
        source_labels: int [n], the likeliest source class of every image.
        labels: int [n].

    Raises:
        DataError: Shapes that differ, or no image.
    """
    sources = np.asarray(source_labels)
    if sources.ndim != 1:
        raise checks.DataError(
            "NCE needs one source class an image. " + checks.received(shape=sources.shape)
        )
    _, labels = _checked(sources[:, None], labels, classes=1)
    joint = _one_hot(np.unique(sources, return_inverse=True)[1]).T @ _one_hot(labels)
    conditional = joint / joint.sum(axis=1, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(conditional[seen])).sum() / len(labels))


def standardise(features: np.ndarray) -> np.ndarray:
    """Returns features as float64 [n, d] with mean 0 and deviation 1; a constant one becomes 0."""
    rows = np.asarray(features, np.float64)
    scale = rows.std(axis=0)
    flat = scale < CONSTANT
    return np.where(flat, 0.0, (rows - rows.mean(axis=0)) / np.where(flat, 1.0, scale))


def compact(rows: np.ndarray) -> np.ndarray:
    """Returns rows with the same products in the fewest coordinates, float64 [n, min(n, d)]."""
    n, width = rows.shape
    if width <= n:
        return rows
    return scipy.linalg.qr(rows.T, mode="r", check_finite=False)[0][:n].T


def shrinkage(rows: np.ndarray, *, width: int) -> float:
    """Returns how far to shrink a covariance towards equal variances, in [0, 1].

    Ledoit & Wolf (2004), "A well-conditioned estimator for large-dimensional covariance matrices",
    section 3.3. As `sklearn.covariance.ledoit_wolf_shrinkage`, but from the smaller of the two
    matrices of products, and for rows that stand for more features than they have coordinates.

    Args:
        rows: float64 [n, r] with mean 0.
        width: Number of features, d >= r.
    """
    n = len(rows)
    products = rows.T @ rows if rows.shape[1] <= n else rows @ rows.T
    squares = float((products**2).sum()) / n**2
    lengths = (rows**2).sum(axis=1)
    spread = squares - float(lengths.mean()) ** 2 / width
    error = (float((lengths**2).mean()) - squares) / n
    return min(1.0, max(LEAST_SHRINKAGE, error / spread)) if spread > 0 else LEAST_SHRINKAGE


def shrunk(rows: np.ndarray, amount: float, *, width: int) -> np.ndarray:
    """Returns the shrunk covariance, float64 [r, r], of rows with mean 0 (see `shrinkage`)."""
    mean = float((rows**2).sum()) / (len(rows) * width)
    covariance = (1 - amount) / len(rows) * (rows.T @ rows)
    # Rows that are all 0 have no scale of their own.
    covariance[np.diag_indices_from(covariance)] += amount * (mean or 1.0)
    return covariance


def _evidence(rows: np.ndarray, columns: np.ndarray, degrees: int) -> float:
    """Returns the mean log evidence of columns float64 [n, C] over `degrees` dimensions, each."""
    variances, shares = _axes(rows, columns)
    rest = np.maximum((columns**2).sum(axis=0) - (shares**2).sum(axis=0), 0.0)
    largest = max(float(variances.max(initial=0.0)), np.finfo(np.float64).tiny)
    low, high = RATIOS[0] * largest, RATIOS[1] * largest
    ratio = np.full(columns.shape[1], largest / 1e3)  # precision of the weights by that of noise
    power = shares**2
    axes = variances[:, None]
    for _ in range(ITERATIONS):
        weight = 1 / (axes + ratio)
        free = degrees - len(variances) + ratio * weight.sum(axis=0)
        residual = rest + ratio**2 * (power * weight**2).sum(axis=0)
        length = (axes * power * weight**2).sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            new = (degrees - free) * residual / (free * length)
        new = np.clip(np.nan_to_num(new, nan=high, posinf=high), low, high)
        settled = np.abs(new - ratio) <= TOLERANCE * ratio
        ratio = new
        if settled.all():
            break
    # With the precision of the noise at its best for this ratio, the rest of the evidence is:
    squares = rest + (power * ratio / (axes + ratio)).sum(axis=0)
    squares = np.maximum(squares, np.finfo(np.float64).tiny)
    spread = np.log1p(axes / ratio).sum(axis=0)
    log = -degrees / 2 * (np.log(2 * np.pi * squares / degrees) + 1) - spread / 2
    return float(log.mean()) / degrees


def _axes(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the squared singular values [r] and the columns along the left vectors [r, C]."""
    n, width = rows.shape
    if width > n:
        variances, left = scipy.linalg.eigh(rows @ rows.T)
        kept = variances > RANK * max(variances[-1], 0.0)
        return variances[kept], left[:, kept].T @ columns
    variances, right = scipy.linalg.eigh(rows.T @ rows)
    kept = variances > RANK * max(variances[-1], 0.0)
    variances, right = variances[kept], right[:, kept]
    return variances, (right.T @ (rows.T @ columns)) / np.sqrt(variances)[:, None]


def _one_hot(labels: np.ndarray) -> np.ndarray:
    """Returns float64 [n, C] of labels int [n] in [0, C), each of which occurs."""
    return np.eye(int(labels.max()) + 1)[labels]


def _checked(
    features: np.ndarray, labels: np.ndarray, *, classes: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Returns float64 [n, d] and the labels numbered without gaps, int64 [n]."""
    rows, given = np.asarray(features, np.float64), np.asarray(labels)
    if rows.ndim != 2 or given.ndim != 1 or len(rows) != len(given) or not rows.size:
        raise checks.DataError(
            "A score needs features [n, d] and labels [n] of at least one image. "
            + checks.received(features=rows.shape, labels=given.shape)
        )
    if not np.isfinite(rows).all():
        raise checks.DataError(
            "Features must be finite: the backbone's weights or the images hold NaN or infinity. "
            + checks.received(bad_values=int((~np.isfinite(rows)).sum()))
        )
    names, numbers = np.unique(given, return_inverse=True)
    if len(names) < classes:
        raise checks.DataError(
            f"A score needs images of at least {classes} classes. "
            + checks.received(classes=len(names))
        )
    return rows, numbers.astype(np.int64)
