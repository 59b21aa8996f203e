"""Load artifact versions with the ZenML of this interpreter, in forked children of one process: the nursery.

Called as ``python -I load_artifacts.py settings.json``. The nursery imports what artifacts need once and forks a child
for each request, so that whatever a pickle does to its process costs one artifact, and no import is done twice.
Settings: ``{"code", "private", "avoid", "guard"}``: the user's code, put on the path of children; a folder that
children may write to; modules that are not imported here, because they ended a nursery before; see ``guard.py``.

A request is a JSON line on stdin, ``{"number", "request", "reply"}``, with two paths. The request: ``{"questions":
[{"id", "uri", "path", "root", "materializer", "data_type"}], "scratch", "modules", "timeout", "memory", "look",
"load", "near", "call"}``; modules: to be imported here, if they are third-party; timeout and call (0: nothing is
called) in seconds; memory in bytes. On stdout: ``{"ready"}``, ``{"importing": module}`` ("" when that is over), and
``{"ended": number, "status": of os.wait}``. What else is printed goes to stderr.

A child appends JSON lines to the reply: ``{"start": id}``, ``{"id", "look"}``, ``{"id", "loaded"}`` before the value is
called, the same with ``"done"`` after it. A start that is never done names the artifact that ended the child. At last
``{"modules"}``: third-party modules that it had to import, for the next request.
"""

import contextlib
import gc
import importlib
import importlib.machinery
import importlib.util
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

PATIENCE = 30  # seconds beyond the timeout after which the nursery ends a child that has disarmed its own alarm
SITES = tuple({path + os.sep for path in (*site.getsitepackages(), *map(sysconfig.get_path, ("purelib", "platlib")))})
# what ZenML says is in builtins, where it is not
UNNAMED = {kind.__name__: kind for kind in (type(None), types.FunctionType, types.BuiltinFunctionType)}
STANDARD = (os.path.dirname(os.__file__) + os.sep, "<frozen ")


def beside(name):
    """Another file of this folder as a module."""
    path = pathlib.Path(__file__).with_name(name + ".py")
    spec = importlib.util.spec_from_file_location("zenml_upgrade_" + name, str(path))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


limits, look, store, values = map(beside, ("guard", "look", "store", "values"))
call_kernel, guard = limits.call_kernel, limits.guard


class NotImportable(Exception):
    """A class that a stored source names cannot be imported; the first argument is its role."""


def thing(role, source):
    """The class that a stored source names."""
    module, attribute = source.get("module"), source.get("attribute")
    if module == "builtins" and attribute in UNNAMED:
        return UNNAMED[attribute]
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
        known.update(store.stores())
    known["asked"].clear()
    for name in ("store", "files"):
        known[name].show(artifact)
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


def looked(artifact):
    """What the files tell; also missing is what cannot be imported to load them."""
    seen = look.look(artifact.get("path") or artifact["uri"], sys.path)
    needed = {*seen["missing"], *modules_of([artifact])}
    return {**seen, "missing": sorted(module for module in needed if not look.importable(module, sys.path))}


def modules_of(artifacts):
    """The modules of their materializers and data types."""
    sources = [artifact[role] or {} for artifact in artifacts for role in ("materializer", "data_type")]
    return [source["module"] for source in sources if source.get("module")]


def loaded(artifact, request, known, seen, imported, tell):
    """What became of one artifact: the fields of Loaded. seen: in its files. tell: hears before the value is called."""
    found = {"ok": False, "modules": []}
    try:
        value = load(artifact, known)
        found["ok"] = True
        found.update(values.describe(value, request["near"]))
        if request["call"] and (hasattr(type(value), "predict") or isinstance(value, types.FunctionType)):
            found["modules"] += imported()
            tell({"id": artifact["id"], "loaded": found})
            signal.setitimer(signal.ITIMER_REAL, request["call"])
            called = values.call(value, bool(seen.get("by_value")), seen.get("code_names"))
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
    found["asked"] = bool(known.get("asked"))
    return found


def third_party(module, code):
    """Whether a module is in a package that is installed here, and not one that the user's code has, too."""
    top = module.split(".")[0]
    found = importlib.machinery.PathFinder.find_spec(top)
    places = [found.origin or "", *(found.submodule_search_locations or ())] if found else []
    ours = code and importlib.machinery.PathFinder.find_spec(top, [code])
    return not ours and any(str(place).startswith(SITES) for place in places)


def child(request, reply, settings, known):
    """Answer one request; this process was forked for it and ends with it. reply: descriptor of the reply."""
    me, code, scratch = os.getpid(), settings["code"], request["scratch"]
    os.environ["TMPDIR"] = tempfile.tempdir = scratch
    os.chdir(code if os.path.isdir(code) else scratch)
    main_module = sys.modules["__main__"] = types.ModuleType("__main__")  # not this file: its names are not the user's
    main_module.__file__ = os.path.join(os.getcwd(), "run.py")  # ZenML takes its folder for the root of the sources
    sys.dont_write_bytecode = True
    if code:
        sys.path.insert(0, code)
    limits.limit_memory(request["memory"])
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
            seen = looked(artifact)
            tell({"id": artifact["id"], "look": seen, "done": not request["load"]}, later=not request["load"])
        if request["load"]:
            found = loaded(artifact, request, known, seen, imported, tell)
            signal.setitimer(signal.ITIMER_REAL, 0)
            found["seconds"] = round(time.monotonic() - began, 4)
            tell({"id": artifact["id"], "loaded": found, "done": True}, later=True)
            for entry in os.scandir(scratch):  # such as directories that were artifacts
                shutil.rmtree(entry.path, ignore_errors=True) if entry.is_dir() else os.unlink(entry.path)
    signal.setitimer(signal.ITIMER_REAL, 0)
    tell({"modules": third})


def fork(path, reply_path, settings, known, tell):
    """The process id of a new child that answers the request; what it will need is imported before."""
    with open(path, encoding="utf-8") as file:
        request = json.load(file)
    for module in dict.fromkeys([*modules_of(request["questions"]), *request["modules"]]):
        if module not in sys.modules and module not in settings["avoid"]:
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
        child(request, reply, settings, known)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def end_orphans(children):
    """End what was left behind by children that have ended: the nursery inherits it."""
    with contextlib.suppress(OSError), open("/proc/self/task/{}/children".format(os.getpid())) as file:
        for pid in {int(pid) for pid in file.read().split()} - set(children):
            kill(os.kill, pid)


def kill(function, pid):
    with contextlib.suppress(OSError):  # it is gone
        function(pid, signal.SIGKILL)


def ended():
    """Process ids and statuses of children that have ended."""
    with contextlib.suppress(ChildProcessError):
        yield from iter(lambda: os.waitpid(-1, os.WNOHANG), (0, 0))


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
    known = store.stores()
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
            end_orphans(children)
        if 0 in ready:
            data = os.read(0, 1 << 16)
            if not data:
                break
            *lines, asked = (asked + data).split(b"\n")
            for line in map(json.loads, lines):
                pid, timeout = fork(line["request"], line["reply"], settings, known, tell)
                children[pid] = (line["number"], line["reply"], timeout)
    for pid in children:
        kill(os.killpg, pid)


if __name__ == "__main__":
    main(sys.argv[1])
