"""What an extra brings has to be there."""

from __future__ import annotations

import subprocess
import sys

import pytest
from streamtask_contrib.extras import MissingExtraError, require

from streamtask import ConfigurationError


def test_what_is_there_is_no_matter():
    require("audio", "json", "streamtask")


def test_what_is_missing_is_named_with_the_command_that_installs_it():
    with pytest.raises(
        MissingExtraError, match=r"no_such_module, neither_this is not .*pip install '\.\[audio\]'"
    ) as caught:
        require("audio", "json", "no_such_module", "neither_this")

    assert isinstance(caught.value, ConfigurationError)
    assert isinstance(caught.value, ImportError)


def test_a_worker_without_its_extra_says_how_to_get_it():
    # As if it were not installed, in a process in which nothing has imported it.
    script = "import sys; sys.modules['faster_whisper'] = None; import streamtask_contrib.audio"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)

    assert "MissingExtraError: faster_whisper is not installed" in done.stderr
    assert "pip install '.[audio]'" in done.stderr
