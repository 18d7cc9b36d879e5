"""KFAC: exact where Kronecker factors are, a preconditioner elsewhere, and what it carries on."""

import copy
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.solvers._chebyshev import Chebyshev
from bestresponse.solvers._kfac import combined
from bestresponse.solvers._solve import linear_solve
from checks import relative_error
from curvatures import CLASSES, MODELS, ROWS, Case, cross_entropy, make, square, summed

EXACT = br.KFAC(damping=1e-13, draws=None, rank=None, inner_steps=0)
COVERED = [kind for kind in MODELS if kind != "tied"]


def penalized_evenly(kind="mlp", loss=cross_entropy, solver=None, **options):
    """Every weight has the same decay, so that the penalty is a multiple of the identity."""
    return Case(kind, loss, solver, penalized=False, **options)


class Wide(nn.Module):
    """Linear with or without bias, unequal sides."""

    def __init__(self, bias):
        super().__init__()
        self.layer = nn.Linear(4, CLASSES, bias=bias)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("bias", [True, False])
def test_by_itself_it_is_the_dense_solve_where_it_is_exact(bias):
    """One linear layer under mean squares: J'HJ is A⊗G."""
    torch.manual_seed(0)
    model, batch = Wide(bias), (torch.randn(8, 4), torch.randint(CLASSES, (8,)))
    values = []
    for solver in (br.Dense(), EXACT):
        case = penalized_evenly(model=model, batch=batch, loss=square, solver=solver)
        value, report = case()
        values.append(value)
    assert relative_error(values[1], values[0]) <= 1e-10
    assert report.stats.uncovered == ()
    assert report.relative_residual <= 1e-10
    assert report.products == 1  # for the residual alone


@pytest.mark.parametrize("layer", ["linear", "conv", "conv-groups"])
def test_one_product_suffices_as_a_preconditioner_where_it_is_exact(layer):
    torch.manual_seed(0)
    x, y = torch.randn(8, 2, 3, 3), torch.randint(4, (8,))
    model = {
        "linear": nn.Sequential(nn.Flatten(), nn.Linear(18, 4)),
        "conv": nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten()),
        "conv-groups": nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten()),
    }[layer]
    loss = lambda f, x, y: F.mse_loss(f, F.one_hot(y, 4).to(f))  # noqa: E731
    solver = br.CG(50, rtol=1e-10, preconditioner=EXACT)
    _, report = penalized_evenly(model=model, batch=(x, y), loss=loss, solver=solver)()
    assert report.products == 1
    plain = penalized_evenly(model=model, batch=(x, y), loss=loss, solver=br.CG(50, rtol=1e-10))
    assert plain()[1].products > 5


@pytest.mark.parametrize(
    "settings",
    [{}, {"draws": None, "damping": 0.05}, {"rank": 1}, {"rows": 2}, {"inner_steps": 3}],
    ids=str,
)
@pytest.mark.parametrize("kind", ["mlp", "conv-groups-stride", "conv-twice", "embedded"])
def test_any_setting_converges_to_the_dense_solve(kind, settings):
    values = []
    for solver in (br.Dense(), br.CG(400, rtol=1e-11, preconditioner=br.KFAC(**settings))):
        value, report = Case(kind, solver=solver, damping=0.3)()
        values.append(value)
    assert report.result in (br.Result.success, br.Result.not_stationary)
    assert relative_error(values[1], values[0]) <= 1e-8


@pytest.mark.parametrize("kind", COVERED)
def test_every_kind_of_model(kind):
    values = []
    for solver in (br.Dense(), br.CG(600, rtol=1e-11, preconditioner=br.KFAC())):
        value, report = Case(kind, solver=solver, damping=1.0)()
        values.append(value)
    assert relative_error(values[1], values[0]) <= 1e-8
    uncovered = {
        "lstm": {"body.weight_ih_l0", "body.weight_hh_l0", "body.bias_ih_l0", "body.bias_hh_l0"},
        "attention": {
            "body.self_attn.in_proj_weight", "body.self_attn.in_proj_bias",
            "body.self_attn.out_proj.weight", "body.self_attn.out_proj.bias",
        },
        "conv-1d": {"0.weight", "0.bias"},
        "conv-weight-norm": {
            "0.parametrizations.weight.original0", "0.parametrizations.weight.original1", "0.bias",
        },
    }  # fmt: skip
    assert set(report.stats.uncovered) == uncovered.get(kind, set())


def test_uncovered_parameters_are_divided_by_the_damping():
    case = penalized_evenly("lstm", damping=0.4)
    with case.operator() as (operator, point, _):
        vector = torch.randn(operator.size)
        solution = linear_solve(operator, vector, br.KFAC(damping=0.5, inner_steps=0))
        found = point.layout.unflatten(solution.value)
        given = point.layout.unflatten(vector)
    assert len(solution.stats.uncovered) == 4
    for name in solution.stats.uncovered:
        assert relative_error(found[name], given[name] / (0.4 + 0.1 + 0.5)) <= 1e-12
    assert relative_error(found["head.weight"], given["head.weight"] / 1.0) >= 1e-2


@pytest.mark.parametrize("rows", [ROWS, 1000])
@pytest.mark.parametrize("loss", [cross_entropy, summed])
def test_all_rows_give_the_curvatures_own_scale(loss, rows):
    """Sums and means alike: with one linear layer the trace of A⊗G is that of J'HJ."""
    case = Case("linear", loss, penalized=False)
    with case.operator() as (operator, point, _):
        built = br.KFAC(draws=None, rows=rows).build(operator)
        exact = point._model.as_matrix()
    (block,) = built["blocks"]
    inputs = torch.cat([case.batch[0], torch.ones(ROWS, 1)], 1)
    mean = inputs.T @ inputs / ROWS
    right = block["right"]["vectors"] * block["right"]["values"][..., None, :]
    assert relative_error((right @ block["right"]["vectors"].mT)[0], mean) <= 1e-12
    # G is the loss's curvature, summed over the rows: the bias's own block
    left = block["left"]["vectors"] * block["left"]["values"][..., None, :]
    bias = exact[-CLASSES:, -CLASSES:]
    assert relative_error((left @ block["left"]["vectors"].mT)[0], bias) <= 1e-12


@pytest.mark.parametrize("loss", [cross_entropy, summed, square])
def test_a_part_of_the_rows_stands_for_all(loss):
    """With every row the same, any part must give the same factors."""
    model, (x, y) = make("conv")
    batch = (x[:1].expand(ROWS, -1, -1, -1).clone(), y[:1].expand(ROWS).clone())
    built = []
    for rows in (2, 5, ROWS):
        case = Case(model=model, batch=batch, loss=loss)
        with case.operator() as (operator, _, _):
            built.append(br.KFAC(draws=None, rows=rows).build(operator))
    for other in built[:-1]:
        for block, full in zip(other["blocks"], built[-1]["blocks"], strict=True):
            for side in ("left", "right"):
                assert relative_error(block[side]["values"], full[side]["values"]) <= 1e-10, side


def test_random_combinations_have_the_right_mean():
    """Within five standard errors of the exact factor, for the curvature of the outputs."""
    roots = torch.randn(4, 3, 2)  # columns, rows, outputs
    exact = torch.einsum("cno,cnp->nop", roots, roots)
    draws = 4000
    mixed = torch.stack(
        [combined(roots, 2, torch.Generator().manual_seed(i)) for i in range(draws)]
    )
    assert mixed.shape == (draws, 2, 3, 2)
    samples = torch.einsum("sdno,sdnp->snop", mixed, mixed)
    error = samples.std(0) / draws**0.5
    gap = (samples.mean(0) - exact).abs()
    assert bool((gap <= 5 * error + 1e-10).all())
    assert float((error / exact.abs().mean()).max()) <= 0.05
    assert combined(roots, None, torch.Generator()) is roots
    assert combined(roots, 4, torch.Generator()) is roots


def test_seeds_choose_rows_and_draws():
    case = Case("mlp")
    with case.operator() as (operator, _, _):
        vector = torch.randn(operator.size)
        values = [
            linear_solve(operator, vector, br.KFAC(rows=3, seed=seed)).value for seed in (0, 0, 1)
        ]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def uneven(solver):
    """Decays that spread over five orders in every layer."""
    case = Case("mlp", solver=solver, damping=1e-3)
    with torch.no_grad():
        for raw in case.decay.parameters():
            raw.copy_(torch.linspace(-8, 3, raw.numel()).view_as(raw))
    return case


@pytest.mark.parametrize("outer", [br.CG, br.MINRES])
def test_an_uneven_penalty_is_met_by_inner_steps(outer):
    """As linear maps, so that fewer products do and any solver takes them."""
    exact, steps = uneven(br.Dense())()[0], {}
    for inner in (0, 1, 5, None):
        solver = outer(400, rtol=1e-9, preconditioner=br.KFAC(inner_steps=inner))
        value, report = uneven(solver)()
        steps[inner] = report.products
        assert relative_error(value, exact) <= 1e-6
    assert steps[None] == steps[5] <= 0.7 * steps[0]
    assert steps[5] < steps[1] < steps[0]


def test_an_even_penalty_takes_no_inner_steps():
    """The preconditioner is then the same with and without."""
    case = penalized_evenly("mlp")
    with case.operator() as (operator, _, _):
        vector = torch.randn(operator.size)
        found = [
            linear_solve(operator, vector, br.KFAC(damping=1e-12, inner_steps=n)).value
            for n in (0, 5, None)
        ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("inner", [1, 2, 5, 10])
def test_inner_steps_are_a_symmetric_positive_map(inner):
    """Also where some penalty curves down."""
    case = uneven(None)
    with case.operator() as (operator, _, _):
        bent = torch.linspace(-1, 8, operator.size)
        steep_biases = torch.cat([p.expand(n) for p, n in _pieces(case.model)])
        for other in (operator, *(operator + br.Diagonal(d) for d in (bent, steep_biases))):
            solver = br.KFAC(inner_steps=inner)
            inverse = solver.inverse(solver.build(other), other)
            matrix = inverse.as_matrix()
            assert relative_error(matrix, matrix.T) <= 1e-10
            assert float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0]) > 0


def _pieces(model):
    """A number for each parameter, large for biases, and how many entries it is for."""
    for name, parameter in model.named_parameters():
        yield torch.tensor(100.0 if name.endswith("bias") else 0.0), parameter.numel()


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("smallest", [0.5, 0.001])
def test_chebyshev_leaves_the_polynomial_of_least_size(steps, smallest):
    """I − zK is T(…)/T(…) at each eigenvalue: by NumPy's Chebyshev polynomials."""
    largest = 3.0
    eigenvalues = torch.linspace(0.001, largest, 9)
    identity = br.Identity(9, torch.float64)
    found = Chebyshev(br.Diagonal(eigenvalues), identity, steps, smallest, largest).mv(
        torch.ones(9)
    )
    low = max(smallest, largest / (4 * steps**2))
    best = np.polynomial.Chebyshev.basis(steps + 1)
    places = (largest + low - 2 * eigenvalues.numpy()) / (largest - low)
    expected = torch.from_numpy(best(places) / best((largest + low) / (largest - low)))
    assert relative_error(1 - eigenvalues * found, expected) <= 1e-12


# Batches that cannot be cut, and where the rows are.


def closures(kind, solver):
    """The same problem with none, all or a part of its data in the closures."""
    model, (x, y) = make("conv")
    decay = br.hyper.WeightDecay(model, per="tensor", init=0.1, biases=True)
    functions = {
        "positional": (lambda x, y: model(x), lambda f, x, y: F.cross_entropy(f, y), (x, y)),
        "named": (lambda x, y: model(x), lambda f, x, y: F.cross_entropy(f, y), {"x": x, "y": y}),
        "nested": (
            lambda b: model(b["in"][0]),
            lambda f, b: F.cross_entropy(f, b["y"]),
            ({"in": [x, "a name"], "y": y},),
        ),
        "captured": (lambda: model(x), lambda f: F.cross_entropy(f, y), ()),
        "half": (lambda x: model(x), lambda f, x: F.cross_entropy(f, y), (x,)),
    }
    predict, loss, batch = functions[kind]
    nested = br.Nested(
        params=model,
        hyper=decay,
        inner=lambda *a, **b: loss(predict(*a, **b), *a, **b) + decay(model),
        outer=lambda: F.cross_entropy(model(x), y),
        method=br.Implicit(
            solver,
            damping=0.1,
            curvature=br.GaussNewton(predict, loss, lambda: decay(model)),
        ),
    )
    loss, report = nested(batch, ())
    loss.backward()
    return torch.cat([p.grad.reshape(-1) for p in decay.parameters()]), report


@pytest.mark.parametrize("rows", [3, 1000])
@pytest.mark.parametrize("kind", ["named", "nested", "captured", "half"])
def test_batches_of_every_kind(kind, rows):
    exact = closures("positional", br.Dense())[0]
    preconditioner = br.KFAC(rows=rows, draws=None)
    solver = br.CG(100, rtol=1e-11, preconditioner=preconditioner)
    value, _ = closures(kind, solver)
    assert relative_error(value, exact) <= 1e-8
    alone = closures(kind, preconditioner)[0]
    cut = kind in ("named", "nested")
    expected = closures("positional", preconditioner if cut else br.KFAC(draws=None))[0]
    assert torch.allclose(alone, expected, rtol=1e-9, atol=0)


def test_what_closures_hold_for_each_row_keeps_its_row():
    """Weights of examples beside the batch: rows in another order would miss them."""
    model, (x, y) = make("mlp")
    weights = torch.linspace(0.1, 5, ROWS)
    decay = br.hyper.WeightDecay(model, per="tensor", init=0.1, biases=True)
    predict = lambda x, *_: model(x)  # noqa: E731
    losses = {
        "captured": (lambda f, x: (weights * F.cross_entropy(f, y, reduction="none")).mean(), (x,)),
        "given": (
            lambda f, x, y, w: (w * F.cross_entropy(f, y, reduction="none")).mean(),
            (x, y, weights),
        ),
    }
    values = []
    for loss, batch in losses.values():
        nested = br.Nested(
            params=model,
            hyper=decay,
            inner=lambda *b, loss=loss: loss(predict(*b), *b) + decay(model),
            outer=lambda: F.cross_entropy(model(x), y),
            method=br.Implicit(
                br.KFAC(draws=None),
                curvature=br.GaussNewton(predict, loss, lambda: decay(model)),
            ),
        )
        values.append(torch.stack(torch.autograd.grad(nested(batch)[0], list(decay.parameters()))))
    assert relative_error(values[0], values[1]) <= 1e-10


# What is carried from call to call.


def carried(refresh=3, seed=0):
    return Case("dropout", solver=br.CG(5, preconditioner=br.KFAC(refresh=refresh)), damping=0.3,
                seed=seed)  # fmt: skip


def moved(case, step):
    """The weights a little further, the same way each time."""
    with torch.no_grad():
        for i, weight in enumerate(case.model.parameters()):
            weight.add_(
                0.1 * torch.sin(torch.arange(weight.numel()) + 3.0 * i + step).view_as(weight)
            )


def factors_of(case):
    return case.nested.state_dict()["memory"]["preconditioner"]


def test_factors_age_and_are_built_anew():
    case, seen = carried(refresh=3), []
    for step in range(7):
        case()
        memory = factors_of(case)
        seen.append((memory["age"], memory["built"]["blocks"][0]["left"]["values"]))
        moved(case, step)
    assert [age for age, _ in seen] == [1, 2, 3, 1, 2, 3, 1]
    values = [values for _, values in seen]
    assert torch.equal(values[0], values[2]) and torch.equal(values[3], values[5])
    assert not torch.equal(values[2], values[3]) and not torch.equal(values[5], values[6])


def test_what_is_built_at_every_call_is_not_kept():
    case = carried(refresh=1)
    case()
    assert case.nested.state_dict()["memory"] == {}


def test_a_saved_run_goes_on_bit_by_bit():
    case = carried(refresh=4)
    for step in range(2):
        case()
        moved(case, step)
    file = io.BytesIO()
    torch.save({"nested": case.nested.state_dict(), "model": case.model.state_dict()}, file)
    gone_on = []
    for step in range(2, 6):
        gone_on.append(case()[0])
        moved(case, step)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = carried(refresh=4, seed=9)
    other.model.load_state_dict(state["model"])
    with torch.no_grad():
        for mine, theirs in zip(other.decay.parameters(), case.decay.parameters(), strict=True):
            mine.copy_(theirs)
    other.nested.load_state_dict(state["nested"])
    for step, expected in enumerate(gone_on, 2):
        assert torch.equal(other()[0], expected)
        moved(other, step)
    # without the memory the third call builds its own factors, and differs
    fresh = carried(refresh=4)
    fresh.model.load_state_dict(state["model"])
    with torch.no_grad():
        for mine, theirs in zip(fresh.decay.parameters(), case.decay.parameters(), strict=True):
            mine.copy_(theirs)
    fresh.nested.load_state_dict({"stream": state["nested"]["stream"]})
    assert not torch.equal(fresh()[0], gone_on[0])


def test_a_state_is_a_copy():
    """Later calls do not change it, nor does changing it change later calls."""
    case = carried(refresh=9)
    case()
    state = case.nested.state_dict()
    before = copy.deepcopy(state)
    state["memory"]["preconditioner"]["built"]["blocks"][0]["left"]["vectors"].zero_()
    after = case.nested.state_dict()["memory"]["preconditioner"]["built"]["blocks"][0]["left"]
    expected = before["memory"]["preconditioner"]["built"]["blocks"][0]["left"]
    assert torch.equal(after["vectors"], expected["vectors"])
    assert expected["vectors"].any()


@pytest.mark.parametrize("other", ["another size", "the same size, other names", "settings"])
def test_factors_of_something_else_are_built_anew(other):
    case = carried(refresh=9)
    case()
    state = case.nested.state_dict()
    if other == "another size":
        made = Case("mlp", solver=br.CG(5, preconditioner=br.KFAC(refresh=9)), damping=0.3)
    elif other == "settings":
        solver = br.CG(5, preconditioner=br.KFAC(refresh=9, rows=2))
        made = Case("dropout", solver=solver, damping=0.3)
    else:
        model, batch = make("dropout")
        renamed = nn.Sequential(nn.Identity(), *model)
        made = Case(
            model=renamed,
            batch=batch,
            solver=br.CG(5, preconditioner=br.KFAC(refresh=9)),
            damping=0.3,
        )
    made.nested.load_state_dict(state)
    made()
    assert factors_of(made)["age"] == 1


# Sentences.


def solve_with(solver, **options):
    return Case("mlp", solver=solver, **options)()


def only_biases(model):
    return br.select(model, lambda name: name.endswith("bias"))


@pytest.mark.parametrize("build", [br.KFAC, br.Woodbury])
def test_biases_without_decay_do_not_stand_in_the_way(build):
    exact, _ = Case("mlp", solver=br.Dense(), biases=False, damping=0.0)()
    solver = br.CG(max_steps=300, rtol=1e-12, preconditioner=build())
    value, report = Case("mlp", solver=solver, biases=False, damping=0.0)()
    assert br.Result.max_steps_reached not in report.warnings
    assert relative_error(value, exact) < 1e-8


class Twice(nn.Module):
    """A weight in a layer and in a product that is none."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x) + x @ self.body.weight))


def of_no_rows():
    """The outputs are one number for the whole batch."""
    x = torch.randn(6, 4)
    predict = lambda p, h: F.linear(x, p["w"]).mean()  # noqa: E731
    loss = lambda f, p, h: (f - h["a"]).square()  # noqa: E731
    inner = lambda p, h: loss(predict(p, h), p, h)  # noqa: E731
    outer = lambda p, h: p["w"].sum()  # noqa: E731
    method = br.Implicit(br.KFAC(), damping=0.1, curvature=br.GaussNewton(predict, loss))
    br.hypergradient(inner, outer, {"w": torch.ones(1, 4)}, {"a": torch.ones(())}, method)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: br.KFAC(damping=0.0), r"KFAC\(damping=0.0\) is not positive"),
        (lambda: br.KFAC(damping=-1.0), "is not positive"),
        (lambda: br.KFAC(rows=0), r"rows=0\) must be 1 or more"),
        (lambda: br.KFAC(draws=0), r"draws=0\) must be 1 or more"),
        (lambda: br.KFAC(rank=0), r"rank=0\) must be 1 or more"),
        (lambda: br.KFAC(refresh=0), r"refresh=0\) must be 1 or more"),
        (lambda: br.KFAC(inner_steps=-1), r"inner_steps=-1\) must be 0 or more"),
        (
            lambda: solve_with(br.KFAC(), biases=False, damping=0.0, params=only_biases),
            "KFAC has no damping: the method's is zero and the penalty does not curve up",
        ),
        (
            lambda: Case("tied", solver=br.KFAC())(),
            r"'table\.weight'.* is used by several layers",
        ),
        (  # one of the two uses is no layer
            lambda: Case(model=Twice(), batch=(torch.randn(6, 4), torch.arange(6) % 3),
                         solver=br.KFAC())(),
            r"'body\.weight' is used by several layers or calls",
        ),
        (of_no_rows, r"outputs of shape \(\), which have no rows"),
        (lambda: br.KFAC(rows=10.5), r"rows=10\.5\) must be 1 or more, a whole number"),
        (lambda: br.CG(2.5), r"CG\(max_steps=2\.5\) must be 0 or more, a whole number"),
        (lambda: br.Nystrom(2.5), r"Nystrom\(rank=2\.5\) must be 1 or more, a whole number"),
        (lambda: br.Implicit(damping=None), "damping=None is no damping"),
        (lambda: br.CG(rtol="small"), r"CG\(rtol=small\) is not positive"),
        (
            lambda: solve_with(br.KFAC(), curvature=lambda *functions: None),
            "KFAC needs to see the model's layers; give the method a curvature=br.GaussNewton",
        ),
        (
            lambda: solve_with(
                br.CG(preconditioner=br.KFAC(refresh=3)), curvature=lambda *functions: None
            ),
            "KFAC needs to see the model's layers",
        ),
    ],
)  # fmt: skip
def test_refusals(act, message):
    with pytest.raises(br.InputError, match=message):
        act()


def test_too_many_outputs_for_the_exact_curvature():
    model = nn.Linear(2, 300)
    batch = (torch.randn(3, 2), torch.randint(3, (3,)))
    with pytest.raises(br.InputError, match="Each row has 300 outputs, too many"):
        Case(model=model, batch=batch, solver=br.KFAC())()


def test_what_is_not_finite_is_said_by_the_result():
    case = Case("mlp", solver=br.KFAC(), throw=False)
    with torch.no_grad():
        case.model[0].weight[0, 0] = torch.inf
    _, report = case.nested(case.batch, case.batch)
    assert report.result is br.Result.nonfinite
