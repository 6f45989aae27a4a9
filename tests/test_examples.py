"""The examples of bench/examples in short form: they show what their pages say, and write figures and a picture."""

import json

import numpy as np
import pytest

from bench.examples import digits, photograph


@pytest.mark.parametrize("name", ["digits", "photograph"])
def test_example(name, tmp_path, capsys):
    module = {"digits": digits, "photograph": photograph}[name]
    module.main(["--quick", "--out", str(tmp_path)])
    figures = json.loads((tmp_path / f"{name}.json").read_text())["figures"]
    if name == "digits":
        assert figures["NMI with the digits"] > figures["NMI with the digits, k-means"] + 0.02
    else:
        assert figures["PSNR, noisy"] + 2 < figures["PSNR, PCA"] < figures["PSNR, k subspaces"] - 0.3
    assert (tmp_path / f"{name}.png").stat().st_size > 20_000
    assert str(figures["subspaces"]) in capsys.readouterr().out


def test_patches_make_the_image():
    image = np.random.default_rng(0).uniform(size=(13, 10))
    patches, means = photograph.take_patches(image)
    assert patches.shape == (6 * 3, 64)
    np.testing.assert_allclose(photograph.put_together(patches + means, image.shape), image, atol=1e-6)
    assert photograph.psnr(image + 0.1, image) == pytest.approx(20)
