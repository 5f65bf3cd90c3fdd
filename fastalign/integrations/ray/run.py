"""Scoring a collection: the driver's side."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fastalign import artifact
from fastalign.data import Source, parse_depth
from fastalign.engine.pictures import OUTPUTS, PictureOptions
from fastalign.engine.scoring import NO_THRESHOLD, Thresholds, thresholds
from fastalign.errors import ConfigError
from fastalign.integrations.ray.cluster import Pool, running
from fastalign.integrations.ray.collection import list_collection
from fastalign.integrations.ray.job import Job, Options, default_part_size, digest
from fastalign.integrations.ray.job_folder import open_job
from fastalign.integrations.ray.parts import SCORES, Counts
from fastalign.integrations.ray.requirements import require
from fastalign.load import SETTINGS, wait_passively
from fastalign.models.fyd import FYD
from fastalign.models.progress import NoProgress, Progress
from fastalign.numeric import MOST_THREADS, real_number, whole_number
from fastalign.words import count, part_of


@dataclass(frozen=True)
class BulkScores:
    """A complete output.

    Attributes:
        out: the output folder.
        scores: its folder of Parquet files.
        images: images of the input, each with one row.
        errors: rows with an error.
        anomalies: rows labelled anomaly.
        resumed: images whose rows an earlier run had written.
        seconds: from the first part handed out to the last one finished; 0 with nothing left to do.
        image_threshold, pixel_threshold: in force; None without.
        warnings: what a user may want to know, in sentences.
    """

    out: Path
    scores: Path
    images: int
    errors: int
    anomalies: int
    resumed: int
    seconds: float
    image_threshold: float | None
    pixel_threshold: float | None
    warnings: list[str]


def score_collection(
    model: str | os.PathLike[str],
    source: Source,
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    threads: int = 1,
    device: str = "cpu",
    gpus: float | None = None,
    precision: str | None = None,
    runtime: str = "auto",
    outputs: Sequence[str] = (),
    map_format: str = "tiff",
    overlay_format: str = "jpg",
    picture_size: int | str | None = None,
    threshold: float | None = None,
    pixel_threshold: float | None = None,
    least_area: float = 0.0,
    batch_size: int = 1,
    part_size: int | None = None,
    path_column: str = "path",
    bit_depth: str = "auto",
    address: str | None = None,
    progress: Progress | None = None,
) -> BulkScores:
    """Score a collection of images with a pool of workers, or go on with a run that was cut short.

    The scores are those of :func:`fastalign.engine.predict_paths`. They land in
    ``out/scores/part-*.parquet``, one row for each image, with the columns of ``scores.csv`` and
    ``index``, ``model``, ``ms`` and one for each of ``outputs``, whose files lie in
    ``out/maps/part-*/`` and so on. An image that cannot be read is a row with the reason.
    Called again with the same arguments, only the parts that are missing are scored; ``workers``,
    ``threads``, ``device`` and ``address`` may differ.

    Ray is used as it is if the caller has initialised it, at ``address`` if that or ``RAY_ADDRESS``
    is given, and else started on this machine for the time of the call.

    Args:
        model: the file that ``fastalign fit`` wrote. Every machine sees it, the images and ``out``
            under the same paths.
        source: a folder, an image, a glob pattern, several of these, a text file with one path on
            each line (``.txt`` or ``.lst``), or Parquet with a column of paths.
        out: folder to write to; new, empty, or that of an earlier call.
        workers: workers, each with the model in memory.
        threads: CPU threads of each worker.
        device: torch device of the workers, such as ``"cuda"``.
        gpus: GPUs that each worker claims, such as 0.5; the default is 1 on CUDA, else 0.
        precision: what the network computes in, see :meth:`fastalign.FYD.set_precision`.
        runtime: what computes it on a CPU, see :meth:`fastalign.FYD.set_runtime`.
        outputs: which of ``"map"``, ``"mask"``, ``"overlay"`` to write as well, and ``"regions"``,
            a column of JSON.
        map_format: ``"tiff"`` (with a viewable PNG beside each) or ``"npy"``.
        overlay_format: ``"jpg"`` or ``"png"``.
        picture_size: longest side of the pictures in pixels, see
            :func:`fastalign.engine.predict_paths`.
        threshold, pixel_threshold: to use in place of the model's, see
            :func:`fastalign.engine.predict_paths`.
        least_area: pixels of a photograph below which a region is left out.
        batch_size: images per forward pass.
        part_size: images in one file of scores, a multiple of ``batch_size``; the default depends
            on the number of images (16 to 256). It is what a worker does over after a death.
        path_column: the column of a Parquet source.
        bit_depth: of 16-bit files that state none, as ``--bit-depth`` takes it; ``"auto"``: the
            model's.
        address: of a running Ray cluster, such as ``"auto"``.
        progress: told about the course, in images.

    Raises:
        BackendError: Ray or pyarrow is missing, or the device cannot be used.
        ConfigError: an option has no such value, or ``out`` belongs to another run.
        ArtifactError: the model cannot be loaded, or changed during the run.
        InputError: nothing to score, or ``out`` cannot be written.
    """
    require()
    parse_depth(bit_depth)
    FYD.check_precision(precision)
    FYD.check_runtime(runtime)
    chosen = PictureOptions(tuple(outputs), map_format, overlay_format, picture_size)
    batch_size = whole_number("batch size", batch_size, 1)
    workers = whole_number("workers", workers, 1)
    threads = whole_number("threads", threads, 1, MOST_THREADS)
    if gpus is not None:
        gpus = real_number("gpus", gpus, 0)
    least_area = real_number("least area", least_area, 0)
    own = Thresholds(None, None).given(threshold, pixel_threshold)
    out = Path(os.path.abspath(out))
    inputs, warning_texts = list_collection(source, path_column=path_column, outputs=out)
    model_file = Path(os.path.abspath(model))
    identity = digest(model_file)
    # Loading the model here shows a bad one before Ray is started.
    limits = thresholds(artifact.load(model_file, runtime="torch")).given(
        threshold, pixel_threshold
    )
    if limits.image is None or (limits.pixel is None and "mask" in outputs):
        warning_texts.append(NO_THRESHOLD)
    size = default_part_size(len(inputs), batch_size) if part_size is None else part_size
    if whole_number("part size", size, 1) % batch_size:
        raise ConfigError(
            f"part size {size}: use a positive multiple of the batch size {batch_size}, so that "
            "parts end where batches end."
        )
    ordered = tuple(name for name in OUTPUTS if name in outputs)
    job = open_job(
        out,
        source if isinstance(source, str) else str(source),
        inputs,
        model_file=model_file,
        model=identity,
        options=Options(
            ordered,
            map_format,
            own.image,
            batch_size,
            size,
            bit_depth,
            overlay_format,
            chosen.size,
            own.pixel,
            precision,
            least_area,
            runtime,
        ),
        limits=limits,
    )
    claim = (1.0 if device.startswith("cuda") else 0.0) if gpus is None else gpus
    counts, resumed, again, seconds = _run(
        job, Pool(workers, threads, device, claim, address), progress or NoProgress()
    )
    if again:
        warning_texts.append(
            f"images changed after they were scored: {count(again, 'part')} scored again"
        )
    return BulkScores(
        out=out,
        scores=out / SCORES,
        images=counts.images,
        errors=counts.errors,
        anomalies=counts.anomalies,
        resumed=resumed,
        seconds=seconds,
        image_threshold=limits.image,
        pixel_threshold=limits.pixel,
        warnings=warning_texts,
    )


def _run(job: Job, pool: Pool, progress: Progress) -> tuple[Counts, int, int, float]:
    """Score what is missing: what all parts hold, the images that were there, the parts that are
    scored again since their images changed, and seconds."""
    done = job.finished()
    again = len(job.written()) - len(done)
    total = sum(done.values(), Counts(0, 0, 0))
    resumed = total.images
    missing = [part for part in range(job.parts) if part not in done]
    began = time.perf_counter()
    if missing:
        job.forget_attempts()
        progress.start("scoring", job.images - resumed)
        try:
            with running(pool):
                began = time.perf_counter()
                for counts in _score(job, pool, missing):
                    total += counts
                    progress.advance(counts.images)
        except KeyboardInterrupt:
            there = sum(counts.images for counts in job.finished(compare=False).values())
            raise KeyboardInterrupt(
                f"interrupted: {part_of(there, job.images, 'image', 'are')} scored; the same "
                "command goes on from there"
            ) from None
        job.forget_attempts()
    seconds = time.perf_counter() - began if missing else 0.0
    job.write_summary(total)
    return total, resumed, again, seconds


def _score(job: Job, pool: Pool, parts: list[int]) -> Iterator[Counts]:
    import ray.data

    from fastalign.integrations.ray.worker import PartScorer

    # One block, and so one call, for each part. No read tasks, which would wait for the processors
    # that the workers hold. By Ray Data's default a worker that dies is replaced and its call
    # repeated, without limit; our notes of attempts are the limit.
    remote: dict[str, Any] = {}
    if pool.threads > 1:
        # Where torch is loaded, and its threads read how to wait, is the worker's process.
        chosen = {name: os.environ[name] for name in SETTINGS if os.environ.get(name)}
        wait_passively(chosen)
        remote["runtime_env"] = {"env_vars": chosen}
    numbers = ray.data.from_items(
        [{"part": part} for part in parts], override_num_blocks=len(parts)
    )
    outcomes = numbers.map_batches(
        PartScorer,
        fn_constructor_kwargs={"job": job, "device": pool.device, "threads": pool.threads},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(pool.workers, len(parts))),
        num_cpus=pool.threads,
        num_gpus=pool.gpus,
        **remote,
    )
    # Nothing fetched ahead: what is done shall show at once.
    tables = outcomes.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    # Ray's annotation is the union of all formats; the one asked for is pyarrow.Table.
    for table in cast("Iterator[Any]", tables):
        for row in table.to_pylist():
            if row["failure"]:
                raise pickle.loads(row["failure"]) from _WorkerError(row["trace"])
            yield Counts(row["images"], row["errors"], row["anomalies"])


class _WorkerError(Exception):
    """Where in a worker an error came from."""
