"""What keeps a load from harm: where a process may write, what it may end, and how much memory it may take."""

import ctypes
import errno
import os
import sys

# What Python tells its audit hooks: the event, and where among its arguments there are paths, each with the descriptor
# of the folder that it is relative to.
WRITING = {
    "os.chflags": ((0, None),), "os.chmod": ((0, 2),), "os.chown": ((0, 3),), "os.link": ((0, 2), (1, 3)),
    "os.mkdir": ((0, 2),), "os.remove": ((0, 1),), "os.removexattr": ((0, None),), "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),), "os.setxattr": ((0, None),), "os.symlink": ((1, 2),), "os.truncate": ((0, None),),
    "os.utime": ((0, 3),),
}  # fmt: skip
STARTING = ("os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.spawn", "subprocess.Popen")


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


def limit_memory(size):
    """Allocating more than so many bytes beyond what this process has is refused, on Linux."""
    if size and sys.platform == "linux":
        import resource

        with open("/proc/self/status") as file:
            used = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (used + size,) * 2)
