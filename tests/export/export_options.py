"""Every option that changes what a forward pass does."""

OPTIONS = {
    "none": {"align": "none"},
    "ica": {"align": "ica"},
    "similarity": {"align": "ica", "family": "similarity"},
    "affine": {"align": "ica", "family": "affine"},
    "plain ica": {"align": "ica", "teacher": False},
    "fca": {"align": "fca"},
    "fa": {"align": "fa"},
    "all": {"align": "all"},
    "all channels": {"align": "none", "channels": 0},
    "bfloat16": {"align": "ica+fa", "storage": "bfloat16"},
    "float16": {"align": "ica+fca", "storage": "float16"},
    "no calibration": {"align": "ica", "calibrate": False, "sigma": 0.0},
    "much unseen": {"align": "ica", "family": "similarity", "min_share": 1.0},
}
