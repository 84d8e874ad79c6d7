"""Who ends on which signal; each in a process of its own."""

import os
import signal
import time

import pytest

from anybev.engine import stopping
from anybev.engine.stopping import Stopped, StopRequest, end_with_parent, ends_with_a_word
from anybev.testing.processes import exit_status_of


def test_the_first_signal_is_remembered_and_handlers_come_back() -> None:
    def act() -> None:
        before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
        request = StopRequest()
        request.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # torchrun and the scheduler: one request
        assert request.number == signal.SIGTERM
        request.release()
        assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before

    assert exit_status_of(act) == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_the_process_at_once(number: signal.Signals, status: int) -> None:
    def act() -> None:
        stopping._SAME_REQUEST_S = 0.1
        StopRequest().listen()
        os.kill(os.getpid(), number)
        time.sleep(0.2)
        os.kill(os.getpid(), number)
        time.sleep(30)

    assert exit_status_of(act) == status


def test_a_signal_counts_when_nobody_reads_the_error_output() -> None:
    def act() -> None:
        readable, writable = os.pipe()
        os.close(readable)  # as when the terminal or the launcher is gone
        request = StopRequest()
        request.listen()
        kept = os.dup(2)
        os.dup2(writable, 2)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.dup2(kept, 2)
        assert request.number == signal.SIGTERM

    assert exit_status_of(act) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_end_outside_of_the_steps_has_a_word(number: signal.Signals) -> None:
    def act() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        request = StopRequest()
        with ends_with_a_word("why"):
            request.listen()
            request.release()  # what it took comes back
            with pytest.raises(Stopped) as raised:
                os.kill(os.getpid(), number)
        assert (raised.value.code, raised.value.text) == (128 + number, "why")
        assert signal.getsignal(number) is signal.SIG_DFL

    assert exit_status_of(act) == 0


def test_an_ignored_signal_stays_ignored() -> None:
    def act() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        request = StopRequest()
        request.listen()
        os.kill(os.getpid(), signal.SIGHUP)
        assert request.number == 0

    assert exit_status_of(act) == 0


def test_a_process_ends_with_its_parent() -> None:
    readable, writable = os.pipe()

    def parent() -> None:
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            end_with_parent()
            os.write(writable, b"1")
            time.sleep(60)
            os._exit(0)
        os.read(readable, 1)

    assert exit_status_of(parent) == 0
    os.close(writable)
    start = time.monotonic()
    assert os.read(readable, 1) == b""  # its end of the pipe is closed: it is gone
    assert time.monotonic() - start < 30
    os.close(readable)


def test_a_process_whose_launcher_died_before_ends_at_once() -> None:
    def act(launcher: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        end_with_parent(launcher)

    gone = os.fork()
    if gone == 0:
        os._exit(0)
    try:  # as yet it is there, not waited for, and nobody's parent
        assert exit_status_of(lambda: act(gone)) == -signal.SIGTERM
    finally:
        os.waitpid(gone, 0)
    assert exit_status_of(lambda: act(gone)) == -signal.SIGTERM
    for ancestor in (os.getpid(), os.getppid()):
        assert exit_status_of(lambda ancestor=ancestor: act(ancestor)) == 0


def test_the_exit_status_of_a_stopped_run_tells_its_signal() -> None:
    assert Stopped(signal.SIGTERM, "").code == 143
    assert Stopped(signal.SIGINT, "").code == 130
    assert Stopped(signal.SIGINT, "").signal_name == "SIGINT"
