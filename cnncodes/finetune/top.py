"""The layers above the cut as a Keras model, with pooling and a softmax behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.export.architectures import Layer
from cnncodes.export.backbones import BackboneSpec
from cnncodes.export.keras_onnx import keras_network
from cnncodes.export.keras_settings import quiet
from cnncodes.export.keras_weights import Weights
from cnncodes.finetune.codes import Codes, Floats, Standardizing
from cnncodes.finetune.recipe import Recipe
from cnncodes.head.scaling import Scaling


class Top:
    """The trainable end of a network.

    Batch normalizations stay as they are: a batch says little of the statistics of all images.

    Parameters
    ----------
    keras : module
        From `own_keras`.
    spec : BackboneSpec
        The network.
    layers : sequence of Layer
        All its layers, in the order of Keras.
    weights : dict of str to list of ndarray of float32
        Their weights.
    cut : str
        The layer whose output the model takes.
    codes : Codes
        What the head sees.

    Attributes
    ----------
    input_shape : tuple of int
        Shape of an image's activations.
    n_features : int
        Number of pooled codes of an image.
    """

    def __init__(
        self,
        keras: Any,
        spec: BackboneSpec,
        layers: Sequence[Layer],
        weights: Weights,
        cut: str,
        codes: Codes,
    ) -> None:
        self._keras = keras
        with quiet():
            network = keras_network(keras, spec, layers, weights, codes.layers, codes.pool)
            activations, pooled = network.get_layer(cut).output, network.output
            self._features = keras.Model(activations, pooled)
            for layer in self._features.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.trainable = False
        self.input_shape: tuple[int, ...] = tuple(activations.shape[1:])
        self.n_features = int(pooled.shape[-1])

    def attach(
        self,
        scaling: Scaling | Standardizing,
        weights: Floats,
        bias: Floats,
        recipe: Recipe,
        n_steps: int,
    ) -> None:
        """Add the softmax layer, and prepare for training.

        Parameters
        ----------
        scaling : Scaling or Standardizing
            Of the codes.
        weights : ndarray of float32, shape (n_features, n_classes)
            Weights of the logits, on scaled codes.
        bias : ndarray of float32, shape (n_classes,)
            Bias of the logits.
        recipe : Recipe
            The hyperparameters.
        n_steps : int
            Gradient steps of an epoch.
        """
        keras = self._keras
        # Adam moves each weight by the learning rate, so larger inputs make a layer learn faster.
        scale = recipe.head_factor / scaling.scale
        self._scale = np.asarray(scale, np.float32)
        self._offset = -scaling.mean * self._scale.reshape(-1)
        with quiet():
            rescaling = keras.layers.Rescaling(self._scale.reshape(-1), self._offset)
            scaled = rescaling(self._features.output)
            self._dense = keras.layers.Dense(len(bias), activation="softmax")
            self._model = keras.Model(self._features.input, self._dense(scaled))
            self._dense.set_weights([weights / np.float32(recipe.head_factor), bias])
            # XLA would compile for as long as a small training takes.
            self._model.compile(
                keras.optimizers.Adam(
                    recipe.learning_rate, use_ema=True, ema_momentum=recipe.momentum(n_steps)
                ),
                "categorical_crossentropy",
                jit_compile=False,
            )
            self._model.optimizer.build(self._model.trainable_variables)

    def seed(self, seed: int) -> None:
        """Seed dropout."""
        for number, variable in enumerate(self._model.variables):
            if "seed_generator_state" in variable.path:
                variable.assign(np.array([seed, number], variable.dtype))

    def step(self, X: Floats, targets: Floats, weights: Floats, rate: float) -> float:
        """Make a gradient step.

        Parameters
        ----------
        X : ndarray of float32, shape (n, *input_shape)
            Activations.
        targets : ndarray of float32, shape (n, n_classes)
            Probabilities of the classes.
        weights : ndarray of float32, shape (n,)
            Weight of each image.
        rate : float
            Learning rate.

        Returns
        -------
        float
            Mean loss of the batch.
        """
        model = self._model
        model.optimizer.learning_rate = rate
        model.reset_metrics()
        loss = model.train_on_batch(X, targets, sample_weight=weights, return_dict=True)["loss"]
        return float(loss)

    def probabilities(self, X: Floats) -> Floats:
        """Return the probabilities, shape (n, n_classes), for activations."""
        return np.asarray(self._model.predict_on_batch(X), np.float32)

    def features(self, X: Floats) -> Floats:
        """Return the pooled codes, shape (n, n_features), for activations."""
        return np.asarray(self._features.predict_on_batch(X), np.float32)

    @property
    def head(self) -> tuple[Floats, Floats]:
        """Weights (n_features, n_classes) and bias (n_classes,) of logits, on codes as they are."""
        weights, bias = self._dense.get_weights()
        return weights * self._scale, bias + self._offset @ weights

    def use_averages(self) -> None:
        """Let the weights be their moving averages, until `use_weights`."""
        self._before = self.variables
        self._model.optimizer.finalize_variable_values(self._model.trainable_variables)

    def use_weights(self) -> None:
        """Let the weights be what they were before `use_averages`."""
        self.variables, self._before = self._before, []

    @property
    def variables(self) -> list[NDArray[Any]]:
        """Copies of all weights of the model, and of the states of its random generators."""
        return [np.array(each) for each in self._model.variables]

    @variables.setter
    def variables(self, values: Sequence[NDArray[Any]]) -> None:
        _assign(self._model.variables, values)

    def read_variable(self, index: int, *, of_optimizer: bool) -> NDArray[Any] | None:
        """Return a copy of one of `variables`, or of the optimizer's; None after the last."""
        variables = (self._model.optimizer if of_optimizer else self._model).variables
        return np.array(variables[index]) if index < len(variables) else None

    def set_optimizer_variables(self, values: Sequence[NDArray[Any]]) -> None:
        """Give the optimizer's variables other values."""
        _assign(self._model.optimizer.variables, values)

    @property
    def weights(self) -> Weights:
        """Copies of the weights of the layers, by their names."""
        return {layer.name: layer.get_weights() for layer in self._features.layers if layer.weights}


def _assign(variables: Sequence[Any], values: Sequence[NDArray[Any]]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
