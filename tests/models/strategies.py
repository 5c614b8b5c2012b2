"""Random architectures, for hypothesis, and networks on which every term of the gradient matters."""

from typing import Any

import torch
from hypothesis import strategies as st

from models.config import NetworkConfig
from models.network import TelegraphNetwork


def build(
    space: int,
    layers: str,
    *,
    channels: int = 2,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    step: float | list[float] = 0.6,
    init_gain: float = 4.0,
    **settings: Any,
) -> TelegraphNetwork:
    """A network with strong forces, biases and angles away from their start."""
    torch.manual_seed(seed)
    config = NetworkConfig(layers=layers, step=step, init_gain=init_gain, **settings)
    network = TelegraphNetwork(config, space, channels).to(dtype)
    with torch.no_grad():
        for bias in network.biases:
            bias.normal_(std=0.3)
        for angle in network.angles.values():
            angle.normal_(std=0.3)
    return network


@st.composite
def networks(
    draw: st.DrawFn,
    states: tuple[str, ...] = ("float",),
    boundaries: tuple[str, ...] = ("zeros", "reflect", "periodic"),
    **fixed: Any,
) -> TelegraphNetwork:
    """Any network that fits a small grid: form of each layer, levels, boundary, coarsening, steps, states.

    `fixed` holds further settings of the network, or strategies that they are drawn from.
    """
    space = draw(st.integers(1, 3), label="space")
    channels, repeat = draw(st.integers(1, 6), label="channels"), draw(st.integers(1, 3), label="repeat")
    wide, level, tokens = channels * repeat, 0, []
    for _ in range(draw(st.integers(1, 5), label="depth")):
        moves = ["", "d"] if level < (2 if space < 3 else 1) else [""]
        mark = draw(st.sampled_from(moves + (["u"] if level else [])))
        level += {"d": 1, "u": -1, "": 0}[mark]
        wide = {"d": wide * 2**space, "u": wide // 2**space, "": wide}[mark]
        form = draw(st.sampled_from(["", "", "p", "g"]))
        groups = draw(st.sampled_from([g for g in range(1, 7) if wide % g == 0])) if form == "g" else 1
        rank = groups * draw(st.integers(1, 6 if groups > 1 or space == 3 else 24))
        tokens.append(f"{mark}{rank}{f'g{groups}' if form == 'g' else form}")
    step: float | list[float] = 0.6
    if draw(st.booleans(), label="a step for each layer"):
        step = [draw(st.sampled_from([0.2, 0.5, 0.7])) for _ in tokens]
    return build(
        space,
        " ".join(tokens),
        channels=channels,
        repeat=repeat,
        step=step,
        kernel=draw(st.sampled_from([1, 3, 5]), label="kernel"),
        activation=draw(st.sampled_from(["relu", "softplus", "tanh"]), label="activation"),
        boundary=draw(st.sampled_from(boundaries), label="boundary"),
        coarsening=draw(st.sampled_from(["haar", "learned"]), label="coarsening"),
        states=draw(st.sampled_from(states), label="states"),
        kept_hidden=draw(st.sampled_from([0.0, 0.5, 100.0]), label="kept"),
        **{
            name: draw(value, label=name) if isinstance(value, st.SearchStrategy) else value
            for name, value in fixed.items()
        },
    )


@st.composite
def inputs(draw: st.DrawFn, network: TelegraphNetwork) -> torch.Tensor:
    """A double-precision input that a network accepts without padding."""
    sizes = [4 * draw(st.integers(1, 3 if network.space < 3 else 2)) for _ in range(network.space)]
    return torch.randn(draw(st.integers(1, 2)), network.channels, *sizes, dtype=torch.float64)
