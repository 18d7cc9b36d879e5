"""Schedules: what is recorded, what a file keeps, what a replay runs at."""

import pytest
import torch
from torch import nn

import bestresponse as br
from bestresponse import InputError
from bestresponse.response import Dropout, Replay, Schedule, SelfTuning


def recorded():
    hyper = br.hyper.Bounded(
        rate=(0.0, 0.9, 0.1),
        holes=(br.hyper.Integers(0, 3), 1),
        each=(0.0, 1.0, torch.tensor([0.2, 0.7])),
    )
    net, schedule = SelfTuning(nn.Linear(2, 1), hyper, {"": "rate"}), Schedule()
    schedule.record(0, net, loss=2.0)
    hyper.set(rate=1 / 3, holes=2, each=torch.tensor([0.3, 0.6]))
    schedule.record(5, net, loss=1.5, test=0.1)
    return schedule


def test_rows_are_what_the_network_had(tmp_path):
    schedule = recorded()
    assert schedule.columns[:5] == ["step", "rate", "holes", "each[0]", "each[1]"]
    assert schedule.column("holes") == [1.0, 2.0] and schedule.column("test") == [0.1]
    assert schedule.column("sigma:rate") == pytest.approx([0.5, 0.5])
    for each in (schedule, saved(schedule, tmp_path)):
        for step, rate, holes, pair in [(4, 0.1, 1, [0.2, 0.7]), (5, 1 / 3, 2, [0.3, 0.6])]:
            at = each.at(step)
            assert set(at) == {"rate", "holes", "each"}
            assert float(at["rate"]) == pytest.approx(rate, abs=1e-12) and at["holes"] == holes
            torch.testing.assert_close(at["each"], torch.tensor(pair))


def saved(schedule, folder):
    schedule.save(folder / "schedule.csv")
    again = Schedule.load(folder / "schedule.csv")
    assert again._rows == schedule._rows  # in full precision
    return again


def test_a_schedule_goes_on_from_the_rows_of_another():
    schedule = recorded()
    again = Schedule(schedule.rows)
    assert again.rows == schedule.rows and again.columns == schedule.columns
    again.rows[0]["rate"] = 2.0  # a copy
    assert again.rows == schedule.rows
    net = SelfTuning(nn.Linear(2, 1), br.hyper.Bounded(rate=(0.0, 0.9, 0.5)), {"": "rate"})
    again.record(6, net)
    assert len(again) == 3 and len(schedule) == 2
    assert [float(again.at(step)["rate"]) for step in (-1, 5, 6)] == pytest.approx(
        [0.1, 1 / 3, 0.5]
    )


def test_an_ordinary_network_runs_at_the_values():
    model = nn.Sequential(nn.Linear(3, 4000), nn.Dropout(0.9))
    replay = Replay(model, recorded(), {"1": "rate"})
    assert {*replay.model.state_dict()} == {*model.state_dict()}
    assert not any(hasattr(m, "gate") for m in replay.modules())
    for step, rate in [(0, 0.1), (5, 1 / 3)]:
        replay.set(step)
        y = replay(torch.ones(2, 3))
        assert (y == 0).double().mean().item() == pytest.approx(rate, abs=0.02)
        kept = y != 0
        torch.testing.assert_close(y[kept], (model[0](torch.ones(2, 3)) / (1 - rate))[kept])
        assert replay.values["rate"].shape == (1,)
    assert torch.equal(replay.eval()(torch.ones(2, 3)), model[0](torch.ones(2, 3)))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(9, 4), nn.LSTM(4, 4)
        self.drop = Dropout(dims_shared=(0,))

    def forward(self, tokens):
        return self.drop(self.rnn(self.embed(tokens))[0])


def test_words_and_recurrent_weights_are_dropped_too():
    class Now:
        def at(self, step):
            return {"rate": torch.tensor(0.5 if step else 1e-9)}

    words = Words()
    replay = Replay(words, Now(), {"embed": "rate", "rnn": "rate", "drop": "rate"}, batch_dim=1)
    trained = sum(p.numel() for p in replay.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for p in words.parameters())
    tokens = torch.randint(9, (6, 2))
    torch.testing.assert_close(replay(tokens), words(tokens), rtol=1e-6, atol=1e-6)
    replay.set(1)
    assert (replay(tokens) == 0).all(0).any() and (replay.model.embed(tokens) == 0).any()
    torch.testing.assert_close(replay.eval()(tokens), words.eval()(tokens))


def test_bad_input_is_refused(tmp_path):
    schedule = recorded()
    net = SelfTuning(nn.Linear(2, 1), br.hyper.Bounded(rate=(0.0, 1.0, 0.5)))
    with pytest.raises(InputError, match="Step 5 comes after step 5"):
        schedule.record(5, net)
    with pytest.raises(InputError, match="is empty"):
        Schedule().at(0)
    for text in ("", "a,b\n1,2\n", "step,a\n1,x\n", "step\n1,2\n"):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(InputError, match="is no schedule"):
            Schedule.load(tmp_path / "other.csv")
    with pytest.raises(InputError, match="no hyperparameter 'p'"):
        Replay(nn.Linear(2, 2), schedule, {"": "p"})
    with pytest.raises(InputError, match="no layer 'x'"):
        Replay(nn.Linear(2, 2), schedule, {"x": "rate"})
