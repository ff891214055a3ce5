"""The command line of sampan-runc as data: commands, their flags and arguments, their help.

Names, flags and argument counts are those of runc 1.1–1.3, because engines and test suites call it by them.
One module per command (`sampan.runtime.cli.<module>`), imported only when it runs.

A flag is (names, kind, help); kinds: bool, str, int, duration, list, ints (numbers with commas, repeatable). One
without help is not shown. A command is (module, function, usage, (fewest, most) arguments, help, flags); most None: any
number.
"""

from __future__ import annotations

Flag = tuple[str, str, str]
Command = tuple[str, str, str, tuple[int, int | None], str, tuple[Flag, ...]]

BUNDLE = ("bundle b", "str", "path to the root of the bundle directory, defaults to the current directory")
CONSOLE = ("console-socket", "str", "path of a unix socket that receives the terminal's master descriptor")
PIDFD = ("pidfd-socket", "str", "path of a unix socket that receives a pidfd of the process")
PID_FILE = ("pid-file", "str", "file to write the process id to")
PRESERVE = ("preserve-fds", "int", "pass N descriptors more to the process (stdio + $LISTEN_FDS + N in total)")
NO_PIVOT = ("no-pivot", "bool", "do not use pivot_root, for a rootfs on a ramdisk")
NO_KEYRING = ("no-new-keyring", "bool", "keep the caller's session keyring")
NO_SUBREAPER = ("no-subreaper", "bool", "accepted for runc's sake: no subreaper is needed")
DETACH = ("detach d", "bool", "do not wait for the process")
FORMAT = ("format f", "str", "table (default) or json")

CREATE: tuple[Flag, ...] = (BUNDLE, CONSOLE, PIDFD, PID_FILE, NO_PIVOT, NO_KEYRING, PRESERVE)

CRIU: tuple[Flag, ...] = (
    ("image-path", "str", "directory of the image files (default: checkpoint)"),
    ("work-path", "str", "directory of work files and logs"),
    ("tcp-established", "bool", "allow open tcp connections"),
    ("ext-unix-sk", "bool", "allow external unix sockets"),
    ("shell-job", "bool", "allow shell jobs"),
    ("file-locks", "bool", "handle file locks"),
    ("manage-cgroups-mode", "str", "soft (default), full, strict or ignore"),
    ("empty-ns", "list", "make a namespace but do not restore its properties"),
    ("auto-dedup", "bool", "drop duplicate memory images"),
    ("lazy-pages", "bool", "restore memory lazily with userfaultfd"),
)

GLOBAL_FLAGS: tuple[Flag, ...] = (
    ("debug", "bool", "log what is done"),
    ("log", "str", "file to append log lines to (default: standard error)"),
    ("log-format", "str", "text (default) or json"),
    ("root", "str", "directory of the containers' states, on tmpfs (default: /run/sampan-runc)"),
    ("criu", "str", ""),
    ("systemd-cgroup", "bool", 'cgroupsPath has the form "slice:prefix:name"'),
    ("rootless", "str", "ignore cgroup permission errors: true, false or auto (default)"),
    ("help h", "bool", "show help"),
    ("version v", "bool", "print the version"),
)

FLAGS_FIRST = frozenset({"exec", "ps"})  # what follows their first argument is another program's

COMMANDS: dict[str, Command] = {
    "checkpoint": (
        "checkpoint",
        "checkpoint",
        "<container-id>",
        (1, 1),
        "checkpoint a running container",
        (
            *CRIU,
            ("tcp-skip-in-flight", "bool", "skip tcp connections in flight"),
            ("link-remap", "bool", "link unlinked files back where possible"),
            ("parent-path", "str", "directory of the previous images, for pre-dump"),
            ("leave-running", "bool", "leave the processes running"),
            ("status-fd", "int", "descriptor that criu writes to when lazy pages are ready"),
            ("page-server", "str", "address:port of the page server"),
            ("pre-dump", "bool", "dump memory only and leave the container running"),
        ),
    ),
    "create": ("create", "create", "<container-id>", (1, 1), "create a container", CREATE),
    "delete": (
        "delete",
        "delete",
        "<container-id>",
        (1, 1),
        "delete any resources held by the container",
        (("force f", "bool", "kill the container first (SIGKILL)"),),
    ),
    "events": (
        "events",
        "events",
        "<container-id>",
        (1, 1),
        "display OOM notifications and cpu, memory and IO statistics",
        (
            ("interval", "duration", "time between statistics (default: 5s)"),
            ("stats", "bool", "display once, then exit"),
        ),
    ),
    "exec": (
        "exec",
        "exec_",
        "<container-id> <command> [arguments]  || -p process.json <container-id>",
        (1, None),
        "execute a new process inside the container",
        (
            CONSOLE,
            PIDFD,
            ("cwd", "str", "working directory in the container"),
            ("env e", "list", "set an environment variable"),
            ("tty t", "bool", "allocate a pseudo-terminal"),
            ("user u", "str", "uid[:gid]"),
            ("additional-gids g", "ints", "additional group ids"),
            ("process p", "str", "path of a process.json"),
            DETACH,
            PID_FILE,
            ("process-label", "str", "SELinux label of the process"),
            ("apparmor", "str", "AppArmor profile of the process"),
            ("no-new-privs", "bool", "set no_new_privs"),
            ("cap c", "list", "add a capability"),
            PRESERVE,
            ("cgroup", "list", "sub-cgroup to run in, as [controller:]path"),
            ("ignore-paused", "bool", "allow exec in a paused container"),
        ),
    ),
    "features": ("features", "features", "", (0, 0), "show the enabled features", ()),
    "kill": (
        "kill",
        "kill",
        "<container-id> [signal]",
        (1, 2),
        "send a signal (default: SIGTERM) to the container's init process",
        (("all a", "bool", ""),),
    ),
    "list": (
        "listing",
        "list_",
        "",
        (0, 0),
        "list the containers of the given root",
        (FORMAT, ("quiet q", "bool", "display ids only")),
    ),
    "pause": ("pause", "pause", "<container-id>", (1, 1), "suspend all processes inside the container", ()),
    "ps": ("listing", "ps", "<container-id> [ps options]", (1, None), "display the container's processes", (FORMAT,)),
    "restore": (
        "checkpoint",
        "restore",
        "<container-id>",
        (1, 1),
        "restore a container from a checkpoint",
        (
            *CRIU,
            BUNDLE,
            CONSOLE,
            DETACH,
            PID_FILE,
            NO_SUBREAPER,
            NO_PIVOT,
            ("lsm-profile", "str", "TYPE:NAME of the LSM profile"),
            ("lsm-mount-context", "str", "LSM mount context"),
        ),
    ),
    "resume": ("pause", "resume", "<container-id>", (1, 1), "resume all processes that were paused", ()),
    "run": (
        "create",
        "run",
        "<container-id>",
        (1, 1),
        "create and run a container",
        (*CREATE, DETACH, ("keep", "bool", "do not delete the container after it exits"), NO_SUBREAPER),
    ),
    "spec": (
        "spec",
        "spec",
        "",
        (0, 0),
        "create a new specification file",
        (BUNDLE, ("rootless", "bool", "for a container that runs without root")),
    ),
    "start": ("start", "start", "<container-id>", (1, 1), "execute the user's process of a created container", ()),
    "state": ("listing", "state", "<container-id>", (1, 1), "output the state of a container", ()),
    "update": (
        "update",
        "update",
        "<container-id>",
        (1, 1),
        "update resource limits",
        (
            (
                "resources r",
                "str",
                "file of resources as in linux.resources, '-' is standard input; replaces all other flags",
            ),
            ("blkio-weight", "int", "block IO weight, 10 to 1000"),
            ("cpu-period", "str", "CFS period in us"),
            ("cpu-quota", "str", "CPU time in us a period"),
            ("cpu-burst", "str", "CPU time in us that may be saved up"),
            ("cpu-share", "str", "CPU shares"),
            ("cpu-rt-period", "str", "realtime period in us"),
            ("cpu-rt-runtime", "str", "realtime time in us a period"),
            ("cpuset-cpus", "str", "CPUs to use"),
            ("cpuset-mems", "str", "memory nodes to use"),
            ("kernel-memory", "str", ""),
            ("kernel-memory-tcp", "str", ""),
            ("memory", "str", "memory limit in bytes"),
            ("memory-reservation", "str", "memory soft limit in bytes"),
            ("memory-swap", "str", "memory and swap together in bytes, -1 is unlimited"),
            ("pids-limit", "int", "number of processes"),
            ("cpu-idle", "str", "1: run when nothing else does"),
            ("l3-cache-schema", "str", "Intel RDT L3 cache schema"),
            ("mem-bw-schema", "str", "Intel RDT memory bandwidth schema"),
        ),
    ),
}
