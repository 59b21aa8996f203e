"""Run one pipeline, ``module:pipeline``, with the ZenML of this interpreter and the store in ``ZENML_STORE_URL``.

Called as ``python -I run_pipeline.py request.json reply.json``. Request: ``{"target", "parameters", "code"}``.
Reply: ``{"ok", "error"}``. What the run did is read from the store, not from here.
"""

import importlib
import json
import os
import sys
import traceback


def run(request):
    sys.path.insert(0, request["code"])
    os.chdir(request["code"])
    from zenml.utils import source_utils

    source_utils.set_custom_source_root(request["code"])  # else the folder of this script would count as the code
    module, name = request["target"].split(":")
    pipeline = getattr(importlib.import_module(module), name)
    pipeline(**request["parameters"])


def main(request_path, reply_path):
    with open(request_path, encoding="utf-8") as file:
        request = json.load(file)
    try:
        run(request)
        reply = {"ok": True, "error": ""}
    except BaseException as error:
        traceback.print_exc()
        reply = {"ok": False, "error": "{}: {}".format(type(error).__name__, error)[:2000]}
    with open(reply_path, "w", encoding="utf-8") as file:
        json.dump(reply, file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
