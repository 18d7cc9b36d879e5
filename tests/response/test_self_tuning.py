"""`SelfTuning`: what it converts, what its steps touch, what it refuses."""

import copy
import io
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse import InputError
from bestresponse.response import LSTM, Dropout, Embedding, SelfTuning


class ConvNet(nn.Module):
    """With everything that a conversion meets: dropout of both kinds, a norm, shared layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.drop2d = nn.Dropout2d(0.3)
        self.body = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.2))
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.norm(self.drop2d(self.conv(x)))), 2)
        return self.out(self.body(x.flatten(1)))


DROPOUT = {"drop2d": "low", "body.2": "high", "out": "low"}


def hypers():
    return br.hyper.Bounded(low=(0.0, 0.9, 0.1), high=(0.0, 0.9, 0.5))


def net_of(centred=False, model=None, dropout=DROPOUT, **settings):
    net = SelfTuning(model or ConvNet(), hypers(), dropout, centred=centred, **settings)
    with torch.no_grad():
        for parameter in net.responses():  # a response that can be seen
            parameter.normal_(std=0.3)
    return net


def batch(n=5):
    return torch.randn(n, 1, 6, 6), torch.randint(3, (n,))


def test_it_says_what_it_converted_and_leaves_the_model_alone():
    model = ConvNet()
    before = copy.deepcopy(model.state_dict())
    net = SelfTuning(model, hypers(), DROPOUT)
    assert net.converted == ("conv", "body.0", "out") and net.unconverted == ("norm",)
    assert type(model.conv) is nn.Conv2d and not model.out._forward_pre_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    chosen = SelfTuning(model, hypers(), layers=["out"])
    assert chosen.converted == ("out",) and type(chosen.model.conv) is nn.Conv2d


def test_hyperparameters_and_scales_are_no_weights():
    net = net_of()
    assert not {*net.hyper.parameters(), *net.scales.parameters()} & {*net.parameters()}
    assert {*net.elementary()} | {*net.responses()} == {*net.parameters()}
    assert not {*net.elementary()} & {*net.responses()}
    assert sum(p.numel() for p in net.elementary()) == sum(
        p.numel() for p in ConvNet().parameters()
    )


@pytest.mark.parametrize("training", [False, True])
def test_gates_off_is_the_plain_network_bit_for_bit(training):
    model = ConvNet().train(training)
    hyper = br.hyper.Bounded(unused=(0.0, 1.0, 0.5))
    net, (x, _) = SelfTuning(model, hyper, centred=True), batch()
    states = torch.get_rng_state()
    there = net(x)
    torch.set_rng_state(states)
    assert torch.equal(there, model(x))


@pytest.mark.parametrize("centred", [False, True])
def test_freezing_gives_the_same_outputs_and_rates(centred):
    net, (x, _) = net_of(centred).eval(), batch()
    net.hyper.set(low=0.25, high=0.6)
    frozen = net.freeze()
    torch.testing.assert_close(frozen(x), net(x), rtol=0, atol=1e-12)
    assert {type(m) for m in frozen.modules()} <= {
        ConvNet, nn.Conv2d, nn.GroupNorm, nn.Sequential, nn.Linear, nn.ReLU, Dropout
    }  # fmt: skip
    rates = {name: m.p for name, m in frozen.named_modules() if isinstance(m, Dropout)}
    assert {name: round(rate, 6) for name, rate in rates.items()} == {
        "drop2d": 0.25, "body.2": 0.6, "out.input_dropout": 0.25
    }  # fmt: skip
    assert {*frozen.state_dict()} == {*ConvNet().state_dict()}
    ours = {*net.parameters()}
    assert not any(p in ours for p in frozen.parameters())
    x = torch.ones(4000, 8)
    dropped = frozen.train().out
    torch.nn.init.eye_(dropped.weight)
    share = (dropped(x) == dropped.bias).double().mean().item()
    assert share == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("centred", [False, True])
def test_best_response_is_what_the_network_runs_with(centred):
    net, (x, _) = net_of(centred).eval(), batch()
    frozen = net.freeze()
    weights = net.best_response()
    assert [*weights] == [name for name, _ in frozen.named_parameters()]
    torch.testing.assert_close(dict(frozen.named_parameters()), weights, rtol=0, atol=1e-12)
    with net.perturbed(1):
        z = net._slot.draw.gates[0]
        there = net(x)
    at = z + net._points.live().detach() if centred else z
    moved = net.best_response({"raw.low": at[0], "raw.high": at[1]})
    wanted = torch.func.functional_call(frozen, {n: w.detach() for n, w in moved.items()}, (x,))
    torch.testing.assert_close(there, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("centred", [False, True])
def test_the_validation_step_touches_hyperparameters_and_scales_only(centred):
    net, (x, y) = net_of(centred), batch()
    net.validation_loss(F.cross_entropy, x, y).backward()
    assert all(p.grad is None for p in net.parameters())
    assert all(p.requires_grad for p in net.parameters()) and net.model.body[2].training
    for parameter in (*net.hyper.parameters(), *net.scales.parameters()):
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("centred", [False, True])
def test_the_training_step_touches_weights_only(centred):
    net, (x, y) = net_of(centred), batch()
    net.training_loss(F.cross_entropy, x, y).backward()
    assert all(p.grad is not None for p in net.parameters())
    for parameter in (*net.hyper.parameters(), *net.scales.parameters()):
        assert parameter.grad is None  # not even through masks


@pytest.mark.parametrize("centred", [False, True])
def test_the_validation_gradient_is_that_of_explicit_weights(centred):
    """Against differentiating the plain network at best_response(λ + σε), an example at a time."""
    net, (x, y) = net_of(centred), batch()
    states = torch.get_rng_state()
    net.validation_loss(F.cross_entropy, x, y, entropy=0.1).backward()
    torch.set_rng_state(states)
    noise = torch.randn(len(x), 2)
    names = [*net.hyper.raws()]
    raws = [net.hyper.raw[n].detach().clone().requires_grad_() for n in names]
    scales = [net.scales.raw[n].detach().clone().requires_grad_() for n in names]
    frozen, losses = net.freeze(), []
    for i in range(len(x)):
        at = {
            name: raw + F.softplus(scale) * noise[i, k]
            for k, (name, raw, scale) in enumerate(zip(names, raws, scales, strict=True))
        }
        outputs = torch.func.functional_call(frozen, net.best_response(at), (x[i : i + 1],))
        losses.append(F.cross_entropy(outputs, y[i : i + 1]))
    entropy = sum(torch.log(F.softplus(s) * math.sqrt(2 * math.pi * math.e)) for s in scales)
    (torch.stack(losses).mean() - 0.1 * entropy).backward()
    for name, raw, scale in zip(names, raws, scales, strict=True):
        torch.testing.assert_close(net.hyper.raw[name].grad, raw.grad, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(net.scales.raw[name].grad, scale.grad, rtol=1e-9, atol=1e-12)


def test_the_two_objectives_of_a_centred_network_do_not_mix():
    net, (x, y) = net_of(centred=True, dropout={}, model=ConvNet().eval()), batch()
    F.cross_entropy(net(x), y).backward()
    general = [p.grad.clone() for p in net.elementary()]
    assert all(p.grad is None for p in net.responses())
    net.zero_grad()
    states = torch.get_rng_state()
    with net.perturbed(len(x)):
        F.cross_entropy(net.linearized(x), y).backward()
    assert all(p.grad is None for p in net.elementary())
    response = [p.grad.clone() for p in net.responses()]
    net.zero_grad()
    torch.set_rng_state(states)
    net.training_loss(F.cross_entropy, x, y).backward()
    for parameter, wanted in zip(net.elementary(), general, strict=True):
        torch.testing.assert_close(parameter.grad, wanted)
    for parameter, wanted in zip(net.responses(), response, strict=True):
        torch.testing.assert_close(parameter.grad, wanted)


def test_linearized_outputs_are_the_tangent_of_the_network():
    """Against a central difference in the gates, with the network's dropout off."""
    net, (x, _) = net_of(centred=True).eval(), batch()
    with net.perturbed(len(x)) as draw:
        linear = net.linearized(x)
        moved = []
        for step in (1e-6, -1e-6):
            with net._slot.holding(draw.at(step * draw.gates)):
                moved.append(net(x))
    wanted = net(x) + (moved[0] - moved[1]) / 2e-6
    torch.testing.assert_close(linear, wanted, rtol=0, atol=1e-8)


def test_both_ways_of_linearizing_agree_with_their_gradients():
    net, (x, y) = net_of(centred=True).eval(), batch()
    found = []
    with net.perturbed(len(x)):
        for forward in (True, False):
            net._forward_mode = forward
            outputs = net.linearized(x)
            slopes = torch.autograd.grad(F.cross_entropy(outputs, y), net.responses())
            found.append((outputs, *slopes))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


class Language(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.rnn = kind(6, 6)
        self.drop = Dropout(dims_shared=(0,))
        self.out = nn.Linear(6, 7)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        return self.out(self.drop(self.rnn(self.embed(tokens))[0]))


WORDS = {"embed": "low", "rnn": "high", "drop": "high"}


def test_a_language_model_keeps_its_ties_and_shares_its_masks():
    net = net_of(model=Language(), dropout=WORDS, batch_dim=1)
    assert net.converted == ("embed", "rnn", "out")
    assert net.model.out.plain.weight is net.model.embed.plain.weight
    assert isinstance(net.model.rnn, LSTM) and isinstance(net.model.embed, Embedding)
    assert net.shared == {"low", "high"}
    tokens = torch.randint(7, (5, 3))
    with net.perturbed(3) as drawn:
        assert (drawn["high"] == drawn["high"][0]).all()
        assert net(tokens).shape == (5, 3, 7)
    torch.testing.assert_close(net.eval().freeze()(tokens), net(tokens), rtol=0, atol=1e-12)
    centred = net_of(centred=True, model=Language(), dropout=WORDS, batch_dim=1)
    frozen = centred.freeze()
    assert frozen.out.weight is frozen.embed.weight


def test_a_word_is_dropped_everywhere_at_once():
    net = net_of(model=Language(), dropout={"embed": "high"}, batch_dim=1)
    net.hyper.set(high=0.5)
    tokens = torch.randint(7, (50, 3))
    rows = net.model.embed(tokens)
    gone = {int(t) for t in tokens[(rows == 0).all(-1)]}
    kept = {int(t) for t in tokens[(rows != 0).any(-1)]}
    assert gone and kept and not gone & kept
    full = net.model.embed.eval()(tokens)
    alive = (rows != 0).any(-1)
    torch.testing.assert_close(rows[alive], 2 * full[alive])


def test_recurrent_weights_and_their_response_lose_the_same_entries():
    net = net_of(model=Language(), dropout={"rnn": "high"}, batch_dim=1)
    x = torch.randn(5, 3, 6)
    states = torch.get_rng_state()
    with net.perturbed(1):
        z = net._slot.draw.gates
        torch.set_rng_state(states)
        whole = net.model.rnn(x, z)[0]
        torch.set_rng_state(states)
        steps = net.model.rnn(x, z.expand(3, 2))[0]
    torch.testing.assert_close(steps, whole, rtol=0, atol=1e-12)
    assert not torch.allclose(whole, net.model.rnn.eval()(x, z)[0])


def test_a_response_lstm_has_a_forward_derivative_in_every_precision():
    for dtype in (torch.float64, torch.float32):
        net = net_of(centred=True, model=Language().to(dtype), dropout=WORDS, batch_dim=1).eval()
        tokens = torch.randint(7, (5, 3))
        with net.perturbed(1):
            one_way = net.linearized(tokens)
            assert net._forward_mode
            net._forward_mode = False
            torch.testing.assert_close(net.linearized(tokens), one_way)


def test_what_has_no_forward_derivative_goes_two_passes_back():
    """PyTorch's own LSTM in float32, left plain behind a layer that responds."""
    model = Language().float()
    net = SelfTuning(model, hypers(), layers=["embed", "out"], centred=True, batch_dim=1).eval()
    with torch.no_grad():
        for parameter in net.responses():
            parameter.normal_()
    tokens = torch.randint(7, (5, 3))
    with net.perturbed(3) as draw:
        linear = net.linearized(tokens)
        assert not net._forward_mode
        net.double()
        moved = []
        for step in (1e-5, -1e-5):
            with net._slot.holding(draw.at(step * draw.gates)):
                moved.append(net(tokens))
    wanted = net(tokens) + (moved[0] - moved[1]) / 2e-5
    torch.testing.assert_close(linear.double(), wanted, rtol=0, atol=1e-5)


def test_rates_are_each_examples_own():
    net = net_of(model=nn.Sequential(nn.Linear(2, 4000), nn.Dropout()), dropout={"1": "low"})
    with net.perturbed(3) as drawn:
        y = net.model[1](torch.ones(3, 4000))
    for row, rate in zip(y, drawn["low"], strict=True):
        assert (row == 0).double().mean().item() == pytest.approx(rate.item(), abs=0.03)
        torch.testing.assert_close(row.max(), 1 / (1 - rate))


def test_channels_are_dropped_whole():
    net = net_of()
    with net.perturbed(5):
        maps = net.model.drop2d(torch.ones(5, 40, 3, 3)).flatten(2)
    assert (maps == maps[:, :, :1]).all() and {0.0} < {*maps.flatten().tolist()}


def test_draws_have_the_learned_spread():
    net = net_of(sigma={"low": 0.1, "high": 2.0}, shared=["high"])
    raw = torch.stack([*net.hyper.raws().values()]).detach()
    with net.perturbed(20000):
        gates = net._slot.draw.gates - raw
    assert gates[:, 0].std().item() == pytest.approx(0.1, rel=0.03)
    assert (gates[:, 1] == gates[0, 1]).all() and gates[0, 1] != 0
    assert net.entropy().item() == pytest.approx(math.log(0.2 * 2 * math.pi * math.e))


@pytest.mark.parametrize("centred", [False, True])
def test_the_loss_finds_the_values_that_the_outputs_are_for(centred):
    net, seen = net_of(centred), []
    assert "low" in net.values and "other" not in net.values

    def loss(outputs, labels):
        seen.append(net.values["high"])
        return F.cross_entropy(outputs, labels)

    net.training_loss(loss, *batch(4))
    *plain, drawn = seen
    assert len(plain) == centred and all(rest.tolist() == [0.5] for rest in plain)
    assert len(drawn.unique()) == 4
    with net.perturbed(3) as held:
        assert net.values is held
    assert net.values["high"].tolist() == [0.5]


def test_discrete_values_are_floored_where_they_are_read_and_raw_in_the_gates():
    hyper = br.hyper.Bounded(holes=(br.hyper.Integers(0, 3), 1))
    net = SelfTuning(nn.Linear(2, 1), hyper, sigma=2.0)
    with net.perturbed(4000) as drawn:
        raw = net._slot.draw.gates[:, 0]
        assert torch.equal(drawn["holes"], torch.floor(4 * torch.sigmoid(raw)))
        assert {*drawn["holes"].tolist()} == {0.0, 1.0, 2.0, 3.0} and len(raw.unique()) == 4000
    with net.tuning(3):
        net(torch.ones(3, 2)).sum().backward()
    assert hyper.raw["holes"].grad.abs() > 0


def test_frozen_scales_mean_no_noise_in_validation():
    net, (x, y) = net_of(), batch()
    net.scales.requires_grad_(False)
    with net.tuning(5):
        loss = F.cross_entropy(net(x), y)
    torch.testing.assert_close(loss, F.cross_entropy(net.eval()(x), y), rtol=0, atol=1e-12)
    loss.backward()
    assert all(raw.grad.abs() > 0 for raw in net.hyper.parameters())


def test_copies_and_states_go_on_alone():
    net, (x, _) = net_of().eval(), batch()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for p in (*net.parameters(), *net.hyper.parameters()):
            p.add_(1.0)
    assert not torch.allclose(twin(x), net(x))
    file = io.BytesIO()
    torch.save([m.state_dict() for m in (net, net.hyper, net.scales)], file)
    file.seek(0)
    for module, state in zip((twin, twin.hyper, twin.scales), torch.load(file), strict=True):
        module.load_state_dict(state)
    assert torch.equal(twin(x), net(x))


def test_bad_input_is_refused_in_a_sentence():
    model, hyper = ConvNet(), hypers()
    for sigma in (0.0, -1.0, {"low": 0.5, "high": 0.0}):
        with pytest.raises(InputError, match="must be positive"):
            SelfTuning(model, hyper, sigma=sigma)
    with pytest.raises(InputError, match="one for each of them"):
        SelfTuning(model, hyper, sigma={"low": 0.5})
    with pytest.raises(InputError, match="no layer that can be converted"):
        SelfTuning(nn.Sequential(nn.Conv1d(1, 1, 1)), hyper)
    with pytest.raises(InputError, match="'norm' is a GroupNorm, which has no response"):
        SelfTuning(model, hyper, layers=["norm"])
    with pytest.raises(InputError, match="no layer 'fc9'"):
        SelfTuning(model, hyper, {"fc9": "low"})
    with pytest.raises(InputError, match="no hyperparameter 'rate'"):
        SelfTuning(model, hyper, {"out": "rate"})
    with pytest.raises(InputError, match="no hyperparameter 'rate'"):
        SelfTuning(model, hyper, shared=["rate"])
    with pytest.raises(InputError, match="which nothing can be dropped of"):
        SelfTuning(model, hyper, {"norm": "low"})
    with pytest.raises(InputError, match="one number"):
        SelfTuning(model, br.hyper.Bounded(a=(0.0, 1.0, torch.full((3,), 0.5))), {"out": "a"})
    with pytest.raises(InputError, match=r"give br\.hyper\.Bounded"):
        SelfTuning(model, nn.Linear(1, 1))
    with pytest.raises(InputError, match="outside of its open range"):
        br.hyper.Bounded(a=(0.0, 0.5, 0.6))
    with pytest.raises(InputError, match="leaves nothing to choose"):
        br.hyper.Integers(3, 3)
    with pytest.raises(InputError, match="none of the whole numbers 0 to 3"):
        br.hyper.Bounded(a=(br.hyper.Integers(0, 3), 4))
    net = SelfTuning(model, hyper)
    with pytest.raises(InputError, match="perturbed centred network"):
        net.linearized(batch()[0])
    with pytest.raises(InputError, match="draws nothing"), net.perturbed(0):
        pass
    with net.perturbed(1) as drawn, pytest.raises(InputError, match="no hyperparameter 'rate'"):
        drawn["rate"]


def test_hyperparameters_that_nothing_reads_are_refused():
    net, (x, y) = SelfTuning(ConvNet(), hypers(), {"out": "low"}), batch()
    net.training_loss(F.cross_entropy, x, y)
    with pytest.raises(InputError, match="No layer and no loss reads 'high'"):
        net.validation_loss(F.cross_entropy, x, y)
    net.training_loss(F.cross_entropy, x, y, augment=lambda x, drawn: x * drawn["high"].mean())
    net.validation_loss(F.cross_entropy, x, y)


def test_batch_norm_is_warned_of():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with pytest.warns(UserWarning, match="recalibrate them in the end"):
        net = SelfTuning(model, br.hyper.Bounded(a=(0.0, 1.0, 0.5)), centred=True)
    with warnings.catch_warnings(), net.perturbed(4):
        net.linearized(torch.randn(4, 2)).sum().backward()
    torch.optim.swa_utils.update_bn([torch.ones(4, 2)], plain := net.freeze())
    assert plain[1].running_var.abs().max() < 1e-12
