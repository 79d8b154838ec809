"""Settings of all tests: failed assertions in the harness show their values, like those in test modules."""

import pytest

pytest.register_assert_rewrite("tests.harness")
