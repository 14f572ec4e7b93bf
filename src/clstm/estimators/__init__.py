"""Estimators with scikit-learn's conventions, on `clstm.nn.SequenceModel`.

Needs scikit-learn, the extra ``[sklearn]``; `import clstm` does not import this package.
"""

try:
    from sklearn.utils.validation import validate_data as _new_in_1_6  # noqa: F401
except ImportError as error:
    raise ImportError(
        "clstm.estimators: expected scikit-learn >= 1.6 to be installed; pip install 'cython-lstm[sklearn]'"
    ) from error

from .classifier import LSTMClassifier
from .forecaster import LSTMForecaster
from .regressor import LSTMRegressor

__all__ = ["LSTMClassifier", "LSTMForecaster", "LSTMRegressor"]
