"""Bad input gets one sentence: what is wrong, then what to do."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br

METHODS = {
    "implicit": br.Implicit(br.CG(max_steps=2), damping=1.0),
    "unroll": br.Unroll(br.optim.SGD(0.1), steps=2),
    "finite-difference": br.FiniteDifference(br.CG(max_steps=2), damping=1.0),
}
IMPLICIT = METHODS["implicit"]
MODEL, DECAY = nn.Linear(4, 3).double(), br.hyper.Bounded(d=(0.0, 1.0, torch.tensor(0.5).double()))
BATCH = (torch.randn(6, 4).double(), torch.randint(3, (6,)))


def penalty():
    return DECAY.d * MODEL.weight.square().sum()


def plain(x, y):
    return F.cross_entropy(MODEL(x), y)


def good(x, y):
    return plain(x, y) + penalty()


LOSSES = {
    "vector": (
        lambda x, y: F.cross_entropy(MODEL(x), y, reduction="none"),
        r"{role} closure returned a tensor of shape \(6,\), not a scalar; reduce it",
    ),
    "detached": (lambda x, y: good(x, y).detach(), "{role} closure returned a detached loss"),
    "constant": (lambda x, y: torch.tensor(1.0), "{role} closure returned a detached loss"),
    "float": (lambda x, y: good(x, y).item(), "{role} closure returned float, not a tensor"),
    "none": (lambda x, y: None, "{role} closure returned NoneType, not a tensor"),
    "tuple": (lambda x, y: (good(x, y), 1), "{role} closure returned tuple, not a tensor"),
}


@pytest.mark.parametrize("role", ["inner", "outer"])
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("method", METHODS)
def test_losses(method, kind, role):
    bad, message = LOSSES[kind]
    closures = (bad, plain) if role == "inner" else (good, bad)
    nested = br.Nested(MODEL, DECAY, *closures, METHODS[method])
    with pytest.raises(br.InputError, match=message.format(role=role)):
        nested(BATCH, BATCH)
    if role == "inner":
        with pytest.raises(br.InputError, match=message.format(role="inner")):
            nested.inner_loss(*BATCH)


@pytest.mark.parametrize("method", METHODS)
def test_a_parameter_that_the_inner_loss_does_not_use_is_named(method):
    idle = nn.ModuleDict({"used": MODEL, "idle": nn.Linear(2, 2)})
    nested = br.Nested(idle, DECAY, good, plain, METHODS[method])
    with pytest.raises(
        br.InputError, match=r"does not use the parameter 'idle.weight', 'idle.bias'; leave it out"
    ):
        nested(BATCH, BATCH)


@pytest.mark.parametrize("method", METHODS)
def test_a_hyperparameter_that_reaches_neither_loss_is_named(method):
    both = br.hyper.Bounded(d=(0.0, 1.0, 0.5), idle=(0.0, 1.0, 0.5))
    inner = lambda x, y: plain(x, y) + both.d * MODEL.weight.square().sum()  # noqa: E731
    nested = br.Nested(MODEL, both, inner, plain, METHODS[method])
    with pytest.raises(br.InputError, match=r"hyperparameter '.*idle' reaches neither"):
        nested(BATCH, BATCH)


def test_a_hyperparameter_that_shifts_the_inner_loss_only_is_named():
    inner = lambda x, y: plain(x, y) + DECAY.d  # noqa: E731
    with pytest.raises(br.InputError, match="reaches neither the outer loss nor the inner"):
        br.Nested(MODEL, DECAY, inner, plain, IMPLICIT)(BATCH, BATCH)


@pytest.mark.parametrize("which", ["inner", "outer"])
@pytest.mark.parametrize("method", METHODS)
def test_batches_of_a_wrong_kind(method, which):
    nested = br.Nested(MODEL, DECAY, good, plain, METHODS[method])
    for bad in (BATCH[0], "ab", 3, None):
        batches = (bad, BATCH) if which == "inner" else (BATCH, bad)
        with pytest.raises(br.InputError, match=r"tuple, a list or a mapping, not .*write "):
            nested(*batches)
    if which == "outer":
        with pytest.raises(br.InputError, match="not Batches"):
            nested(BATCH, br.Batches([BATCH]))


def test_too_few_or_no_batches():
    with pytest.raises(br.InputError, match="Batches got no batch"):
        br.Batches([])
    nested = br.Nested(MODEL, DECAY, good, plain, br.Unroll(br.optim.SGD(0.1), steps=3))
    with pytest.raises(br.InputError, match="takes 3 steps but Batches holds 2"):
        nested(br.Batches([BATCH] * 2), BATCH)


def make(params=MODEL, hyper=DECAY, inner=good, outer=plain, method=IMPLICIT, **kwargs):
    return br.Nested(params, hyper, inner, outer, method, **kwargs)


def lazy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.LazyLinear(3)


def frozen():
    return nn.Linear(1, 1).requires_grad_(False)


CONSTRUCTIONS = [
    (lambda: make(hyper=MODEL), "parameter 'weight', 'bias' is in params and in hyper"),
    (
        lambda: make(params=[MODEL, nn.ReLU()], hyper=br.select(MODEL, lambda n: n == "bias")),
        "parameter 'bias' is in params and in hyper",
    ),
    (lambda: make(params=nn.ReLU()), "params has no parameter that requires gradients"),
    (lambda: make(hyper=frozen()), "hyper has no parameter that requires gradients"),
    (lambda: make(params=[]), "params has no parameter that requires gradients"),
    (lambda: make(params=lazy()), "'weight' of params is not initialised yet; run the module"),
    (lambda: make(params=list(MODEL.parameters())), "holds a (Parameter|Tensor); plain tensors go"),
    (lambda: make(params=MODEL.parameters()), "holds a generator"),
    (lambda: make(hyper={"d": torch.ones(1)}), "hyper must be a module.* holds a dict"),
    (lambda: make(hyper=torch.ones(1)), "hyper must be a module.* holds a Tensor"),
    (lambda: make(inner=1.0), "inner must be a function that returns the loss, not 1.0"),
    (lambda: make(outer=None), "outer must be a function that returns the loss, not None"),
    (lambda: make(method="implicit"), "'implicit' is not a method; use br.Implicit"),
    (lambda: make(method=br.CG()), "is not a method; use br.Implicit"),
    (lambda: make(method=br.Implicit), "is not a method"),
    (lambda: make(max_norm=0.0), "max_norm=0.0 is not positive"),
    (lambda: make(max_norm=float("nan")), "max_norm=nan is not positive"),
    (lambda: br.select(MODEL, lambda name: False), "keeps no parameter; .* weight, bias"),
    (lambda: br.Implicit("cg"), "'cg' is not a solver; use br.CG"),
    (lambda: br.Implicit(br.CG), "is not a solver"),
    (lambda: br.Implicit(damping=-1e-3), "damping=-0.001 is no damping"),
    (lambda: br.Implicit(damping=float("nan")), "damping=nan"),
    (lambda: br.FiniteDifference(br.optim.SGD(0.1)), "is not a solver"),
    (lambda: br.FiniteDifference(epsilon=0.0), "epsilon=0.0 is not positive"),
    (lambda: br.FiniteDifference(damping=-1.0), "damping=-1.0 is no damping"),
]


@pytest.mark.parametrize("case", range(len(CONSTRUCTIONS)))
def test_constructions(case):
    build, message = CONSTRUCTIONS[case]
    with pytest.raises(br.InputError, match=message):
        build()


def test_an_operation_without_a_second_derivative_is_named_with_a_way_out():
    """And the way out works."""
    bag = nn.EmbeddingBag(5, 3)
    index = torch.arange(5).reshape(1, 5)
    decay = br.hyper.WeightDecay(bag, init=0.1)
    loss = lambda i: bag(i).square().sum().exp()  # noqa: E731
    inner = lambda i: loss(i) + decay(bag)  # noqa: E731
    for method in (IMPLICIT, METHODS["unroll"]):
        with pytest.raises(br.InputError, match=r"_embedding_bag.*no second derivative.*br.Finite"):
            br.Nested(bag, decay, inner, loss, method)((index,), (index,))
    _, report = br.Nested(bag, decay, inner, loss, br.FiniteDifference(br.CG(2)))(
        (index,), (index,)
    )
    assert report.indirect_norm > 0


FUNCTIONAL = [
    ({"w": torch.ones(2)}, {}, "at least one tensor"),
    ({}, {"a": torch.ones(2)}, "at least one tensor"),
    ({"w": torch.ones(2, dtype=torch.long)}, {"a": torch.ones(2)}, "'w' has type torch.int64"),
    ({"w": torch.ones(2)}, {"a": torch.ones(2, dtype=torch.long)}, "'a' has type torch.int64"),
]


@pytest.mark.parametrize("case", range(len(FUNCTIONAL)))
@pytest.mark.parametrize("method", METHODS)
def test_trees(method, case):
    params, hyper, message = FUNCTIONAL[case]
    inner = lambda p, h: sum((leaf**2).sum() for leaf in [*p.values(), *h.values()])  # noqa: E731
    with pytest.raises(br.InputError, match=message):
        br.hypergradient(inner, inner, params, hyper, METHODS[method])


def test_a_captured_tensor_in_the_functional_core_is_named():
    params = {"w": torch.ones(2, requires_grad=True)}
    hyper = {"a": torch.ones(2)}
    inner = lambda p, h: ((params["w"] - h["a"]) ** 2).sum() + p["w"].sum()  # noqa: E731
    for method in METHODS.values():
        with pytest.raises(br.InputError, match="inner closure reaches the live parameter 'w'"):
            br.hypergradient(inner, lambda p, h: p["w"].sum(), params, hyper, method)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_norm": 0.5}, "renormalizes its weights in place"),
        ({"scale_grad_by_freq": True}, "no gradient of any loss; set scale_grad_by_freq=False"),
        ({"sparse": True}, "have no second derivative; set sparse=False"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_embeddings_without_a_derivative(settings, words):
    table = nn.Embedding(5, 2, **settings)
    decay = br.hyper.WeightDecay(table)
    loss = lambda x: (table(x) - 1).square().mean()  # noqa: E731
    with pytest.raises(br.InputError, match=words):
        br.Nested(table, decay, lambda x: loss(x) + decay(table), loss, br.Implicit())


def test_a_state_of_something_else():
    with pytest.raises(br.InputError, match="This is no state of a Nested"):
        make().load_state_dict({"weight": torch.ones(1)})
