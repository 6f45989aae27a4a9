"""The contract of each operation of ``ksubspaces.kernels``, once, for every backend that has it.

A test says which operation it is about, ``@pytest.mark.operation("assign")``, and has a ``backend`` (``backends.py``),
whose operations it calls with arrays of the host. ``conftest.py`` gives it every backend that has the operation, beside
the shapes and dtypes that it asks for, and sums up at the end of a run. What concerns one backend alone (how it divides
its work, precisions, alignment, memory) stands in tests of its own, such as ``test_cuda_assign.py``.
"""

import pytest

pytest.register_assert_rewrite("contract.backends", "contract.checks")
