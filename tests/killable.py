"""A run in a process of its own, which a test may kill."""

import multiprocessing
import time

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["bestresponse.apps.tune"])


def _work(settings):
    import io

    from rich.console import Console

    from bestresponse.apps.tune import Tune

    Tune(**settings).run(Console(file=io.StringIO()))


def _nothing():
    pass


def warm_up():
    """Start the server process, which imports everything once."""
    process = _CONTEXT.Process(target=_nothing)
    process.start()
    process.join()


def run_to_the_end(settings):
    """The run in a fresh process; its exit code must be 0."""
    process = _CONTEXT.Process(target=_work, args=(settings,))
    process.start()
    process.join()
    assert process.exitcode == 0


def run_and_kill(settings, seconds):
    """Kill -9 the run after so many seconds; whether it was still alive."""
    process = _CONTEXT.Process(target=_work, args=(settings,))
    process.start()
    time.sleep(seconds)
    alive = process.is_alive()
    process.kill()
    process.join()
    return alive
