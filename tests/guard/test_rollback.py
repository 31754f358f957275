"""Going back: only where harm was done, to the state before it, and with what was to blame left out or lowered."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from nanguard.guard.rates import Rates
from nanguard.guard.rollback import Rollback
from nanguard.guard.trials import are_ordinary, is_worse

MEMORY = np.float32(0.5)  # of the momentum
TRUTH = np.array([[1.0], [-2.0], [0.5], [3.0]], "float32")


class Numbers(NamedTuple):
    """What a step measures, as far as going back reads it."""

    loss: float
    grad_norm: float
    skipped: int


class Training:
    """Linear regression by SGD with momentum; its steps are refused, counted and measured as a guarded `fit`'s are."""

    def __init__(self, rate: float, **options: Any) -> None:
        draw = np.random.default_rng(0)
        self.weights = tf.Variable(draw.normal(size=(4, 1)), dtype=tf.float32)
        self.velocity = tf.Variable(tf.zeros([4, 1]))
        self.noise = tf.Variable(0.0)  # stands for the state of a layer
        self.skipped = tf.Variable(0)
        self.own_rate = rate
        self.rollback = Rollback(
            lambda: [self.weights, self.velocity, self.noise], counters=lambda: [self.skipped], **options
        )
        self.steps = 0
        self.num_run = 0  # trials included

    @np.errstate(all="ignore")
    def run(self, batch: Any) -> Numbers:
        self.num_run += 1
        x, y = batch
        error = x @ self.weights.numpy() - y
        loss, gradient = np.mean(error**2), 2 / len(x) * x.T @ error
        if np.isfinite(loss) and np.isfinite(gradient).all():
            self.noise.assign_add(1.0)
            self.velocity.assign(MEMORY * self.velocity.numpy() - self.own_rate * self.rollback.rate.numpy() * gradient)
            self.weights.assign_add(self.velocity)
        else:
            self.skipped.assign_add(1)
        return Numbers(float(loss), float(np.linalg.norm(gradient)), int(self.skipped))

    def step(self, batch: Any) -> float | None:
        """Runs one step of the training; gives its loss, or None if it was refused."""
        self.rollback.before_step(self.steps, self.run)
        before = int(self.skipped)
        numbers = self.run(batch)
        self.steps += 1
        is_refused = numbers.skipped != before
        self.rollback.after_step(batch, numbers, is_refused=is_refused)
        return None if is_refused else numbers.loss

    def go_back(self, num_offending: int = 0) -> int | None:
        """Goes back; gives the step of the snapshot."""
        snapshot, again = self.rollback.go_back(num_offending, run=self.run)
        assert again == []
        return None if snapshot is None else snapshot.step

    @np.errstate(all="ignore")
    def loss(self, batches: list[Any]) -> float:
        weights = self.weights.numpy()
        return float(np.mean([np.mean((x @ weights - y) ** 2) for x, y in batches]))

    def bits(self) -> list[bytes]:
        return [variable.numpy().tobytes() for variable in (self.weights, self.velocity, self.noise)]


def batches(num: int, seed: int = 1, noise: float = 0.3) -> list[Any]:
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(num):
        x = draw.normal(size=(16, 4)).astype("float32")
        y = x @ TRUTH + noise * draw.normal(size=(16, 1)).astype("float32")
        found.append((x, y))
    return found


def trained(rate: float, data: list[Any], **options: Any) -> Training:
    training = Training(rate, **options)
    for batch in data:
        training.step(batch)
    return training


def guarded(rate: float, data: list[Any], **options: Any) -> Training:
    """A training that goes back where a loss is a thousand times the first, or at the second refused step in a row."""
    training = Training(rate, **options)
    first = training.loss(data[:1])
    in_row = 0
    for batch in data:
        loss = training.step(batch)
        in_row = in_row + 1 if loss is None else 0
        if in_row > 1 or (loss is not None and loss > 1e3 * first):
            training.go_back(int(loss is not None))
            in_row = 0
    return training


# -- the rate is to blame


@pytest.mark.parametrize("exponent", [2, 10, 20])
def test_a_rate_that_is_too_high(exponent: int):
    """A rate too high by any factor is found in one rollback; the end is that of a training with the best rate."""
    data = batches(60)
    best = min(trained(0.01 * 2.0**e, data).loss(data) for e in range(-6, 6))
    training = guarded(0.5 * 2.0**exponent, data)
    assert training.loss(data) <= 1.05 * best
    assert training.rollback.attempts == 1
    assert float(training.rollback.rate) < 1.0


def test_no_batch_is_lost():
    """After a rollback all batches have been trained on once, at the rate that was found, refused ones too."""
    data = batches(4)
    training = guarded(1e20, data)
    assert int(training.skipped) == 2
    assert training.rollback.attempts == 1
    rate = float(training.rollback.rate)
    other = Training(1e20)
    other.rollback.rate.assign(rate)
    for batch in data:
        assert other.step(batch) is not None
    assert training.bits() == other.bits()


def test_the_rate_grows_back():
    """A rate that was lowered for what has passed since rises again while that ends lower."""
    data = batches(150)
    training = Training(0.02, every=20)
    for batch in data[:2]:
        training.step(batch)
    training.own_rate = 5e3  # a mishap of its schedule
    training.step(data[2])
    training.step(data[3])
    assert training.go_back(1) == 0
    lowered = float(training.rollback.rate)
    assert lowered < 1e-3
    training.own_rate = 0.02
    for batch in data[4:]:
        training.step(batch)
    assert float(training.rollback.rate) > 100 * lowered
    assert training.loss(data) <= 1.1 * trained(0.02, data).loss(data)


def test_looks_are_ever_rarer():
    """Looking at the rate again costs less and less: a step of a long training costs about one step."""
    data = batches(1100)
    training = guarded(100.0, data)
    num_first = training.num_run
    assert training.rollback.attempts == 1
    for batch in data[:1000]:
        training.step(batch)
    assert training.num_run - num_first < 1000 + 8 * 110


def test_nothing_is_run_while_nothing_happens():
    """A training without an alarm runs its own steps and no other, and to the same bits."""
    data = batches(250)
    training = trained(0.01, data)
    assert training.num_run == 250
    plain = Training(0.01)
    for batch in data:
        plain.run(batch)
    assert training.bits() == plain.bits()


def test_a_factor_of_1_keeps_the_rate():
    """At `factor=1` no other rate is tried; the training goes on from the snapshot."""
    training = guarded(100.0, batches(4), factor=1.0)
    assert float(training.rollback.rate) == 1.0
    assert training.rollback.attempts >= 1


# -- a batch is to blame


def test_a_bad_batch_is_left_out():
    """A batch that does harm is left out: the bits are those of a training that never saw it, and the rate stays."""
    data = batches(50)
    x, y = data[30]
    training, other = Training(0.01), Training(0.01)
    for batch in data[:30]:
        training.step(batch)
        other.step(batch)
    training.step((x, y + np.float32(1e4)))
    assert training.go_back(1) == 0
    assert training.bits() == other.bits()
    assert float(training.rollback.rate) == 1.0
    for batch in data[30:]:
        training.step(batch)
        other.step(batch)
    assert training.bits() == other.bits()


def test_a_bad_batch_that_is_noticed_late():
    """A batch unlike the others is left out though the alarm came a step later; the one accused is not."""
    data = batches(50)
    x, y = data[30]
    training, other = Training(0.01), Training(0.01)
    for batch in data[:30]:
        training.step(batch)
        other.step(batch)
    training.step((x, y + np.float32(1e4)))
    training.step(data[31])
    other.step(data[31])
    assert training.go_back(1) == 0
    assert training.bits() == other.bits()
    assert float(training.rollback.rate) == 1.0


def test_batches_that_are_refused_at_any_state_do_no_harm():
    """Batches that are bad in themselves are left at being refused, however many: there is nothing to go back from."""
    data = batches(10)
    training = trained(0.01, data)
    before = training.bits()
    x, y = data[0]
    for _ in range(3):
        assert training.step((x * np.float32(math.nan), y)) is None
    assert training.go_back() is None
    assert training.bits() == before
    assert (training.rollback.attempts, int(training.skipped)) == (0, 3)


# -- nothing is to blame


def test_a_passing_fault():
    """A weight that something else has overwritten is restored: the bits are those of an undisturbed training."""
    data = batches(40)
    training, other = Training(0.01), Training(0.01)
    for batch in data[:30]:
        training.step(batch)
        other.step(batch)
    training.weights.assign(training.weights * 1e4)
    for batch in data[30:32]:
        training.step(batch)
        other.step(batch)
    assert training.go_back(1) == 0
    assert training.bits() == other.bits()
    assert float(training.rollback.rate) == 1.0


@pytest.mark.parametrize("num", [1, 5, 50, 130])
def test_a_false_alarm_changes_nothing(num: int):
    """Where the batches fare no worse than at the snapshot an alarm changes no bit, rate, counter or seed."""
    data = batches(num + 20)
    training = trained(0.01, data[:num])
    before, random = training.bits(), np.random.get_state()[1].tobytes()
    assert training.go_back(1) is None
    assert (training.bits(), np.random.get_state()[1].tobytes()) == (before, random)
    assert (training.rollback.attempts, float(training.rollback.rate), int(training.skipped)) == (0, 1.0, 0)
    other = trained(0.01, data[:num])
    for batch in data[num:]:
        training.step(batch)
        other.step(batch)
    assert training.bits() == other.bits()


def test_a_large_loss_without_harm():
    """A batch whose loss is a hundred times the others', but whose step does no harm, is no reason to go back."""
    data = batches(40)
    training = trained(1e-6, data)
    x, y = data[0]
    training.step((x, y + np.float32(30)))
    assert training.go_back(1) is None


# -- where it goes back to


def test_an_older_snapshot_where_the_newest_is_bad_already():
    """Where the newest snapshot was taken when the trouble was on its way, the one before is gone back to."""
    data = batches(60)
    training = Training(0.01, every=10)
    for batch in data[:25]:
        training.step(batch)
    good = training.loss(data)
    training.weights.assign(training.weights * 30)
    for batch in data[25:33]:
        training.own_rate = 1e-6
        training.step(batch)
    assert training.rollback.snapshots.steps == [10, 20, 30]
    assert training.go_back(1) == 20
    assert training.loss(data) < 2 * good


def test_no_snapshot():
    """Without a snapshot there is nothing to go back to."""
    assert Rollback(list).go_back(1, run=lambda batch: None) == (None, [])


def test_limit():
    """After `limit` rollbacks in a row it is exhausted; a snapshot's time without one ends the row."""
    training = Training(0.01, limit=2)
    data = batches(20)
    for batch in data:
        training.step(batch)
    for num in (1, 2):
        assert not training.rollback.is_exhausted()
        training.weights.assign(training.weights * 1e6)
        training.step(data[0])
        training.go_back(1)
        assert training.rollback.attempts == num
    assert training.rollback.is_exhausted()
    for batch in batches(training.rollback.snapshots.every):
        training.step(batch)
    assert not training.rollback.is_exhausted()


def test_held_batches_are_bounded():
    """Beyond `max_bytes` of held batches a snapshot is taken early."""
    training = trained(0.01, batches(20), max_bytes=16 * 5 * 4 * 6)
    assert training.rollback.snapshots.steps == [0, 7, 14]


# -- without batches at hand


def blind(rollback: Rollback, num: int, step: int) -> int:
    for _ in range(num):
        rollback.before_step(step)
        rollback.after_step(None)
        step += 1
    return step


def test_without_batches_the_rate_is_lowered_by_steps():
    """Where batches are not at hand the rate is lowered by `factor`, by its square at once again, and grows back."""
    weight = tf.Variable(1.0)
    rollback = Rollback(lambda: [weight], every=10, warmup=20)
    step = blind(rollback, 100, 0)
    weight.assign(2.0)
    snapshot, again = rollback.go_back(1, run=lambda batch: None)
    assert (snapshot.step, again, float(weight), float(rollback.rate)) == (90, [], 1.0, 0.5)
    assert rollback.go_back(1)[0].step == 80
    assert float(rollback.rate) == 0.125
    blind(rollback, 20, step)
    assert float(rollback.rate) == 0.25


def test_weights_that_something_else_has_broken():
    """With `is_rate_kept` nothing is tried: the snapshot is restored, and the healthy batches are to be run again."""
    data = batches(12)
    training = trained(0.01, data, every=10)
    training.weights.assign(training.weights * math.nan)
    snapshot, again = training.rollback.go_back(is_rate_kept=True, run=training.run)
    assert snapshot.step == 10
    assert [id(batch) for batch in again] == [id(batch) for batch in data[10:]]
    assert float(training.rollback.rate) == 1.0


def test_state_goes_through_json():
    """A rollback that goes on from a state that went through JSON is where the first was."""
    training = guarded(100.0, batches(20))
    state = json.loads(json.dumps(training.rollback.state()))
    assert state["attempts"] == 1
    other = Rollback(list)
    other.restore(state)
    assert other.state() == training.rollback.state()
    assert float(other.rate) == float(training.rollback.rate)


# -- the first steps


def alarms(losses: list[float], norms: list[float]) -> list[int]:
    rollback = Rollback(list)
    found = []
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        if rollback.diverges(loss, norm):
            found.append(step)
        rollback.after_step(None)
    return found


def test_early_divergence():
    """In the first 64 steps ten times the first loss and the first norm is a divergence, one of them alone is none."""
    growing = [1.5**step for step in range(8)]
    assert alarms(growing, growing) == [6, 7]
    assert alarms(growing, [1.0] * 8) == alarms([1.0] * 8, growing) == []
    assert alarms([1.0] * 64 + [100.0], [1.0] * 64 + [100.0]) == []
    assert alarms([1.0] * 63 + [100.0], [1.0] * 63 + [100.0]) == [63]
    assert alarms([0.0, 5.0], [0.0, 5.0]) == []


def test_early_divergence_is_held_against_what_is_usual():
    """A first loss that is far too small (fine-tuning) alarms once; no harm is found, and it counts no more."""
    data = batches(30)
    training = Training(1e-3)
    training.weights.assign(TRUTH)
    x, _ = data[0]
    data[0] = (x, x @ TRUTH + np.float32(1e-3))
    num_alarms = 0
    for batch in data:
        training.rollback.before_step(training.steps, training.run)
        numbers = training.run(batch)
        training.steps += 1
        is_alarm = training.rollback.diverges(numbers.loss, numbers.grad_norm)
        training.rollback.after_step(batch, numbers)
        if is_alarm:
            num_alarms += 1
            assert training.go_back(1) is None
    assert num_alarms == 1


# -- the parts


def test_is_worse():
    """Losses are worse where they have risen by a fifth in the mean, and by more than chance makes of so few."""
    assert is_worse([1.3], [1.0])
    assert not is_worse([1.1], [1.0])
    assert not is_worse([2.0, 0.5, 1.2, 0.7], [1.0, 1.0, 1.0, 0.7])
    assert is_worse([1.3, 1.2, 1.4, 1.3], [1.0, 1.0, 1.0, 1.0])
    assert is_worse([-0.7, -0.7], [-1.0, -1.0])
    assert not is_worse([-1.3, -1.3], [-1.0, -1.0])
    assert is_worse([1.0, math.inf], [1.0, 1.0])


def test_are_ordinary():
    """A loss that is infinite, or above the median by ten times its size, is unlike the others; a low one is not."""
    assert are_ordinary([1.0, 1.2, 0.01, 30.0, math.inf]) == [True, True, True, False, False]
    assert are_ordinary([-1.0, -1.1, -0.9, 8.0, 12.0]) == [True, True, True, True, False]
    assert are_ordinary([math.inf, math.inf]) == [False, False]


@pytest.mark.parametrize("best", [0.7, 0.5, 0.1, 1e-3, 3e-9])
def test_rates_below(best: float):
    """The best rate of the ladder is found within a factor of the true one, and each is tried once."""
    tried: list[float] = []

    def attempt(rate: float) -> tuple[float, Any]:
        tried.append(rate)
        return (math.inf, None) if rate > 4 * best else (1 + abs(math.log(rate / best)), rate)

    rates = Rates(attempt)
    rates.search_below(1.0, factor=0.5)
    assert rates.end == rates.best
    assert 0.7 <= rates.best / min(best, 0.5) <= 1.5
    assert len(tried) == len(set(tried))


def test_rates_that_all_fail():
    """Where every rate fails none is the best."""
    rates = Rates(lambda rate: (math.inf, None))
    rates.search_below(1.0, factor=0.5)
    assert (rates.end, math.isnan(rates.best)) == (None, True)
    assert 10 < len(rates.losses) < 50


def test_rates_around():
    """Above and below the present rate it goes on for as long as it gets better, and never above 1."""
    for best, expected in ((0.25, 0.25), (1e-3, 2.0**-10), (5.0, 1.0)):
        attempt: Callable[[float], tuple[float, Any]] = lambda rate, best=best: (1 + abs(math.log(rate / best)), rate)  # noqa: E731
        rates = Rates(attempt)
        rates.note(0.25, *attempt(0.25))
        rates.search_around(0.25, factor=0.5)
        assert (rates.best, rates.end) == (expected, expected)
