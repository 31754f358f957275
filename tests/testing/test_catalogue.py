"""Every `bad` of the catalogue is found by the hunt, within its time, and no `good` is accused."""

from __future__ import annotations

import keras
import pytest
from snippets import function_of

from nanguard import hazards
from nanguard.testing import NonFiniteAssertion, assert_finite

every_hazard = pytest.mark.parametrize("hazard", hazards.ALL, ids=lambda hazard: hazard.code)

# Cured for the numbers that stand in it and not for all around them, which is what the catalogue says as well.
GOOD_FOR_ITS_NUMBERS = {
    "NG105": "divide_no_nan is safe at 0 and not near it: NG308",
    "NG112": "a modulo by a subnormal number has an infinite slope",
    "NG202": "the norm itself is beyond float32 for numbers beyond it",
    "NG204": "infinities are among the numbers around, and x * mask hands on one that is kept",
    "NG303": "log(x) of a subnormal x has an infinite slope: NG307",
    "NG305": "atan2 has an infinite slope near the origin too",
    "NG308": "divide_no_nan is safe at 0 and not near it",
    "NG401": "a product of float16's largest number with more than 1 is infinite",
    "NG402": "a negative probability has no logarithm",
    "NG502": "infinities are among the numbers around, and softmax of +inf is NaN",
    "NG504": "a matrix that is far from positive definite has no Cholesky factor",
    "NG601": "the rate suits the inputs of the example and no others",
    "NG606": "a column that is NaN throughout has no mean",
    "NG704": "a width that is subnormal has an infinite slope",
    "NG705": "a column that never varies is divided by its deviation, 0",
    "NG707": "a class id other than those two and 255 is out of range",
}
# Trainings, of which a second holds few.
TRAINS = {"NG602", "NG603", "NG604", "NG605", "NG607", "NG608", "NG701", "NG703", "NG706"}


@every_hazard
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_bad_is_found(hazard: hazards.Hazard) -> None:
    """Given numbers around those that it was written with, the example is found to be non-finite in five seconds."""
    keras.utils.set_random_seed(0)
    snippet = function_of(hazard.bad)
    assert snippet.values, "it has numbers to hunt for"
    with pytest.raises(NonFiniteAssertion) as caught:
        # What is planted shows in the value: an example for a gradient takes that gradient itself.
        assert_finite(snippet.function, *snippet.domains, dtypes=["float32"], gradients=False, seconds=5)
    assert caught.value.part == "value"
    assert "snippet(" in caught.value.code


@every_hazard
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_good_is_not_accused(hazard: hazards.Hazard) -> None:
    """The cured example is finite on all that the hunt tries, in value and gradient."""
    keras.utils.set_random_seed(0)
    snippet = function_of(hazard.good)
    is_fixed = hazard.code in GOOD_FOR_ITS_NUMBERS
    given = snippet.fixed if is_fixed else snippet.domains
    seconds = 1.5 if hazard.code in TRAINS else 5
    assert_finite(snippet.function, *given, dtypes=["float32"], seconds=seconds, gradients=not is_fixed)


@pytest.mark.parametrize("code", GOOD_FOR_ITS_NUMBERS)
def test_exceptions_are_of_the_catalogue(code: str) -> None:
    """Each exception is one of a hazard that there is."""
    assert hazards.get(code).code == code
