import numpy as np
import pytest

from fastalign.engine.reading import reading_ahead
from fastalign.errors import InputError


def test_photographs_are_read_once_each_and_an_error_is_that_of_its_own():
    read = []

    def photograph(number):
        read.append(number)
        if number == 7:
            raise InputError("7 is gone")
        return np.full((1, 1, 3), number, np.uint8)

    with reading_ahead(photograph, [5, 7, 2]) as get:
        assert get(5)[0, 0, 0] == 5
        with pytest.raises(InputError, match="7 is gone"):
            get(7)
        assert get(2)[0, 0, 0] == 2
    assert read == [5, 7, 2]
