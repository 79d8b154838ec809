"""What all tests share: assertions of the harness explain themselves, as those of test modules do."""

import pytest

pytest.register_assert_rewrite("tests.harness")
