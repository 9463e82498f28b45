import os
import signal

import pytest

from tuner.errors import ExitCode, Stopped
from tuner.events import Emitter
from tuner.training.signals import stop_requests


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, ExitCode.SIGINT), (signal.SIGTERM, ExitCode.SIGTERM)])
def test_the_first_signal_asks_and_says_so_at_once(number, code, recorder):
    before = signal.getsignal(number)
    with stop_requests(Emitter([recorder])) as request:
        request.check()
        os.kill(os.getpid(), number)
        assert request.pending
        assert "stopping" in recorder.events[0].message
        with pytest.raises(Stopped) as caught:
            request.check()
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before


def test_the_second_signal_ends_at_once():
    child = os.fork()
    if child == 0:
        with stop_requests(Emitter()):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 130
