from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits

from tests.support.kernels.reference import supported_isas


@pytest.fixture(scope="module", params=supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test with each instruction set of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSERVE_ISA", request.param)
        yield request.param


@pytest.fixture(scope="module", autouse=True)
def one_thread_for_numpy() -> Iterator[None]:
    """Limit BLAS to one thread: for thousands of tiny products, threads would only wait for each other."""
    with threadpool_limits(1):
        yield
