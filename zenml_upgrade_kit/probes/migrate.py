"""Opens the copy of a store in ZENML_STORE_URL with this environment's ZenML, which migrates it.

Called as ``python -I migrate.py request.json reply.json``; the request is empty. The reply: ``zenml`` (its version),
``ok``, ``seconds`` that opening took, and, when it failed, ``error`` (``type``, ``message``, ``traceback``). The log
gets one line with the time for every revision.
"""

import json
import logging
import sys
import time
import traceback


def show_revisions():
    """Let alembic say what it runs; ZenML hides that at import."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logger = logging.getLogger("alembic.runtime.migration")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.disabled = False


def main(reply):
    answer = {"zenml": "", "ok": False, "seconds": 0.0}
    started = time.monotonic()
    try:
        import zenml
        from zenml.config.global_config import GlobalConfiguration

        answer["zenml"] = zenml.__version__
        show_revisions()
        started = time.monotonic()
        answer["ok"] = GlobalConfiguration().zen_store is not None
    except BaseException as error:  # SystemExit too: the reply must say what happened
        answer["error"] = {
            "type": type(error).__name__,
            "message": str(error),
            "traceback": traceback.format_exc()[-4000:],
        }
        traceback.print_exc()
    answer["seconds"] = time.monotonic() - started
    with open(reply, "w", encoding="utf-8") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    main(sys.argv[2])
