"""Random networks, small and valid, for property tests of cost and memory."""

from hypothesis import strategies as st

from models.config import NetworkConfig


@st.composite
def layer_texts(draw: st.DrawFn) -> str:
    """Draw layers that go down as often as they come up again, in the compact notation."""
    levels = draw(st.integers(0, 2))
    marks = [""] + ["d"] * levels + ["u"] * levels
    forms = st.sampled_from(["", "", "p", "g2"])
    return " ".join(f"{mark}{2 * draw(st.integers(1, 4))}{draw(forms)}*{draw(st.integers(1, 2))}" for mark in marks)


@st.composite
def network_configs(draw: st.DrawFn, boundaries: tuple[str, ...] = ("zeros", "reflect", "periodic")) -> NetworkConfig:
    """Draw a network of any boundary, coarsening and arithmetic."""
    force = draw(st.sampled_from(["float32", "bfloat16", "float16"]))
    states = draw(st.sampled_from(["auto", "float", "exact"]))
    exact = states == "exact" or (states == "auto" and force != "float32")
    return NetworkConfig(
        layers=draw(layer_texts()),
        repeat=draw(st.sampled_from([1, 2, 6])),
        activation=draw(st.sampled_from(["relu", "softplus", "tanh"])),
        boundary=draw(st.sampled_from(boundaries)),  # type: ignore[arg-type]
        coarsening=draw(st.sampled_from(["haar", "learned"])),
        force_dtype=force,  # type: ignore[arg-type]
        states=states,  # type: ignore[arg-type]
        state_bits=draw(st.sampled_from([16, 32])) if exact else 32,  # type: ignore[arg-type]
        grid_bits=8 if exact else None,
        kept_hidden=draw(st.sampled_from([0.0, 0.5, 100.0])),
    )
