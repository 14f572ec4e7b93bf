"""LSTMRegressor, LSTMClassifier: scikit-learn's contract, layouts, bits, scaling, files, what is refused."""

import contextlib
import copy
import functools
import pickle

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, run_python

import clstm

sklearn = pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import FunctionTransformer, StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from clstm import nn  # noqa: E402
from clstm.estimators import LSTMClassifier, LSTMRegressor  # noqa: E402
from clstm.estimators._base import limit_threads  # noqa: E402
from clstm.nn.checkpoints import CheckpointFolder  # noqa: E402

ESTIMATORS = {"regressor": LSTMRegressor, "classifier": LSTMClassifier}


@pytest.fixture(params=ESTIMATORS)
def make(request):
    """Return what makes a small estimator of each kind."""
    return functools.partial(ESTIMATORS[request.param], hidden_size=4, max_epochs=2, random_state=0)


def draw(n=40, *, equal=False, seed=0):
    """Draw sequences (T_i, 2), what they lead to as numbers, and as labels."""
    rng = np.random.default_rng(seed)
    X = [rng.standard_normal((5 if equal else steps, 2)) for steps in rng.integers(2, 7, n)]
    y = np.array([sequence[:, 0].mean() + sequence[-1, 1] for sequence in X])
    return (np.stack(X) if equal else X), y, np.where(y > 0, "up", "down")


def targets_of(estimator, y, labels):
    """Return numbers for a regressor, labels for a classifier."""
    return labels if isinstance(estimator, LSTMClassifier) else y


def fitted(make, n=40, **kwargs):
    """Return a fitted estimator and its data."""
    X, y, labels = draw(n, **kwargs)
    estimator = make()
    return estimator.fit(X, targets_of(estimator, y, labels)), X


def outputs(estimator, X):
    """Return what an estimator computes, as numbers."""
    return estimator.predict_proba(X) if isinstance(estimator, LSTMClassifier) else estimator.predict(X)


# ----------------------------------------------------------------------------- scikit-learn's contract

# One batch of all rows, so that a row of weight 2 is the same as two rows.
CHECKED = {"learning_rate": 0.05, "max_epochs": 40, "batch_size": 1000, "dtype": "float64"}


@parametrize_with_checks([LSTMRegressor(16, **CHECKED), LSTMClassifier(4, **CHECKED)])
def test_estimators_pass_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_estimators_work_in_pipelines_on_matrices(make):
    X = np.random.default_rng(0).standard_normal((40, 5))
    y = X[:, 0] > 0 if make.func is LSTMClassifier else X[:, 0]
    pipeline = make_pipeline(StandardScaler(), make()).fit(X, y)
    assert_close(
        outputs(pipeline[-1], StandardScaler().fit_transform(X)),
        outputs(pipeline[-1], pipeline[0].transform(X)),
        "forward",
    )
    assert pipeline.predict(X).shape == (40,)


def test_estimators_work_in_pipelines_on_sequences(make):
    X, y, labels = draw(equal=True)
    pipeline = make_pipeline(FunctionTransformer(np.abs), make())
    pipeline.fit(X, targets_of(pipeline[-1], y, labels))
    assert_same_bits(pipeline.predict(X), pipeline[-1].predict(np.abs(X)))


@pytest.mark.parametrize("equal", [True, False], ids=["array", "list"])
def test_estimators_work_in_cross_validation(make, equal):
    X, y, labels = draw(equal=equal)
    scores = cross_val_score(make(), X, targets_of(make(), y, labels), cv=2)
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()


def test_grid_search_finds_the_same_in_two_processes():
    X, y, _ = draw()
    found = [
        GridSearchCV(
            LSTMRegressor(4, max_epochs=5, random_state=0),
            {"learning_rate": [1e-3, 0.1]},
            cv=2,
            n_jobs=n_jobs,
        ).fit(X, y)
        for n_jobs in (1, 2)
    ]
    assert_same_bits(*(search.cv_results_["mean_test_score"] for search in found))
    assert found[1].best_params_ == {"learning_rate": 0.1}
    assert_same_bits(*(search.predict(X) for search in found))


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["copy", "pickle"]
)
def test_copies_predict_and_go_on_alike(make, copied):
    estimator, X = fitted(make)
    twin = copied(estimator)
    assert_same_bits(outputs(twin, X), outputs(estimator, X))
    _, y, labels = draw()
    for each in (estimator, twin):
        each.partial_fit(X, targets_of(each, y, labels))
    assert_same_bits(outputs(twin, X), outputs(estimator, X))


def test_a_clone_is_not_fitted(make):
    estimator, X = fitted(make)
    with pytest.raises(NotFittedError):
        clone(estimator).predict(X)


# --------------------------------------------------------------------------------------------------- layouts


def as_frames(X):
    """Return a panel as a list of frames, and as one long frame whose rows are mixed."""
    pd = pytest.importorskip("pandas")
    frames = [pd.DataFrame(sequence, columns=["a", "b"]) for sequence in X]
    long = pd.concat(frames, keys=[f"s{number}" for number in range(len(X))])
    mixed = (
        long.groupby(level=1, sort=False)
        .head(len(long))
        .sort_index(level=1, kind="stable", sort_remaining=False)
    )
    return frames, mixed


def test_a_panel_is_the_same_in_every_layout(make):
    X, y, labels = draw(equal=True)
    y = targets_of(make(), y, labels)
    expected = outputs(make().fit(X, y), X)
    frames, long = as_frames(X)
    for given in (list(X), X.tolist(), frames, long):
        assert_same_bits(outputs(make().fit(given, y), given), expected)


def test_sequences_of_unequal_lengths_are_the_same_in_every_layout(make):
    X, y, labels = draw()
    y = targets_of(make(), y, labels)
    expected = outputs(make().fit(X, y), X)
    objects = np.empty(len(X), dtype=object)
    objects[:] = X
    frames, long = as_frames(X)
    lists = [sequence.tolist() for sequence in X]
    for given in (tuple(X), objects, lists, [X[0], *lists[1:]], frames, long):
        assert_same_bits(outputs(make().fit(given, y), given), expected)


def test_a_matrix_is_one_feature(make):
    X, y, labels = draw(equal=True)
    X, y = X[:, :, 0], targets_of(make(), y, labels)
    matrix, panel = make().fit(X, y), make().fit(X[:, :, None], y)
    assert (matrix.n_features_in_, panel.n_features_in_) == (5, 1)
    expected = outputs(matrix, X)
    for estimator in (matrix, panel):
        for given in (X, X[:, :, None], list(X)):
            assert_same_bits(outputs(estimator, given), expected)
    assert outputs(matrix, X[:, :3, None]).shape == expected.shape  # fewer steps


def test_names_of_columns_are_kept_and_compared(make):
    X, y, labels = draw()
    frames, long = as_frames(X)
    for given in (frames, long):
        estimator = make().fit(given, targets_of(make(), y, labels))
        assert estimator.feature_names_in_.tolist() == ["a", "b"]
        with pytest.raises(ValueError, match="feature names"):
            estimator.predict([frame.rename(columns={"b": "c"}) for frame in frames])


def test_predictions_do_not_depend_on_the_other_sequences(make):
    estimator, X = fitted(make)
    whole = outputs(estimator, X)
    for rows in ([0], [3, 1], range(20)):
        assert_same_bits(outputs(estimator, [X[row] for row in rows]), whole[list(rows)])


# ------------------------------------------------------------------------------------------------------ bits


def test_the_same_seed_gives_the_same_bits_for_every_number_of_threads(make):
    X, y, labels = draw(200, equal=True)
    y = targets_of(make(), y, labels)
    before = clstm.get_num_threads()
    found = [
        outputs(make(hidden_size=32, dropout=0.3, num_layers=2, n_jobs=n_jobs).fit(X, y), X)
        for n_jobs in (None, 1, 2, -1, None)
    ]
    assert clstm.get_num_threads() == before
    for other in found[1:]:
        assert_same_bits(other, found[0])


def test_the_number_of_threads_is_restored_whatever_ends_first():
    before = clstm.get_num_threads()
    first, second = limit_threads(2), limit_threads(1)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert clstm.get_num_threads() == 1
    second.__exit__(None, None, None)
    assert clstm.get_num_threads() == before


@pytest.mark.parametrize(
    "seed",
    [lambda: 3, lambda: np.random.RandomState(3), lambda: np.random.default_rng(3)],
    ids=["int", "state", "rng"],
)
def test_every_kind_of_random_state_repeats(make, seed):
    X, y, labels = draw()
    y = targets_of(make(), y, labels)
    first, again, other = (outputs(make(random_state=s).fit(X, y), X) for s in (seed(), seed(), 4))
    assert_same_bits(first, again)
    assert not np.array_equal(first, other)


def test_fit_begins_anew_and_partial_fit_goes_on(make):
    X, y, labels = draw()
    y = targets_of(make(), y, labels)
    whole = make().fit(X, y)
    assert_same_bits(outputs(whole.fit(X, y), X), outputs(make().fit(X, y), X))
    parts = make()
    options = {"classes": ["down", "up"]} if isinstance(parts, LSTMClassifier) else {}
    for _ in range(2):
        parts.partial_fit(X, y, **options)
    assert parts.n_iter_ == whole.n_iter_ == 2
    assert_same_bits(outputs(parts, X), outputs(whole, X))


def test_a_generator_is_taken_as_it_is():
    X, y, _ = draw()
    assert_same_bits(
        *(
            LSTMRegressor(4, max_epochs=2, random_state=s).fit(X, y).predict(X)
            for s in (7, np.random.default_rng(7))
        )
    )


# ---------------------------------------------------------------------------------------------------- scaling


def test_scaling_undoes_what_units_do():
    """Powers of two, so that not a bit is lost."""
    X, y, _ = draw()
    plain = LSTMRegressor(4, max_epochs=3, random_state=0).fit(X, y)
    scaled = LSTMRegressor(4, max_epochs=3, random_state=0).fit([4 * sequence for sequence in X], y / 8)
    assert_same_bits(scaled.predict([4 * sequence for sequence in X]), plain.predict(X) / 8)


def test_scaling_can_be_left_out():
    X, y, _ = draw()
    regressor = LSTMRegressor(4, max_epochs=1, scale=False, dtype="float64", random_state=0).fit(X, y)
    assert_same_bits(regressor.predict(X), regressor.model_.predict(X)[:, 0])
    regressor.fit(X, np.zeros(len(y)))  # nothing to scale by, and no need


def test_scaling_comes_from_the_rows_of_training_alone():
    X, y, _ = draw()
    extreme = [1e6 * sequence for sequence in X[:20]]
    regressor = LSTMRegressor(4, max_epochs=1, random_state=0)
    weight = np.repeat([0.0, 1.0], 20)
    y_extreme = np.concatenate([1e6 * y[:20], y[20:]])
    mixed = regressor.fit(extreme + X[20:], y_extreme, sample_weight=weight).predict(X)
    assert_same_bits(mixed, regressor.fit(X[20:], y[20:], sample_weight=weight[20:]).predict(X))


# --------------------------------------------------------------------------------------------------- learning


def test_regressor_learns_and_predicts_as_the_targets_are():
    X, y, _ = draw(200)
    both = np.stack([y, 100 - 30 * y], axis=1)
    for target, shape in ((y, (200,)), (y[:, None], (200, 1)), (both, (200, 2))):
        regressor = LSTMRegressor(8, learning_rate=0.03, max_epochs=30, random_state=0).fit(X, target)
        assert regressor.predict(X).shape == shape
        assert regressor.score(X, target) > 0.8
    assert regressor.n_outputs_ == 2
    assert regressor.loss_curve_[-1] < 0.3 * regressor.loss_curve_[0]
    assert regressor.n_iter_ == len(regressor.loss_curve_) == 30


@pytest.mark.parametrize(
    "labels",
    [
        lambda y: y > 0,
        lambda y: np.digitize(y, [-0.7, 0.7]) - 5,
        lambda y: np.where(y > 0, "up", "down").astype(object),
        lambda y: np.where(y > 0, "up", "down").tolist(),
    ],
    ids=["bool", "three ints", "objects", "strings"],
)
def test_classifier_learns_and_predicts_labels_of_the_same_kind(labels, tmp_path):
    X, y, _ = draw(200)
    labels = labels(y)
    classifier = LSTMClassifier(8, learning_rate=0.03, max_epochs=30, random_state=0).fit(X, labels)
    assert classifier.score(X, labels) > 0.85
    assert classifier.predict(X).dtype == classifier.classes_.dtype == np.unique(labels).dtype
    probabilities = classifier.predict_proba(X)
    assert_same_bits(classifier.classes_[probabilities.argmax(axis=1)], classifier.predict(X))
    assert_close(probabilities.sum(axis=1), np.ones(200), "forward")
    assert_same_bits(np.exp(classifier.predict_log_proba(X)), probabilities)
    classifier.save(tmp_path / "a.safetensors")
    assert_same_bits(clstm.load(tmp_path / "a.safetensors").predict(X), classifier.predict(X))


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "l1"},
        {"loss": "huber"},
        {"loss": functools.partial(nn.huber_loss, delta=0.5)},
        {"optimiser": "adamw", "weight_decay": 0.1},
        {"optimiser": "rmsprop"},
        {"optimiser": "sgd", "learning_rate": 0.3},
        {"optimiser": functools.partial(nn.SGD, momentum=0.9), "learning_rate": 0.1},
        {"cell": "rnn"},
        {"bidirectional": True, "readout": "mean"},
        {"num_layers": 2, "dropout": 0.1},
    ],
    ids=lambda options: ", ".join(map(str, options.values())).split(" at ")[0][:30],
)
def test_every_option_learns(options):
    X, y, _ = draw(200)
    settings = {"learning_rate": 0.03, "max_epochs": 30, "random_state": 0} | options
    regressor = LSTMRegressor(8, **settings).fit(X, y)
    assert regressor.score(X, y) > 0.5
    assert not np.array_equal(
        regressor.predict(X), LSTMRegressor(8, **settings | {"random_state": 1}).fit(X, y).predict(X)
    )


def test_quantiles_are_where_they_should_be():
    X, y, _ = draw(400)
    y = y + np.random.default_rng(1).standard_normal(400)
    for quantile in (0.1, 0.9):
        regressor = LSTMRegressor(
            8, loss="quantile", quantile=quantile, learning_rate=0.03, max_epochs=30, random_state=0
        )
        below = (y < regressor.fit(X, y).predict(X)).mean()
        assert abs(below - quantile) < 0.06


def test_early_stopping_keeps_the_best_weights():
    X, y, labels = draw(60)
    for make, target in ((LSTMRegressor, y), (LSTMClassifier, labels)):
        estimator = make(
            16,
            learning_rate=0.1,
            max_epochs=200,
            early_stopping=True,
            n_iter_no_change=3,
            tol=0,
            random_state=0,
        ).fit(X, target)
        losses = estimator.history_["val_loss"]
        assert len(losses) == estimator.n_iter_ < 200
        assert np.argmin(losses) == len(losses) - 4
        with pytest.raises(ValueError, match="early_stopping: expected False for partial_fit"):
            estimator.partial_fit(X, target)


def test_validation_has_a_share_of_each_class_and_leaves_one():
    X, _, _ = draw(41)
    labels = np.repeat(["a", "b", "alone"], (12, 28, 1))
    classifier = LSTMClassifier(4, max_epochs=1, early_stopping=True, validation_fraction=0.2, random_state=0)
    assert classifier.fit(X, labels).classes_.tolist() == ["a", "alone", "b"]
    with pytest.raises(
        ValueError, match="validation_fraction: expected at least one of 5 sequences to be held out"
    ):
        classifier.set_params(validation_fraction=0.05).fit(X[:5], list("ababb"))


def test_a_row_without_weight_is_no_row(make):
    X, y, labels = draw()
    y = targets_of(make(), y, labels)
    kept = np.arange(10, 40)
    weight = np.linspace(0.5, 2, 40)
    weight[:10] = 0
    given = make().fit(X, y, sample_weight=weight)
    assert_same_bits(
        outputs(given, X),
        outputs(make().fit([X[row] for row in kept], y[kept], sample_weight=weight[kept]), X),
    )
    assert not np.array_equal(outputs(given, X), outputs(make().fit([X[row] for row in kept], y[kept]), X))


def test_weights_of_classes_are_weights_of_their_rows():
    X, y, _ = draw(60)
    labels = np.where(y > 0.8, "rare", "common")
    rare = (labels == "rare").mean()
    balanced = np.where(labels == "rare", 0.5 / rare, 0.5 / (1 - rare))
    settings = {"max_epochs": 2, "random_state": 0, "scale": False, "dtype": "float64"}
    for class_weight, weight in (
        ("balanced", balanced),
        ({"rare": 2.0}, np.where(labels == "rare", 2.0, 1.0)),
    ):
        assert_close(
            LSTMClassifier(4, class_weight=class_weight, **settings).fit(X, labels).predict_proba(X),
            LSTMClassifier(4, **settings).fit(X, labels, sample_weight=weight).predict_proba(X),
            "backward",
        )


# ------------------------------------------------------------------------------------------------------ files


def test_a_file_holds_all_that_predict_needs(make, tmp_path):
    X, y, labels = draw()
    frames, _ = as_frames(X)
    estimator = make(
        num_layers=2, dropout=0.2, cell="rnn", readout="mean", random_state=np.random.default_rng(0)
    )
    estimator.set_params(learning_rate=np.float64(0.01)).fit(frames, targets_of(estimator, y, labels))
    estimator.save(tmp_path / "a.safetensors")
    for read in (clstm.load, type(estimator).load):
        loaded = read(tmp_path / "a.safetensors")
        assert type(loaded) is type(estimator)
        assert_same_bits(outputs(loaded, frames), outputs(estimator, frames))
        assert loaded.get_params() == estimator.get_params() | {"random_state": None}
        assert loaded.history_ == estimator.history_
        assert loaded.feature_names_in_.tolist() == ["a", "b"]
        loaded.partial_fit(frames, targets_of(estimator, y, labels))
        assert loaded.n_iter_ == 3


def test_a_file_keeps_what_arguments_are(tmp_path):
    X, y, _ = draw()
    classifier = LSTMClassifier(
        np.int64(4), max_epochs=1, class_weight={0: 1.0, np.int64(1): 2.0}, dtype=np.float64
    )
    classifier.fit(X, (y > 0).astype(int)).save(tmp_path / "a.safetensors")
    expected = {"hidden_size": 4, "class_weight": {0: 1.0, 1: 2.0}, "dtype": "float64"}
    assert clstm.load(tmp_path / "a.safetensors").get_params() == classifier.get_params() | expected


def test_a_file_of_a_matrix_knows_its_columns(make, tmp_path):
    X = np.random.default_rng(0).standard_normal((20, 5))
    estimator = make().fit(X, X[:, 0] > 0)
    estimator.save(tmp_path / "a.safetensors")
    loaded = clstm.load(tmp_path / "a.safetensors")
    assert_same_bits(outputs(loaded, X), outputs(estimator, X))
    with pytest.raises(ValueError, match="X has 4 features"):
        loaded.predict(X[:, :4])


def test_what_a_file_cannot_hold_is_told(tmp_path):
    X, y, _ = draw()
    with pytest.raises(NotFittedError):
        LSTMRegressor().save(tmp_path / "a.safetensors")
    regressor = LSTMRegressor(4, max_epochs=1, loss=functools.partial(nn.huber_loss, delta=0.5)).fit(X, y)
    with pytest.raises(
        TypeError, match="loss: expected one of the package's names, for a file holds no code"
    ):
        regressor.save(tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def change(arguments, path, value):
    """Set an entry deep in the arguments of a file."""
    *first, last = path
    for name in first:
        arguments = arguments[name]
    if value is None:
        del arguments[last]
    else:
        arguments[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("parameters", "cell"), "gru"),
        (("parameters", "cell"), None),
        (("parameters", "readout"), "mean"),
        (("parameters", "surprise"), 1),
        (("parameters",), []),
        (("fitted", "classes"), ["up", "down"]),
        (("fitted", "classes"), ["down"]),
        (("fitted", "classes"), ["down", "sideways", "up"]),
        (("fitted", "classes"), [["down"], ["up"]]),
        (("fitted", "classes"), "up"),
        (("fitted", "classes"), None),
        (("fitted", "dtype"), "U1000000000"),
        (("fitted", "dtype"), "float64"),
        (("fitted", "wide"), True),
        (("fitted", "wide"), 3),
        (("fitted", "n_features_in"), 3),
        (("fitted", "feature_names_in"), ["a"]),
        (("fitted", "feature_names_in"), [1, 2]),
        (("model", "readout"), "mean"),
        (("model",), {}),
    ],
    ids=str,
)
def test_a_file_that_does_not_fit_together_is_refused(path, value, tmp_path):
    X, _, labels = draw()
    classifier = LSTMClassifier(4, max_epochs=1).fit(X, labels)
    arguments, tensors = classifier.file_content()
    change(arguments, path, value)
    clstm.files.write(tmp_path / "a.safetensors", "LSTMClassifier", arguments, tensors, clstm.__version__)
    with pytest.raises(clstm.FileFormatError):
        clstm.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("name", "value"), [("x.mean", np.zeros(3)), ("x.scale", np.zeros(2)), ("x.mean", None)]
)
def test_a_file_with_wrong_arrays_is_refused(name, value, tmp_path):
    X, y, _ = draw()
    arguments, tensors = LSTMRegressor(4, max_epochs=1).fit(X, y).file_content()
    change(tensors, (name,), value)
    clstm.files.write(tmp_path / "a.safetensors", "LSTMRegressor", arguments, tensors, clstm.__version__)
    with pytest.raises(clstm.FileFormatError):
        clstm.load(tmp_path / "a.safetensors")


# ------------------------------------------------------------------------------------------- what is refused


@contextlib.contextmanager
def unchanged(estimator):
    """Compare the attributes of an estimator before and after."""
    before = pickle.dumps(vars(estimator))
    yield
    assert pickle.dumps(vars(estimator)) == before


def cut(X):
    """Return the first two steps of each sequence."""
    return [sequence[:2] for sequence in X]


def bad(X, place, value):
    """Return sequences with one value changed."""
    sequence, step, column = place
    changed = [part.copy() for part in X]
    changed[sequence][step, column] = value
    return changed


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda X: bad(X, (3, 1, 0), np.nan), ValueError, "X: .* got NaN in sequence 3, step 1, column 0"),
        (lambda X: bad(X, (0, 0, 1), -np.inf), ValueError, "X: .* got -inf in sequence 0, step 0, column 1"),
        (lambda X: np.stack(bad(cut(X), (3, 1, 0), np.nan)), ValueError, "sequence 3, step 1, column 0"),
        (lambda X: np.stack(bad(cut(X), (3, 1, 0), np.nan))[:, :, 0], ValueError, "row 3, column 1"),
        (lambda X: as_frames(bad(X, (3, 1, 0), np.nan))[0], ValueError, "sequence 3, step 1, column 'a'"),
        (lambda X: as_frames(bad(X, (3, 1, 1), np.nan))[1], ValueError, "sequence 's3', step 1, column 'b'"),
        (lambda X: as_frames(X)[1].iloc[::-1], ValueError, "X: expected steps that rise .* in sequence 's"),
        (lambda X: as_frames(X)[1].assign(c="x"), TypeError, "X: expected numbers, got .* in column 'c'"),
        (lambda X: as_frames(X)[1].iloc[:0], ValueError, "X: expected at least one sequence"),
        (lambda X: [*X[:-1], X[-1][:, :1]], ValueError, r"X\[39\]: expected 2 features, .* got 1"),
        (lambda X: [*X[:-1], X[-1][:0]], ValueError, r"X\[39\]: expected at least one step"),
        (lambda X: [*X[:-1], X[-1][None]], ValueError, r"X\[39\]: expected shape \(T, d\) or \(T,\)"),
        (lambda X: [*X[:-1], np.array(["a"])], TypeError, r"X\[39\]: expected real numbers"),
        (lambda X: [np.insert(x, 2, 7.0, axis=1) for x in X], ValueError, "X: .* got 7.0 .* column 2"),
        (lambda X: np.ma.masked_invalid(np.stack(cut(X))), TypeError, "X: expected an array without a mask"),
        (lambda _: np.zeros((40, 0, 2)), ValueError, "X: expected at least one sequence, step and feature"),
        (lambda _: np.zeros((40, 2, 2, 2)), ValueError, "dim 4"),
        (lambda X: X[:-1], ValueError, "y: expected 39 targets, one for each sequence, got 40"),
        (lambda _: [], ValueError, "Expected 2D array"),
        (lambda X: [1e300 * x for x in X], ValueError, "X: .* standard deviation"),
    ],
)  # fmt: skip
def test_bad_sequences_are_refused_before_any_work(make, change, error, message):
    X, y, labels = draw()
    estimator = make()
    with unchanged(estimator), pytest.raises(error, match=message):
        estimator.fit(change(X), targets_of(estimator, y, labels))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda _: None, ValueError, "y: expected a target for each sequence"),
        (lambda y: [None, *y[1:]], ValueError, "y: .* got NaN in row 0"),
        (lambda y: [*y[:-1], np.inf], ValueError, "y: .* got inf in row 39"),
        (lambda _: np.full(40, 3.0), ValueError, "y: .* got 3.0 .* column 0"),
        (lambda y: y[:, None, None], ValueError, r"y: expected shape \(n,\) or \(n, outputs\)"),
        (lambda y: np.ma.masked_less(y, 0), TypeError, "y: expected an array without a mask"),
        (lambda _: ["a"] * 40, TypeError, "y: expected real numbers"),
        (lambda y: y[:-1], ValueError, "y: expected 40 targets, one for each sequence, got 39"),
    ],
)
def test_bad_numbers_are_refused_before_any_work(change, error, message):
    X, y, _ = draw()
    regressor = LSTMRegressor()
    with unchanged(regressor), pytest.raises(error, match=message):
        regressor.fit(X, change(y))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: None, "y: expected a target for each sequence"),
        (lambda y: [1, *y[1:]], r"y: expected labels of one type, got number \(row 0\) and str \(row 1\)"),
        (lambda y: [None, *y[1:]], "y: expected a label in each row, got none in row 0"),
        (
            lambda _: [True, *range(39)],
            r"y: expected labels of one type, got bool \(row 0\) and number \(row 1\)",
        ),
        (lambda _: np.arange(40) / 7, "Unknown label type"),
        (lambda _: [*np.zeros(39), np.nan], "y: expected a label in each row, got none in row 39"),
        (lambda _: ["up"] * 40, "y: expected at least 2 classes, got one class: 'up'"),
        (lambda y: np.stack([y, y], axis=1), "should be a 1d array"),
        (lambda y: y[:-1], "y: expected 40 targets, one for each sequence, got 39"),
    ],
)
def test_bad_labels_are_refused_before_any_work(change, message):
    X, _, labels = draw()
    classifier = LSTMClassifier()
    with unchanged(classifier), pytest.raises(ValueError, match=message):
        classifier.fit(X, change(labels))


def test_targets_beside_a_long_frame_are_in_its_order(make):
    pd = pytest.importorskip("pandas")
    X, y, labels = draw()
    _, long = as_frames(X)
    y = pd.Series(targets_of(make(), y, labels), [f"s{number}" for number in range(len(X))])
    assert_same_bits(outputs(make().fit(long, y), long), outputs(make().fit(long, y.to_numpy()), long))
    with pytest.raises(ValueError, match="y: expected the sequences of X as its index, in the order"):
        make().fit(long, y.iloc[::-1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hidden_size": 0}, ValueError, "hidden_size: expected at least 1, got 0"),
        ({"num_layers": 1.5}, TypeError, "num_layers: expected an integer, got 1.5"),
        ({"bidirectional": 1}, TypeError, "bidirectional: expected True or False, got 1"),
        ({"cell": "gru"}, ValueError, "cell: expected one of 'lstm', 'rnn', got 'gru'"),
        ({"readout": "each"}, ValueError, "readout: expected one of 'last', 'mean', got 'each'"),
        ({"dropout": 1.0}, ValueError, r"dropout: expected a number in \[0, 1\), got 1.0"),
        ({"loss": "mae"}, ValueError, "loss: expected one of 'mse', 'l1', 'huber', 'quantile', got 'mae'"),
        ({"loss": "quantile"}, TypeError, "quantile: expected a number, got None"),
        ({"loss": "quantile", "quantile": 1}, ValueError, r"quantile: expected a number in \(0, 1\), got 1"),
        ({"quantile": 0.5}, ValueError, "quantile: expected None without loss='quantile', got 0.5"),
        ({"optimiser": "lbfgs"}, ValueError, "optimiser: expected one of"),
        ({"learning_rate": 0}, ValueError, "learning_rate: expected a number above 0, got 0"),
        ({"weight_decay": 0.1}, ValueError, "weight_decay: expected None, for only .* take it, got 0.1"),
        ({"max_epochs": 0}, ValueError, "max_epochs: expected at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
        ({"max_norm": 0}, ValueError, "max_norm: expected a number above 0, got 0"),
        ({"early_stopping": 3}, TypeError, "early_stopping: expected True or False, got 3"),
        ({"validation_fraction": 0.0}, ValueError, r"validation_fraction: expected a number in \(0, 1\)"),
        ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change: expected at least 1, got 0"),
        ({"tol": -1}, ValueError, "tol: expected a number of at least 0, got -1"),
        ({"scale": None}, TypeError, "scale: expected True or False, got None"),
        ({"dtype": "float16"}, ValueError, "dtype: expected float32 or float64, got 'float16'"),
        ({"random_state": -1}, ValueError, "random_state: expected at least 0, got -1"),
        ({"n_jobs": 0}, ValueError, "n_jobs: expected None or an integer other than 0, got 0"),
        ({"verbose": -1}, ValueError, "verbose: expected at least 0, got -1"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_by_fit(options, error, message):
    X, y, _ = draw()
    regressor = LSTMRegressor(**options)
    with unchanged(regressor), pytest.raises(error, match=message):
        regressor.fit(X, y)


def test_partial_fit_compares_with_what_it_saw_first():
    X, y, labels = draw()
    classifier, regressor = LSTMClassifier(4, random_state=0), LSTMRegressor(4, random_state=0)
    with pytest.raises(ValueError, match="classes: expected all labels with the first call"):
        classifier.partial_fit(X, labels)
    classifier.partial_fit(X, labels, classes=["up", "down", "never seen"])
    assert classifier.predict_proba(X).shape == (40, 3)
    regressor.partial_fit(X, y)
    for estimator, call, message in (
        (
            classifier,
            lambda: classifier.partial_fit(X, labels, classes=["up"]),
            "classes: expected those of the first",
        ),
        (
            classifier,
            lambda: classifier.partial_fit(X, np.where(y > 0, "up", "new")),
            "y: expected labels out of .*'new'",
        ),
        (classifier, lambda: classifier.partial_fit([x[:, :1] for x in X], labels), "X has 1 features"),
        (
            regressor,
            lambda: regressor.partial_fit(X, np.stack([y, y], axis=1)),
            "y: expected 1 outputs, as in fit, got 2",
        ),
    ):
        with unchanged(estimator), pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(
        ValueError, match="class_weight: expected None or a dict for partial_fit, got 'balanced'"
    ):
        LSTMClassifier(class_weight="balanced").partial_fit(X, labels, classes=["up", "down"])


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (np.ones(39), ValueError, r"sample_weight: expected shape \(40,\), got \(39,\)"),
        (
            -np.ones(40),
            ValueError,
            "sample_weight: expected finite numbers of at least 0, got -1.0 for sequence 0",
        ),
        (np.full(40, np.nan), ValueError, "sample_weight: expected finite numbers of at least 0, got nan"),
        (np.zeros(40), ValueError, "sample_weight: expected a weight above zero, got zeros alone"),
        (["a"] * 40, TypeError, "sample_weight: expected real numbers"),
    ],
)
def test_bad_weights_are_refused(weight, error, message):
    X, y, _ = draw()
    with pytest.raises(error, match=message):
        LSTMRegressor().fit(X, y, sample_weight=weight)


def test_training_that_fails_leaves_the_estimator_as_it_was():
    X, y, _ = draw()
    regressor = LSTMRegressor(4, max_epochs=1, random_state=0).fit(X, y)
    regressor.set_params(loss=lambda prediction, _: (np.nan, prediction))
    with unchanged_fit(regressor, X), pytest.raises(FloatingPointError):
        regressor.fit(X, y)


@contextlib.contextmanager
def unchanged_fit(regressor, X):
    """Compare predictions and history before and after."""
    before, history = regressor.predict(X), copy.deepcopy(regressor.history_)
    yield
    assert_same_bits(regressor.predict(X), before)
    assert regressor.history_ == history


def test_verbose_shows_progress(capsys):
    X, y, _ = draw()
    regressor = LSTMRegressor(4, max_epochs=2, random_state=0).fit(X, y)
    assert capsys.readouterr() == ("", "")
    regressor.set_params(verbose=1).fit(X, y)
    assert "loss" in capsys.readouterr().err


def test_without_scikit_learn_the_import_says_what_to_install():
    code = "import sys; sys.modules['sklearn'] = None; import clstm; clstm.estimators"
    result = run_python(code)
    assert "pip install 'cython-lstm[sklearn]'" in result.stderr.splitlines()[-1]
    assert run_python("import sys, clstm; assert 'sklearn' not in sys.modules").returncode == 0


def test_best_loss_is_that_of_the_sequences_that_were_held_out():
    X, _, labels = draw()
    classifier = LSTMClassifier(hidden_size=4, max_epochs=5, early_stopping=True, random_state=0)
    held_out = classifier.fit(X, labels).held_out_
    assert len(held_out) == len(np.unique(held_out)) == 4
    odds = classifier.predict_log_proba([X[n] for n in held_out])
    right = odds[np.arange(4), np.searchsorted(classifier.classes_, labels[held_out])]
    assert_close(-np.mean(right, keepdims=True), np.array([min(classifier.history_["val_loss"])]), "written")


def test_fit_goes_on_from_a_checkpoint_to_the_same_bits(make, tmp_path, monkeypatch):
    X, y, labels = draw()
    y = targets_of(make(), y, labels)
    whole = make(early_stopping=True, dropout=0.3).fit(X, y)
    write = CheckpointFolder.write

    def stop(folder, update, tree, best):
        write(folder, update, tree, best)
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointFolder, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        make(early_stopping=True, dropout=0.3).fit(X, y, checkpoint=tmp_path / "run")
    monkeypatch.setattr(CheckpointFolder, "write", write)
    found = make(early_stopping=True, dropout=0.3).fit(X, y, checkpoint=tmp_path / "run", resume=True)
    assert_same_bits(found.predict(X), whole.predict(X))
    assert found.history_["val_loss"] == whole.history_["val_loss"]


def test_resume_without_a_checkpoint_is_refused(make):
    X, y, labels = draw()
    with pytest.raises(ValueError, match="resume: expected a checkpoint with it, got None"):
        make().fit(X, targets_of(make(), y, labels), resume=True)
