"""The Lightning module: collect normal images, fit on them, score."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule, MemoryBankMixin
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from torch import Tensor, nn

from fastalign.errors import ConfigError, InputError
from fastalign.export import plain_ops
from fastalign.integrations.anomalib.files import check_read
from fastalign.integrations.anomalib.images import NormalImages
from fastalign.integrations.anomalib.judged import JudgingEvaluator
from fastalign.integrations.anomalib.model import FydModel
from fastalign.integrations.anomalib.post_processor import JudgingPostProcessor
from fastalign.integrations.anomalib.pre_processor import ResizePreProcessor, normalises
from fastalign.integrations.anomalib.progress import BarProgress
from fastalign.models.config import FYDConfig
from fastalign.models.fyd import FYD
from fastalign.models.names import under
from fastalign.numeric import real_number, seed_number
from fastalign.roi import read_regions

logger = logging.getLogger(__name__)

# Where a checkpoint keeps what its tensors do not say, in plain data.
_CHECKPOINT_KEY = "fastalign"
_PREFIX = "model.fyd"


class Fyd(MemoryBankMixin, AnomalibModule):
    """FYD (arXiv 2110.04538) as a model of anomalib.

    One pass over the training images collects them, then :class:`fastalign.FYD` is fitted on them
    as ``fastalign fit`` does it: poses, training, density, thresholds. Images of the validation and
    test sets are never learned from. Collected images take 12 bytes per pixel of the model's image
    size, until the fit is done.

    Arguments:
        seed: of everything random in the fit; the trainer's seed has no influence.
        validation_fraction: share of the normal training images kept apart for fastalign's own
            thresholds, which a model file written with ``model.fyd.save`` contains. anomalib's
            post-processor has its own, from its validation set.
        roi, roi_photo: a file with regions of interest, and the photograph that they were drawn on,
            see :meth:`fastalign.FYD.fit`; None: all of the part is judged.
        pre_processor: True: resize to ``image_size``. An own one must give that size and values in
            0..1, so no ``Normalize``: the model normalises by itself.
        precision: what the network computes in when it scores, see
            :meth:`fastalign.FYD.set_precision`; None: the default of the device. The trainer's has
            no influence.
        runtime: what computes the network on a CPU when it scores, see
            :meth:`fastalign.FYD.set_runtime`.
        post_processor, evaluator, visualizer: as in every model of anomalib.

    All others are the options of :class:`fastalign.FYDConfig` with their defaults. ``aspect`` None
    is that of the image files; where the data module crops, give that of what is left.

    Raises:
        ConfigError: an option has no such value, the pre-processor normalises, or the fit's device
            does not compute in ``precision``.
        BackendError: ``runtime`` is not installed.
        InputError: ``roi`` cannot be read.
    """

    model: FydModel

    def __init__(
        self,
        image_size: tuple[int, int] = (256, 256),
        align: str = "all",
        teacher: bool = True,
        skip: bool = True,
        family: str = "auto",
        fca_family: str = "rotation_scale",
        aspect: float | None = None,
        backbone: str = "tf_efficientnet_lite0",
        weights: str | None = None,
        layers: Sequence[int | str] | None = None,
        strides: Sequence[int] = (8, 16),
        reduction: str = "whiten",
        channels: int = 256,
        prior: float | None = 3.0,
        mean_prior: str = "auto",
        rank: int = 64,
        neighbours: int = 1,
        shrinkage: float | None = None,
        storage: str = "int8",
        min_share: float = 0.1,
        calibrate: bool = True,
        refit: bool = True,
        sigma: float = 4.0,
        top_share: float = 0.0,
        threshold_quantile: float = 0.99,
        epochs: int = 10,
        batch_size: int = 32,
        learning_rate: float = 1e-4,
        ica_learning_rate: float = 0.01,
        momentum: float = 0.9,
        ica_weight: float = 1.0,
        fa_weight: float = 1.0,
        projector_channels: int = 0,
        search_images: int = 100,
        seed: int = 0,
        validation_fraction: float = 0.1,
        roi: str | None = None,
        roi_photo: str | None = None,
        precision: str | None = None,
        runtime: str = "auto",
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        given = locals()
        config = FYDConfig(**{field.name: given[field.name] for field in fields(FYDConfig)})
        seed = seed_number(seed)
        validation_fraction = real_number(
            "validation fraction", validation_fraction, 0, 1, open_ended=True
        )
        if roi is not None and roi_photo is None:
            # A file that cannot be read, or is too coarse, is told before anything is collected.
            read_regions(roi).at(config.image_size)
        FYD.check_precision(precision)
        FYD.check_runtime(runtime)
        if normalises(getattr(pre_processor, "transform", None)):
            raise ConfigError(
                "Fyd: the pre-processor has a Normalize, but the model normalises by itself; leave "
                "it out, or leave pre_processor out for the default."
            )
        super().__init__(
            pre_processor=(
                self.configure_pre_processor(config.image_size)
                if pre_processor is True
                else pre_processor
            ),
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.config = config
        self.seed = seed
        self.validation_fraction = validation_fraction
        self.roi, self.roi_photo = roi, roi_photo
        self.precision = precision
        self.runtime = runtime
        self.model = FydModel()
        self._images = NormalImages()

    # Fitting ---------------------------------------------------------------------------------

    @staticmethod
    def configure_optimizers() -> None:
        """None: the fit has its own."""

    def on_train_start(self) -> None:
        """A run of the trainer that begins anew fits anew."""
        self._images = NormalImages()
        self._is_fitted = torch.tensor([False], device=self.device)

    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Tensor:
        """Collect the images of the batch.

        Returns:
            A zero, because Lightning wants a loss.

        Raises:
            InputError: values outside 0..1, or files of more than 8 bits that were read wrongly.
        """
        del args, kwargs
        check_read(batch.image_path)
        self._images.add(batch.image, batch.image_path)
        return torch.tensor(0.0, requires_grad=True, device=self.device)

    def fit(self) -> None:
        """Fit on the collected images; called by the hooks before validation or at the epoch's end.

        Raises:
            InputError: no images, or some of another size than ``image_size``.
        """
        aspect = self.config.aspect or self._images.aspect
        train, validation = self._images.split(self.validation_fraction, self.seed)
        self._images = NormalImages()
        progress = BarProgress(self.trainer.progress_bar_callback is not None, self.trainer.loggers)
        # Validation starts in inference mode, whose tensors could never be changed again.
        with torch.inference_mode(False):
            fyd = FYD(replace(self.config, aspect=aspect)).to(self.device)
            try:
                fyd.fit(
                    train,
                    validation or None,
                    seed=self.seed,
                    progress=progress,
                    roi=self.roi,
                    roi_photo=self.roi_photo,
                )
            finally:
                progress.close()
        self.model.fyd = fyd.set_precision(self.precision).set_runtime(self.runtime, strict=False)
        alignment = fyd.extra_metadata()["alignment"]
        logger.info("%s (%s)", alignment["summary"], alignment["reason"])

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Any:
        """The batch with scores and maps.

        Raises:
            InputError: an image holds NaN or infinity, by which no threshold can be set, or is a
                file of more than 8 bits that was read wrongly.
        """
        del args, kwargs
        check_read(batch.image_path)
        lost = (~batch.image.isfinite()).flatten(1).sum(1).tolist()
        if any(lost):
            first = next(index for index, count in enumerate(lost) if count)
            name = f"image {first} of a batch"
            if batch.image_path is not None:
                name = batch.image_path[first]
            raise InputError(
                f"{name}: {lost[first]} values are NaN or infinite; mend it or leave it out."
            )
        return batch.update(**self.model(batch.image)._asdict())

    # Checkpoints -----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add which parts the model has, and what is known about its fit."""
        super().on_save_checkpoint(checkpoint)
        if self.model.fyd is not None:
            checkpoint[_CHECKPOINT_KEY] = {
                "aspect": self.model.fyd.config.aspect,
                "metadata": self.model.fyd.extra_metadata(),
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the parts that the checkpoint's tensors belong to; needs no pretrained weights."""
        super().on_load_checkpoint(checkpoint)
        self._is_fitted = torch.tensor([False], device=self.device)
        self.model.fyd = None
        fitted = checkpoint.get(_CHECKPOINT_KEY)
        if fitted is not None:
            config = replace(self.config, aspect=fitted["aspect"])
            tensors = under(_PREFIX, checkpoint["state_dict"])
            fyd = FYD.from_state(config, tensors, fitted["metadata"]).to(self.device)
            # The trainer moves it to its device later.
            fyd.set_precision(self.precision, strict=False)
            self.model.fyd = fyd.set_runtime(self.runtime, strict=False)

    # Export ----------------------------------------------------------------------------------

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """As anomalib's, without operators of fastalign in the file; OpenVINO's export uses it.

        The opset is 18 where none is asked for: warps need at least 16.
        """
        kwargs.setdefault("opset_version", 18)
        with plain_ops():
            return super().to_onnx(export_root, model_file_name, input_size, **kwargs)

    # Defaults --------------------------------------------------------------------------------

    @classmethod
    def configure_pre_processor(cls, image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Resizing to ``image_size``, by default 256 x 256, and nothing else."""
        return ResizePreProcessor(image_size or FYDConfig().image_size)

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """anomalib's own, of the images that could be judged."""
        own = AnomalibModule.configure_evaluator()
        return JudgingEvaluator(test_metrics=list(own.test_metrics))

    def configure_post_processor(self) -> PostProcessor:
        """anomalib's own: thresholds and normalisation from its validation set. What could not be
        judged is labelled an anomaly."""
        return JudgingPostProcessor()

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """One pass on one device, no check before it and no clipping of gradients."""
        return {
            "max_epochs": 1,
            "devices": 1,
            "num_sanity_val_steps": 0,
            "val_check_interval": 1.0,
            "gradient_clip_val": 0,
        }

    @property
    def learning_type(self) -> LearningType:
        """Normal images only."""
        return LearningType.ONE_CLASS
