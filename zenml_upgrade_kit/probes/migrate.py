"""Opens the copy of a store in ZENML_STORE_URL with this environment's ZenML, which migrates it.

Called as ``python -I migrate.py request.json reply.json``. The request may name a ``progress`` file: what happens is
written there, too, line by line, for the case that this process is killed. The reply: ``seconds`` that opening took,
``memory`` (most bytes in use), ``events``, and, when it failed, ``error`` (``type``, ``message``, ``traceback``). The
log gets one line with the time for every revision.

An event has one of ``pid``, ``session`` (on a MySQL server), ``revision`` (begins) and ``upgraded`` (true when
alembic's upgrade, with its commit, has returned; flavors and default stacks come after that), and ``at``, in seconds
after opening began.
"""

import json
import logging
import os
import re
import sys
import time
import traceback

RUNNING = re.compile(r"Running upgrade .*?-> ([^\s,]+)")


class Events(logging.Handler):
    """Everything that was told, in order; it is told to alembic's log, which ZenML hides at import."""

    def __init__(self, progress):
        super().__init__()
        self.told, self.progress, self.started = [], progress, time.monotonic()

    def tell(self, **what):
        event = dict(what, at=time.monotonic() - self.started)
        self.told.append(event)
        try:
            if self.progress:
                with open(self.progress, "a") as file:
                    file.write(json.dumps(event) + "\n")
        except OSError:
            pass  # a full disk: the reply may still get through

    def emit(self, record):
        match = RUNNING.match(record.getMessage())
        if match:
            self.tell(revision=match.group(1))

    def listen(self):
        """To alembic, which names revisions as they begin, to the end of its upgrade, and to new sessions."""
        from sqlalchemy import event
        from sqlalchemy.engine import Engine
        from zenml.zen_stores.migrations.alembic import Alembic

        shown = logging.StreamHandler(sys.stderr)
        shown.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        logger = logging.getLogger("alembic.runtime.migration")
        logger.handlers[:] = [shown, self]
        logger.setLevel(logging.INFO)
        logger.propagate = logger.disabled = False
        upgrade = Alembic.upgrade

        def timed(*arguments, **options):
            upgrade(*arguments, **options)
            self.tell(upgraded=True)

        Alembic.upgrade = timed

        def connected(connection, _):
            if hasattr(connection, "thread_id"):
                self.tell(session=connection.thread_id())

        def failed(context):
            if context.sqlalchemy_exception is not None:  # its message would quote rows, secrets among them
                context.sqlalchemy_exception.hide_parameters = True

        event.listen(Engine, "connect", connected)
        event.listen(Engine, "handle_error", failed)


def memory():
    """Most bytes that this process had in use; rusage would count the process that started it, too, on Linux."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    except ImportError:
        return 0  # Windows


def main(request, reply):
    with open(request, encoding="utf-8") as file:
        events = Events(json.load(file).get("progress"))
    answer = {}
    events.tell(pid=os.getpid())
    try:
        from zenml.config.global_config import GlobalConfiguration

        events.listen()
        events.started = time.monotonic()
        GlobalConfiguration().zen_store  # noqa: B018 - opens it
    except BaseException as error:  # SystemExit too: the reply must say what happened
        answer["error"] = {
            "type": type(error).__name__,
            "message": str(error),
            "traceback": traceback.format_exc()[-4000:],
        }
        traceback.print_exc()
    answer.update(seconds=time.monotonic() - events.started, memory=memory(), events=events.told)
    with open(reply, "w", encoding="utf-8") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
