"""The main job on real input: the word embeddings of a sentence encoder."""

import pytest
from helpers import import_or_skip

from ksubspaces import Factorization, fit_subspaces
from ksubspaces.demo import minilm_table
from ksubspaces.report import svd_curve

import_or_skip("platformdirs")


@pytest.fixture(scope="module")
def table():
    try:
        return minilm_table()
    except RuntimeError as error:
        pytest.skip(str(error))  # it says what to install


def test_default_fit_of_the_table(table, tmp_path):
    model = fit_subspaces(table, k=5, j=215, seed=0)
    assert model.relative_error <= 0.1370
    A = model.factorize(table)
    assert A.n_parameters == model.n_parameters <= 0.6 * table.size
    assert A.measure_error(table) == pytest.approx(model.relative_error, rel=1e-5)
    assert model.relative_error < 0.92 * svd_curve(table).at(A.n_parameters)
    A.save(tmp_path / "table.safetensors")
    assert (tmp_path / "table.safetensors").stat().st_size < 0.6 * table.nbytes
    assert Factorization.load(tmp_path / "table.safetensors").measure_error(table) == pytest.approx(
        A.measure_error(table), rel=1e-6
    )
