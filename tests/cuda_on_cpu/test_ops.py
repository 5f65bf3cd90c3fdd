"""The generic tests of the ops, run over the CUDA kernel bodies on the CPU."""

from __future__ import annotations

import pytest

# What these modules assert is shown as for a test module of this folder.
pytest.register_assert_rewrite("test_every_op", "test_special_values")

from test_every_op import (  # noqa: E402, F401
    test_as_accurate_as_plain_pytorch,
    test_small_shapes,
)
from test_special_values import (  # noqa: E402, F401
    test_a_map_that_is_not_finite_spoils_its_own_image_only,
    test_an_axis_of_one_pixel_is_centred_without_a_warning,
    test_an_infinite_image_does_not_reach_other_groups,
    test_at_the_mean_distance_and_gradient_are_zero,
    test_coordinates_of_wide_images_are_not_computed_in_16_bits,
    test_distances_between_nearly_equal_images,
    test_equal_images_have_distance_and_gradient_zero,
    test_expanded_inputs,
    test_known_warps,
    test_nan_is_handed_on_and_stays_where_it_belongs,
    test_nothing_valid_is_no_distance,
    test_only_equality_of_labels_counts,
    test_short_and_long_vectors,
    test_what_lies_under_the_mask_does_not_matter,
    test_whiteners_may_be_stored_in_16_bits,
    test_without_partners_value_and_gradient_are_zero,
    test_zero_vectors_have_cosine_and_gradient_zero,
)
