import math

import numpy as np
import pytest

from fastalign.errors import ConfigError
from fastalign.numeric import LARGEST_WHOLE, real_number, seed_number, whole_number

NO_NUMBERS = [math.nan, math.inf, -math.inf, 10**400, "nan", "1", "", None, True, b"1", [1], 1j]


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("check", [whole_number, real_number])
def test_what_is_no_finite_number_is_named(check, value):
    with pytest.raises(ConfigError, match=r"^width .*: give a (whole|finite) number"):
        check("width", value)


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "1_0", "٣", "0x1", "1.5", "", "9" * 5000])
def test_texts_that_are_no_whole_number(text):
    with pytest.raises(ConfigError, match="width"):
        whole_number("width", text, text=True)


@pytest.mark.parametrize(
    "text", ["nan", "-inf", "infinity", "1e999", "1_0", "٣", "wide", "", "9" * 5000]
)
def test_texts_that_are_no_number(text):
    with pytest.raises(ConfigError, match="width"):
        real_number("width", text, text=True)


def test_numbers_of_other_libraries_and_texts():
    assert whole_number("n", np.int64(3)) == 3 and type(whole_number("n", np.int64(3))) is int
    assert real_number("x", np.float32(0.5)) == 0.5 and real_number("x", 2) == 2.0
    assert whole_number("n", " +7 ", text=True) == 7 and real_number("x", "1e-3", text=True) == 1e-3


def test_bounds_are_kept_and_said():
    assert [whole_number("n", value, 1, 3) for value in (1, 3)] == [1, 3]
    assert [real_number("x", value, 0, 1) for value in (0, 1)] == [0, 1]
    for value in (0, 4):
        with pytest.raises(ConfigError, match=rf"^n {value}: give a whole number from 1 to 3\.$"):
            whole_number("n", value, 1, 3)
    with pytest.raises(ConfigError, match=r"^x 1: .* from 0 up to, but not, 1: a share\.$"):
        real_number("x", 1, 0, 1, open_ended=True, because="a share")
    with pytest.raises(ConfigError, match=r"at least 1\.$"):
        whole_number("n", 0, 1)
    with pytest.raises(ConfigError, match=rf"from 1 to {LARGEST_WHOLE}\.$"):
        whole_number("n", 2**66, 1)
    with pytest.raises(ConfigError, match="seed 73786976294838206464: give a whole number from 0"):
        seed_number(2**66)
