"""A model as its rooms: made of a configuration or of rooms that there are, and its thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastalign.errors import ConfigError
from fastalign.models.config import FYDConfig, FYDOptions, with_options
from fastalign.models.evidence import Evidence
from fastalign.models.images import checked
from fastalign.models.interest import change_region, several_regions
from fastalign.models.record import FitRecord
from fastalign.models.rooms import Rooms, default_weights, make
from fastalign.models.thresholds import Change, changed
from fastalign.nn.backbone import FeatureBackbone
from fastalign.nn.fitted_gaussian import keeping_dtypes
from fastalign.nn.precision import check_precision
from fastalign.nn.replay import Replays
from fastalign.nn.runtime import Chosen, check_runtime, chosen_on
from fastalign.nn.state import made_in_own_state
from fastalign.storage import layout

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from fastalign.data import Depth


class RoomModel(nn.Module):
    """The four rooms of a model and what is known about their fit.

    Arguments:
        config: options, all of them; None for the defaults.
        options: single options by name, in place of those of ``config``.

    Attributes:
        config: the options.
        pose, features, density, maps: the rooms that an image goes through, each usable alone.
        record: what is known about the fit.

    Raises:
        ConfigError: an option, or a combination, that makes no sense.
        InputError: weights that cannot be read or downloaded.
    """

    @made_in_own_state
    def __init__(self, config: FYDConfig | None = None, **options: Unpack[FYDOptions]) -> None:
        super().__init__()
        config = with_options(config or FYDConfig(), options)
        self._move_in(make(config, default_weights(config)), FitRecord())

    @classmethod
    def of_rooms(cls, rooms: Rooms, record: FitRecord) -> Self:
        """A fitted model of its rooms and of what is known about their fit, in evaluation mode."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._move_in(rooms, record)
        # As after a fit: nothing is trained by accident.
        return model.requires_grad_(False).eval()

    def _move_in(self, rooms: Rooms, record: FitRecord) -> None:
        self.config = rooms.config
        self.pose, self.features = rooms.pose, rooms.features
        self.density, self.maps = rooms.density, rooms.maps
        self.record = record
        self.replays = Replays()
        self.register_load_state_dict_post_hook(_settle_again)
        # Nothing is trained by accident.
        self.eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # half(), bfloat16() and double() leave the numbers as they are: they are float32, with the
        # Gaussians in ``storage``, since 16 bits would change poses and distances.
        super()._apply(keeping_dtypes(fn), recurse)
        self.rooms.settle()
        return self

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As in ``nn.Module``, into a model of the same options and parts.

        Raises:
            RuntimeError: the parts are others, as those of a fitted model are where this one is
                not; :meth:`FYD.from_state` makes the model of such a state.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            raise RuntimeError(
                f"{error}\nA fitted model is its options, its state_dict() and its "
                "extra_metadata() together, which knows the parts that the fit has made: "
                "FYD.from_state(config, state_dict, metadata) makes it of the three, "
                "FYD.load(path) of a file that save() wrote."
            ) from error

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # A checkpoint of another library may hold the names of format version 1.
        for name in [name for name in state_dict if name.startswith(prefix)]:
            renamed = prefix + layout.with_room(name.removeprefix(prefix))
            state_dict[renamed] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def rooms(self) -> Rooms:
        """The rooms with the configuration, for what works on all of them."""
        return Rooms(self.config, self.pose, self.features, self.density, self.maps)

    def prepare(self, images: Tensor) -> Tensor:
        """The images in float32.

        Raises:
            ValueError: they have another shape than the model's, or are on another device.
            InputError: they are whole numbers, or far outside 0..1.
        """
        return checked(images, self.config.image_size, self.features.device)

    @property
    def replayable(self) -> bool:
        """Whether a GPU may score by recorded graphs: they would hold memory beside a budget, and
        what is compiled may record graphs of its own."""
        return not (self.features.bounded or self.features.compiled)

    @property
    def evidence(self) -> Evidence:
        """What an image must show to be judged, by the normal images of the fit."""
        return Evidence.from_record(self.record.evidence)

    @property
    def image_threshold(self) -> Tensor:
        """Scores above it are anomalies; NaN: there is none."""
        return self.maps.image_threshold

    @property
    def pixel_threshold(self) -> Tensor:
        """Values of the map above it are anomalies; NaN: there is none."""
        return self.maps.pixel_threshold

    @property
    def precision(self) -> str:
        """What the network computes in where the model is: ``"float32"``, ``"tf32"``,
        ``"bfloat16"`` or ``"float16"``. Poses and distances are float32 in any case."""
        return self.features.precision

    @staticmethod
    def check_precision(precision: str | None) -> None:
        """Raise :class:`ConfigError` where no device has such a precision."""
        check_precision(precision, None)

    @staticmethod
    def chosen_runtime(device: str | torch.device) -> Chosen:
        """What ``"auto"`` computes networks by on a device, as far as it depends on that alone.

        Raises:
            ConfigError: ``FASTALIGN_RUNTIME`` names no runtime.
        """
        return chosen_on(torch.device(device))

    @staticmethod
    def check_runtime(runtime: str) -> None:
        """Raise :class:`ConfigError` where there is no such runtime, :class:`BackendError` where it
        is not installed."""
        check_runtime(runtime)

    def set_precision(self, precision: str | None, *, strict: bool = True) -> Self:
        """Let the network compute in ``"float32"``, ``"tf32"``, ``"bfloat16"`` or ``"float16"``
        when it scores; returns the model.

        It says how the model runs here; the model's file and a fit have nothing of it.

        Args:
            precision: None: the default of the device, tf32 on NVIDIA's GPUs, else float32, which
                it is too where the model is moved to a device without the precision.
            strict: False: a precision for the device that the model will be moved to.

        Raises:
            ConfigError: there is no such precision, or not on this device: tf32 is of NVIDIA's
                GPUs, float16 of GPUs, bfloat16 of GPUs and processors with instructions for it.
        """
        self.features.run_in(precision, strict=strict)
        self.replays.forget()
        return self

    @property
    def runtime(self) -> str:
        """What computes the network where the model is, ``"torch"`` or ``"openvino"``."""
        return self.features.runtime.runtime

    @property
    def runtime_reason(self) -> str:
        """Why it is torch, in words; empty where that was asked for, or where it is OpenVINO."""
        return self.features.runtime.reason

    def set_runtime(self, runtime: str, *, strict: bool = True) -> Self:
        """Let ``"torch"`` compute the network when the model scores, ``"openvino"``, or
        ``"auto"``; returns the model.

        OpenVINO computes on processors, in float32 and bfloat16, what has no gradients; it is
        converted here from the model, which takes about a second. It says how the model runs; the
        model's file and a fit have nothing of it.

        Args:
            runtime: auto: OpenVINO where it is installed, on x86-64, and gives what torch gives
                within :data:`fastalign.nn.openvino_network.PARITY`, unless the environment variable
                ``FASTALIGN_RUNTIME`` names another; else torch. openvino: an error where it cannot.
            strict: False: a runtime for the device that the model will be moved to.

        Raises:
            ConfigError: there is no such runtime, or not on this device.
            BackendError: OpenVINO is not installed, or does not give what torch does.
        """
        for backbone in self._backbones():
            backbone.run_by(runtime, strict=strict)
        if strict:
            # Now rather than with the first image.
            assert self.features.runtime
        return self

    def _backbones(self) -> list[FeatureBackbone]:
        return [part for part in self.modules() if isinstance(part, FeatureBackbone)]

    @contextmanager
    def as_in_a_fit(self) -> Iterator[None]:
        """Let the network compute in float32, by torch, meanwhile."""
        runtime = self.features.backbone.asked_runtime
        self.set_runtime("torch")
        try:
            with self.features.in_float32():
                yield
        finally:
            # Those that were made meanwhile, too.
            self.set_runtime(runtime, strict=False)

    def set_threshold(
        self,
        value: float | None = None,
        *,
        quantile: float | None = None,
        false_alarms: float | None = None,
        fitted: bool = False,
        image: bool = True,
        pixel: bool = True,
        region: str | None = None,
    ) -> Self:
        """Change the thresholds and what the record says of their source; returns the model.

        An image's score is the largest value of its map, unless ``top_share`` is set, so with one
        threshold for both an image is an anomaly where its mask shows something. Give one of the
        first four:

        Args:
            value: the threshold itself.
            quantile: of the scores of normal images that the fit has kept, 0 to 1.
            false_alarms: share of normal images above it, 0 to 1: as the quantile of 1 less it.
            fitted: that of the fit again.
            image: change the threshold of images.
            pixel: change the threshold of pixels.
            region: of several regions of interest the one whose threshold is changed, in the unit
                of the distances (:attr:`roi_thresholds`), of images and pixels.

        Raises:
            ConfigError: a number out of its range, none or several of them, there is no such
                region, or the model keeps no scores of normal images.
        """
        given = value is not None or quantile is not None or false_alarms is not None
        if given == fitted or not (image or pixel):
            raise ConfigError(
                "threshold: give one of a value, a quantile, false alarms and fitted, for images, "
                "pixels or both."
            )
        change = None if fitted else Change(value, quantile, false_alarms)
        if region is not None and several_regions(self.record, region):
            self.record = change_region(self.rooms, self.record, region, change)
            self.replays.forget()
            return self
        stored = float(self.image_threshold), float(self.pixel_threshold)
        values, record = changed(self.record, stored, change, image=image, pixel=pixel)
        self.maps.set_thresholds(*values)
        self.record = record
        return self

    @property
    def depth(self) -> Depth | None:
        """Of 16-bit photographs whose files state none, for :func:`fastalign.data.load_image`; None
        where it was fitted on tensors."""
        from fastalign.data import Depth

        return Depth.from_record(self.record.depth)

    @property
    def aspect(self) -> float:
        """Width over height of the photographs in true units."""
        return self.pose.aspect

    def parts(self) -> dict[str, Any]:
        """Which optional parts there are, with what restores them, JSON-able."""
        return self.rooms.parts()

    def extra_metadata(self) -> dict[str, Any]:
        """What is known about the fit, JSON-able: ``seed``, ``aspect``, ``depth``, ``images``,
        ``alignment`` with ``used``, ``summary`` and ``reason``, ``training`` by epoch, ``parts``,
        ``threshold_source`` in words, ``evidence`` (:class:`fastalign.models.evidence.Evidence`),
        ``normal_whole`` (``distance`` and ``residual``, see :class:`FitRecord`), ``warnings`` in
        sentences, and ``known_images``, by which
        :class:`fastalign.models.known.KnownImages` knows the images of the fit again."""
        return self.record.metadata()


def _settle_again(model: RoomModel, _: object) -> None:
    model.rooms.settle()
