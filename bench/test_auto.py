"""That bench/auto.py, which measures "auto" against the best method, still runs: once on tiny shapes, without a clock."""

import pytest
from auto import OPS, able, contenders, hopeful, measure
from timing import all_layers

LAYERS = all_layers()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", LAYERS)
def test_every_contender_runs(name, op):
    layer = LAYERS[name].tiny()
    calls = contenders(layer, op, 2)
    assert {"auto", *able(layer, op)[0]} == set(calls) and len(calls) >= 4
    for call in calls.values():
        call()


def test_the_measurement():
    ratio, chosen, times = measure(LAYERS["lenet"].tiny(), "grad_weight", 1, bar=1e9)
    assert ratio >= 1 and {"auto", chosen} & set(times)
    assert set(hopeful({"auto": lambda: None, "other": lambda: None})) >= {"auto"}
