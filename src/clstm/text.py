"""class CharacterModel: a language model of characters, from a text to a text.

An Embedding, an LSTM and a Dense layer on all steps, trained by truncated back-propagation on parallel
streams of the text; the vocabulary is kept with the weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _check, nn
from .lstm import LSTM
from .nn.checkpoints import holds_checkpoints
from .parameters import Saved

__all__ = ["CharacterModel"]

Array = NDArray[Any]

# Steps that are run at once where nothing is trained: enough to be quick, few enough for any memory.
_PIECE = 2048


class CharacterModel(Saved):
    """A model of the characters of a text: which one follows, and so how likely a text is.

    Parameters
    ----------
    hidden_size : int, default 256
    num_layers : int, default 1
    embedding_dim : int, default 32
        Numbers that stand for a character.
    dropout : float in [0, 1), default 0.0
        Share of the LSTM's outputs that is left out in training.
    dtype : float32 (default) or float64
    rng : None, int or numpy.random.Generator
        Source of the initial weights and of dropout.

    Attributes
    ----------
    vocabulary : str
        The characters that the model knows, in order; empty before `fit`.
    model : nn.SequenceModel or None
        Maps the positions of characters in `vocabulary` to a logit for each of them.

    Examples
    --------
    >>> from clstm.text import CharacterModel
    >>> text = "to be or not to be, that is the question. " * 30
    >>> model = CharacterModel(hidden_size=16, embedding_dim=4, rng=0)
    >>> history = model.fit(text, epochs=40, streams=4, steps=20, lr=0.02)
    >>> model.vocabulary
    ' ,.abehinoqrstu'
    >>> bool(model.bits_per_character(text) < 2.0 < np.log2(len(model.vocabulary)))
    True
    >>> model.sample(12, prompt="to be or ", temperature=0, rng=0)
    'not to be, t'
    """

    file_class = "CharacterModel"

    def __init__(
        self,
        hidden_size: int = 256,
        num_layers: int = 1,
        *,
        embedding_dim: int = 32,
        dropout: float = 0.0,
        dtype: DTypeLike = np.float32,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        self.hidden_size = _check.integer("hidden_size", hidden_size, 1)
        self.num_layers = _check.integer("num_layers", num_layers, 1)
        self.embedding_dim = _check.integer("embedding_dim", embedding_dim, 1)
        self.dropout = _check.fraction("dropout", dropout)
        self.dtype = _check.float_dtype("dtype", dtype)
        self.rng = _check.generator(rng)
        self.vocabulary = ""
        self.model: nn.SequenceModel | None = None

    def __repr__(self) -> str:
        known = f" of {len(self.vocabulary)} characters" if self.vocabulary else ""
        return f"<CharacterModel{known}, {self.num_layers} x {self.hidden_size} units>"

    def _new_model(self, characters: int) -> nn.SequenceModel:
        kept: dict[str, Any] = {"dtype": self.dtype, "rng": self.rng}
        between = self.dropout if self.num_layers > 1 else 0.0
        recurrent = LSTM(
            self.embedding_dim, self.hidden_size, self.num_layers, batch_first=True, dropout=between, **kept
        )
        dropout = [nn.Dropout(self.dropout, rng=self.rng)] if self.dropout else []
        return nn.SequenceModel(
            [
                nn.Embedding(characters, self.embedding_dim, **kept),
                recurrent,
                *dropout,
                nn.Dense(self.hidden_size, characters, **kept),
            ],
            readout="each",
        )

    # ----------------------------------------------------------------------------------------------- training

    def fit(
        self,
        text: str,
        *,
        epochs: int = 20,
        streams: int = 32,
        steps: int = 64,
        lr: float = 4e-3,
        validation: float = 0.1,
        patience: int | None = 3,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        comm: Any = None,
        progress: bool = False,
    ) -> nn.History:
        """Learn a text; what was learnt before is lost.

        Parameters
        ----------
        text : str
            Its characters become the vocabulary.
        epochs : int, default 20
            Passes over the text, at most.
        streams : int, default 32
            Pieces of the text that are read in parallel, each from its beginning to its end.
        steps : int, default 64
            Characters through which gradients go back, between two updates.
        lr : float, default 4e-3
            Of Adam, at the start; it falls to a hundredth, along a cosine, if all epochs are gone through.
        validation : float in [0, 1), default 0.1
            Share of the text, at its end, that is not learnt but used to choose the best epoch.
        patience : int or None, default 3
            Epochs without a better validation loss until training stops; None goes through all.
        checkpoint : str or path-like, optional
            Folder for all that a resumed training needs, written after each epoch.
        resume : bool, default False
            Go on from `checkpoint`, if it holds one of a training with the same arguments on the same text;
            the bits are those of a training that was not interrupted.
        comm : MPI communicator, optional
            Ranks that share the streams.
        progress : bool, default False
            Show a bar on stderr.

        Returns
        -------
        nn.History
            "loss" and "val_loss" in nats a character.

        Raises
        ------
        ValueError, TypeError
            An argument is out of range, or the text is too short.
        FloatingPointError
            The loss is not finite.
        """
        _check.instance("text", text, str)
        streams, steps = _check.integer("streams", streams, 1), _check.integer("steps", steps, 1)
        epochs = _check.integer("epochs", epochs, 1)
        stopping = nn.EarlyStopping(patience=epochs if patience is None else patience)
        held_out = round(len(text) * _check.fraction("validation", validation))
        if _check.boolean("resume", resume) and checkpoint is None:
            raise ValueError("resume: expected a checkpoint with it, got None")
        if min(len(text) - held_out, held_out or 2) < 2:
            raise ValueError(
                f"text: expected at least 2 characters to learn and to validate on, "
                f"got {len(text) - held_out} and {held_out}"
            )
        vocabulary = "".join(sorted(set(text)))
        if len(vocabulary) < 2:
            raise ValueError(f"text: expected at least 2 different characters, got {vocabulary!r} alone")
        codes = _encode(vocabulary, "text", text)
        learnt, rest = codes[: len(codes) - held_out], codes[len(codes) - held_out :]
        x, y = _cut(learnt, min(streams, max(1, (len(learnt) - 1) // steps)))
        options: dict[str, Any] = {"comm": comm, "progress": progress}
        if held_out:
            options["validation_data"] = _cut(rest, max(1, (len(rest) - 1) // (8 * steps)))
        if resume and checkpoint is not None and holds_checkpoints(checkpoint):
            model, history = nn.resume(checkpoint, x, y, epochs=epochs, **options)
        else:
            model = self._new_model(len(vocabulary))
            history = model.fit(
                x,
                y,
                epochs=epochs,
                batch_size=len(x),
                loss="cross_entropy",
                lr=lr,
                schedule=nn.CosineDecay(epochs, final=0.01),
                early_stopping=stopping if held_out else None,
                tbptt=steps,
                checkpoint=checkpoint,
                rng=self.rng,
                **options,
            )
        self.vocabulary, self.model = vocabulary, model
        return history

    # ----------------------------------------------------------------------------------------------- using it

    def _fitted(self, method: str) -> nn.SequenceModel:
        if self.model is None:
            raise RuntimeError(f"{method}: expected a call of fit before it, got none")
        return self.model

    def bits_per_character(self, text: str) -> float:
        """Return how many bits a character of a text takes, given those before it.

        Parameters
        ----------
        text : str
            At least 2 characters, all of them in the vocabulary.  The first is only looked at.

        Returns
        -------
        float
            Mean of ``-log2 p(character | all before it)``.

        Raises
        ------
        ValueError, TypeError
            The text is too short or has unknown characters.
        RuntimeError
            The model has not been fitted.
        """
        model = self._fitted("bits_per_character")
        codes = _encode(self.vocabulary, "text", text)
        if len(codes) < 2:
            raise ValueError(f"text: expected at least 2 characters, got {len(codes)}")
        states, total = model.zero_states(1), 0.0
        for begin in range(0, len(codes) - 1, _PIECE):
            x, y = (codes[begin + shift : len(codes) - 1 + shift][:_PIECE] for shift in (0, 1))
            logits, states = model.run_steps(x[:, None], np.array([len(x)]), states)
            total += nn.cross_entropy(logits[:, 0], y)[0] * len(y)
        return total / (len(codes) - 1) / math.log(2)

    def sample(
        self,
        length: int,
        prompt: str = "",
        temperature: float = 1.0,
        rng: int | np.random.Generator | None = None,
    ) -> str:
        """Write a text, character by character.

        Parameters
        ----------
        length : int
            Characters to write.
        prompt : str, default ""
            What comes before them.  Without, the text begins as after a line's end.
        temperature : float, default 1.0
            Logits are divided by it: below 1 likely characters become likelier, 0 takes the likeliest always.
        rng : None, int or numpy.random.Generator
            Source of the choices.

        Returns
        -------
        str
            `length` characters, without the prompt.

        Raises
        ------
        ValueError, TypeError
            An argument is out of range, or the prompt has unknown characters.
        RuntimeError
            The model has not been fitted.
        """
        model = self._fitted("sample")
        length = _check.integer("length", length, 1)
        start = "\n" if "\n" in self.vocabulary else self.vocabulary[0]
        context = _encode(self.vocabulary, "prompt", prompt or start)
        codes = model.generate(context, length, feedback=nn.sample_classes(temperature), rng=rng)
        return "".join(self.vocabulary[code] for code in codes)

    # -------------------------------------------------------------------------------------------------- files

    def file_content(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the arguments, as JSON has them, and the arrays."""
        model, tensors = self._fitted("save").file_content()
        own = {
            name: getattr(self, name) for name in ("hidden_size", "num_layers", "embedding_dim", "dropout")
        }
        own |= {"dtype": self.dtype.name}
        return {"parameters": own, "vocabulary": self.vocabulary, "model": model}, tensors

    @classmethod
    def from_file(
        cls,
        arguments: dict[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[], dict[str, Array]],
        **options: Any,  # noqa: ARG003
    ) -> Self:
        """Make a model of what a file holds."""
        _check.entries("arguments", arguments, ("parameters", "vocabulary", "model"), True)
        parameters, vocabulary = arguments["parameters"], arguments["vocabulary"]
        _check.instance("parameters", parameters, dict)
        _check.instance("vocabulary", vocabulary, str)
        if not vocabulary or list(vocabulary) != sorted(set(vocabulary)):
            raise ValueError("vocabulary: expected characters in order, each once")
        made = cls(**parameters)
        model = nn.SequenceModel.from_file(arguments["model"], shapes, read)
        if not model.takes_indices or model.readout != "each" or model.output_size != len(vocabulary):
            raise ValueError(
                f"model: expected one of {len(vocabulary)} characters, got {_check.describe(model)}"
            )
        made.model, made.vocabulary = model, vocabulary
        return made


def _encode(vocabulary: str, name: str, text: str) -> NDArray[np.intp]:
    """Return the positions of the characters of a text in the vocabulary."""
    _check.instance(name, text, str)
    known, given = (
        np.frombuffer(part.encode("utf-32-le", "surrogatepass"), np.uint32) for part in (vocabulary, text)
    )
    codes = np.searchsorted(known, given)
    unknown = np.flatnonzero(known[np.minimum(codes, len(known) - 1)] != given)
    if unknown.size:
        place = int(unknown[0])
        raise ValueError(
            f"{name}: expected characters that the model has learnt, got {text[place]!r} at position {place}"
        )
    return codes


def _cut(codes: NDArray[np.intp], streams: int) -> tuple[Array, Array]:
    """Cut a text into parallel streams (streams, T), and what follows each character of them."""
    T = (len(codes) - 1) // streams
    return tuple(codes[shift : shift + streams * T].reshape(streams, T) for shift in (0, 1))  # type: ignore[return-value]
