"""While nbval runs the notebooks, what each cell stores is compared with what it shows: see tools/compare.py."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
# The kernels that nbval starts are those of tools/execute.py: one thread, the same hashes, no progress bars.
os.environ.update({"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "PYTHONHASHSEED": "0", "CI": "1"})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield
    if type(item).__name__ == "IPyNbCell":
        from claims import under_seeds
        from compare import differences
        from notebooks import register_of

        found = differences(item.cell, item.test_outputs, register_of(item.path), under_seeds(item.path))
        if found:
            pytest.fail(f"{item.path.name}, cell {item.cell.id}: " + "; ".join(found), pytrace=False)
    return result
