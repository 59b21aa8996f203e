"""An artifact store for materializers of any release, which knows one artifact at a time, wherever its files are."""

import inspect
import os
import types
import uuid

METHODS = (
    "open", "copyfile", "exists", "glob", "isdir", "listdir", "stat", "size", "walk",
    "makedirs", "mkdir", "remove", "rename", "rmtree",
)  # fmt: skip


def artifact_store(bounded=True):
    """A store with the methods of this release's local one; show() tells it the artifact. What writes is not its care.

    bounded: nothing is read outside its root, which later releases refuse, too. Where the artifact's files are in
    another folder than its URI says, both name them: containers keep the absolute URIs of their members.
    """
    from zenml.artifact_stores import LocalArtifactStore, base_artifact_store
    from zenml.enums import StackComponentType
    from zenml.io.local_filesystem import LocalFilesystem

    bounded = bounded and hasattr(getattr(base_artifact_store, "_sanitize_paths", None), "_validate_path")

    def show(store, artifact):
        store._config = types.SimpleNamespace(path=artifact["root"] or artifact["uri"])
        store._uri, store._folder = artifact["uri"], artifact.get("path") or artifact["uri"]

    def place(store, path):
        path = os.fsdecode(path)
        for known in (store._folder, store._uri):
            if path == known or path.startswith(known + "/"):
                return store._folder + path[len(known) :]
        if "://" in path or (bounded and not os.path.realpath(path).startswith(store._config.path)):
            raise FileNotFoundError("{} is outside of the artifact store {}".format(path, store._config.path))
        return path

    def method(original):
        signature = inspect.signature(original)

        def call(store, *arguments, **options):
            given = signature.bind(*arguments, **options)
            for name, one in given.arguments.items():
                if name != "mode" and isinstance(one, (str, bytes, os.PathLike)):
                    given.arguments[name] = place(store, one)
            return original(*given.args, **given.kwargs)

        return call

    own = {name: method(getattr(LocalFilesystem, name)) for name in METHODS if hasattr(LocalFilesystem, name)}
    own.update(show=show, path=property(lambda store: store._config.path))
    cls = type("OneArtifactStore", (LocalArtifactStore,), own)
    store = cls.__new__(cls)  # nothing is registered, nothing is read from a database
    store.id, store.name, store.flavor, store.type = uuid.uuid4(), "reload", "local", StackComponentType.ARTIFACT_STORE
    return store


def stores():
    """The artifact store for materializers, and the one behind ``fileio`` for every scheme; once in a process.

    Before 0.56 materializers read through ``fileio``, or took the artifact store from the active stack of a client,
    whatever that is. A client is built only when the user's code asks for one; ``asked`` is then no longer empty,
    unless there is a copy of the user's store for it.
    """
    from zenml.client import Client
    from zenml.io.filesystem_registry import default_filesystem_registry
    from zenml.materializers.base_materializer import BaseMaterializer

    store, files = artifact_store(), artifact_store(bounded=False)
    stack = types.SimpleNamespace(artifact_store=store)
    Client.active_stack = property(lambda _: stack)
    asked, zen_store = [], Client.zen_store
    if not os.environ.get("ZENML_STORE_URL"):
        Client.zen_store = property(lambda client: asked.append(True) or zen_store.fget(client))
    default_filesystem_registry.get_filesystem_for_path = lambda _: files
    default_filesystem_registry.get_filesystem_for_scheme = lambda _: files
    given = "artifact_store" in inspect.signature(BaseMaterializer.__init__).parameters
    if given:
        BaseMaterializer.artifact_store = property(lambda self: self._artifact_store or store)
    return {"store": store, "files": files, "given": given, "asked": asked}
