"""Predicted peak memory of a training step and of a prediction, from the allocations of the algorithm (`models.chain`).

Counted is all that a step holds: weights, gradients and optimiser states, the input and what is made of it, states and
adjoint, every temporary of a layer, and the loss; not the libraries, the loader's samples on the host, and the
allocator's own losses. B batch, c raw channels, C channels, K classes, M = B * cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from models.arithmetic import FloatStates
from models.cost import layer_shapes
from models.pieces import rows_of_piece
from models.segmenter import Segmenter
from models.temporaries import SINGLE, Kept, LayerBytes, Ledger

Away = Literal["", "states", "volume"]
_TARGET, _INDEX = 2, 8  # int16 and int64


@dataclass(frozen=True)
class Workload:
    """What a segmenter is given at once.

    Attributes
    ----------
    sizes, batch
        Cells of the input along each axis, and samples at once.
    labelled
        Labelled cells of all of them; only they enter the loss.
    accumulates
        Whether the sum of earlier micro-batches' gradients, in int64, is held already.
    turns, away
        Slabs of these cells that take turns (`models.stream`), and what is not in the memory that is planned: the
        states that wait, or all that is as large as the volume.
    threads
        Of the CPU that does the work, of which one takes most; 0 for a GPU.
    """

    sizes: tuple[int, ...]
    batch: int = 1
    labelled: int = 0
    accumulates: bool = False
    optimiser: Literal["adam", "adamw", "sgd"] = "adamw"
    turns: int = 1
    away: Away = ""
    threads: int = 1

    @property
    def optimiser_states(self) -> int:
        """Numbers that the optimiser keeps of a weight: one for sgd, which has momentum."""
        return 1 if self.optimiser == "sgd" else 2

    @property
    def copies(self) -> int:
        """Numbers of a weight: itself, its gradient, the sum of gradients in int64, the optimiser's states."""
        return 4 + self.optimiser_states


def parameter_bytes(segmenter: Segmenter) -> int:
    """Return the bytes of all weights."""
    return SINGLE * sum(parameter.numel() for parameter in segmenter.parameters())


def state_bytes(segmenter: Segmenter, sizes: Sequence[int], batch: int = 1) -> int:
    """Return the bytes of one state between two layers."""
    network = segmenter.network
    cells = batch * math.prod(network.padded_sizes(sizes))
    return cells * network.channels * network.config.repeat * Kept.of(network.plan.arithmetic).stored


def waiting_bytes(segmenter: Segmenter, work: Workload, *, training: bool, pinned: bool = False) -> int:
    """Return the bytes of all states that take turns: X and D, and the adjoint's; PyTorch pins powers of two."""
    state, kept = state_bytes(segmenter, _turn(segmenter, work), work.batch), Kept.of(segmenter.network.plan.arithmetic)
    sizes = [state, state // kept.stored * SINGLE * training]
    return 2 * work.turns * sum(1 << (size - 1).bit_length() if pinned and size else size for size in sizes)


def training_peak(segmenter: Segmenter, work: Workload) -> int:
    """Predict the peak of a training step after the first, in bytes; a segmenter on the meta device is enough."""
    return training_ledgers(segmenter, work)[0].peak


def training_ledgers(segmenter: Segmenter, work: Workload) -> tuple[Ledger, Ledger]:
    """Book a training step; returns the ledger of the memory that is planned, and that of where the volume lies."""
    ledger, weights = Ledger(), parameter_bytes(segmenter)
    volume = Ledger() if work.away == "volume" else ledger
    ledger.hold((1 + work.optimiser_states) * weights)
    with ledger.holding(2 * weights if work.accumulates else 0):
        _step(segmenter, work, ledger, volume)
    # After the last backward pass: the sum beside the gradients, and a kernel's as float64 and int64.
    # The optimiser's own temporaries, when the sum has gone, are less.
    shapes = layer_shapes(segmenter.network, work.sizes)
    ledger.touch(2 * weights + 4 * SINGLE * max(shape.kernel for shape in shapes))
    return ledger, volume


def prediction_peak(segmenter: Segmenter, work: Workload) -> int:
    """Predict the peak of computing probabilities without gradients, in bytes."""
    return prediction_ledgers(segmenter, work)[0].peak


def prediction_ledgers(segmenter: Segmenter, work: Workload) -> tuple[Ledger, Ledger]:
    """Book a map, as `training_ledgers` does a step."""
    ledger = Ledger()
    volume = Ledger() if work.away == "volume" else ledger
    ledger.hold(parameter_bytes(segmenter))
    held, passing = _input(segmenter, work, volume)
    pair, out = _forward(segmenter, work, ledger, volume)
    volume.drop(held, passing)
    ledger.drop(pair)
    volume.touch(out)  # probabilities beside logits
    return ledger, volume


def stored_peak(segmenter: Segmenter, work: Workload) -> int:
    """Predict roughly the peak of the same network by plain autograd, which keeps the tensors of each layer."""
    kept, shapes = Kept.of(segmenter.network.plan.arithmetic), layer_shapes(segmenter.network, work.sizes)
    hidden = 1 if segmenter.config.network.activation == "relu" else 2  # ReLU is differentiated by its outcome
    stored = sum(shape.cells * (shape.channels + hidden * shape.rank) for shape in shapes) * work.batch * kept.force
    largest = max(shape.cells * shape.channels for shape in shapes) * work.batch * SINGLE
    # Beside what is stored: the newest state and its increment, and the gradient of each.
    return stored + 4 * largest + work.copies * parameter_bytes(segmenter)


def _input(segmenter: Segmenter, work: Workload, ledger: Ledger) -> tuple[int, int]:
    """Hold a raw input, normalise and pad it; returns its bytes with what the chain takes, and those that pass."""
    config, network = segmenter.config, segmenter.network
    raw = work.batch * config.channels * math.prod(work.sizes)
    ledger.hold(raw * SINGLE)
    missing = ledger.hold(raw)
    ledger.touch(2 * raw * SINGLE)
    taken = ledger.hold(raw * SINGLE)
    if config.validity:
        ledger.touch(4 * raw + 2 * raw * SINGLE)
        taken += ledger.hold(raw * SINGLE)
    ledger.drop(missing)
    grid = network.padded_sizes(work.sizes)
    if list(work.sizes) != grid:
        padded = work.batch * network.channels * math.prod(grid) * SINGLE
        ledger.touch(2 * padded)
        return raw * SINGLE + ledger.hold(padded), taken  # the caller holds what was padded until the chain returns
    return raw * SINGLE + taken, 0


def _turn(segmenter: Segmenter, work: Workload) -> tuple[int, ...]:
    first, *others = segmenter.network.padded_sizes(work.sizes)
    multiple = segmenter.network.multiple
    return (math.ceil(first // multiple / work.turns) * multiple, *others)


def _layers(segmenter: Segmenter, work: Workload, ledger: Ledger) -> list[LayerBytes]:
    sizes = _turn(segmenter, work) if work.turns > 1 else work.sizes
    return [LayerBytes(shape, work.batch, ledger, work.threads) for shape in layer_shapes(segmenter.network, sizes)]


def _forward(
    segmenter: Segmenter, work: Workload, ledger: Ledger, volume: Ledger, *, training: bool = False
) -> tuple[int, int]:
    """Run all layers forward, and hold what they keep for a backward pass; returns the bytes of states and result."""
    kept = Kept.of(segmenter.network.plan.arithmetic)
    whole, state = (state_bytes(segmenter, sizes, work.batch) for sizes in (work.sizes, _turn(segmenter, work)))
    pair = ledger.hold(4 * state if work.away else 2 * whole)
    if kept.grid:
        copies = 1 + (segmenter.network.channels > 1)  # one channel is repeated without a copy
        ledger.touch(state // kept.stored * copies * SINGLE - state)
    for layer in _layers(segmenter, work, ledger):
        with ledger.holding(layer.thin(kept) if work.turns > 1 else 0):  # that of the slab before
            layer.resample(kept)
            layer.hidden(kept)
            thin = ledger.hold(layer.thin(kept))  # z, and in its place the force
            ledger.hold(thin if training and layer.shape.keeps and work.turns == 1 else 0)
            layer.spread(kept)
            ledger.drop(thin)
            with ledger.holding(layer.spread_bytes(kept)):
                layer.advance(kept)
    cells = layer_shapes(segmenter.network, work.sizes)[-1].cells
    return pair, volume.hold(work.batch * cells * len(segmenter.classes) * SINGLE)


def _step(segmenter: Segmenter, work: Workload, ledger: Ledger, volume: Ledger) -> None:
    network, arithmetic = segmenter.network, segmenter.network.plan.arithmetic
    states, adjoint_kept = Kept.of(arithmetic), Kept.of(FloatStates(arithmetic.force_dtype))
    cells = work.batch * math.prod(segmenter.output_shape(work.sizes))
    target = volume.hold(cells * _TARGET)
    taken, passing = _input(segmenter, work, volume)
    pair, read = _forward(segmenter, work, ledger, volume, training=True)
    volume.drop(passing)
    volume.hold(cells)  # which cells are labelled
    chosen = work.labelled * len(segmenter.classes) * SINGLE
    indices = work.labelled * (len(work.sizes) + 1) * _INDEX
    volume.touch(indices + 3 * chosen)
    volume.hold(chosen + indices)
    volume.drop(read)
    # The gradient of the logits is scattered into zeros, then widened once for each axis that is cut.
    volume.touch(2 * read)
    gradient = volume.hold(read)
    adjoint = ledger.hold(pair // states.stored * SINGLE)
    turns, smooth = work.turns > 1, network.config.activation != "relu"
    for layer in reversed(_layers(segmenter, work, ledger)):
        both = layer.thin(states) + layer.thin(adjoint_kept)  # of the slab before, as are the gradients
        with ledger.holding((both + layer.shape.parameters * SINGLE) * turns):
            _layer_back(layer, states, adjoint_kept, kept=layer.shape.keeps and not turns, smooth=smooth)
        ledger.hold(layer.shape.parameters * SINGLE)
        layer.resample(states, back=True)
        layer.resample(adjoint_kept, back=True)
    first = network.channels * network.config.repeat
    device = "cpu" if work.threads else "cuda"
    piece = rows_of_piece(work.batch, _turn(segmenter, work), 4 * first * states.stored, device) * first
    ledger.touch(piece * (states.stored + 2 * SINGLE) + piece // network.config.repeat * states.stored)
    ledger.drop(pair, adjoint)
    volume.drop(target, taken, gradient)


def _layer_back(layer: LayerBytes, states: Kept, adjoint: Kept, *, kept: bool, smooth: bool) -> None:
    """Book a layer's step back, in the order of `leapfrog.read_back` and `step_back`."""
    ledger = layer.ledger
    thin, spread = layer.thin(states), layer.spread_bytes(states)
    if kept:
        ledger.drop(thin)
    else:
        layer.hidden(states)
    ledger.hold(thin)  # z, and in its place the force of the states
    layer.hidden(adjoint)
    ledger.hold(thin)  # w, and in its place the force of the adjoint
    ledger.touch(thin if smooth else 0)
    ledger.touch(0 if states.force == SINGLE else layer.shape.rank * layer.cells * SINGLE)
    for _ in range(2):
        layer.spread(states)
        ledger.hold(spread - thin)
    layer.weight_gradient(states)
    with ledger.holding(layer.shape.kernel * SINGLE):
        layer.weight_gradient(adjoint)
        layer.advance(states)
        layer.advance(adjoint)
    ledger.drop(2 * spread)
