#!/usr/bin/env python3
"""Trains the skin head by multinomial logistic regression with an L2 penalty.

Three kinds of rows are fitted at once, by one set of weights:

- the pooled features of a drawing, as drawn and after what `wear.py` does to it, with its class as
  the target (slightly smoothed, so that the softmax does not saturate on drawings the network
  finds easy);
- the pooled features of a picture without skin (`scenes.py`), with every class as likely as any
  other as the target (outlier exposure: Hendrycks, Mazeika and Dietterich 2019, arXiv:1812.04606);
- contrasts within a drawing: Grad-CAM evidence at cells in the mark minus evidence at a cell
  beside it, with the same target and without intercept. They train the class's heatmap, relative
  to that of every other class, to be higher on the mark than beside it. The fit is done twice: with
  all cells beside the mark, then with those that the first fit's heatmaps have highest (hard
  negatives: Felzenszwalb et al. 2010, doi:10.1109/TPAMI.2009.167), because a heatmap is judged by
  its peak.

Everything is float64; features are rounded to a grid before the fit and weights after it, so that
rounding differences between processors do not change the result. The backbone is not trained.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy

import backbone
import draw
import gradcam
import scenes
import wear

CLASSES, CLEAR, NO_SKIN = 7, 2, 7
SCENES = 5  # pictures without skin for each seed
FEATURE_GRID, WEIGHT_GRID = 2.0**-12, 2.0**-10
HARDEST = 10  # cells beside the mark that a drawing contributes to the second fit
CONTRAST_WEIGHT, CONTRAST_SCALE = 1.0, 0.9
SCENE_WEIGHT = 3.0  # of all of them, where all drawings weigh 1
SMOOTHING, PENALTY = 0.03, 1e-2
LEAST_SPREAD = 0.02  # features that vary less are not scaled up further


@dataclass
class Lesson:
    """The training rows of one picture."""

    pooled: numpy.ndarray  # f64 [2, 1280]: as drawn and worn; [1, 1280] of a scene
    contrasts: numpy.ndarray  # f64 [cells beside the mark, 1280]; none of clear skin and scenes

    def hardest(self, weight):
        """The lesson with the contrasts that a class's `weight` f64 [1280] gets least right."""
        chosen = numpy.argsort(self.contrasts @ weight, kind="stable")[:HARDEST]
        return Lesson(self.pooled, self.contrasts[chosen])


_net = None


def _start(net):
    global _net
    _net = net


def convolved(net, pixels):
    """The last convolution's output on the feature grid, f64 [1280, 7, 7], for a picture
    u8 [height, width, 3] of any size."""
    value = backbone.forward(net, backbone.tensor(draw.seen(pixels)))
    return numpy.rint(value / FEATURE_GRID) * FEATURE_GRID


def pooled(value):
    return numpy.clip(value, 0.0, 6.0).mean(axis=(1, 2))


def lesson(net, index, seed):
    """Makes a picture, runs the backbone on it and returns the training rows. `index` is a class, or NO_SKIN for a scene."""
    none = numpy.zeros((0, backbone.FEATURES))
    if index == NO_SKIN:
        return Lesson(pooled(convolved(net, scenes.scene(seed)))[None], none)
    drawing = draw.draw(index, seed)
    value, mask = convolved(net, drawing.pixels), draw.square(drawing)[1]
    rng = numpy.random.Generator(numpy.random.PCG64([index, seed, 2]))
    both = numpy.stack([pooled(value), pooled(convolved(net, wear.wear(rng, drawing.pixels)))])
    if index == CLEAR:
        return Lesson(both, none)
    found = gradcam.evidence(value, net[-1].bias).reshape(backbone.FEATURES, -1)
    inside, outside = cells(mask, value.shape[1])
    if not inside.any() or not outside.any():
        return Lesson(both, none)
    return Lesson(both, found[:, inside].mean(axis=1) - found[:, outside].T)


def cells(mask, count):
    """Two bool [count²] over `count` × `count` cells, row by row: cells inside the mark, with centre and
    surroundings, and cells whose centre is beside it. The cell with the largest share always counts as inside."""
    step = mask.shape[0] // count
    middle = [step * cell + step // 2 for cell in range(count)]
    share = numpy.array([[mask[r - 9 : r + 9, c - 9 : c + 9].mean() for c in middle] for r in middle])
    centre = numpy.array([[mask[r, c] for c in middle] for r in middle])
    return (share >= min(0.85, share.max())).ravel() & (share.max() > 0), ~centre.ravel()


def _job(job):
    return lesson(_net, *job)


def lessons(net, seeds, show=lambda done, total: None):
    """The lessons of every class and of the scenes for every seed: (class indices, lessons), in a
    fixed order."""
    jobs = [job for seed in seeds for job in
            [(index, seed) for index in range(CLASSES)]
            + [(NO_SKIN, SCENES * seed + turn) for turn in range(SCENES)]]
    out = []
    with ProcessPoolExecutor(os.cpu_count(), initializer=_start, initargs=(net,)) as pool:
        for found in pool.map(_job, jobs, chunksize=8):
            out.append(found)
            show(len(out), len(jobs))
    return numpy.array([index for index, _ in jobs]), out


def table(classes, taught):
    """Rows f64 [n, 1281] (the last column is the intercept), targets f64 [n, 7], weights [n], and
    the scale each feature was divided by."""
    drawings = sum(classes != NO_SKIN)
    first = numpy.stack([found.pooled[0] for found in taught])[classes != NO_SKIN]
    scale = numpy.maximum(first.std(axis=0), LEAST_SPREAD)
    views, counts = ([len(part) for part in parts] for parts in
                     zip(*((found.pooled, found.contrasts) for found in taught)))
    whole = numpy.concatenate([found.pooled for found in taught])
    beside = numpy.concatenate([found.contrasts for found in taught])
    rows = numpy.concatenate([
        numpy.hstack([whole / scale, numpy.ones((len(whole), 1))]),
        numpy.hstack([CONTRAST_SCALE * beside / scale, numpy.zeros((len(beside), 1))]),
    ])
    exact, any_class = numpy.eye(CLASSES), numpy.full((1, CLASSES), 1.0 / CLASSES)
    smooth = numpy.concatenate([exact * (1.0 - SMOOTHING) + SMOOTHING / CLASSES, any_class])
    targets = numpy.concatenate([smooth[numpy.repeat(classes, views)],
                                 exact[numpy.repeat(classes, counts)]])
    each_scene = SCENE_WEIGHT * drawings / max(len(taught) - drawings, 1)
    weights = numpy.where(classes == NO_SKIN, each_scene, 1.0)
    each = [numpy.full(count, CONTRAST_WEIGHT / max(count, 1)) for count in counts]
    weights = numpy.repeat(weights / views, views)
    return rows, targets, numpy.concatenate([weights, *each]), scale


def fit(rows, targets, weights, tolerance=1e-9, show=lambda step, gradient: None):
    """Multinomial logistic regression with an L2 penalty on all but the intercept: f64 [7, 1281].

    Newton's method, each step solved by conjugate gradients, until the gradient's norm is below
    `tolerance`: the minimum is one point, so the answer does not depend on the path to it. The
    gradients are preconditioned by the inverse of the curvature where all classes are as likely.
    """
    share = (weights / weights.sum())[:, None]
    penalty = numpy.full(rows.shape[1], PENALTY)
    penalty[-1] = 1e-6
    found = numpy.zeros((CLASSES, rows.shape[1]))
    ease = numpy.linalg.inv((rows * share).T @ rows / CLASSES + numpy.diag(penalty))

    def loss(at):
        logits = rows @ at.T
        top = logits.max(axis=1, keepdims=True)
        total = top + numpy.log(numpy.exp(logits - top).sum(axis=1, keepdims=True))
        return (share * (total - (logits * targets).sum(axis=1, keepdims=True))).sum() \
            + 0.5 * (penalty * at * at).sum()

    for step in range(100):
        p = gradcam.softmax(rows @ found.T)
        gradient = ((p - targets) * share).T @ rows + penalty * found
        size = numpy.sqrt((gradient**2).sum())
        show(step, size)
        if size < tolerance:
            return found

        def curve(along):
            moved = rows @ along.T
            bent = p * (moved - (p * moved).sum(axis=1, keepdims=True)) * share
            return bent.T @ rows + penalty * along

        move = _solve(curve, -gradient, ease, min(0.1, numpy.sqrt(size)) * size)
        before, slope, pace = loss(found), (gradient * move).sum(), 1.0
        while loss(found + pace * move) > before + 1e-4 * pace * slope and pace > 1e-6:
            pace /= 2.0
        found = found + pace * move
    raise ArithmeticError(f"the fit stopped at a gradient of {size:.1e}, not {tolerance:.1e}")


def _solve(curve, wanted, ease, tolerance, most=600):
    """Conjugate gradients for `curve(x) = wanted`, preconditioned by the matrix `ease`."""
    x = numpy.zeros_like(wanted)
    rest, along = wanted.copy(), wanted @ ease
    size = (rest * along).sum()
    for _ in range(most):
        bent = curve(along)
        pace = size / (along * bent).sum()
        x += pace * along
        rest = rest - pace * bent
        if numpy.sqrt((rest * rest).sum()) < tolerance:
            break
        eased = rest @ ease
        after = (rest * eased).sum()
        along = eased + after / size * along
        size = after
    return x


def weights(classes, taught, show_step):
    """Fits to the lessons: weight f64 [7, 1280] and bias f64 [7], both on the weight grid."""
    rows, targets, shares, scale = table(classes, taught)
    found = fit(rows, targets, shares, show=show_step)
    weight, bias = found[:, :-1] / scale, found[:, -1]
    weight, bias = weight - weight.mean(axis=0), bias - bias.mean()  # softmax sees no difference
    return tuple(numpy.rint(part / WEIGHT_GRID) * WEIGHT_GRID for part in (weight, bias))


def learn(net, seeds, show_lesson=lambda done, total: None, show_step=lambda step, size: None):
    """The head's weight f64 [7, 1280] and bias f64 [7], both on the weight grid."""
    classes, taught = lessons(net, seeds, show_lesson)
    weight, _ = weights(classes, taught, show_step)
    hard = [found.hardest(weight[index]) if len(found.contrasts) else found
            for index, found in zip(classes, taught)]
    return weights(classes, hard, show_step)
