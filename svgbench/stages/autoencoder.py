"""Stage 1: trains residual encoder, alignment and decoder around a frozen encoder, or adopts an encoder that has a decoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from svgbench.backends.open import FrozenEncoder
from svgbench.backends.tokens import combined
from svgbench.config import schema
from svgbench.config.choices import MOMENT_IMAGES, PIECE
from svgbench.images.store import ImageSet, open_images
from svgbench.machine.feed import loaded
from svgbench.machine.files import write_atomic
from svgbench.machine.measure import CountedWork
from svgbench.machine.memory import Memory, counted
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Batch, adam
from svgbench.machine.training import train as run_training
from svgbench.metrics.perceptual import load_perceptual
from svgbench.nets import draws
from svgbench.nets.critic import Gradients, PatchDiscriminator, ReconstructionObjective, adaptive_weight, last_layer_gradients
from svgbench.nets.execution import checkpoint_activations
from svgbench.nets.latents import noised
from svgbench.nets.tokenizer import Tokenizer
from svgbench.stages.cost import cost_of, product_rate, work_of
from svgbench.stages.tokenizers import Cached, Shape, blocks, build, describe, open_frozen, to_floats


@dataclass
class _Piece:
    """A micro-batch: what is read and computed once for all passes over it."""

    originals: Tensor
    """Images [b, 3, H, W] in [0, 1]."""
    features: Tensor
    """Frozen features [b, C, h, w]."""
    positions: Tensor
    """[b] int64, on the device."""
    size: int
    """Images in the global batch."""
    reducing: Callable[..., AbstractContextManager[None]]
    """Goes around the backward pass of an optimiser's networks (``Batch.reducing``)."""
    residual: Tensor | None = None
    """Residual before alignment [b, c, h, w], once it is computed."""


class AutoencoderTask:
    """One update: global batch statistics, one backward pass of the decoder with the adaptive weight, then one of the discriminator."""

    averaged = None

    def __init__(
        self,
        tokenizer: Tokenizer,
        images: ImageSet,
        features: Callable[..., Tensor],
        part: schema.Autoencoder,
        seed: int,
        runtime: Runtime,
        combine: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        """``features``: a ``Cached``, or a function (indices [B], images=uint8 [B, 3, H, W]) -> frozen features [B, C, h, w], or tokens of
        L blocks [B, L, C, h, w], of which ``combine`` makes features: (tokens, global positions [B]) -> features."""
        self._tokenizer, self._images, self._features, self._part, self._seed, self._runtime = (
            tokenizer,
            images,
            features,
            part,
            seed,
            runtime,
        )
        self._combine = combine
        loss, device = part.loss, runtime.torch_device
        self.device = device
        self.modules: dict[str, nn.Module] = {"tokenizer": tokenizer}
        self.optimisers = {"tokenizer": adam(tokenizer.parameters(), part.training.optimiser)}
        discriminator = None
        if loss.adversarial:
            discriminator = PatchDiscriminator(loss.discriminator_base, loss.discriminator_layers).to(device)
            self.modules["discriminator"] = discriminator
            self.optimisers["discriminator"] = adam(discriminator.parameters(), part.training.optimiser)
        judge = load_perceptual(loss.network, loss.weights, device=device) if loss.perceptual else None
        self._objective = ReconstructionObjective(
            l1=loss.l1, perceptual=loss.perceptual, adversarial=loss.adversarial, discriminator=discriminator, judge=judge,
            autocast=self._autocast,
        )  # fmt: skip
        self._memory = Memory(micro_batch=runtime.micro_batch)

    def fit(self) -> None:
        """Counts how many images fit the device's memory, if nobody chose a micro-batch."""
        start = self._part.loss.adversarial_start_images  # with the GAN term an update needs most
        self._memory = counted(self._runtime, lambda images: self.probe(images, start), self.modules.values())

    def probe(self, images: int, images_seen: int) -> None:
        """The forward and backward passes of one update, without a step."""
        indices = torch.arange(images) % len(self._images)
        batch = Batch(indices, torch.arange(images), images, images_seen)
        self.update(loaded(self, batch, self.device), lambda name: None)
        for module in self.modules.values():
            module.zero_grad(set_to_none=True)

    def compile(self) -> None:
        """Compiles the networks in place."""
        if self._tokenizer.residual_encoder is not None:
            self._tokenizer.residual_encoder.compile_blocks()
        self._tokenizer.decoder.compile_blocks()
        self._objective.compile_distance()

    def load(self, batch: Batch) -> dict[str, Any]:
        """The images."""
        return {"images": self._images.rows(batch.indices)}

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """Updates the tokenizer and, once the GAN term is on, the discriminator; returns this rank's share of each loss (scalar)."""
        loss = self._part.loss
        gan = bool(loss.adversarial) and batch.images_seen >= loss.adversarial_start_images
        # once for all micro-batches, because a frozen encoder fills each batch up to a whole number of chunks
        features = self._features(batch.indices, images=batch.data["images"])
        if self._combine is not None:
            features = self._combine(features, batch.positions)
        batch = batch.holding(features=features)
        limit = self._memory.limit(len(batch), PIECE)
        pieces = [self._piece(micro) for micro in list(batch.micro_batches(limit)) or [batch]]
        held = 1 if len(pieces) == 1 else self._memory.held(limit)
        sums = self._statistics(pieces, held)
        losses, outputs = self._with_gan(pieces, sums, held) if gan else self._without_gan(pieces, sums)
        if sums is not None and sums.requires_grad:
            self._through_statistics(pieces, sums)
        apply("tokenizer")
        if gan:
            losses["discriminator"] = torch.zeros((), device=self.device)
            for piece, y in zip(pieces, outputs, strict=True):
                critic_loss = self._objective.discriminate(y, piece.originals, size=batch.size)
                with piece.reducing("discriminator"):
                    critic_loss.backward()
                losses["discriminator"] += critic_loss.detach()
            apply("discriminator")
        return losses

    def _piece(self, micro: Batch) -> _Piece:
        """What the passes over a micro-batch share."""
        originals = to_floats(micro.data["images"], self.device)
        return _Piece(originals, micro.data["features"], micro.positions, micro.size, micro.reducing)

    def _autocast(self) -> AbstractContextManager[Any]:
        return self._runtime.autocast(self._part.training.precision)

    def _residual(self, piece: _Piece) -> Tensor | None:
        """The residual before alignment, whose dropout is seeded by position: computed once with a graph, if the piece has one."""
        encoder = self._tokenizer.residual_encoder
        if piece.residual is not None or encoder is None:
            return piece.residual
        with self._autocast():
            return encoder(piece.originals, piece.positions, self._seed)

    def _statistics(self, pieces: list[_Piece], held: int) -> Tensor | None:
        """The alignment's sums over the global batch; None if it needs none. They have no graph, so only the first ``held`` pieces, whose
        residual is used again, need one. If gradients flow through the sums, they collect their own (``_through_statistics``)."""
        alignment, total = self._tokenizer.alignment, None
        if self._tokenizer.residual_encoder is None or alignment is None or not alignment.needs_statistics:
            return None
        for number, piece in enumerate(pieces):
            with torch.set_grad_enabled(number < held):
                piece.residual = self._residual(piece)
            assert piece.residual is not None
            with self._autocast(), torch.no_grad():
                sums = alignment.statistics_of(piece.residual, piece.features)
            total = sums if total is None else total + sums
        assert total is not None
        return self._runtime.all_reduce_(total).requires_grad_(alignment.gradient)

    def _through_statistics(self, pieces: list[_Piece], sums: Tensor) -> None:
        """Adds the gradients that flow through the alignment's sums: that of the sums over all images and ranks, then one more pass of the
        residual encoder for each piece."""
        alignment, assigned = self._tokenizer.alignment, sums.grad
        assert alignment is not None
        gradient = self._runtime.all_reduce_(torch.zeros_like(sums) if assigned is None else assigned)
        for piece in pieces:
            residual = self._residual(piece)
            assert residual is not None
            with self._autocast():
                part = alignment.statistics_of(residual, piece.features)
            with piece.reducing("tokenizer"):
                part.backward(gradient)

    @staticmethod
    def _last_pass(piece: _Piece, sums: Tensor | None) -> AbstractContextManager[Any]:
        """Marks the last backward pass of the tokenizer, unless that of the statistics follows."""
        return nullcontext() if sums is not None and sums.requires_grad else piece.reducing("tokenizer")

    def _decode(self, piece: _Piece, sums: Tensor | None) -> tuple[Tensor, Tensor]:
        """The last convolution's input and output [B, 3, H, W] in [-1, 1]. With gradients, a residual without a graph is computed again."""
        if torch.is_grad_enabled() and piece.residual is not None and not piece.residual.requires_grad:
            piece.residual = None
        latents, residual = piece.features, self._residual(piece)
        with self._autocast():
            if residual is not None:
                encoder, alignment = self._tokenizer.residual_encoder, self._tokenizer.alignment
                assert encoder is not None and alignment is not None  # a residual implies both
                aligned = alignment(residual, piece.features, sums)
                latents = torch.cat([piece.features, encoder.replace(aligned, piece.positions, self._seed)], dim=1)
            latents = noised(latents, piece.positions, seed=self._seed, tau=self._part.noise)
            hidden = self._tokenizer.decoder.before_last(latents)
            return hidden, self._tokenizer.decoder.conv_out(hidden)

    def _without_gan(self, pieces: list[_Piece], sums: Tensor | None) -> tuple[dict[str, Tensor], list[Tensor]]:
        """One forward and backward pass of every network for each piece."""
        losses: dict[str, Tensor] = {}
        for piece in pieces:
            _, y = self._decode(piece, sums)
            gradients = self._objective.gradients(y.float(), piece.originals, size=piece.size, gan=False)
            with self._last_pass(piece, sums):
                y.backward(self._combined(gradients, None).to(y.dtype))
            piece.residual = None
            _add(losses, gradients.losses)
        return losses, []

    def _with_gan(self, pieces: list[_Piece], sums: Tensor | None, held: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The adaptive weight is computed over the global batch. So a first pass computes all gradients at the reconstructions, with a
        graph for the first ``held`` pieces; for the others, a second pass of residual encoder and decoder makes it."""
        losses: dict[str, Tensor] = {}
        found, at_last = [], torch.zeros((), device=self.device)
        for number, piece in enumerate(pieces):
            with torch.set_grad_enabled(number < held):
                hidden, y = self._decode(piece, sums)
            gradients = self._objective.gradients(y.float(), piece.originals, size=piece.size, gan=True)
            with self._autocast():
                at_last = at_last + last_layer_gradients(self._tokenizer.decoder, hidden, gradients)
            found.append((gradients, y if number < held else None))
            del hidden, y
            _add(losses, gradients.losses)
        weight, outputs = self._weight(at_last), []
        for piece in pieces:
            gradients, kept = found.pop(0)
            y = self._decode(piece, sums)[1] if kept is None else kept
            del kept
            with self._last_pass(piece, sums):
                y.backward(self._combined(gradients, weight).to(y.dtype))
            outputs.append(y.detach().float())
            piece.residual = None
        return losses, outputs

    def _weight(self, gradients: Tensor) -> Tensor:
        loss = self._part.loss
        return loss.adversarial * adaptive_weight(self._runtime.all_reduce_(gradients), loss.adaptive_limit)

    @staticmethod
    def _combined(gradients: Gradients, weight: Tensor | None) -> Tensor:
        if weight is None:
            return gradients.reconstruction
        assert gradients.adversarial is not None  # the weight comes from both
        return gradients.reconstruction + weight * gradients.adversarial


def _add(losses: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    for name, value in more.items():
        losses[name] = losses[name] + value if name in losses else value


def train(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Trains the autoencoder; writes ``autoencoder.safetensors``, ``autoencoder.json`` and ``log.jsonl``. Starts from the artifact
    ``start``, if there is one (``stages.continuation``)."""
    part, seed, device = schema.Autoencoder.model_validate(slice_["autoencoder"]), slice_["seed"], runtime.torch_device
    images = open_images(inputs["images"])
    _, encoder = open_frozen(slice_["encoder"], device)
    function = encoder.encode_blocks if part.layer_subsets else encoder.encode
    features = Cached(function, images.train, runtime, label="features of the training images")
    subsets = LayerSubsets(encoder.card.features, part.layer_subsets, seed) if part.layer_subsets else None
    torch.manual_seed(draws.stream(seed, "autoencoder/weights") % 2**31)
    start, shape = inputs.get("start"), Shape.at(images.resolution)
    if start is not None:
        shape = Shape.of(json.loads((start / "autoencoder.json").read_bytes())).continued(images.resolution, slice_["positions"])
    tokenizer = build(encoder, part, shape, device)
    if runtime.checkpoint_activations:
        checkpoint_activations(tokenizer.decoder)
    if start is not None:
        tokenizer.load_state_dict(load_file(start / "autoencoder.safetensors", device=str(device)))
    task = AutoencoderTask(tokenizer, images.train, features, part, seed, runtime, subsets)
    if runtime.compiles:
        task.compile()
    task.fit()

    # cost of one image, and speed of the machine
    work = training_work(task, part)
    rate = product_rate(runtime, part.training.precision)

    report = run_training(
        task, settings=part.training, dataset_size=len(images.train), seed=seed, out=out, runtime=runtime, label="autoencoder"
    )
    if tokenizer.alignment is not None and tokenizer.alignment.freezes:
        whole = features if subsets is None else lambda indices: subsets.whole(features(indices))
        tokenizer.alignment.freeze(moments(tokenizer, whole, images.train, runtime))
    if runtime.is_main:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tokenizer.state_dict().items()}, out / "autoencoder.safetensors")
        settings = part.model_dump(mode="json")
        write_atomic(out / "autoencoder.json", describe(slice_["encoder"], encoder.card, settings=settings, **shape.described()))
    return cost_of(report, work, max(rate, product_rate(runtime, part.training.precision)), tokenizer) | _taken(slice_, encoder)


class LayerSubsets:
    """Features of a training image from a random part of the encoder's blocks, by its position."""

    def __init__(self, features: schema.Features, share: float, seed: int) -> None:
        """``share``: of the images whose features do not combine all blocks."""
        self._features, self._share = features, share
        self._streams = [draws.stream(seed, f"layers/{purpose}") for purpose in ("image", "blocks", "least")]

    def whole(self, tokens: Tensor) -> Tensor:
        """Features [B, C, h, w] from tokens of all blocks [B, L, C, h, w]."""
        return combined(tokens, self._features)

    def kept(self, positions: Tensor, count: int) -> Tensor:
        """Which of ``count`` blocks are used for images at global positions [B]: [B, count] bool, at least one of each image."""
        image, each, least = self._streams
        some = draws.chance(each, positions, (count,), 0.5)
        first = torch.nn.functional.one_hot(draws.integers(least, positions, count), count).bool()
        some = torch.where(some.any(1, keepdim=True), some, first)
        return some | ~draws.chance(image, positions, (1,), self._share)

    def __call__(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Features [B, C, h, w] from tokens [B, L, C, h, w] of images at global positions [B]."""
        return combined(tokens, self._features, self.kept(positions.to(tokens.device), tokens.shape[1]))


def _taken(slice_: dict[str, Any], encoder: FrozenEncoder) -> dict[str, Any]:
    """For the manifest: the key of the encoder's weights in a given checkpoint."""
    return {"weights_key": encoder.weights_key} if slice_["encoder"]["weights"] else {}


@torch.no_grad()
def moments(tokenizer: Tokenizer, features: Callable[[Tensor], Tensor], images: ImageSet, runtime: Runtime) -> Tensor:
    """The alignment's sums over the (first ``MOMENT_IMAGES``) training images, from the trained residual encoder without dropout.
    ``features``: data set indices [B] -> frozen features [B, C, h, w]."""
    count = min(len(images), MOMENT_IMAGES)
    parts = list(blocks(count))
    alignment = tokenizer.alignment
    assert alignment is not None  # only called if there is a residual
    c = alignment.channels
    total = torch.zeros(1 + c + c * c + 2 * tokenizer.feature_channels, dtype=torch.float64, device=runtime.torch_device)
    with runtime.progress("alignment moments", count) as bar:
        for number in runtime.shard(len(parts)):
            residual = tokenizer.residual(to_floats(images.batch(parts[number]), runtime.torch_device))
            total += alignment.statistics_of(residual, features(parts[number]))
            bar.advance(len(parts[number]) * runtime.world)
    return runtime.all_reduce_(total)


def update_work(task: AutoencoderTask, images_seen: int) -> CountedWork:
    """Operations of one image in the update after ``images_seen`` images, counted."""
    zero = torch.zeros(1, dtype=torch.int64)
    probe = loaded(task, Batch(zero, zero, 1, images_seen=images_seen), task.device)
    return work_of(task, lambda batch: task.update(batch, lambda name: None), probe)


def training_work(task: AutoencoderTask, part: schema.Autoencoder) -> CountedWork:
    """Operations of one image in one update, averaged over the training, without and with the GAN term."""
    start, total = part.loss.adversarial_start_images, part.training.total_images
    share = max(0.0, 1 - start / total) if part.loss.adversarial else 0.0
    before, after = update_work(task, -1), update_work(task, start)
    return CountedWork(*(round((1 - share) * one + share * other) for one, other in zip(before, after, strict=True)))


def adopt(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Adopts an encoder with a decoder as the autoencoder, or for ``svgbench diagnose`` one without: the artifact names its card; its
    weights are opened only to check them."""
    card, encoder = open_frozen(slice_["encoder"], runtime.torch_device)
    write_atomic(out / "autoencoder.json", describe(slice_["encoder"], card))
    return _taken(slice_, encoder)
