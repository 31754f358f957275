"""Every `bad` of the catalogue is found by the hunt, within its time, explained, and no `good` is accused."""

from __future__ import annotations

import keras
import pytest
from snippets import function_of

from nanguard import hazards
from nanguard.testing import NonFiniteAssertion, assert_finite

every_hazard = pytest.mark.parametrize("hazard", hazards.ALL, ids=lambda hazard: hazard.code)

# What is told instead of the hazard that was planted, where the hunt meets another one first or a call shows no more.
ALSO_RIGHT = {
    "NG104": ("NG103", "the logarithm is of 1 - p, and p a sigmoid that saturates"),
    "NG308": ("NG303", "the division stands in a tf.where"),
    "NG309": ("NG201", "the exponential overflows before its gradient does"),
    "NG502": ("NG203", "a softmax of +inf is NaN as well, by inf - inf"),
    "NG704": ("NG101", "that the numbers are boxes is not to be seen; one without width is the simplest"),
    "NG706": ("NG705", "made small, all rows are far off, and none is an outlier among others"),
}

# Cured for the numbers that stand in it and not for all around them, which is what the catalogue says as well.
GOOD_FOR_ITS_NUMBERS = {
    "NG112": "10 % -1.2e-38: a modulo by a subnormal number has an infinite slope",
    "NG204": "mask [1, 0] * x [0, -inf]: an infinity that is kept is handed on",
    "NG401": "-2 * 65504: a product of float16's largest number with more than 1 is infinite",
    "NG402": "log(-1 + 1e-8): a negative probability has no logarithm",
    "NG502": "softmax([0, +inf]): the mask is -inf, and +inf is none",
    "NG601": "inputs of -30: the rate suits those of the example and no others",
    "NG606": "[[nan, 0], [nan, 0]]: a column that is NaN throughout has no mean",
    "NG704": "a width of 1.2e-38 / 32 is subnormal, which a kernel reads as 0",
    "NG705": "a single row: a column that never varies is divided by its deviation, 0",
    "NG707": "a class id of 257: other than those two and 255 it is out of range",
}
# Trainings, of which a second holds few.
TRAINS = {"NG602", "NG603", "NG604", "NG605", "NG607", "NG608", "NG701", "NG703", "NG706"}


def looks_at_gradients(hazard: hazards.Hazard) -> bool:
    """Whether the gradient of the cured example is looked at: not where the example takes one itself."""
    return hazard.phase != "backward" and hazard.code not in GOOD_FOR_ITS_NUMBERS


@pytest.mark.one_in(3)
@every_hazard
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_bad_is_found(hazard: hazards.Hazard) -> None:
    """Given numbers around those that it was written with, the example and its hazard are found in five seconds."""
    keras.utils.set_random_seed(0)
    snippet = function_of(hazard.bad)
    assert snippet.values, "it has numbers to hunt for"
    with pytest.raises(NonFiniteAssertion) as caught:
        # What is planted shows in the value: an example for a gradient takes that gradient itself.
        assert_finite(snippet.function, *snippet.domains, dtypes=["float32"], gradients=False, seconds=5)
    assert caught.value.part == "value"
    assert caught.value.hazard in (hazard.code, *ALSO_RIGHT.get(hazard.code, ())[:1])
    assert "snippet(" in caught.value.code


@pytest.mark.long  # a hunt that finds nothing goes on to its end
@every_hazard
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_good_is_not_accused(hazard: hazards.Hazard) -> None:
    """The cured example is finite on all that the hunt tries, in value and gradient."""
    keras.utils.set_random_seed(0)
    snippet = function_of(hazard.good)
    given = snippet.fixed if hazard.code in GOOD_FOR_ITS_NUMBERS else snippet.domains
    seconds = 1 if hazard.code in TRAINS else 5
    assert_finite(snippet.function, *given, dtypes=["float32"], seconds=seconds, gradients=looks_at_gradients(hazard))


@pytest.mark.parametrize("code", sorted({*GOOD_FOR_ITS_NUMBERS, *ALSO_RIGHT, *TRAINS}))
def test_exceptions_are_of_the_catalogue(code: str) -> None:
    """Each exception is one of a hazard that there is."""
    assert hazards.get(code).code == code
