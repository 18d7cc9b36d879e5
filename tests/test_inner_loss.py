"""`inner_loss`: the training step's loss, with the hyperparameters held constant."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import CheckpointError, checkpoint

import bestresponse as br
from problems import network, tuned_network

METHOD = br.Implicit(br.CG(max_steps=4), damping=3.0)


def test_inner_loss_leaves_the_hyperparameters_alone():
    model, decay, nested, batch = tuned_network("mlp", METHOD)
    nested.inner_loss(*batch).backward()
    assert all(p.grad is None for p in decay.parameters())
    expected = [p.grad.clone() for p in model.parameters()]
    tracked = int(model[1].num_batches_tracked)
    assert tracked == 1  # buffers are updated, as in a training step
    assert all(p.requires_grad for p in decay.parameters())
    torch.manual_seed(0)
    model, decay, nested, batch = tuned_network("mlp", METHOD)
    nested.inner(*batch).backward()
    assert all(p.grad is not None for p in decay.parameters())  # what a plain loop would do
    assert len(expected) == len(list(model.parameters()))


def test_inner_loss_mixes_positions_and_keywords():
    _, _, nested, (x, y) = tuned_network("logistic", METHOD)
    values = [nested.inner_loss(x, y), nested.inner_loss(x, y=y), nested.inner_loss(y=y, x=x)]
    assert values[0] == values[1] == values[2]


def test_a_checkpointed_region_that_reads_hyperparameters_fails_loudly():
    """Its recomputation comes after λ is a variable again; PyTorch notices, nothing is wrong."""
    model, (_, (x, y)) = (
        nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)),
        network("logistic"),
    )
    scale = br.hyper.Bounded(s=(0.0, 2.0, torch.tensor([0.7, 1.2, 0.9, 1.0])))
    hidden = lambda x: torch.tanh(model[0](x) * scale.s).square()  # noqa: E731
    loss = lambda x, y: F.cross_entropy(  # noqa: E731
        model[2](checkpoint(hidden, x, use_reentrant=False)), y
    )
    nested = br.Nested(model, scale, loss, loss, METHOD)
    with pytest.raises(CheckpointError):
        nested.inner_loss(x, y).backward()
    assert all(p.grad is None for p in scale.parameters())
