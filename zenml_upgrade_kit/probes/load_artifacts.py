"""Load artifact versions with the ZenML of this interpreter, in forked children of one process: the nursery.

Called as ``python -I load_artifacts.py settings.json``. The nursery imports what artifacts need once and forks a child
for each request, so that whatever a pickle does to its process costs one artifact, and no import is done twice.
Settings: ``{"code", "private", "database", "avoid", "guard"}``: the user's code, put on the path of children; a folder
that children may write to; modules that are not imported here, because they ended a nursery before; see guard().

A request is a JSON line on stdin, ``{"number", "request", "reply"}``, with two paths. The request: ``{"questions":
[{"id", "uri", "path", "root", "materializer", "data_type"}], "scratch", "modules", "timeout", "memory", "look", "load",
"call"}``; modules: to be imported here, if they are third-party; timeout and call (0: nothing is called) in seconds;
memory in bytes. On stdout: ``{"ready"}``, ``{"importing": module}`` ("" when that is over), and ``{"ended": number,
"status": of os.wait}``. What else is printed goes to stderr.

A child appends JSON lines to the reply: ``{"start": id}``, ``{"id", "look"}``, ``{"id", "loaded"}`` before the value is
called, the same with ``"done"`` after it. A start that is never done names the artifact that ended the child. At last
``{"modules"}``: third-party modules that it had to import, for the next request.
"""

import contextlib
import ctypes
import errno
import gc
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import os
import pathlib
import select
import shutil
import signal
import site
import sys
import sysconfig
import tempfile
import time
import traceback
import types
import uuid

PATIENCE = 30  # seconds beyond the timeout after which the nursery ends a child that has disarmed its own alarm
SITES = tuple({path + os.sep for path in (*site.getsitepackages(), *map(sysconfig.get_path, ("purelib", "platlib")))})
STANDARD = (os.path.dirname(os.__file__) + os.sep, "<frozen ")
READS = ("open", "copyfile", "exists", "glob", "isdir", "listdir", "stat", "size", "walk")
WRITES = ("makedirs", "mkdir", "remove", "rename", "rmtree")

# What Python tells its audit hooks: the event, and where among its arguments there are paths, each with the descriptor
# of the folder that it is relative to.
WRITING = {
    "os.chflags": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.link": ((0, 2), (1, 3)),
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.removexattr": ((0, None),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.setxattr": ((0, None),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.utime": ((0, 3),),
}
STARTING = ("os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.spawn", "subprocess.Popen")


def beside(name):
    """Another file of this folder as a module."""
    path = pathlib.Path(__file__).with_name(name + ".py")
    spec = importlib.util.spec_from_file_location("zenml_upgrade_" + name, str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def call_kernel(function, *arguments):
    """The result of a function of the C library, None where there is none; negative: it failed."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        return getattr(library, function)(*(ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments))
    except (AttributeError, OSError, TypeError):
        return None


def guard(kind, folders):
    """From now on this process writes only below the folders; production's files are read where they lie.

    kind: "landlock", "audit", or "" for the better one that there is. Landlock (Linux 5.13) binds programs and
    libraries, too; the audit hook only what Python itself does, so then no program is started. Modes, owners and times
    of files are what Landlock leaves open: the hook watches over them in any case.
    """
    locked = kind != "audit" and landlock(folders)
    if kind == "landlock" and not locked:
        raise OSError("this kernel has no Landlock")
    inside = tuple(os.path.realpath(folder) for folder in folders)
    changing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def refuse(path, folder=None):
        if isinstance(path, int):
            path = "/proc/self/fd/{}".format(path)
        path = os.fsdecode(path)
        if isinstance(folder, int) and folder >= 0:
            path = os.path.join("/proc/self/fd/{}".format(folder), path)
        real = os.path.realpath(path)
        if real != os.devnull and not any(real == one or real.startswith(one + os.sep) for one in inside):
            raise PermissionError(errno.EACCES, "a load may not write here", real)

    def hook(event, arguments):
        if event == "open":
            if not locked and arguments[2] & changing and not isinstance(arguments[0], int):
                refuse(arguments[0])
        elif event in WRITING:
            for path, folder in WRITING[event]:
                refuse(arguments[path], None if folder is None else arguments[folder])
        elif event in ("os.kill", "os.killpg"):
            group = arguments[0] if event == "os.killpg" or arguments[0] < 2 else os.getpgid(arguments[0])
            if group not in (0, os.getpgrp()):
                raise PermissionError(errno.EPERM, "a load may not end other processes")
        elif not locked and event in STARTING:
            raise PermissionError(errno.EPERM, "a load may not start programs")

    sys.addaudithook(hook)


def landlock(folders):
    """Whether the kernel forbids this process and its children to write elsewhere; see landlock(7)."""
    version = call_kernel("syscall", 444, None, 0, 1) if sys.platform == "linux" else None
    if version is None or version < 1:
        return False
    writing = 0b1111111110010  # files, folders and what else may be made, changed and removed
    writing |= (version >= 2) << 13 | (version >= 3) << 14  # moving between folders; truncating
    scoped = 2 if version >= 6 else 0  # signals reach only processes that it started
    rules = (ctypes.c_uint64 * 3)(writing, 0, scoped)
    ruleset = call_kernel("syscall", 444, rules, 24 if scoped else 8, 0)
    if ruleset < 0:
        return False
    for path in (*folders, os.devnull):
        opened = os.open(path, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
        allowed = writing if os.path.isdir(path) else writing & (1 << 1 | 1 << 14)
        rule = ctypes.create_string_buffer(allowed.to_bytes(8, sys.byteorder) + opened.to_bytes(4, sys.byteorder), 12)
        call_kernel("syscall", 445, ruleset, 1, rule, 0)
        os.close(opened)
    call_kernel("prctl", 38, 1, 0, 0, 0)  # no new privileges
    done = call_kernel("syscall", 446, ruleset, 0) == 0
    os.close(ruleset)
    return done


def read_only_store(bounded=True):
    """An artifact store that reads one artifact at a time, see show(), with the methods of this release's local one.

    bounded: nothing is read outside its root, which later releases refuse, too. Where the artifact's files are in
    another folder than its URI says, both name them: containers keep the absolute URIs of their members.
    """
    from zenml.artifact_stores import LocalArtifactStore, base_artifact_store
    from zenml.enums import StackComponentType
    from zenml.io.local_filesystem import LocalFilesystem

    bounded = bounded and hasattr(getattr(base_artifact_store, "_sanitize_paths", None), "_validate_path")
    own = {}

    def show(store, artifact):
        store._config = types.SimpleNamespace(path=artifact["root"] or artifact["uri"])
        store._uri, store._folder = artifact["uri"], artifact.get("path") or artifact["uri"]
        return store

    def place(store, path, write):
        path = os.fsdecode(path)
        for known in (store._folder, store._uri):
            if path == known or path.startswith(known + "/"):
                if write:
                    raise PermissionError(errno.EACCES, "artifacts are only read", path)
                return store._folder + path[len(known) :]
        if "://" in path or (bounded and not os.path.realpath(path).startswith(store._config.path)):
            raise FileNotFoundError("{} is outside of the artifact store {}".format(path, store._config.path))
        return path

    def method(name):
        original = getattr(LocalFilesystem, name)

        def call(store, *arguments, **options):
            mode = "".join([*arguments[1:2], options.get("mode", "r")]) if name == "open" else "r"
            write = name in WRITES or bool(set(mode) & set("wax+"))
            paths = 2 if name in ("copyfile", "rename") else 1
            placed = [place(store, one, write or at == 1) for at, one in enumerate(arguments[:paths])]
            named = {
                key: place(store, one, write or key == "dst")
                if isinstance(one, (str, bytes)) and key != "mode"
                else one
                for key, one in options.items()
            }
            return original(*placed, *arguments[paths:], **named)

        return call

    for name in (*READS, *WRITES):
        if hasattr(LocalFilesystem, name):
            own[name] = method(name)
    cls = type("ReadOnlyArtifactStore", (LocalArtifactStore,), {**own, "show": show, "path": property(root_of)})
    store = cls.__new__(cls)  # nothing is registered, nothing is read from a database
    store.id, store.name, store.flavor, store.type = uuid.uuid4(), "reload", "local", StackComponentType.ARTIFACT_STORE
    return store


def root_of(store):
    return store._config.path


def stores():
    """The artifact store for materializers, and the one behind ``fileio`` for every scheme; once in a process.

    Before 0.56 materializers read through ``fileio``, or took the artifact store from the active stack of a client,
    whatever that is. A client is built only when the user's code asks for one.
    """
    from zenml.client import Client
    from zenml.io.filesystem_registry import default_filesystem_registry
    from zenml.materializers.base_materializer import BaseMaterializer

    store, files = read_only_store(), read_only_store(bounded=False)
    stack = types.SimpleNamespace(artifact_store=store)
    Client.active_stack = property(lambda _: stack)
    default_filesystem_registry.get_filesystem_for_path = lambda _: files
    default_filesystem_registry.get_filesystem_for_scheme = lambda _: files
    given = "artifact_store" in inspect.signature(BaseMaterializer.__init__).parameters
    if given:
        BaseMaterializer.artifact_store = property(lambda self: self._artifact_store or store)
    return {"store": store, "files": files, "given": given}


class NotImportable(Exception):
    """A class that a stored source names cannot be imported; the first argument is its role."""


def thing(role, source):
    """The class that a stored source names."""
    module, attribute = source.get("module"), source.get("attribute")
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise NotImportable(role, "{}.{}: {}".format(module, attribute, words(error)))
    return found


def load(artifact, known):
    """The artifact's value through its materializer, called as ZenML itself calls it.

    known: kept between artifacts, empty before the first one; classes that cannot be imported are not tried again.
    """
    if not known:
        known.update(stores())
    known["store"].show(artifact)
    known["files"].show(artifact)
    classes = []
    for role in ("materializer", "data type"):
        source = artifact[role.replace(" ", "_")] or {}
        key = (role, source.get("module"), source.get("attribute"))
        if key not in known:
            try:
                known[key] = thing(role, source)
            except NotImportable as error:
                known[key] = error
        if isinstance(known[key], NotImportable):
            raise known[key]
        classes.append(known[key])
    folder = artifact.get("path") or artifact["uri"]
    reader = classes[0](folder, known["store"]) if known["given"] else classes[0](folder)
    return reader.load(classes[1])


def words(error):
    try:
        return "{}: {}".format(type(error).__name__, error)[:2000]
    except Exception:  # of a class that came with the pickle
        return type(error).__name__


def where(error):
    """The library in which it was raised: of the innermost frame outside ZenML, the standard library and this file."""
    library = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name, file = str(frame.f_globals.get("__name__", "")).split(".")[0], frame.f_code.co_filename
        ours = name in ("", "zenml", "__main__") or name.startswith("zenml_upgrade_")
        if not ours and (file.startswith(SITES) or not file.startswith(STANDARD)):
            library = name
    return library


def loaded(artifact, request, known, values, look, imported, tell):
    """What became of one artifact: the fields of Loaded. tell: hears of them before the value is called."""
    found = {"ok": False, "modules": []}
    try:
        value = load(artifact, known)
        found["ok"] = True
        found.update(values.describe(value))
        if request["call"] and (hasattr(type(value), "predict") or isinstance(value, types.FunctionType)):
            found["modules"] += imported()
            tell({"id": artifact["id"], "loaded": found})
            signal.setitimer(signal.ITIMER_REAL, request["call"])
            called = values.call(value, bool(look.get("by_value")), look.get("code_names"))
            found.update(called, parts={**found.get("parts", {}), **called.get("parts", {})})
    except NotImportable as error:
        found.update(missing=error.args[0], error=error.args[1])
    except BaseException as error:  # SystemExit in a user's module is that artifact's failure, not the probe's
        text = words(error)
        if isinstance(error, MemoryError) and request["memory"]:
            limit = "it needs more than the {:,} bytes that one loading process may allocate"
            text = "MemoryError: " + limit.format(request["memory"])
        found.update(error=text.replace(artifact.get("path") or artifact["uri"], artifact["uri"]), where=where(error))
    found["modules"] += imported()
    return found


def third_party(module, code):
    """Whether a module is in a package that is installed here, and not one that the user's code has, too."""
    top = module.split(".")[0]
    found = importlib.machinery.PathFinder.find_spec(top)
    places = [found.origin or "", *(found.submodule_search_locations or ())] if found else []
    ours = code and importlib.machinery.PathFinder.find_spec(top, [code])
    return not ours and any(str(place).startswith(SITES) for place in places)


def child(request, reply, settings, values, look, known):
    """Answer one request; this process was forked for it and ends with it. reply: descriptor of the reply."""
    me, code, scratch = os.getpid(), settings["code"], request["scratch"]
    os.environ["TMPDIR"] = tempfile.tempdir = scratch
    os.chdir(code if os.path.isdir(code) else scratch)
    main_module = sys.modules["__main__"] = types.ModuleType("__main__")  # not this file: its names are not the user's
    main_module.__file__ = os.path.join(os.getcwd(), "run.py")  # ZenML takes its folder for the root of the sources
    sys.dont_write_bytecode = True
    if code:
        sys.path.insert(0, code)
    if request["memory"] and sys.platform == "linux":
        import resource

        with open("/proc/self/status") as file:
            used = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (used + request["memory"],) * 2)
    guard(settings["guard"], (settings["private"], scratch))
    modules, third, said = set(sys.modules), [], b""

    def tell(line, later=False):
        nonlocal said
        said += json.dumps(line).encode() + b"\n"
        if os.getpid() != me:  # the pickle forked: only one answers
            os._exit(0)
        if not later:
            os.write(reply, said)
            said = b""

    def imported():
        """The user's modules that are new since the last time."""
        new = [] if len(sys.modules) == len(modules) else [name for name in list(sys.modules) if name not in modules]
        modules.update(new)
        files = {name: str(getattr(sys.modules[name], "__file__", "")) for name in new if not name.startswith("__")}
        third.extend(name for name, file in files.items() if file.startswith(SITES))
        return [name for name, file in files.items() if code and file.startswith(code + os.sep)]

    for artifact in request["questions"]:
        tell({"start": artifact["id"]})
        signal.setitimer(signal.ITIMER_REAL, request["timeout"])  # ends loads that hold the GIL, too
        began, seen = time.monotonic(), {}
        if request["look"]:
            seen = look.look(artifact.get("path") or artifact["uri"], sys.path)
            tell({"id": artifact["id"], "look": seen, "done": not request["load"]}, later=not request["load"])
        if request["load"]:
            found = loaded(artifact, request, known, values, seen, imported, tell)
            signal.setitimer(signal.ITIMER_REAL, 0)
            found["seconds"] = round(time.monotonic() - began, 4)
            tell({"id": artifact["id"], "loaded": found, "done": True}, later=True)
            for entry in os.scandir(scratch):  # such as directories that were artifacts
                shutil.rmtree(entry.path, ignore_errors=True) if entry.is_dir() else os.unlink(entry.path)
    signal.setitimer(signal.ITIMER_REAL, 0)
    tell({"modules": third})


def fork(path, reply_path, settings, values, look, known, tell):
    """The process id of a new child that answers the request; what it will need is imported before."""
    with open(path, encoding="utf-8") as file:
        request = json.load(file)
    sources = [
        (one[role] or {}).get("module") for one in request["questions"] for role in ("materializer", "data_type")
    ]
    for module in dict.fromkeys([*sources, *request["modules"]]):
        if module and module not in sys.modules and module not in settings["avoid"]:
            settings["avoid"].add(module)  # once is enough, however it ends
            try:
                if third_party(module, settings["code"]):
                    tell({"importing": module})
                    importlib.import_module(module)
            except BaseException as error:  # the artifact that needs it will say so
                print("{} cannot be imported: {}".format(module, words(error)), file=sys.stderr)
    tell({"importing": ""})
    gc.freeze()
    reply = os.open(reply_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    pid = os.fork()
    if pid:
        os.close(reply)
        return pid, request["timeout"]
    status = 70
    try:
        os.setsid()
        call_kernel("prctl", 1, signal.SIGKILL)  # it ends with the nursery
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        settings["close"]()
        child(request, reply, settings, values, look, known)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def orphans(children):
    """End what was left behind by children that have ended: the nursery inherits it."""
    try:
        with open("/proc/self/task/{}/children".format(os.getpid())) as file:
            left = {int(pid) for pid in file.read().split()} - set(children)
    except OSError:
        return
    for pid in left:
        kill(os.kill, pid)


def kill(function, pid):
    with contextlib.suppress(OSError):  # it is gone
        function(pid, signal.SIGKILL)


def ended():
    """Process ids and statuses of children that have ended."""
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, status
    except ChildProcessError:
        return


def main(settings_path):
    with open(settings_path, encoding="utf-8") as file:
        settings = json.load(file)
    settings["avoid"] = set(settings["avoid"])
    answers = os.dup(1)
    os.dup2(2, 1)
    wake, woken = os.pipe()
    for end in (wake, woken):
        os.set_blocking(end, False)
    call_kernel("prctl", 36, 1)  # orphans come to this process

    def tell(line):
        os.write(answers, json.dumps(line).encode() + b"\n")

    def close():
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        for descriptor in (answers, wake, woken, nothing):
            os.close(descriptor)

    settings["close"] = close
    known, values, look = stores(), beside("values"), beside("look")
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    tell({"ready": True})
    children, asked = {}, b""
    while True:
        ready = select.select([0, wake], [], [], 5)[0]
        if wake in ready:
            os.read(wake, 4096)
        for pid, (_, reply, timeout) in list(children.items()):
            if time.time() - os.stat(reply).st_mtime > timeout + PATIENCE:
                kill(os.kill, pid)
                children[pid] = (*children[pid][:2], 0)
        for pid, status in ended():
            if pid in children:
                number, _, timeout = children.pop(pid)
                kill(os.killpg, pid)  # what it left behind
                tell({"ended": number, "status": status if timeout else int(signal.SIGALRM)})
            orphans(children)
        if 0 in ready:
            data = os.read(0, 1 << 16)
            if not data:
                break
            *lines, asked = (asked + data).split(b"\n")
            for line in map(json.loads, lines):
                pid, timeout = fork(line["request"], line["reply"], settings, values, look, known, tell)
                children[pid] = (line["number"], line["reply"], timeout)
    for pid in children:
        kill(os.killpg, pid)


if __name__ == "__main__":
    main(sys.argv[1])
