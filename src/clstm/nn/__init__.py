"""What training needs beside `clstm.LSTM`, as parts that fit: layers, losses, optimisers, models, `fit`.

A layer is anything with `flat_params` and `flat_grads`, two arrays of one shape; `forward` keeps a tape, a
call keeps nothing, and `backward` fills the gradients.  Optimisers and clipping work on the flat arrays and
know no layer; a loss is a function of rows; a `SequenceModel` puts them together.
"""

from .clipping import clip_grad_norm, clip_grad_value
from .dense import Dense
from .dropout import Dropout
from .embedding import Embedding
from .generation import sample_classes
from .layer import Layer
from .losses import (
    LOSSES,
    binary_cross_entropy,
    cross_entropy,
    huber_loss,
    l1_loss,
    mse_loss,
    quantile_loss,
    sigmoid,
    softmax,
)
from .model import SequenceModel
from .online import Online
from .optimisers import OPTIMISERS, SGD, Adam, AdamW, Optimiser, RMSProp
from .schedules import SCHEDULES, CosineDecay, ReduceOnPlateau, StepDecay, WarmUp
from .series import pad, windows
from .stopping import EarlyStopping
from .stream import ModelStream
from .training import History, Training

resume = SequenceModel.resume

__all__ = [
    "LOSSES",
    "OPTIMISERS",
    "SCHEDULES",
    "SGD",
    "Adam",
    "AdamW",
    "CosineDecay",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "History",
    "Layer",
    "ModelStream",
    "Online",
    "Optimiser",
    "RMSProp",
    "ReduceOnPlateau",
    "SequenceModel",
    "StepDecay",
    "Training",
    "WarmUp",
    "binary_cross_entropy",
    "clip_grad_norm",
    "clip_grad_value",
    "cross_entropy",
    "huber_loss",
    "l1_loss",
    "mse_loss",
    "pad",
    "quantile_loss",
    "resume",
    "sample_classes",
    "sigmoid",
    "softmax",
    "windows",
]
