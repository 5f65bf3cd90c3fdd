"""The mutants: every barrier of every kernel, and bounds, vectors and lanes of each op."""

from __future__ import annotations

from cuda_on_cpu_support.mutants import Mutant

BARRIER = r"__syncthreads\(\);"

# Every barrier of every kernel: one that nothing misses is not needed, or not tested.
BARRIERS = {
    "dense_similarity.cuh": ("dense_similarity", 4),
    "reduce.cuh": ("pairwise_distance", 1),
    "warp_affine.cuh": ("warp_affine", 2),
    "warp_gather.cuh": ("warp_affine", 2),
    "warp_plan.cuh": ("warp_affine", 2),
    "warp_taps.cuh": ("warp_affine", 1),
    "warp_theta.cuh": ("warp_affine", 5),
    "mahalanobis.cuh": ("mahalanobis", 2),
    "mahalanobis_backward.cuh": ("mahalanobis", 7),
    "mahalanobis_low_rank.cuh": ("mahalanobis", 4),
    "refine_pose.cuh": ("refine_pose", 3),
    "anomaly_map.cuh": ("anomaly_map", 2),
}

MUTANTS = [
    *(
        Mutant(op, "removed barrier", file, BARRIER, "", nth)
        for file, (op, count) in BARRIERS.items()
        for nth in range(count)
    ),
    Mutant(
        "dense_similarity",
        "bound not checked",
        "dense_tile.cuh",
        r"return valid\(k\) \? load_vec",
        "return true ? load_vec",
    ),
    Mutant(
        "dense_similarity",
        "bound not checked",
        "dense_tile.cuh",
        r"if \(valid\(k\)\) \{\s+store_vec",
        "if (true) { store_vec",
    ),
    Mutant(
        "dense_similarity",
        "misaligned vector",
        "dense_tile.cuh",
        r"store_vec\(to\.data \+",
        "store_vec(to.data + 1 +",
    ),
    Mutant(
        "dense_similarity",
        "wrong lane",
        "dense_tile.cuh",
        r"__shfl_xor_sync\(kAllLanes, values\[n\], offset\)",
        "__shfl_down_sync(kAllLanes, values[n], offset)",
    ),
    Mutant(
        "dense_similarity",
        "wrong mask",
        "dense_tile.cuh",
        r"__shfl_xor_sync\(kAllLanes, values",
        "__shfl_xor_sync(kAllLanes >> 1, values",
    ),
    Mutant(
        "pairwise_distance",
        "off by one",
        "pairwise_task.cuh",
        r"active\(index < given\.pixels\)",
        "active(index <= given.pixels)",
    ),
    Mutant(
        "pairwise_distance",
        "off by one",
        "pairwise_distance.cuh",
        r"image < batch; \+\+image",
        "image <= batch; ++image",
    ),
    Mutant(
        "pairwise_distance",
        "misaligned shared memory",
        "pairwise_distance.cuh",
        r"\(shared \+ kSumBytes\)",
        "(shared + kSumBytes + 2)",
    ),
    Mutant(
        "pairwise_distance",
        "wrong lane",
        "reduce.cuh",
        r"__shfl_xor_sync\(kAllLanes, value, offset\)",
        "__shfl_xor_sync(kAllLanes, value, offset / 2)",
    ),
    Mutant(
        "warp_affine",
        "off by one",
        "warp_affine.cuh",
        r"ox >= p\.frame\.out_width \|\|",
        "ox > p.frame.out_width ||",
    ),
    Mutant(
        "warp_affine",
        "misaligned vector",
        "warp_affine.cuh",
        r"store_vec\(to \+ c,",
        "store_vec(to + c + 1,",
    ),
    Mutant(
        "warp_affine",
        "misaligned vector",
        "warp_gather.cuh",
        r"load_vec<N, Cache::readonly>\(grad\)",
        "load_vec<N, Cache::readonly>(grad + 1)",
    ),
    Mutant(
        "warp_affine",
        "wrong lane",
        "warp_sweep.cuh",
        r"__shfl_xor_sync\(kAllLanes, sums\[c\], step\)",
        "__shfl_xor_sync(kAllLanes, sums[c], step / 2)",
    ),
    Mutant(
        "warp_affine",
        "wrong lane",
        "warp_theta.cuh",
        r"__shfl_xor_sync\(kAllLanes, sum, step\)",
        "__shfl_xor_sync(kAllLanes, sum, step / 2)",
    ),
    Mutant(
        "mahalanobis",
        "off by one",
        "mahalanobis_tile.cuh",
        r"if \(tail < count\)",
        "if (tail <= count)",
    ),
    Mutant(
        "mahalanobis",
        "off by one",
        "mahalanobis_backward.cuh",
        r"if \(b < left\)",
        "if (b <= left)",
    ),
    Mutant(
        "mahalanobis",
        "off by one",
        "mahalanobis_low_rank.cuh",
        r"n < left \? to_float",
        "n <= left ? to_float",
    ),
    Mutant(
        "mahalanobis",
        "off by one",
        "mahalanobis_low_rank.cuh",
        r"if \(n < left\)",
        "if (n <= left)",
    ),
    Mutant(
        "mahalanobis",
        "misaligned vector",
        "mahalanobis_tile.cuh",
        r"i \* kVec<W>, from \+ head",
        "i * kVec<W>, from + 1 + head",
    ),
    Mutant(
        "mahalanobis",
        "wrong lane",
        "mahalanobis_tile.cuh",
        r"total\.plain, bit\)",
        "total.plain, bit ^ 1)",
    ),
    Mutant(
        "mahalanobis",
        "wrong lane",
        "mahalanobis_tile.cuh",
        r"upper \? low : high, bit\)",
        "upper ? low : high, bit ^ 1)",
    ),
    Mutant(
        "anomaly_map",
        "off by one",
        "anomaly_map.cuh",
        r"if \(x >= width\)",
        "if (x > width)",
    ),
    Mutant(
        "anomaly_map",
        "misaligned shared memory",
        "anomaly_map.cuh",
        r"reinterpret_cast<float\*>\(map \+ 1\)",
        "reinterpret_cast<float*>(map + 1) + 1",
    ),
    Mutant(
        "refine_pose",
        "off by one",
        "refine_pose.cuh",
        r"x > 0 && x \+ 1 < width",
        "x > 0 && x < width",
    ),
    Mutant(
        "refine_pose",
        "misaligned shared memory",
        "refine_pose.cuh",
        r"reinterpret_cast<float\*>\(shared \+ 1\)",
        "reinterpret_cast<float*>(reinterpret_cast<char*>(shared + 1) + 2)",
    ),
    Mutant(
        "refine_pose",
        "wrong lane",
        "refine_pose.cuh",
        r"__shfl_xor_sync\(kAllLanes, given, Half\)",
        "__shfl_xor_sync(kAllLanes, given, Half / 2)",
    ),
]
