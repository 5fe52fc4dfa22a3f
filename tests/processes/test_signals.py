"""A request to stop: one inside another, and what the next Ctrl-C does."""

import signal
import threading

import pytest

from deeprl_cli.processes.signals import stop_on_signals


@pytest.fixture(autouse=True)
def _handlers_of_before():
    shell = signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background ignores it
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in former} == former
    signal.signal(signal.SIGINT, shell)


def test_the_first_asks_and_the_second_acts_as_usual(capfd):
    with stop_on_signals() as signals:
        assert not signals.requested()
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err == "\nstopping: writing the last checkpoint (once more to quit at once)\n"


def test_one_inside_another_asks_both_and_the_second_still_acts_as_usual(capfd):
    told = []
    with stop_on_signals(lambda: told.append("outer"), word="not said") as outer:
        with stop_on_signals(lambda: told.append("inner"), word="the inner's words") as inner:
            signal.raise_signal(signal.SIGINT)
            assert (inner.received, outer.received) == (signal.SIGINT, signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):  # the inner one's end doesn't hold signals back again
            signal.raise_signal(signal.SIGINT)
    assert told == ["inner", "outer"]
    assert capfd.readouterr().err == "\nstopping: the inner's words (once more to quit at once)\n"


def test_after_the_inner_one_the_outer_goes_on_listening():
    with stop_on_signals() as outer:
        with stop_on_signals() as inner:
            pass
        signal.raise_signal(signal.SIGINT)
        assert outer.requested()
        assert not inner.requested()


def test_one_that_begins_after_the_request_has_it_already():
    told = []
    with stop_on_signals() as outer:
        signal.raise_signal(signal.SIGTERM)
        with stop_on_signals(lambda: told.append("inner")) as inner:
            assert (inner.received, told) == (signal.SIGTERM, ["inner"])
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert outer.requested()
    with stop_on_signals() as later:
        assert not later.requested()


def test_a_thread_leaves_signals_to_whoever_runs_it():
    found = []

    def work():
        with stop_on_signals() as signals:
            found.append(signals.requested())

    with stop_on_signals() as outer:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        signal.raise_signal(signal.SIGINT)
        assert outer.requested()
    assert found == [False]
