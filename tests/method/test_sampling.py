import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgdml.dataset import dataset_md5, load_dataset
from fastgdml.errors import UsageError
from fastgdml.sampling import draw_stratified, draw_uniform, generator


def test_draws_the_points_that_sgdml_draws(shared, reference):
    """The reference tasks were made by sgdml after np.random.seed(1)."""
    source = {"ethanol": "md17_ethanol_2000", "aspirin": "xtb_aspirin", "cu111": "emt_cu111"}
    dataset = load_dataset(shared(f"data/{source[reference['case'].split('_')[0]]}.npz"))
    dataset["z"] = dataset["z"].astype(np.int64)
    assert dataset_md5(dataset) == reference["dataset_md5"].item()
    rng = generator(1)
    train = draw_stratified(dataset["E"], len(reference["R_train"]), rng)
    test = draw_stratified(dataset["E"], len(reference["R_test"]), rng, train)
    np.testing.assert_array_equal(dataset["R"][train], reference["R_train"])
    np.testing.assert_array_equal(dataset["R"][test], reference["R_test"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.data())
def test_draws_distinct_allowed_points(seed, n_data, data):
    T = np.random.default_rng(seed).normal(size=n_data) ** 3
    excluded = data.draw(st.lists(st.integers(0, n_data - 1), unique=True, max_size=n_data - 1))
    n = data.draw(st.integers(0, n_data - len(excluded)))
    for draw in (
        draw_stratified(T, n, generator(seed), excluded),
        draw_uniform(n_data, n, generator(seed), excluded),
    ):
        assert len(draw) == len(set(draw.tolist())) == n
        assert not set(draw.tolist()) & set(excluded)


def test_equal_labels_are_drawn_from_one_bin():
    assert len(set(draw_stratified(np.zeros(50), 20, generator(0)).tolist())) == 20


def test_the_distribution_is_kept():
    T = np.random.default_rng(0).normal(size=5000)
    drawn = T[draw_stratified(T, 500, generator(0))]
    # quantiles of a stratified sample follow those of the whole far more closely than chance (1 / sqrt(500))
    np.testing.assert_allclose(np.quantile(drawn, [0.25, 0.5, 0.75]), np.quantile(T, [0.25, 0.5, 0.75]), atol=0.08)


def test_same_seed_same_points():
    T = np.random.default_rng(0).normal(size=100)
    one, other = (draw_stratified(T, 30, generator(5)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one, draw_stratified(T, 30, generator(6)))


def test_too_many_points():
    with pytest.raises(UsageError, match="only 8 of 10 are free"):
        draw_stratified(np.arange(10.0), 9, generator(0), [0, 1])
    with pytest.raises(UsageError, match="11 points asked for"):
        draw_uniform(10, 11, generator(0))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_bad_seeds(seed):
    with pytest.raises(UsageError, match="seed"):
        generator(seed)
