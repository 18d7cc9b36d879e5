"""Response layers against the explicit weights W + diag(V z) W' of each example."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

import bestresponse as br
from bestresponse import InputError
from bestresponse.response import LSTM, Conv2d, Dropout, Embedding, Linear

N, H = 6, 3


def tokens():
    return torch.randint(5, (N, 4))


LAYERS = {
    "linear": (Linear, lambda: nn.Linear(4, 3), lambda: torch.randn(N, 4)),
    "linear, steps": (Linear, lambda: nn.Linear(4, 3, bias=False), lambda: torch.randn(N, 5, 4)),
    "conv": (Conv2d, lambda: nn.Conv2d(2, 4, 3, padding=1), lambda: torch.randn(N, 2, 5, 5)),
    "conv, odd": (
        Conv2d,
        lambda: nn.Conv2d(2, 4, (3, 2), 2, "valid", dilation=2, groups=2, bias=False),
        lambda: torch.randn(N, 2, 7, 7),
    ),
    "embedding": (Embedding, lambda: nn.Embedding(5, 3), tokens),
    "embedding, padded": (Embedding, lambda: nn.Embedding(5, 3, padding_idx=2), tokens),
    "lstm": (LSTM, lambda: nn.LSTM(4, 3, batch_first=True), lambda: torch.randn(N, 5, 4)),
    "lstm, deep": (
        LSTM,
        lambda: nn.LSTM(4, 3, num_layers=2, batch_first=True, bias=False),
        lambda: torch.randn(N, 5, 4),
    ),
}  # fmt: skip


def made(kind, gate_std=0.5):
    layer, plain, inputs = LAYERS[kind]
    return layer(plain(), H, gate_std), inputs()


def first(outputs):
    return outputs[0] if isinstance(outputs, tuple) else outputs


def test_ridge_responds_by_a_sigmoid_in_each_principal_component():
    x, y = torch.randn(40, 5), torch.randn(40)
    _, s, v = torch.linalg.svd(x, full_matrices=False)
    ordinary = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    for raw in (-2.0, 0.0, 3.0):
        penalized = x.T @ x / 40 + torch.eye(5) * torch.tensor(raw).exp()
        best = torch.linalg.solve(penalized, x.T @ y / 40)
        gate = torch.sigmoid(torch.log(s**2 / 40) - raw)
        torch.testing.assert_close(v @ best, gate * (v @ ordinary), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_gates_off_is_the_plain_layer_bit_for_bit(kind):
    layer, x = made(kind)
    assert torch.equal(first(layer(x)), first(copy.deepcopy(layer.plain)(x)))


@pytest.mark.parametrize("kind", LAYERS)
def test_each_example_sees_its_explicit_weights(kind):
    layer, x = made(kind)
    z = torch.randn(N, H)
    for i, row in enumerate(first(layer(x, z))):
        alone = functional_call(layer.plain, layer.explicit(z[i]), (x[i : i + 1],))
        torch.testing.assert_close(row, first(alone)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_equal_hyperparameters_are_one_for_the_batch(kind):
    layer, x = made(kind)
    z = torch.randn(1, H)
    together = first(layer(x, z))
    torch.testing.assert_close(first(layer(x, z.expand(N, H))), together, rtol=0, atol=1e-12)
    assert not torch.allclose(together, first(layer(x)))


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_are_those_of_the_explicit_weights(kind):
    layer, x = made(kind)
    z = torch.randn(1, H).requires_grad_()
    leaves = [z, *layer.parameters()]
    found = [
        torch.autograd.grad(first(layer(x, each)).square().sum(), leaves)
        for each in (z, z.expand(N, H))
    ]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", LAYERS)
def test_half_squares_are_the_mean_over_each_examples_own_weights(kind):
    layer, _ = made(kind)
    z, rates = torch.randn(N, H), torch.rand(N)
    wanted = (
        sum(
            0.5 * rate * sum(w.square().sum() for w in layer.explicit(row).values() if w.ndim > 1)
            for row, rate in zip(z, rates, strict=True)
        )
        / N
    )
    torch.testing.assert_close(layer.half_squares(z, rates), wanted)
    plain = sum(w.square().sum() for w in layer.plain.parameters() if w.ndim > 1)
    torch.testing.assert_close(layer.half_squares(None, rates[:1]), 0.5 * rates[0] * plain)


def test_squares_are_those_of_the_moved_weights():
    layer, _ = made("conv")
    sigma = torch.rand(H)
    still = layer.explicit(torch.zeros(H))
    moved = sum(
        (there - still[name]).square().sum()
        for column in torch.diag(sigma)
        for name, there in layer.explicit(column).items()
    )
    torch.testing.assert_close(layer.squares(sigma)[0], moved)


def test_lstm_takes_time_first_and_states():
    layer = LSTM(nn.LSTM(4, 3, num_layers=2), H, 0.5)
    x, z = torch.randn(5, N, 4), torch.randn(1, H)
    states = torch.randn(2, N, 3), torch.randn(2, N, 3)
    whole, steps = layer(x, states, z), layer(x, states, z.expand(N, H))
    torch.testing.assert_close(steps, whole, rtol=0, atol=1e-12)
    assert not torch.allclose(layer(x, z)[0], whole[0])


def test_padding_keeps_no_response():
    layer, _ = made("embedding, padded")
    padded = torch.full((N, 1), 2)
    assert layer(padded, torch.randn(N, H)).abs().max() == 0
    layer(torch.tensor([[0, 2]] * N), torch.randn(N, H)).sum().backward()
    assert layer.response["weight"].grad[2].abs().max() == 0


@pytest.mark.parametrize("batch_dim", [0, 1])
def test_rows_of_flattened_steps_find_their_example(batch_dim):
    steps = 4
    net = br.response.SelfTuning(
        nn.Linear(3, 2), br.hyper.Bounded(a=(0.0, 1.0, 0.5)), batch_dim=batch_dim
    )
    torch.nn.init.normal_(net.model.gate["weight"])
    shape = (N, steps, 3) if batch_dim == 0 else (steps, N, 3)
    x = torch.randn(shape)
    with net.perturbed(N):
        apart, flat = net(x), net(x.reshape(-1, 3))
    torch.testing.assert_close(flat, apart.reshape(-1, 2), rtol=0, atol=1e-12)


def test_wrong_shapes_are_refused():
    layer, x = made("linear")
    with pytest.raises(InputError, match=r"examples as \(6,\) but 4 were drawn"):
        layer(x, torch.zeros(4, H))
    with pytest.raises(InputError, match=r"must be \(examples, 3\)"):
        layer(x, torch.zeros(6, 2))
    with pytest.raises(InputError, match="nothing to respond to"):
        Linear(nn.Linear(2, 2), 0)
    with pytest.raises(InputError, match="pad with zeros"):
        Conv2d(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), H)
    with pytest.raises(InputError, match="max_norm"):
        Embedding(nn.Embedding(3, 2, max_norm=1.0), H)
    with pytest.raises(InputError, match="two directions"):
        LSTM(nn.LSTM(3, 2, bidirectional=True), H)
    with pytest.raises(InputError, match="three dimensions"):
        LSTM(nn.LSTM(3, 2), H)(torch.zeros(4, 3))
    with pytest.raises(InputError, match="rate of 1"):
        Dropout(1.0)
    with pytest.raises(InputError, match="dims_shared has 2"):
        Dropout(0.5, dims_shared=(2,))(torch.ones(3, 4))
