"""The autoencoder of intrinsic prompt tuning (Qin et al. 2021, arXiv 2110.07867), for any stack of flat deltas.

Encoder Linear(parameters → d); decoder Linear(d → hidden), tanh, Linear(hidden → parameters), hidden being the width of
the backbone in the paper. The loss is the deltas' task loss, where one is given, plus α times the mean square error of
reconstruction. The network has three linear maps, so its gradient is written out here; a task loss says its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from deltacompose.analysis.arrays import Floats
from deltacompose.errors import BadInput

TaskLoss = Callable[[Floats], tuple[float, Floats]]
"""From the reconstructed deltas (tasks, parameters) to the loss, summed over tasks, and its gradient of that shape."""


@dataclass(frozen=True)
class Settings:
    """How the autoencoder is learned.

    Attributes:
        dimensions: d, of the subspace.
        hidden: of the decoder; the paper takes the backbone's width.
        steps: of Adam (Kingma & Ba 2015) on the whole stack.
        learning_rate: of Adam.
        alpha: weight of the reconstruction error, whose unit is the deltas' mean square.
    """

    dimensions: int
    hidden: int
    steps: int = 1000
    learning_rate: float = 1e-3
    alpha: float = 1.0


@dataclass(frozen=True, eq=False)
class Network:
    """Weights of the autoencoder; each `…_weight` is (outputs, inputs)."""

    encoder_weight: Floats
    encoder_bias: Floats
    hidden_weight: Floats
    hidden_bias: Floats
    output_weight: Floats
    output_bias: Floats

    def encode(self, deltas: Floats) -> Floats:
        """(tasks, parameters) to (tasks, dimensions)."""
        return np.asarray(deltas @ self.encoder_weight.T + self.encoder_bias)

    def decode(self, codes: Floats) -> Floats:
        """(tasks, dimensions) to (tasks, parameters)."""
        hidden = np.tanh(codes @ self.hidden_weight.T + self.hidden_bias)
        return np.asarray(hidden @ self.output_weight.T + self.output_bias)


def learn(deltas: Floats, settings: Settings, seed: int, task_loss: TaskLoss | None = None) -> tuple[Network, Floats]:
    """The autoencoder of a stack (tasks, parameters), and the loss of every step.

    Inside, deltas are in units of their root mean square, so the default learning rate serves deltas of any scale; the
    network that is returned takes and gives them as they are.

    Args:
        deltas: the trained deltas.
        settings: see there.
        seed: of the initial weights.
        task_loss: of the reconstructed deltas on their tasks; without it the autoencoder only reconstructs.

    Raises:
        BadInput: deltas without spread or not finite, or settings out of range.
    """
    deltas = np.asarray(deltas, dtype=np.float64)
    _check(deltas, settings)
    scale = float(np.sqrt(np.square(deltas).mean()))
    network = _initial(deltas.shape[1], settings, np.random.default_rng(seed))
    moments = [(np.zeros_like(weight), np.zeros_like(weight)) for weight in _weights(network)]
    losses = np.empty(settings.steps)
    for step in range(settings.steps):
        losses[step], gradients = loss_and_gradients(
            network, deltas / scale, settings.alpha, _in_units(task_loss, scale)
        )
        if not np.isfinite(losses[step]):
            raise BadInput(f"the autoencoder's loss is {losses[step]} at step {step}; lower the learning rate")
        for weight, gradient, moment in zip(_weights(network), gradients, moments):
            _adam(weight, gradient, moment, settings.learning_rate, step + 1)
    return _rescaled(network, scale), losses


def loss_and_gradients(
    network: Network, deltas: Floats, alpha: float, task_loss: TaskLoss | None = None
) -> tuple[float, tuple[Floats, ...]]:
    """Task loss + α · mean (P* − P)², and its gradients in the order of the network's weights."""
    codes = network.encode(deltas)
    hidden = np.tanh(codes @ network.hidden_weight.T + network.hidden_bias)
    output = hidden @ network.output_weight.T + network.output_bias
    error = output - deltas
    loss, toward = alpha * float(np.square(error).mean()), 2 * alpha * error / error.size
    if task_loss is not None:
        of_tasks, gradient = task_loss(output)
        loss, toward = loss + of_tasks, toward + gradient
    inner = (toward @ network.output_weight) * (1 - hidden**2)
    toward_codes = inner @ network.hidden_weight
    return loss, (
        toward_codes.T @ deltas,
        toward_codes.sum(axis=0),
        inner.T @ codes,
        inner.sum(axis=0),
        toward.T @ hidden,
        toward.sum(axis=0),
    )


def _check(deltas: Floats, settings: Settings) -> None:
    if deltas.ndim != 2 or len(deltas) < 2 or not np.isfinite(deltas).all():
        raise BadInput(f"an autoencoder needs at least 2 finite deltas (tasks, parameters); found shape {deltas.shape}")
    if not deltas.any():
        raise BadInput("deltas that are all zeros have no subspace to learn")
    if (
        min(settings.dimensions, settings.hidden, settings.steps) < 1
        or settings.learning_rate <= 0
        or settings.alpha < 0
    ):
        raise BadInput(f"dimensions, hidden and steps are at least 1, rates positive; found {settings}")


def _initial(parameters: int, settings: Settings, generator: np.random.Generator) -> Network:
    """Uniform within ±1/√inputs, weights and biases alike."""
    sizes = ((settings.dimensions, parameters), (settings.hidden, settings.dimensions), (parameters, settings.hidden))
    (encoder, encoder_bias), (hidden, hidden_bias), (output, output_bias) = (
        (generator.uniform(-bound, bound, size), generator.uniform(-bound, bound, size[0]))
        for size in sizes
        for bound in [1 / np.sqrt(size[1])]
    )
    return Network(encoder, encoder_bias, hidden, hidden_bias, output, output_bias)


def _weights(network: Network) -> tuple[Floats, ...]:
    return tuple(getattr(network, name) for name in network.__dataclass_fields__)


def _adam(weight: Floats, gradient: Floats, moment: tuple[Floats, Floats], rate: float, step: int) -> None:
    """One step of Adam in place, β = (.9, .999), ε = 1e-8."""
    mean, square = moment
    mean += 0.1 * (gradient - mean)
    square += 0.001 * (gradient**2 - square)
    weight -= rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)


def _in_units(task_loss: TaskLoss | None, scale: float) -> TaskLoss | None:
    """The task loss of deltas that are given in units of `scale`."""
    if task_loss is None:
        return None

    def scaled(deltas: Floats) -> tuple[float, Floats]:
        loss, gradient = task_loss(deltas * scale)
        return loss, gradient * scale

    return scaled


def _rescaled(network: Network, scale: float) -> Network:
    """The network that takes and gives deltas as they are."""
    return replace(
        network,
        encoder_weight=network.encoder_weight / scale,
        output_weight=network.output_weight * scale,
        output_bias=network.output_bias * scale,
    )
