"""The choice of implementation, while the compiled library is not built."""

import threading

import pytest

import keras_norms
from keras_norms.ops.native import implementation_in_use


def test_status_says_why():
    status = keras_norms.native_status()
    assert status == (False, "The compiled library is not built.", (), None)


def test_auto_and_reference_are_the_reference():
    assert implementation_in_use() == "reference"
    with keras_norms.implementation("reference"):
        assert implementation_in_use() == "reference"


@pytest.mark.parametrize("choose", [keras_norms.set_implementation, keras_norms.implementation])
def test_rejects(choose):
    def call(name):
        choice = choose(name)
        if choice is not None:
            with choice:
                pass

    with pytest.raises(ValueError, match=r"one of 'auto', 'native', 'reference'.*'fast'"):
        call("fast")
    with pytest.raises(RuntimeError, match="native implementation cannot be used.*not built"):
        call("native")
    assert implementation_in_use() == "reference"


def test_a_scoped_choice_ends_with_its_scope_and_stays_in_its_thread():
    from keras_norms.ops import native

    seen = []
    with keras_norms.implementation("reference"):
        thread = threading.Thread(target=lambda: seen.append(native._choice.scoped))
        thread.start()
        thread.join()
        assert native._choice.scoped == "reference"
    assert seen == [None] and native._choice.scoped is None
