"""For the tests of one's own losses, ops and layers: hunts for operands on which they are not finite."""

from nanguard.testing import domains as domains
from nanguard.testing._assertion import NonFiniteAssertion as NonFiniteAssertion
from nanguard.testing._assertion import assert_finite as assert_finite
