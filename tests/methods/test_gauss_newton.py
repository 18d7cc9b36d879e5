"""`GaussNewton` in a nested problem: penalty, gradient, mixed product, and what is refused."""

import collections

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse._nested import next_problem
from bestresponse.methods._curvature import cut, inner_at
from checks import assert_same, relative_error, snapshot
from curvatures import Case, cross_entropy, make


def flat(partial):
    return {name: leaf for name, leaf in partial.items() if leaf is not None}


class Problem:
    """A network with decays, example weights, and a scale of its inputs: λ in each of the parts."""

    def __init__(self, kind="mlp", parts=("decay", "weights", "scale"), solver=None):
        self.model, (x, y) = make(kind)
        self.batch = (x, y, torch.arange(len(y)))
        model = self.model
        decay = br.hyper.WeightDecay(model, per="weight", init=0.2, biases=True)
        weights = br.hyper.ExampleWeights(len(y))
        scale = nn.Linear(1, 1, bias=False)
        used = {"decay": decay, "weights": weights, "scale": scale}

        def predict(x, y, index):
            return model(x * scale.weight.reshape(()) if "scale" in parts else x)

        def loss(outputs, x, y, index):
            losses = F.cross_entropy(outputs, y, reduction="none")
            return (weights(index) * losses if "weights" in parts else losses).mean()

        def penalty():
            return decay(model) if "decay" in parts else 0.05 * model[0].weight.square().sum()

        self.hyper = [used[part] for part in parts]
        self.nested = br.Nested(
            params=model,
            hyper=self.hyper,
            inner=lambda *b: loss(predict(*b), *b) + penalty(),
            outer=lambda x, y, index: F.cross_entropy(model(x), y),
            method=br.Implicit(
                solver or br.CG(),
                damping=0.1,
                curvature=br.GaussNewton(predict, loss, penalty),
            ),
        )


@pytest.mark.parametrize(
    "parts",
    [("decay",), ("weights",), ("scale",), ("decay", "weights"), ("decay", "weights", "scale")],
    ids="-".join,
)
@pytest.mark.parametrize("kind", ["mlp", "dropout", "conv-twice", "conv-batch-norm"])
def test_gradient_and_mixed_product_are_those_of_the_whole_inner_loss(kind, parts):
    nested, batch = (made := Problem(kind, parts)).nested, made.batch
    with next_problem(nested, batch, batch) as problem:
        point, whole = nested.method.point(problem), inner_at(problem, 0)
        assert (point._whole is not None) == ("scale" in parts)
        assert relative_error(point.gradient, whole.gradient) <= 1e-12
        for vector in torch.randn(2, len(point.gradient)):
            split, exact = flat(point.mixed_product(vector)), flat(whole.mixed_product(vector))
            assert list(split) == list(exact)
            assert relative_error(split, exact) <= 1e-12


def test_no_dependence_is_none():
    """Hyperparameters that only the outer loss sees."""
    model, batch = make("mlp")
    shift = nn.Linear(1, 1)
    predict = lambda x, y: model(x)  # noqa: E731
    nested = br.Nested(
        params=model,
        hyper=shift,
        inner=lambda x, y: cross_entropy(model(x), x, y),
        outer=lambda x, y: shift(F.cross_entropy(model(x), y).reshape(1)).sum(),
        method=br.Implicit(damping=1.0, curvature=br.GaussNewton(predict, cross_entropy)),
    )
    with next_problem(nested, batch, batch) as problem:
        point = nested.method.point(problem)
        product = point.mixed_product(torch.ones(len(point.gradient)))
    assert set(product.values()) == {None}


def test_at_a_perfect_fit_and_for_linear_outputs_it_is_the_hessian():
    case = Case("linear", cross_entropy)
    with case.operator() as (operator, _, _), case.problem() as problem:
        exact = br.Hessian(inner_at(problem, 0)).as_matrix()
        assert relative_error(operator.as_matrix() - case.damping * torch.eye(15), exact) <= 1e-12
    case = Case("mlp", cross_entropy)
    with case.operator() as (operator, _, _), case.problem() as problem:
        exact = br.Hessian(inner_at(problem, 0)).as_matrix()
        difference = operator.as_matrix() - case.damping * torch.eye(len(exact)) - exact
        assert float(difference.norm()) >= 1e-2  # elsewhere it is another matrix


def test_the_penalty_enters_by_its_exact_hessian_also_where_the_model_does_not_look():
    """A penalty that couples a model's weights with a parameter that the model never uses."""

    class Anchored(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 3)
            self.anchor = nn.Parameter(torch.randn(4))

        def forward(self, x):
            return self.body(x)

    torch.manual_seed(0)
    model, strength = Anchored(), nn.Linear(1, 1, bias=False)
    x, y = torch.randn(6, 4), torch.randint(3, (6,))

    def penalty():
        gap = model.body.weight - model.anchor
        scale = strength.weight.exp().sum()
        return scale * (gap**4).sum() + (model.anchor**2).sum() + torch.cosh(model.body.bias).sum()

    predict = lambda x, y: model(x)  # noqa: E731
    nested = br.Nested(
        params=model,
        hyper=strength,
        inner=lambda x, y: F.cross_entropy(model(x), y) + penalty(),
        outer=lambda x, y: F.cross_entropy(model(x), y),
        method=br.Implicit(br.Dense(), curvature=br.GaussNewton(predict, cross_entropy, penalty)),
    )
    with next_problem(nested, (x, y), (x, y)) as problem:
        point, whole = nested.method.point(problem), inner_at(problem, 0)
        # the outputs are linear in the weights, so that all of it is the Hessian
        hessian = br.Hessian(whole).as_matrix()
        assert float(hessian[:4, 4:].norm()) > 0
        assert relative_error(point.curvature.as_matrix(), hessian) <= 1e-12
        vector = torch.randn(len(hessian))
        assert relative_error(point.mixed_product(vector), whole.mixed_product(vector)) <= 1e-12
    nested((x, y), (x, y))[0].backward()
    gauss_newton, strength.weight.grad = strength.weight.grad, None
    nested.method = br.Implicit(br.Dense())
    nested((x, y), (x, y))[0].backward()
    assert relative_error(gauss_newton, strength.weight.grad) <= 1e-10


def right_penalty(decay, model):
    return lambda: decay(model)


def nested_with(
    predict=None, loss=None, penalty=right_penalty, decay_init=0.01, dtype=torch.float64
):
    torch.set_default_dtype(dtype)
    model, batch = make("dropout")
    decay = br.hyper.WeightDecay(model, init=decay_init)
    shift = nn.Linear(1, 1)
    right = {
        "predict": lambda x, y: model(x),
        "loss": lambda f, x, y: F.cross_entropy(f + 0 * shift.weight.sum(), y),
    }
    nested = br.Nested(
        params=model,
        hyper=[decay, shift],
        inner=lambda x, y: right["loss"](model(x), x, y) + decay(model),
        outer=lambda x, y: F.cross_entropy(model(x) + shift.bias, y),
        method=br.Implicit(
            br.CG(3),
            damping=1.0,
            curvature=br.GaussNewton(
                predict(model) if predict else right["predict"],
                loss(model, decay) if loss else right["loss"],
                penalty(decay, model) if penalty else None,
            ),
        ),
    )
    return nested, batch


def in_eval_mode(model):
    def predict(x, y):
        model.eval()
        try:
            return model(x)
        finally:
            model.train()

    return predict


def captured(model):
    weights = list(model.parameters())
    return lambda x, y: model(x) + 0 * weights[0].sum()


WRONG = {
    "penalty": ({"penalty": None}, "predict, loss and penalty give"),
    "small-penalty": ({"penalty": None, "decay_init": 1e-7}, "predict, loss and penalty"),
    "reduction": (
        {"loss": lambda m, d: lambda f, x, y: F.cross_entropy(f, y, reduction="sum")},
        "predict, loss and penalty give",
    ),
    "mode": ({"predict": in_eval_mode}, "predict, loss and penalty give"),
    "part-of-the-rows": ({"predict": lambda m: lambda x, y: m(x) * (x[:, :1] > 0)}, "give"),
    # parts that differ by less than the rounding of the loss, and by nothing at all but in λ
    "doubled-penalty": (
        {"penalty": lambda d, m: lambda: 2 * d(m), "decay_init": 1e-5},
        "predict, loss and penalty (give|add up to the inner loss, but their gradient with respect "
        r"to hyper: \S+ does not: it is off by 0\.5 of its length)",
    ),
    "penalty-in-the-loss": (
        {"loss": lambda m, d: lambda f, x, y: F.cross_entropy(f, y) + d(m), "penalty": None},
        r"depends on the parameter '0\.weight', '3\.weight' itself; move .* into penalty",
    ),
    "captured": ({"predict": captured}, "predict closure reaches the live parameter"),
    "outputs": ({"predict": lambda m: lambda x, y: (m(x),)}, "predict returned tuple"),
    "vector": (
        {"loss": lambda m, d: lambda f, x, y: F.cross_entropy(f, y, reduction="none")},
        r"The loss closure returned a tensor of shape \(6,\)",
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("wrong", WRONG)
def test_parts_that_are_not_the_inner_loss_are_refused(wrong, dtype):
    settings, message = WRONG[wrong]
    nested, batch = nested_with(**settings, dtype=dtype)
    with pytest.raises(br.InputError, match=message):
        nested(batch, batch)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_right_parts_are_not_refused(dtype):
    nested, batch = nested_with(dtype=dtype)
    for _ in range(4):
        nested(batch, batch)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_example_weights_that_the_loss_forgets_are_refused(dtype):
    """At their initial value of one they change no value; λ is also in the penalty."""
    torch.set_default_dtype(dtype)
    model, (x, y) = make("mlp")
    log_weights = nn.Linear(len(y), 1, bias=False)
    nn.init.zeros_(log_weights.weight)
    norms = lambda: sum(p.square().sum() for p in model.parameters())  # noqa: E731
    penalty = lambda: 0.1 * (1 + log_weights.weight.sum()) * norms()  # noqa: E731

    def weighted(outputs, x, y):
        losses = F.cross_entropy(outputs, y, reduction="none")
        return (log_weights.weight.exp() * losses).mean()

    def nested(loss):
        return br.Nested(
            params=model,
            hyper=log_weights,
            inner=lambda x, y: weighted(model(x), x, y) + penalty(),
            outer=lambda x, y: F.cross_entropy(model(x), y),
            method=br.Implicit(
                br.CG(3), curvature=br.GaussNewton(lambda x, y: model(x), loss, penalty)
            ),
        )

    nested(weighted)((x, y), (x, y))
    with pytest.raises(br.InputError, match="gradient with respect to hyper: weight does not"):
        nested(cross_entropy)((x, y), (x, y))


def test_a_penalty_past_the_modules_is_refused():
    nested, batch = nested_with()
    model = nested._sources[0]
    weights = list(model.parameters())
    wrong = br.GaussNewton(
        lambda x, y: model(x), cross_entropy, lambda: sum(w.square().sum() for w in weights)
    )
    nested.method = br.Implicit(br.CG(), curvature=wrong)
    with pytest.raises(br.InputError, match="penalty closure reaches the live parameter"):
        nested(batch, batch)


def test_a_parameter_in_neither_part_is_refused():
    model, batch = make("mlp")
    model.register_parameter("idle", nn.Parameter(torch.ones(2)))
    predict = lambda x, y: model(x)  # noqa: E731
    decay = br.hyper.WeightDecay(model[0])
    penalty = lambda: decay(model[0])  # noqa: E731
    nested = br.Nested(
        params=model,
        hyper=decay,
        inner=lambda x, y: F.cross_entropy(model(x), y) + penalty(),
        outer=lambda x, y: F.cross_entropy(model(x), y),
        method=br.Implicit(damping=1.0, curvature=br.GaussNewton(predict, cross_entropy, penalty)),
    )
    with pytest.raises(br.InputError, match="does not use the parameter 'idle'"):
        nested(batch, batch)


def test_parts_are_compared_at_call_1_2_4_8():
    case, compared = Case("mlp"), []
    for _ in range(9):
        with case.nested._problem(case.batch, case.batch) as problem:
            compared.append(problem.checked)
    assert [i for i, checked in enumerate(compared, 1) if checked] == [1, 2, 4, 8]
    weight = [0.0]  # a penalty that comes to life after the first calls
    nested, batch = nested_with(penalty=None)
    model = nested._sources[0]
    inner = nested.inner
    penalized = lambda x, y: F.cross_entropy(model(x), y) + weight[0] * model[0].weight.sum()  # noqa: E731
    shift = nn.Linear(1, 1)
    predict = lambda x, y: model(x)  # noqa: E731
    nested = br.Nested(
        params=model,
        hyper=shift,
        inner=penalized,
        outer=lambda x, y: (F.cross_entropy(model(x), y) * shift.weight + shift.bias).sum(),
        method=br.Implicit(damping=1.0, curvature=br.GaussNewton(predict, cross_entropy)),
    )
    assert inner is not nested.inner
    nested(batch, batch)
    nested(batch, batch)
    weight[0] = 1.0
    nested(batch, batch)  # the third call does not look
    with pytest.raises(br.InputError, match="predict, loss and penalty give"):
        nested(batch, batch)


CALLS = {
    "cg": lambda: br.CG(5),
    "kfac": lambda: br.CG(5, preconditioner=br.KFAC()),
    "woodbury": lambda: br.CG(5, preconditioner=br.Woodbury(8)),
    "scale": lambda: br.Scale(0.1),
}


@pytest.mark.parametrize("solver", CALLS)
@pytest.mark.parametrize("kind", ["dropout", "conv-batch-norm", "embedded"])
def test_a_call_leaves_everything_as_it_was(kind, solver):
    case = Case(kind, solver=CALLS[solver]())
    optimizer = torch.optim.Adam(case.model.parameters())
    F.cross_entropy(case.model(case.batch[0]), case.batch[1]).backward()
    optimizer.step()
    before = snapshot(case.model, optimizers=[optimizer])
    if (kind, solver) == ("conv-batch-norm", "woodbury"):
        with pytest.raises(br.InputError, match="batch norm in training mode mixes them"):
            case.nested(case.batch, case.batch)
    else:
        loss, _ = case.nested(case.batch, case.batch)
        assert_same(before, snapshot(case.model, optimizers=[optimizer]))
        loss.backward()
    assert_same(before, snapshot(case.model, optimizers=[optimizer]))


def test_functions_of_trees():
    """`br.hypergradient` against a dense solve with the same matrix written out."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 3, generator=generator), torch.randn(9, 2, generator=generator)
    params = {
        "a": torch.randn(3, 4, generator=generator),
        "b": torch.randn(4, 2, generator=generator),
    }
    hyper = {"l": torch.tensor(0.3), "s": torch.ones(9)}
    predict = lambda p, h, x, y: torch.tanh(x @ p["a"]) @ p["b"]  # noqa: E731
    loss = lambda f, p, h, x, y: (h["s"] * (f - y).square().sum(1)).mean()  # noqa: E731
    penalty = lambda p, h: h["l"] * sum((w**2).sum() for w in p.values())  # noqa: E731
    inner = lambda p, h, x, y: loss(predict(p, h, x, y), p, h, x, y) + penalty(p, h)  # noqa: E731
    outer = lambda p, h: (p["a"] ** 3).sum() + p["b"].sum() + h["l"] ** 2  # noqa: E731
    method = br.Implicit(br.Dense(), curvature=br.GaussNewton(predict, loss, penalty))
    value = br.hypergradient(inner, outer, params, hyper, method, (x, y)).value

    flat_params = torch.cat([w.reshape(-1) for w in params.values()])
    unflat = lambda w: {"a": w[:12].view(3, 4), "b": w[12:].view(4, 2)}  # noqa: E731
    slopes = torch.autograd.functional.jacobian(
        lambda w: predict(unflat(w), hyper, x, y).reshape(-1), flat_params
    )
    matrix = 2 / 9 * slopes.T @ slopes + 2 * hyper["l"] * torch.eye(20)
    right = torch.autograd.functional.jacobian(lambda w: outer(unflat(w), hyper), flat_params)
    q = torch.linalg.solve(matrix, right)
    mixed_l = 2 * flat_params @ q
    residual = predict(params, hyper, x, y) - y
    mixed_s = 2 / 9 * (residual * (slopes @ q).view(9, 2)).sum(1)
    assert relative_error(value["l"], 2 * hyper["l"] - mixed_l) <= 1e-10
    assert relative_error(value["s"], -mixed_s) <= 1e-10


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: br.GaussNewton(1, lambda: 0), "predict must be a function"),
        (lambda: br.Implicit(curvature=3), "3 is no curvature; use br.GaussNewton"),
        (lambda: br.Implicit(chunked=True, resample=True), "choose one"),
        (lambda: br.Fisher(lambda: 0, 3), "distribution must be a function"),
        (lambda: br.Fisher(lambda: 0, lambda f: f, draws=0), "draws=0"),
    ],
)
def test_bad_settings_are_refused(make_it, message):
    with pytest.raises(br.InputError, match=message):
        make_it()


def test_rows_are_cut_out_of_nested_batches_alone():
    pair = collections.namedtuple("pair", "x y")
    rows = torch.tensor([0, 2])
    x, other = torch.arange(4.0), torch.arange(3.0)
    batch = {"a": x, "b": [other, (x, "name")], "c": pair(x, 3), "d": torch.tensor(4)}
    found = cut(batch, 4, rows)
    assert found["a"].tolist() == [0, 2]
    assert found["b"][0] is other and found["b"][1][0].tolist() == [0, 2]
    assert found["b"][1][1] == "name"
    assert type(found["c"]) is pair and found["c"].x.tolist() == [0, 2] and found["c"].y == 3
    assert found["d"] == 4
