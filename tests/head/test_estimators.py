from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress

import h5py
import numpy as np
import onnx
import onnxruntime
import pytest
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.svm import SVC

from cnncodes import Classifier, CodeStore
from cnncodes.cli import main
from cnncodes.errors import MissingDependencyError, ParameterError, TrainingError
from cnncodes.head.estimators import NAMED, check_agreement, check_size
from cnncodes.head.split import split_by_class
from cnncodes.head.train import LINEAR, train_head
from tests.helpers import (
    append_rows,
    create_journal,
    error_of,
    info_of,
    labels_in,
    measure_head,
    run_command,
    train_json,
    write_pooling_backbone,
)


def name_of(estimator):
    return type(estimator).__name__


OBJECTS = [
    KNeighborsClassifier(3),
    RandomForestClassifier(20, random_state=3),
    make_pipeline(StandardScaler(), CalibratedClassifierCV(SVC(), cv=2)),
    GaussianNB(var_smoothing=1e-2),
    MLPClassifier((20,), max_iter=3000, random_state=3),
    LogisticRegression(C=1e-4, max_iter=5000),
    GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [1, 3]}, cv=2),
]
DISCRIMINANT = make_pipeline(PCA(20, random_state=3), LinearDiscriminantAnalysis())
CASES = [(each, n_classes) for each in OBJECTS for n_classes in (2, 10)]
CASES += [(each, 40) for each in (*OBJECTS[:2], DISCRIMINANT)] + [(DISCRIMINANT, 10)]


PARTS = [("forest", RandomForestClassifier(5)), ("bayes", GaussianNB(var_smoothing=1e-2))]
STACK = StackingClassifier(PARTS, cv=2)  # and a logistic regression, made when it is fitted


class Late(ClassifierMixin, BaseEstimator):
    """Of another package: what it can do shows once it is fitted, and that is to decide only."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


class Flat(GaussianNB):
    """Gives the probability of one class only, as a list of numbers."""

    def predict_proba(self, X):
        return super().predict_proba(X)[:, 0]


class Unknown(GaussianNB):
    """No class that skl2onnx has heard of."""


class Guessing(GaussianNB):
    """A class whose conversion makes use of an operator that is not opened."""


@pytest.fixture(scope="module")
def plain_codes(tmp_path_factory, photos):
    """Codes with three axes, by a network that only averages."""
    folder = tmp_path_factory.mktemp("plain")
    write_pooling_backbone(folder / "backbone.onnx")
    run_command("extract", folder / "backbone.onnx", photos, "-o", folder / "codes.h5")
    return folder / "codes.h5"


@pytest.fixture
def output(tmp_path):
    """Where the head goes: a folder of its own, so that leftovers show."""
    folder = tmp_path / "heads"
    folder.mkdir()
    return folder / "head.onnx"


def relabelled(codes, path, n_classes):
    """Copy codes with the images dealt out to `n_classes` classes; a digit is in few of them."""
    names = tuple(f"class {number:02}" for number in range(n_classes))
    with CodeStore.open(codes) as store:
        info = {"code_shape": store.codes.shape[1:], "class_names": names}
        copy = create_journal(path.with_suffix(".partial"), **info)
        labels = np.sort(np.arange(len(store)) % n_classes).tolist()
        columns = {"paths": store.paths, "digests": store.digests}
        append_rows(copy, store.codes[:], labels=labels, **columns, skipped=[])
        copy.finish(path)
    return path


def parts_of(codes):
    """Flattened codes and labels of the training and the test part."""
    with CodeStore.open(codes) as store:
        X, y = store.codes[:].reshape(len(store), -1).astype(np.float32), store.labels
    split = split_by_class(y, 0.7)
    return X[split.train], y[split.train], X[split.test], y[split.test]


def session_of(head):
    return onnxruntime.InferenceSession(str(head), providers=["CPUExecutionProvider"])


def probabilities(head, X):
    session = session_of(head)
    codes = X.reshape(len(X), *session.get_inputs()[0].shape[1:])
    return session.run(None, {"codes": codes})[0]


def test_command_line_knows_all_names():
    (option,) = [each for each in main.commands["train"].params if each.name == "estimator"]
    assert list(option.type.choices) == [*LINEAR, *NAMED]


@pytest.mark.parametrize("name", NAMED)
def test_figures_are_what_the_written_head_gives(codes, output, run, name):
    result = train_json(run, codes, "-o", output, "--estimator", name)
    split = split_by_class(labels_in(codes), 0.7)
    assert result["train"] == measure_head(output, codes, split.train)
    assert result["test"] == measure_head(output, codes, split.test)
    assert result["test"]["accuracy"] > 0.4, "chance is 0.1"


@pytest.mark.parametrize("name", NAMED)
def test_file_is_a_head_like_any_other(plain_codes, output, run, name):
    run("train", plain_codes, "-o", output, "--estimator", name)
    model = onnx.load(str(output))
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.node[0].op_type == "Flatten"
    assert {(each.domain, each.version) for each in model.opset_import} == {
        ("", 18),
        ("ai.onnx.ml", 3),
    }
    assert model.ir_version == 8
    constants = {each.name for each in model.graph.initializer}
    assert constants <= {name for node in model.graph.node for name in node.input}
    session = session_of(output)
    (codes_input,), (produced,) = session.get_inputs(), session.get_outputs()
    assert (codes_input.name, codes_input.type, codes_input.shape) == (
        "codes",
        "tensor(float)",
        ["N", 5, 5, 3],
    )
    assert (produced.name, produced.type) == ("probabilities", "tensor(float)")
    assert produced.shape == ["N", 10]
    for n_images in (1, 9):
        codes = np.random.default_rng(0).normal(size=(n_images, 75)).astype(np.float32)
        actual = probabilities(output, codes)
        assert actual.shape == (n_images, 10)
        assert actual.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_what_is_printed(plain_codes, output, run):
    lines = run("train", plain_codes, "-o", output, "--estimator", "knn").stdout.splitlines()
    assert lines[0] == f"{output}: 10 classes, knn  (random weights)"
    assert lines[-1].startswith("  fitted in ")
    assert lines[-1].endswith(" s")


def test_probability_of_zero_is_a_finite_loss(plain_codes, output):
    actual = train_head(plain_codes, output, estimator=KNeighborsClassifier(1))
    assert actual.test.accuracy < 1
    wrong = 1 - actual.test.accuracy
    assert actual.test.loss == pytest.approx(-wrong * np.log(np.finfo(np.float32).eps), rel=1e-5)


@pytest.mark.filterwarnings("ignore:The number of unique classes")  # the test's own fit
@pytest.mark.parametrize(
    ("estimator", "n_classes"), CASES, ids=[f"{name_of(each)}-{n}" for each, n in CASES]
)
def test_head_agrees_with_the_estimator(plain_codes, tmp_path, output, estimator, n_classes):
    codes = relabelled(plain_codes, tmp_path / "other.h5", n_classes)
    X, y, X_test, _ = parts_of(codes)
    before = str(estimator.get_params())
    train_head(codes, output, estimator=estimator)
    assert str(estimator.get_params()) == before
    assert not hasattr(estimator, "classes_")
    fitted = _with_seed(clone(estimator)).fit(X, y)
    for part in (X, X_test):
        wanted = fitted.predict_proba(part)
        assert np.abs(probabilities(output, part) - wanted).max() < 1e-3
        assert np.ptp(wanted, axis=0).max() > 0.1, "they must differ for a meaningful test"


def _with_seed(estimator):
    unset = [key for key, value in estimator.get_params().items() if "random_state" in key]
    return estimator.set_params(**{key: 0 for key in unset if estimator.get_params()[key] is None})


def test_seed_is_set_where_there_is_none(plain_codes, output):
    models = {}
    for chosen in (None, 5):
        for seed in (1, 1, 2):
            forest = make_pipeline(PCA(5), RandomForestClassifier(3, random_state=chosen))
            train_head(
                plain_codes, output, estimator=forest, seed=seed, split="first", overwrite=True
            )
            nodes = onnx.load(str(output)).graph.node
            (trees,) = [node for node in nodes if node.op_type.startswith("Tree")]
            models.setdefault(chosen, []).append(trees.SerializeToString())
            steps = info_of(output).training["fitted"]["parameters"]["steps"]
            assert f"PCA(n_components=5, random_state={seed})" in steps
    first, again, other = models[None]
    assert first == again != other
    assert models[5][0] == models[5][1]


def test_metadata_report_the_parameters(plain_codes, output):
    estimator = KNeighborsClassifier(np.int64(4), metric_params={}, p=2.0)
    train_head(plain_codes, output, estimator=estimator)
    info = info_of(output)
    assert info.training["estimator"] == "KNeighborsClassifier"
    assert info.training["fitted"]["parameters"] == {
        "algorithm": "auto",
        "leaf_size": 30,
        "metric": "minkowski",
        "metric_params": "{}",
        "n_jobs": None,
        "n_neighbors": 4,
        "p": 2.0,
        "weights": "uniform",
    }
    assert "skl2onnx" in info.created_with


def test_info_knows_such_a_head(plain_codes, output, run):
    run("train", plain_codes, "-o", output, "--estimator", "knn")
    reported = json.loads(run("info", output, "--json").stdout)
    assert (reported["what"], reported["training"]["estimator"]) == ("a head", "knn")
    assert "KNeighborsClassifier" in reported["training"]["fitted"]["parameters"]["steps"]
    assert "KNeighborsClassifier(n_neighbors=10)" in run("info", output).stdout


@pytest.mark.parametrize("estimator", [*NAMED, RandomForestClassifier(9)], ids=str)
def test_from_training_to_labels(codes, small_backbone, photos, tmp_path, output, run, estimator):
    app = tmp_path / "app.onnx"
    train_head(codes, output, estimator=estimator)
    run("bundle", small_backbone, output, "-o", app)
    onnx.checker.check_model(str(app), full_check=True)
    with CodeStore.open(codes) as store:
        X, paths = store.codes[:].astype(np.float32), store.paths
    classifier = Classifier(app)
    for row in range(0, 120, 17):
        wanted = probabilities(output, X[row : row + 1])[0]
        actual = {each.label: each.probability for each in classifier.predict(photos / paths[row])}
        # Codes are stored in float16, and an app computes them in float32.
        assert [actual[label] for label in "0123456789"] == pytest.approx(wanted, abs=0.02)
    assert classifier.predict_proba(np.empty((0, 75, 75, 3), np.uint8)).shape == (0, 10)
    printed = run("predict", app, photos / paths[0]).stdout
    assert printed.split()[1] == classifier.predict(photos / paths[0])[0].label


@pytest.mark.parametrize("name", sorted(NAMED))
def test_second_head_of_a_process_has_the_same_bytes(plain_codes, output, run, name):
    """skl2onnx numbers some names through a process."""
    run("train", plain_codes, "-o", output, "--estimator", name)
    first = output.read_bytes()
    run("train", plain_codes, "-o", output, "--estimator", name, "--overwrite")
    assert output.read_bytes() == first


def test_knn_reports_images_in_two_classes(tmp_path, output):
    random = np.random.default_rng(1)
    X = random.normal(size=(60, 8)).astype(np.float32)
    X[30:50] = X[:20]
    digests = [f"{number % 30 if number < 50 else number:064x}" for number in range(60)]
    named = {"paths": ["x"] * 60, "digests": digests, "skipped": []}
    with create_journal(tmp_path / "twice.partial", code_shape=(8,)) as journal:
        append_rows(journal, X, labels=[0] * 30 + [1] * 30, **named)
        journal.finish(tmp_path / "twice.h5")
    message = error_of("train", tmp_path / "twice.h5", "-o", output, "--estimator", "knn")
    assert "knn: 14 training images of several classes, whose copies are equally near" in message
    assert "skl2onnx" not in message


def test_knn_of_codes_that_do_not_differ(tmp_path, output, run):
    with create_journal(tmp_path / "same.partial", code_shape=(8,)) as journal:
        named = {"paths": ["x"] * 4, "digests": ["0" * 64] * 4, "skipped": []}
        append_rows(journal, np.ones((4, 8), np.float32), labels=[0, 0, 1, 1], **named)
        journal.finish(tmp_path / "same.h5")
    run("train", tmp_path / "same.h5", "-o", output, "--estimator", "knn")


def test_knn_is_the_neighbours_on_principal_components(plain_codes, output, run):
    run("train", plain_codes, "-o", output, "--estimator", "knn")
    X, y, X_test, _ = parts_of(plain_codes)
    pca = PCA(min(len(X) - 1, 75), random_state=0).fit(X)
    wanted = KNeighborsClassifier(10).fit(pca.transform(X), y).predict_proba(pca.transform(X_test))
    assert np.abs(probabilities(output, X_test) - wanted).max() < 1e-3


@pytest.mark.parametrize("name", NAMED)
def test_method_is_another_spelling(plain_codes, output, run, name):
    assert train_json(run, plain_codes, "-o", output, "--method", name)["estimator"] == name


def test_few_images(plain_codes, output, run):
    result = train_json(run, plain_codes, "-o", output, "--estimator", "knn", "--per-class", "1")
    assert result["train"]["n_images"] == 10
    message = error_of(
        *("train", plain_codes, "-o", output, "--overwrite"),
        *("--estimator", "svm", "--per-class", "1"),
    )
    assert "svm: a class has one training image" in message
    assert "use knn or logistic" in message


@pytest.mark.parametrize("n_classes", [40, 41])
def test_support_vectors_of_many_classes(plain_codes, tmp_path, output, run, n_classes):
    codes = relabelled(plain_codes, tmp_path / "other.h5", n_classes)
    arguments = (codes, "-o", output, "--estimator", "svm")
    if n_classes == 40:
        assert len(train_json(run, *arguments)["labels"]) == 40
    else:
        assert "svm: 41 classes are more than 40" in error_of("train", *arguments)
        assert not list(output.parent.iterdir())


def test_skl2onnx_is_missed_before_any_training(codes, tmp_path, output, monkeypatch, run):
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    absent = tmp_path / "absent.h5"  # not even the codes are looked at
    message = error_of("train", absent, "-o", output, "--estimator", "svm")
    assert message == "Error: svm needs skl2onnx; pip install 'cnncodes[estimators]'"
    with pytest.raises(MissingDependencyError, match=r"^GaussianNB needs skl2onnx"):
        train_head(absent, output, estimator=GaussianNB())
    run("train", codes, "-o", output)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        ("forest", "no estimator 'forest'; there are auto, logistic, ridge, sgd, svm and knn"),
        (LinearRegression(), r"LinearRegression\(\) is no classifier"),
        (make_pipeline(PCA(2), LinearRegression()), "is no classifier"),
        (PCA(2), "is no classifier"),
        (GaussianNB, "is no classifier; give an object such as"),
        (None, "None is no classifier"),
        (7, "7 is no classifier"),
        (SVC(), "SVC has no predict_proba, .*CalibratedClassifierCV"),
        (RidgeClassifier(), "RidgeClassifier has no predict_proba"),
        (make_pipeline(PCA(2), SVC()), "Pipeline has no predict_proba"),
        (StackingClassifier(PARTS, final_estimator=SVC()), "StackingClassifier has no predict_p"),
        (GridSearchCV(SVC(), {"C": [1, 10]}), "GridSearchCV has no predict_proba"),
        (OneVsRestClassifier(SVC()), "OneVsRestClassifier has no predict_proba"),
        (VotingClassifier(PARTS), "VotingClassifier has no predict_proba"),
        (VotingClassifier([("a", SVC())], voting="soft"), "VotingClassifier has no predict_proba"),
    ],
    ids=str,
)
def test_what_cannot_become_a_head(tmp_path, output, estimator, message):
    with pytest.raises(ParameterError, match=message):
        train_head(tmp_path / "absent.h5", output, estimator=estimator)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (LogisticRegression(C=-1), "LogisticRegression: cannot be trained .*'C' parameter"),
        (KNeighborsClassifier(5000), "KNeighborsClassifier: cannot be trained .*n_neighbors"),
        (Flat(), r"Flat: its probabilities are of shape \(120,\), not \(120, 10\)"),
        (
            VotingClassifier([("a", GaussianNB()), ("b", GaussianNB())], voting="soft"),
            "VotingClassifier: skl2onnx cannot convert it .*not implemented",
        ),
        (Unknown(), "Unknown: skl2onnx cannot convert it"),
        (Late(), "Late: once fitted, it has no predict_proba, .*CalibratedClassifierCV"),
    ],
    ids=str,
)
def test_estimator_that_fails(plain_codes, output, estimator, message):
    with pytest.raises(TrainingError, match=message) as caught:
        train_head(plain_codes, output, estimator=estimator)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not list(output.parent.iterdir())


@pytest.mark.parametrize(
    "estimator",
    [
        STACK,
        make_pipeline(PCA(20), STACK),
        GridSearchCV(make_pipeline(PCA(20), STACK), {"pca__whiten": [True, False]}, cv=2),
    ],
    ids=name_of,
)
def test_probabilities_that_appear_with_the_fit(plain_codes, tmp_path, output, run, estimator):
    codes = relabelled(plain_codes, tmp_path / "other.h5", 3)
    assert not hasattr(estimator, "predict_proba")  # or this tests nothing
    trained = train_head(codes, output, estimator=estimator)
    assert trained.estimator == name_of(estimator)
    figures = json.loads(run("evaluate", output, codes, "--json").stdout)["figures"]
    assert figures["accuracy"] == pytest.approx(trained.test.accuracy)


@pytest.mark.parametrize(
    ("estimator", "operator"),
    [
        (AdaBoostClassifier(n_estimators=3), "ConstantOfShape"),
        (make_pipeline(PCA(3), PolynomialFeatures(), GaussianNB()), "ConstantOfShape"),
        (KNeighborsClassifier(3), "Scan"),
    ],
    ids=lambda each: each if isinstance(each, str) else name_of(each),
)
def test_head_of_odd_operators_can_be_opened(plain_codes, output, run, estimator, operator):
    train_head(plain_codes, output, estimator=estimator)
    assert operator in {node.op_type for node in onnx.load(str(output)).graph.node}
    result = run("evaluate", output, plain_codes, "--json")
    assert json.loads(result.stdout)["figures"]["accuracy"] > 0.1


def test_operator_that_would_not_be_opened_is_reported_before(plain_codes, output):
    def shape(operator):
        operator.outputs[0].type = Int64TensorType([None])
        operator.outputs[1].type = FloatTensorType([None, 10])

    def convert(scope, operator, container):
        for made in operator.outputs:
            container.add_node("RandomUniform", [], [made.full_name], shape=[1, 10])

    options = {"zipmap": [False]}
    update_registered_converter(Guessing, "Guessing", shape, convert, options=options)
    with pytest.raises(TrainingError, match=r"^Guessing: .*operator RandomUniform,"):
        train_head(plain_codes, output, estimator=Guessing())
    assert not list(output.parent.iterdir())


@pytest.mark.parametrize(
    "estimator",
    [KNeighborsClassifier(5, weights="distance"), DISCRIMINANT],
    ids=["weights by distance", "discriminant of two classes"],
)
def test_what_skl2onnx_gets_wrong_is_refused(plain_codes, tmp_path, output, estimator):
    """A release that gets them right may keep them."""
    codes = relabelled(plain_codes, tmp_path / "other.h5", 2)
    with suppress(TrainingError):
        train_head(codes, output, estimator=estimator)
    X, y, X_test, _ = parts_of(codes)
    wanted = clone(estimator).fit(X, y).predict_proba(X_test)
    assert not output.exists() or np.abs(probabilities(output, X_test) - wanted).max() < 1e-3


def test_codes_that_are_not_finite(plain_codes, tmp_path, output, run):
    edited = tmp_path / "edited.h5"
    for part in ("train", "test"):
        shutil.copy(plain_codes, edited)
        with h5py.File(edited, "r+") as file:
            del file["checksums"]
            bad = getattr(split_by_class(file["labels"][:], 0.7), part)[-1]
            file["codes"][bad, 0, 0, 0] = np.nan
            path = file["paths"][bad].decode()
        message = error_of("train", edited, "-o", output, "--estimator", "knn")
        assert f"{edited}: the codes of {path} are not finite" in message
        assert not list(output.parent.iterdir())


def agreeing(n_images=200):
    actual = np.random.default_rng(0).dirichlet(np.ones(4), n_images)
    return actual.astype(np.float32), actual


def test_rounding_is_no_difference():
    check_agreement("it", *agreeing())


def test_class_that_differs_where_two_are_as_likely_is_no_difference():
    actual, wanted = agreeing()
    wanted[:50] = [0.4, 0.4, 0.1, 0.1]
    actual[:50] = [0.3999, 0.4001, 0.1, 0.1]
    check_agreement("it", actual, wanted)


def test_one_image_of_another_class_is_reported():
    actual, wanted = agreeing()
    actual[7] = wanted[7, ::-1]
    with pytest.raises(TrainingError, match=r"of 200 images, 1 get .*, 1 another class"):
        check_agreement("it", actual, wanted)


def test_many_other_probabilities_are_reported():
    actual, wanted = agreeing()
    wanted[:], actual[:] = [0.7, 0.1, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1]
    actual[:2] = [0.7, 0.12, 0.08, 0.1]
    check_agreement("it", actual, wanted)
    actual[2] = actual[0]
    with pytest.raises(TrainingError, match=r"3 get probabilities that differ by up to 0\.02, 0 "):
        check_agreement("it", actual, wanted)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2])
def test_numbers_that_are_no_probabilities(value):
    actual, wanted = agreeing()
    actual[3, 1] = wanted[3, 1] = value
    with pytest.raises(TrainingError, match="do not add up to 1"):
        check_agreement("it", actual, wanted)


def test_graph_of_another_shape():
    actual, wanted = agreeing()
    with pytest.raises(TrainingError, match=r"shape \(200, 3\), not \(200, 4\)"):
        check_agreement("it", actual[:, :3], wanted)


def test_size_is_reported_before_the_conversion():
    model = GaussianNB()
    model.theta_ = np.zeros(2**29 - 2**20, np.float32)  # never touched, so it takes no memory
    check_size("it", model)
    model.var_ = np.zeros(2**20, np.float64)  # written as float32
    with pytest.raises(TrainingError, match=r"it: its file would have 2\.1 GB"):
        check_size("it", model)


@pytest.mark.parametrize(
    "options", [{"C": 1.0}, {"class_weight": "balanced"}, {"sgd": {"epochs": 3}}], ids=str
)
def test_parameters_of_another_estimator(plain_codes, output, options):
    with pytest.raises(ParameterError, match="for the estimator"):
        train_head(plain_codes, output, estimator="knn", **options)


@pytest.mark.parametrize(
    ("estimator", "option", "owner"),
    [
        ("sgd", ("--C", "1"), "logistic or ridge"),
        ("knn", ("--class-weight", "balanced"), "logistic"),
        ("logistic", ("--epochs", "20"), "sgd"),
        ("svm", ("--batch-size", "32"), "sgd"),
        ("logistic", ("--learning-rate", "1"), "sgd"),
        ("knn", ("--optimizer", "adam"), "sgd"),
    ],
)
def test_option_of_another_estimator_is_refused(codes, output, run, estimator, option, owner):
    arguments = ("train", codes, "-o", output, "--estimator", estimator, *option)
    message = run(*arguments, exit_code=2).stderr.splitlines()[-1]
    assert message == f"Error: {option[0]} is for --estimator {owner} only"
    assert not output.exists()
