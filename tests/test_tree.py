"""Named trees and flat vectors: round trips over random trees (hypothesis)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bestresponse as br
from bestresponse._tree import Layout, leaves_of, tree_map, tree_norm

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
names = st.text(alphabet="abc.|_", min_size=1, max_size=4)


@st.composite
def trees(draw, dtypes=DTYPES, min_size=1):
    """A tree of small tensors whose values all types can hold, some of them not contiguous."""
    tree = {}
    for name in draw(st.lists(names, unique=True, min_size=min_size, max_size=5)):
        shape, dtype = draw(shapes), draw(st.sampled_from(dtypes))
        size = torch.Size(shape).numel()
        values = draw(st.lists(st.integers(-100, 100), min_size=size, max_size=size))
        leaf = torch.tensor(values, dtype=torch.float64).reshape(shape).to(dtype)
        tree[name] = leaf.mT.contiguous().mT if leaf.ndim >= 2 and draw(st.booleans()) else leaf
    return tree


@given(trees())
@settings(max_examples=60, deadline=None)
def test_round_trip_keeps_names_shapes_types_and_values(tree):
    layout = Layout.of(tree)
    vector = layout.flatten(tree)
    assert vector.shape == (layout.size,) == (sum(leaf.numel() for leaf in tree.values()),)
    assert vector.dtype == layout.dtype
    back = layout.unflatten(vector)
    assert list(back) == list(tree)
    for name, leaf in tree.items():
        assert back[name].dtype == leaf.dtype
        assert back[name].shape == leaf.shape
        assert torch.equal(back[name], leaf)
    assert torch.equal(layout.flatten(back), vector)


@given(trees())
@settings(max_examples=30, deadline=None)
def test_the_flat_type_is_the_widest_and_at_least_float32(tree):
    dtypes = {leaf.dtype for leaf in tree.values()}
    expected = torch.float64 if torch.float64 in dtypes else torch.float32
    assert Layout.of(tree).dtype == expected


@given(trees(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_flatten_goes_by_name_not_by_order(tree, random):
    shuffled = list(tree.items())
    random.shuffle(shuffled)
    layout = Layout.of(tree)
    assert torch.equal(layout.flatten(dict(shuffled)), layout.flatten(tree))


@given(trees(dtypes=(torch.float64,)))
@settings(max_examples=30, deadline=None)
def test_one_type_gives_views(tree):
    layout = Layout.of(tree)
    vector = layout.flatten(tree)
    pieces = layout.unflatten(vector)
    vector.add_(1)
    for name, leaf in tree.items():
        assert torch.equal(pieces[name], leaf + 1)


@given(trees())
@settings(max_examples=30, deadline=None)
def test_tree_norm_is_that_of_the_flat_vector(tree):
    expected = Layout.of(tree).flatten(tree).double().norm()
    assert tree_norm(tree).dtype == torch.float64
    assert float(tree_norm(tree)) == pytest.approx(float(expected), rel=1e-6)


@given(trees())
@settings(max_examples=20, deadline=None)
def test_leaves_are_fresh_and_share_values(tree):
    for name, leaf in leaves_of(tree).items():
        assert leaf.is_leaf
        assert leaf.requires_grad
        assert not tree[name].requires_grad
        assert torch.equal(leaf.detach(), tree[name])


def test_flatten_is_differentiable_and_unflatten_its_transpose():
    tree = {"a": torch.randn(2, 3), "b": torch.randn(()), "c": torch.randn(4)}
    layout, leaves = Layout.of(tree), leaves_of(tree)
    cotangent = torch.randn(layout.size)
    grads = torch.autograd.grad(layout.flatten(leaves), list(leaves.values()), cotangent)
    for grad, piece in zip(grads, layout.unflatten(cotangent).values(), strict=True):
        assert torch.equal(grad, piece)


def test_tree_map_goes_by_name():
    one, two = {"a": torch.ones(1), "b": torch.zeros(1)}, {"b": torch.ones(1), "a": torch.ones(1)}
    assert {k: float(v) for k, v in tree_map(torch.add, one, two).items()} == {"a": 2.0, "b": 1.0}


@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.complex64])
def test_types_without_a_derivative_are_refused(dtype):
    with pytest.raises(br.InputError, match=rf"'n' has type {dtype}, which cannot be"):
        Layout.of({"w": torch.ones(1), "n": torch.ones(2, dtype=dtype)})


def test_an_empty_tree_is_refused():
    with pytest.raises(br.InputError, match="no tensor to optimize"):
        Layout.of({})
