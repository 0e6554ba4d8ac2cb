"""Trains the diffusion transformer on standardised latents by one of ``nets.objectives``, with REPA's loss if configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from svgbench.config import choices, schema
from svgbench.errors import BadInput
from svgbench.images.store import ImageSet, open_images
from svgbench.machine.capture import Captured, CudaGraphs
from svgbench.machine.feed import TableRows, loaded
from svgbench.machine.measure import CountedWork
from svgbench.machine.memory import Memory, counted
from svgbench.machine.runtime import Runtime
from svgbench.machine.sharding import gathered, passes, shard_
from svgbench.machine.training import Batch, adam
from svgbench.machine.training import train as run_training
from svgbench.nets import draws
from svgbench.nets.execution import checkpoint_activations
from svgbench.nets.flow import misdirection
from svgbench.nets.latents import LatentStats
from svgbench.nets.objectives import OBJECTIVES
from svgbench.nets.representation import Projector, misalignment
from svgbench.nets.sit import SiT
from svgbench.stages.cost import cost_of, product_rate, work_of
from svgbench.stages.graph import WEAK, snapshot
from svgbench.stages.statistics import open_statistics
from svgbench.stages.tokenizers import Cached, latents_of, open_frozen, open_tokenizer
from svgbench.stages.transformers import spacing_of, write_description


class Teacher:
    """The frozen features of REPA's loss, and the projector that is trained to predict them."""

    def __init__(self, part: schema.Representation, images: ImageSet, width: int, runtime: Runtime, *, flips: bool) -> None:
        _, encoder = open_frozen(part.encoder.model_dump(mode="json"), runtime.torch_device)
        label = f"features of {encoder.card.name} on the training images"
        self.features = Cached(encoder.encode, images, runtime, label=label, flips=flips)
        self.projector = Projector(width, part.width, encoder.channels).to(runtime.torch_device)
        self.weight, self.block = part.weight, part.block


class DiffusionTask:
    """One update: standardised latents, noise and time seeded by position, class dropout, the objective's loss, one backward pass."""

    averaged = "sit"

    def __init__(
        self,
        model: SiT,
        latents: Cached,
        labels: Tensor,
        stats: LatentStats,
        part: schema.Diffusion,
        seed: int,
        runtime: Runtime,
        teacher: Teacher | None = None,
        images: ImageSet | None = None,
    ) -> None:
        """``images``: the training images, if latents or the teacher's features are computed from them in each update."""
        self.modules: dict[str, nn.Module] = {"sit": model}
        self.device = runtime.torch_device
        parameters = list(model.parameters())
        if teacher is not None:
            self.modules["projector"] = teacher.projector
            parameters += teacher.projector.parameters()
        self.optimisers = {"sit": adam(parameters, part.training.optimiser)}
        self._objective = OBJECTIVES[part.objective]
        self._model = self._objective.wrap(model, part.prediction)
        self._latents, self._labels, self._stats, self._part, self._runtime = latents, labels, stats, part, runtime
        self._teacher, self._images, self._memory = teacher, images, Memory(micro_batch=runtime.micro_batch)
        self._streams = {purpose: draws.stream(seed, f"diffusion/{purpose}") for purpose in ("noise", "time", "class", "flip")}
        self._weights = {"loss": 1.0} | ({"direction": part.direction} if part.direction else {})
        self._weights |= {"representation": teacher.weight} if teacher else {}
        if runtime.capture and self._objective.drawn:
            raise BadInput(f"--capture needs updates of one shape, and diffusion.objective {part.objective} has others; leave it out.")
        self._captured = Captured(self._of_inputs, parameters, CudaGraphs(runtime.torch_device)) if runtime.capture else None

    def fit(self) -> None:
        """Counts how many images fit the device's memory, if nobody chose a micro-batch."""
        self._memory = counted(self._runtime, self._probe, self.modules.values())

    def _probe(self, images: int) -> None:
        """The forward and backward pass of one update, without a step."""
        batch = Batch(torch.arange(images) % len(self._labels), torch.arange(images), images)
        self.update(loaded(self, batch, self.device), lambda name: None)
        for module in self.modules.values():
            module.zero_grad(set_to_none=True)

    def load(self, batch: Batch) -> dict[str, Any]:
        """The labels, which images are mirrored (drawn here, because on a GPU a draw takes 40 small kernels), what the objective draws on
        the host, and the images if they are encoded in the update."""
        images = {} if self._images is None else {"images": self._images.rows(batch.indices)}
        flip = {"flip": draws.chance(self._streams["flip"], batch.positions, (), 0.5)} if self._part.flip else {}
        drawn = {}
        if self._objective.drawn is not None:
            model = self._model
            drawn = self._objective.drawn(batch.positions, (model.grid // model.patch) ** 2, self._streams["time"], self._part)
        return {"labels": TableRows(self._labels, batch.indices), **flip, **images, **drawn}

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update of the transformer over the batch's images; returns this rank's share of each loss, a scalar."""
        totals = {name: torch.zeros((), device=self.device) for name in self._weights}  # also if a rank has no image
        limit = self._memory.limit(len(batch))
        if self._captured and limit is not None and limit < len(batch):
            raise BadInput(
                f"--capture needs each update in one pass, not in passes of {limit} images; leave --capture out, or use a smaller batch."
            )
        for micro in passes(self.modules["sit"], self.encoded(batch), limit):
            for name, loss in (self._replayed(micro) if self._captured else self._backward(micro)).items():
                totals[name] += loss
        apply("sit")
        return totals

    def _backward(self, micro: Batch) -> dict[str, Tensor]:
        """Adds the gradients of encoded images to the parameters; returns their share of each loss, a scalar."""
        losses = {name: micro.counted(each).sum() / micro.size for name, each in self.losses(micro).items()}
        total = reduce(torch.add, (self._weights[name] * loss for name, loss in losses.items()))
        with micro.reducing("sit"):
            total.backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _replayed(self, batch: Batch) -> Mapping[str, Tensor]:
        """The same from a captured graph, for an update in one pass."""
        assert self._captured is not None
        read = ("labels", "latents") if self._teacher is None else ("labels", "latents", "features")
        return self._captured({"positions": batch.positions} | {name: batch.data[name] for name in read}, batch.size)

    def _of_inputs(self, inputs: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
        """``_backward`` as a function of the tensors that it reads."""
        nowhere = torch.empty(0, dtype=torch.int64)  # indices into the data set are not read
        return self._backward(Batch(nowhere, inputs["positions"], size, data=inputs))

    def encoded(self, batch: Batch) -> Batch:
        """The batch with raw ``latents`` [B, C, h, w] and the teacher's ``features`` [B, D, h, w]: once for all micro-batches, because a
        frozen encoder fills each batch up to a whole number of chunks."""
        flip = batch.data["flip"] if self._part.flip else None
        images = {} if self._images is None else {"images": batch.data["images"]}
        made = {"latents": self._latents(batch.indices, flip, **images)}
        if self._teacher is not None:
            made["features"] = self._teacher.features(batch.indices, flip, **images)
        return batch.holding(**made)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of each image of an encoded batch, [B] each."""
        positions = batch.positions
        data = self._stats.standardise(batch.data["latents"]).float()
        dropped = draws.chance(self._streams["class"], positions, (), self._part.class_dropout)
        labels = batch.data["labels"].masked_fill(dropped, self._model.classes)
        tap = self._teacher.block if self._teacher else None
        noise, time = self._streams["noise"], self._streams["time"]
        pair = self._objective.pair(self._model, data, positions, noise, time, self._part, labels, batch.data)
        prediction, tokens = self._predict(pair.x, pair.time, labels, tap)
        found = {"loss": self._objective.losses(self._model, prediction, data, pair)}
        if self._part.direction:
            found["direction"] = misdirection(prediction, pair.target)
        if self._teacher is None:
            return found
        with self._runtime.autocast(self._part.training.precision):
            projected = self._teacher.projector(tokens)
        return found | {"representation": misalignment(projected, batch.data["features"])}

    def _predict(self, x: Tensor, time: Tensor, labels: Tensor, tap: int | None) -> tuple[Tensor, Tensor | None]:
        """The model's prediction [B, C or 2C, h, w], and the tokens after block ``tap``."""
        with self._runtime.autocast(self._part.training.precision):
            outputs = self._model(x, time, labels, tap)
        return (outputs, None) if tap is None else outputs


def update_work(task: DiffusionTask) -> CountedWork:
    """Operations of one image in one update, counted."""
    probe = loaded(task, Batch(indices=torch.zeros(1, dtype=torch.int64), positions=torch.zeros(1, dtype=torch.int64), size=1), task.device)

    def gradients(batch: Batch) -> None:
        losses = task.losses(task.encoded(batch)).values()
        reduce(torch.add, (loss.sum() for loss in losses)).backward()

    return work_of(task, gradients, probe)


def train(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Trains the transformer; writes ``sit.safetensors`` (the averaged weights), ``sit.json`` and ``log.jsonl``. Starts from the averaged
    weights of the artifact ``start``, if there is one (``stages.continuation``)."""
    part, seed = schema.Diffusion.model_validate(slice_["diffusion"]), slice_["seed"]
    objective = OBJECTIVES[part.objective]
    choice = choices.OBJECTIVES[part.objective]
    if runtime.sharded and (choice.intervals or choice.rounds):
        raise BadInput(f"--shard cannot train diffusion.objective {part.objective}, whose update needs whole weights; leave it out.")
    images = open_images(inputs["images"])
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    stats = open_statistics(inputs["statistics"], inputs["autoencoder"], tokenizer.channels, runtime)
    latents = latents_of("train", tokenizer, images.train, inputs["statistics"], runtime, flips=part.flip)
    del tokenizer  # latents in memory do not need it

    # the network, with initial weights drawn from the seed
    channels, grid, _ = latents.shape
    sizes = {"channels": channels, "grid": grid, "classes": len(images.classes), **objective.sizes(part)}
    start = inputs.get("start")
    if start is not None:
        sizes["spacing"] = spacing_of(start, grid, slice_["positions"])
    torch.manual_seed(draws.stream(seed, "diffusion/weights") % 2**31)
    model = objective.network(**sizes).to("cpu" if runtime.sharded else runtime.torch_device)  # a sharded one goes to the GPUs in parts
    if start is not None:
        model.load_state_dict(load_file(start / snapshot(1), device=str(runtime.torch_device)))
    teacher = None
    if part.representation.weight:
        torch.manual_seed(draws.stream(seed, "diffusion/projector") % 2**31)
        teacher = Teacher(part.representation, images.train, model.width, runtime, flips=part.flip)
    if runtime.checkpoint_activations:
        checkpoint_activations(model)
    if runtime.compiles:
        model.compile_blocks()
    if runtime.sharded:
        shard_(model, runtime)

    # FLOPs of one image, and speed of the machine
    online = latents.online or (teacher is not None and teacher.features.online)
    read = images.train if online else None
    task = DiffusionTask(model, latents, torch.as_tensor(images.train.labels), stats, part, seed, runtime, teacher, read)
    work = update_work(task)
    task.fit()
    rate = product_rate(runtime, part.training.precision)

    shares = {snapshot(share): share for share in part.snapshots} | ({WEAK: part.weak_share} if part.weak_share else {})
    keep = {file: round(share * part.training.total_images) for file, share in shares.items()}
    report = run_training(
        task, settings=part.training, dataset_size=len(images.train), seed=seed, out=out, runtime=runtime, label="SiT", keep=keep
    )
    weights = report.averages if report.averages is not None else gathered(model.state_dict(), runtime)
    if runtime.is_main:
        save_file({name: tensor.contiguous().cpu() for name, tensor in weights.items()}, out / "sit.safetensors")
        write_description(out, sizes, images.classes, objective=part.objective, prediction=part.prediction)
    return cost_of(report, work, max(rate, product_rate(runtime, part.training.precision)), model)
