"""Opens a copy of a store with this environment's ZenML and counts what it lists.

Called as ``python -I open_store.py request.json reply.json`` with ZENML_STORE_URL set to the copy; the request is
empty. The reply: ``zenml`` (its version), ``user``, ``runs`` and ``stacks`` (totals, of the active workspace).
"""

import json
import sys


def count(client, names):
    """The total of the first listing method that this release has."""
    for name in names:
        method = getattr(client, name, None)
        if method is not None:
            return method(size=1).total
    raise AttributeError("none of %s" % ", ".join(names))


def main(reply):
    import zenml
    from zenml.client import Client

    client = Client()
    answer = {
        "zenml": zenml.__version__,
        "user": client.active_user.name,
        "runs": count(client, ["list_pipeline_runs", "list_runs"]),
        "stacks": count(client, ["list_stacks"]),
    }
    with open(reply, "w") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    main(sys.argv[2])
