"""Raw data in, logits out: normalisation, read-out, export, loss."""

import io
import math

import pytest
import torch
from torch import nn

from models.config import ConfigError, NetworkConfig, SegmenterConfig
from models.losses import masked_cross_entropy
from models.segmenter import Segmenter


def segmenter(
    layers: str = "3 d4 u3",
    *,
    space: int = 2,
    channels: int = 3,
    classes: int = 2,
    validity: bool = False,
    read_slice: dict[int, int] | None = None,
    **settings: object,
) -> Segmenter:
    torch.manual_seed(0)
    names = [f"class {number}" for number in range(classes)]
    network = NetworkConfig(layers=layers, **settings)  # type: ignore[arg-type]
    config = SegmenterConfig(network, space, channels, names, validity, read_slice or {})
    ones = [1] * space
    return Segmenter(config, torch.arange(channels).view(-1, *ones).float(), torch.full((channels, *ones), 2.0))


def test_no_data_becomes_the_mean_and_is_told_by_validity_channels() -> None:
    model = segmenter(channels=2, validity=True)
    raw = torch.full((1, 2, 2, 2), 3.0)
    raw[0, 1, 0, 0] = math.nan
    x_BcN = model.normalise(raw)
    assert x_BcN[0, :, 1, 1].tolist() == [1.5, 1.0, 1.0, 1.0]
    assert x_BcN[0, :, 0, 0].tolist() == [1.5, 0.0, 1.0, 0.0]
    assert torch.isfinite(model(raw)).all()


def test_probabilities_add_up() -> None:
    model = segmenter(classes=3)
    torch.testing.assert_close(model.probabilities(torch.randn(2, 3, 9, 7)).sum(1), torch.ones(2, 9, 7))


@pytest.mark.parametrize(
    ("layers", "factor", "shape"),
    [("3 d4 u3", 1, (9, 13)), ("3 d4 d4", 4, (3, 4)), ("3 u4", 0.5, (18, 26))],
)
def test_the_output_is_coarser_or_finer(layers: str, factor: float, shape: tuple[int, int]) -> None:
    model = segmenter(layers, channels=8)
    assert model.factor == factor
    assert model.output_shape((9, 13)) == shape
    assert model(torch.randn(2, 8, 9, 13)).shape == (2, 2, *shape)


def test_a_slice_is_read_where_an_axis_goes() -> None:
    whole = segmenter("3 d4", space=3, channels=1, repeat=2)
    sliced = segmenter("3 d4", space=3, channels=1, repeat=2, read_slice={1: 5})
    raw = torch.randn(1, 1, 6, 9, 4)
    assert sliced.output_shape((6, 9, 4)) == (3, 2)
    assert torch.equal(sliced(raw), whole(raw)[:, :, :, 2])


def test_channels_are_read_by_number() -> None:
    first, chosen = segmenter(channels=4), segmenter(channels=4, read_channels=[3, 1])
    raw = torch.randn(1, 4, 8, 8)
    assert torch.equal(chosen(raw), first.network(first.normalise(raw))[:, [3, 1]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"channels": 3, "classes": 8, "repeat": 2},
            r"ends with 6 channels, too few for 8 classes; set network.repeat to 3 or more \(it is 2\)",
        ),
        (
            {"read_channels": [0, 5]},
            r"network.read_channels is \[0, 5\]; name 2 different channels, one for each class, from 0 to 2",
        ),
    ],
)
def test_bad_read_outs_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        segmenter(**settings)  # type: ignore[arg-type]


def test_data_that_do_not_fit_are_refused() -> None:
    model = segmenter(read_slice={0: 7})
    with pytest.raises(
        ConfigError, match=r"takes \[batch, 3 channels, 2 space axes\]; the data has shape \[1, 2, 8, 8\]"
    ):
        model(torch.randn(1, 2, 8, 8))
    with pytest.raises(ConfigError, match=r"read at cell 7 of space axis 0, which has 6 cells; set data\.read_slice"):
        model.output_shape((6, 8))
    with pytest.raises(ConfigError, match=r"mean has shape \[2, 1, 1\]; it must broadcast against 3 channels"):
        Segmenter(model.config, torch.zeros(2, 1, 1), torch.ones(3, 1, 1))


def test_it_is_laid_out_on_meta_and_reloads() -> None:
    model = segmenter()
    with torch.device("meta"):
        ghost = Segmenter(model.config, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    assert ghost.output_shape((145, 145)) == (145, 145)
    twin = Segmenter(SegmenterConfig.from_json(model.config.to_json()), torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    twin.load_state_dict(model.state_dict())
    raw = torch.randn(1, 3, 8, 8)
    assert torch.equal(twin(raw), model(raw))


class Probabilities(nn.Module):
    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        return self.model.probabilities(raw)


@pytest.mark.parametrize(
    ("space", "layers", "read_slice", "padding"),
    [(1, "3 d4 d4 u3", {}, "zeros"), (2, "3 d9 d4 u3", {1: 2}, "reflect"), (3, "3 d4 u3", {2: 3}, "reflect")],
)
def test_an_exported_program_serves_other_sizes(
    space: int, layers: str, read_slice: dict[int, int], padding: str
) -> None:
    model = segmenter(layers, space=space, repeat=2, validity=True, read_slice=read_slice, padding=padding).eval()
    example = torch.randn(2, 3, *(9, 10, 7)[:space])
    dynamic = {axis: torch.export.Dim.DYNAMIC for axis in range(space + 2) if axis != 1}
    program = torch.export.export(Probabilities(model), (example,), dynamic_shapes=(dynamic,))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    served = torch.export.load(file).module()
    for batch, sizes in ((1, (16, 8, 12)), (3, (21, 5, 9))):
        raw = torch.randn(batch, 3, *sizes[:space])
        raw[0, 0, 1] = math.nan
        with torch.no_grad():
            torch.testing.assert_close(served(raw), model.probabilities(raw), rtol=0, atol=1e-6)


def test_the_loss_sees_labelled_cells_only() -> None:
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    target = torch.full((2, 4, 5), -1)
    target[0, 1, 2], target[1, 3, 4], target[1, 0, 0] = 2, 0, 0
    weights = torch.tensor([0.5, 1.0, 4.0])
    loss, weight = masked_cross_entropy(logits, target, weights)
    assert weight.item() == 5.0
    expected = nn.functional.cross_entropy(logits, target, weight=weights, ignore_index=-1)
    torch.testing.assert_close(loss / weight, expected)
    loss.backward()
    assert logits.grad is not None
    assert ((logits.grad != 0).any(1) == (target >= 0)).all()
    plain, count = masked_cross_entropy(logits.detach(), target)
    assert count.item() == 3.0
    torch.testing.assert_close(plain / 3, nn.functional.cross_entropy(logits, target, ignore_index=-1).detach())


def test_nothing_labelled_costs_nothing() -> None:
    logits = torch.randn(1, 3, 4, requires_grad=True)
    loss, weight = masked_cross_entropy(logits, torch.full((1, 4), -1), torch.ones(3))
    loss.backward()
    assert (loss.item(), weight.item()) == (0.0, 0.0)
    assert logits.grad is not None
    assert not logits.grad.any()
    with pytest.raises(ValueError, match=r"logits \[1, 3, 4\] and target \[1, 5\] do not fit together"):
        masked_cross_entropy(logits, torch.zeros(1, 5, dtype=torch.long))
