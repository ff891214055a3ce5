"""Seccomp filters: OCI `linux.seccomp` → classic BPF through libseccomp, kept on disk, loaded with seccomp(2).

    compile  ~10 ms: once per different profile
    cached   a hash and a stat: once per container
    load     one system call in the child; nothing of libseccomp is loaded there

A program is an array of `struct sock_filter`; when the profile asks for flags of seccomp(2), their u32 follows it.

In front of libseccomp's code stands a prologue of ours. It answers ENOSYS, not the profile's EPERM, to system calls
newer than every one the profile names, so that a C library falls back (as runc does); and it knows the calls that the
installed libseccomp is too old to name.

Source: seccomp(2); seccomp_rule_add(3); OCI runtime-spec 1.2 config-linux.md "Seccomp"; arch/x86/entry/syscalls/.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
import threading
from functools import cache
from typing import Any

Profile = dict[str, Any]

ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_RETURNS_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")

OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_NEW_LISTENER": 8,
    "SECCOMP_FILTER_FLAG_TSYNC_ESRCH": 16,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}

#: OCI name → (libseccomp's name, AUDIT_ARCH_* as seccomp_data.arch shows it)
ARCHITECTURES = {
    "SCMP_ARCH_X86": ("x86", 0x40000003),
    "SCMP_ARCH_X86_64": ("x86_64", 0xC000003E),
    "SCMP_ARCH_X32": ("x32", 0xC000003E),
    "SCMP_ARCH_ARM": ("arm", 0x40000028),
    "SCMP_ARCH_AARCH64": ("aarch64", 0xC00000B7),
    "SCMP_ARCH_MIPS": ("mips", 0x00000008),
    "SCMP_ARCH_MIPS64": ("mips64", 0x80000008),
    "SCMP_ARCH_MIPS64N32": ("mips64n32", 0xA0000008),
    "SCMP_ARCH_MIPSEL": ("mipsel", 0x40000008),
    "SCMP_ARCH_MIPSEL64": ("mipsel64", 0xC0000008),
    "SCMP_ARCH_MIPSEL64N32": ("mipsel64n32", 0xE0000008),
    "SCMP_ARCH_PPC": ("ppc", 0x00000014),
    "SCMP_ARCH_PPC64": ("ppc64", 0x80000015),
    "SCMP_ARCH_PPC64LE": ("ppc64le", 0xC0000015),
    "SCMP_ARCH_S390": ("s390", 0x00000016),
    "SCMP_ARCH_S390X": ("s390x", 0x80000016),
    "SCMP_ARCH_RISCV64": ("riscv64", 0xC00000F3),
}
_X32_BIT = 0x40000000

#: System calls that libseccomp 2.5 does not know; from 424 on the numbers are the same on all our architectures.
_RECENT = {
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}
_RECENT_X86_64 = {"uretprobe": 335}

_ATTRIBUTE_BAD_ARCH, _ATTRIBUTE_NO_NEW_PRIVILEGES, _ATTRIBUTE_OPTIMIZE = 2, 3, 8
_NOT_KNOWN = -1  # __NR_SCMP_ERROR
_SECCOMP_SET_MODE_FILTER = 1

_LOAD, _JEQ, _JGT, _JSET, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_OFFSET_NR, _OFFSET_ARCH = 0, 4


class _ArgCmp(ctypes.Structure):
    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    ]


@cache
def _library() -> ctypes.CDLL:
    """Return libseccomp with its prototypes bound. Raises: OSError when it is not installed."""
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    pointer, u32, i32 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int
    for name, result, arguments in (
        ("seccomp_init", pointer, [u32]),
        ("seccomp_release", None, [pointer]),
        ("seccomp_arch_resolve_name", u32, [ctypes.c_char_p]),
        ("seccomp_arch_native", u32, []),
        ("seccomp_arch_add", i32, [pointer, u32]),
        ("seccomp_attr_set", i32, [pointer, i32, u32]),
        ("seccomp_syscall_resolve_name", i32, [ctypes.c_char_p]),
        ("seccomp_syscall_resolve_name_arch", i32, [u32, ctypes.c_char_p]),
        ("seccomp_rule_add_array", i32, [pointer, u32, i32, ctypes.c_uint, ctypes.POINTER(_ArgCmp)]),
        ("seccomp_export_bpf", i32, [pointer, i32]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def library_version() -> str:
    """Return libseccomp's version; "none" where it is not installed."""

    class Version(ctypes.Structure):
        _fields_ = [("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint)]

    try:
        function = _library().seccomp_version
    except (OSError, AttributeError):
        return "none"
    function.restype = ctypes.POINTER(Version)
    version = function().contents
    return f"{version.major}.{version.minor}.{version.micro}"


def compile(profile: Profile) -> bytes:
    """Compile OCI `linux.seccomp` for this machine.

    Raises:
        OSError: EINVAL, the message names what the profile has wrong; or libseccomp's own failure.
    """
    library = _library()
    default_action = _action(profile.get("defaultAction", ""), profile.get("defaultErrnoRet"))
    architectures = [_architecture(name) for name in profile.get("architectures") or ()]
    context = library.seccomp_init(default_action)
    if not context:
        raise OSError(
            errno.EINVAL, f"error creating seccomp filter: invalid default action {profile.get('defaultAction')!r}"
        )
    try:
        for name, _ in architectures:
            _check(
                library.seccomp_arch_add(context, library.seccomp_arch_resolve_name(name.encode())),
                f"error adding architecture {name} to seccomp filter",
                ignore=errno.EEXIST,
            )
        # The caller decides about no_new_privs; the prologue and libseccomp's tree make the common calls cheap.
        _check(library.seccomp_attr_set(context, _ATTRIBUTE_NO_NEW_PRIVILEGES, 0), "error setting no new privileges")
        library.seccomp_attr_set(context, _ATTRIBUTE_OPTIMIZE, 2)  # refused before 2.5, where the chain is linear
        recent: dict[str, int] = {}
        for rule in profile.get("syscalls") or ():
            _add_rule(library, context, rule, default_action, recent)
        body = _export(library, context)
    finally:
        library.seccomp_release(context)
    program = _prologue(library, profile, recent) + body
    flags = filter_flags(profile)
    return program + struct.pack("<I", flags) if flags else program


def _check(result: int, what: str, *, ignore: int = 0) -> None:
    if result < 0 and -result != ignore:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")


def _action(name: str, value: int | None) -> int:
    if name not in ACTIONS:
        raise OSError(errno.EINVAL, f"string {name} is not a valid action for seccomp")
    if name in _RETURNS_ERRNO:
        return ACTIONS[name] | ((errno.EPERM if value is None else value) & 0xFFFF)
    return ACTIONS[name]


def _architecture(name: str) -> tuple[str, int]:
    if name not in ARCHITECTURES:
        raise OSError(errno.EINVAL, f"string {name} is not a valid arch for seccomp")
    return ARCHITECTURES[name]


def filter_flags(profile: Profile) -> int:
    """Return the seccomp(2) flags of a profile. Raises: OSError EINVAL for an unknown one."""
    value = 0
    for name in profile.get("flags") or ():
        if name not in FLAGS:
            raise OSError(errno.EINVAL, f"seccomp flag {name} is not known to this kernel interface")
        value |= FLAGS[name]
    if any(rule.get("action") == "SCMP_ACT_NOTIFY" for rule in profile.get("syscalls") or ()):
        value |= FLAGS["SECCOMP_FILTER_FLAG_NEW_LISTENER"]
        value &= ~FLAGS["SECCOMP_FILTER_FLAG_TSYNC"]  # the kernel takes one of the two; there is one thread
    return value


def _add_rule(library: ctypes.CDLL, context: int, rule: Profile, default_action: int, recent: dict[str, int]) -> None:
    """Add one OCI rule. Names this machine does not know are passed over: profiles serve many architectures."""
    action = _action(rule.get("action", ""), rule.get("errnoRet"))
    if action == default_action:
        return
    comparisons = [_comparison(argument) for argument in rule.get("args") or ()]
    # libseccomp joins the conditions of one rule by AND and takes one per argument; runc reads several conditions on
    # the same argument as alternatives.
    alternatives = [comparisons]
    if len({comparison.arg for comparison in comparisons}) < len(comparisons):
        alternatives = [[comparison] for comparison in comparisons]
    for name in rule.get("names") or ():
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == _NOT_KNOWN:
            if not comparisons:
                recent[name] = action
            continue
        for group in alternatives:
            array = (_ArgCmp * max(len(group), 1))(*group)
            _check(
                library.seccomp_rule_add_array(context, action, number, len(group), array),
                f"error adding seccomp rule for syscall {name}",
            )


def _comparison(argument: Profile) -> _ArgCmp:
    operator = argument.get("op", "")
    if operator not in OPERATORS:
        raise OSError(errno.EINVAL, f"string {operator} is not a valid operator for seccomp")
    if not 0 <= argument["index"] <= 5:
        raise OSError(errno.EINVAL, f"seccomp argument index {argument['index']} is not between 0 and 5")
    return _ArgCmp(argument["index"], OPERATORS[operator], argument["value"], argument.get("valueTwo") or 0)


def _export(library: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _check(library.seccomp_export_bpf(context, fd), "error exporting the seccomp filter")
        size = os.lseek(fd, 0, os.SEEK_END)
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


def _insn(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
    """Pack one `struct sock_filter`: u16 code, u8 jt, u8 jf, u32 k."""
    return struct.pack("<HBBI", code, jt, jf, k)


def _prologue(library: ctypes.CDLL, profile: Profile, recent: dict[str, int]) -> bytes:
    """Assemble, per architecture: the recent calls by number, then ENOSYS above the highest number the profile names.

    A profile that allows by default needs the recent calls only; one that answers ENOSYS by default needs no ENOSYS.
    """
    wants_enosys = profile.get("defaultAction") not in _PERMISSIVE and profile.get("defaultErrnoRet") != errno.ENOSYS
    names = [name for rule in profile.get("syscalls") or () for name in rule.get("names") or ()]
    native = library.seccomp_arch_native()
    by_name = {
        library.seccomp_arch_resolve_name(word.encode()): (word, audit) for word, audit in ARCHITECTURES.values()
    }
    listed = [_architecture(name) for name in profile.get("architectures") or ()]
    chosen = dict.fromkeys([by_name[native], *listed])
    blocks = []
    for word, audit in chosen:
        token = library.seccomp_arch_resolve_name(word.encode())
        table = {**_RECENT, **_RECENT_X86_64} if word == "x86_64" else _RECENT
        offset = _X32_BIT if word == "x32" else 0
        answers = {table[name] + offset: action for name, action in recent.items() if name in table}
        highest = max(
            (library.seccomp_syscall_resolve_name_arch(token, name.encode()) for name in set(names)), default=0
        )
        highest = max([highest, *answers, *(table[name] + offset for name in names if name in table)])
        blocks.append(_block(word, audit, answers, highest if wants_enosys and highest > 0 else None))
    return b"".join(blocks)


def _block(word: str, audit: int, answers: dict[int, int], highest: int | None) -> bytes:
    """Assemble one architecture's tests; falls through to what follows when none of them decides."""
    body: list[bytes] = []
    for number, action in sorted(answers.items()):
        body += [_insn(_JEQ, number, 0, 1), _insn(_RETURN, action)]
    if highest is not None:
        body += [_insn(_JGT, highest, 0, 1), _insn(_RETURN, ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS)]
    if not body:
        return b""
    if word in ("x86_64", "x32"):  # one AUDIT_ARCH for both; the number's bit 30 tells them apart
        skip = (len(body), 0) if word == "x86_64" else (0, len(body))
        body.insert(0, _insn(_JSET, _X32_BIT, *skip))
    head = [_insn(_LOAD, _OFFSET_ARCH), _insn(_JEQ, audit, 0, len(body) + 1), _insn(_LOAD, _OFFSET_NR)]
    return b"".join(head + body)


def cached(profile: Profile, directory: str) -> str:
    """Return the path of the compiled profile in `directory`, compiling and writing it (tmp + rename) when missing."""
    import hashlib  # brings libcrypto along, which no shim needs

    canonical = json.dumps(profile, sort_keys=True, separators=(",", ":")).encode()
    path = f"{directory}/{hashlib.sha256(canonical).hexdigest()}.bpf"
    if not os.path.exists(path):
        os.makedirs(directory, 0o700, exist_ok=True)
        temporary = f"{path}.{os.getpid()}.{threading.get_ident()}"  # two first starts may ask at once
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, compile(profile))
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        os.rename(temporary, path)
    return path


def supported_flags() -> list[str]:
    """Return the flags that this kernel takes: a null program gives EFAULT for a known flag, EINVAL for another."""
    known = []
    for name, bit in FLAGS.items():
        needs = FLAGS["SECCOMP_FILTER_FLAG_NEW_LISTENER"] if name.endswith("WAIT_KILLABLE_RECV") else 0
        _libc.syscall(
            ctypes.c_long(_SYS_SECCOMP), ctypes.c_uint(_SECCOMP_SET_MODE_FILTER), ctypes.c_uint(bit | needs), None
        )
        if ctypes.get_errno() == errno.EFAULT:
            known.append(name)
    return sorted(known)


_libc = ctypes.CDLL(None, use_errno=True)
_SYS_SECCOMP = {"x86_64": 317, "i686": 354, "armv7l": 383, "s390x": 348, "ppc64le": 358}.get(os.uname().machine, 277)


def load(program: bytes, flags: int = 0) -> int:
    """Load a filter into the calling thread (SECCOMP_SET_MODE_FILTER). Needs CAP_SYS_ADMIN or no_new_privs.

    Returns the listener's descriptor when SECCOMP_FILTER_FLAG_NEW_LISTENER is set, else 0.

    Raises:
        OSError
    """
    if len(program) % 8 == 4:
        flags |= struct.unpack_from("<I", program, len(program) - 4)[0]
    count = len(program) // 8
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", count, ctypes.addressof(instructions))  # struct sock_fprog
    result = _libc.syscall(
        ctypes.c_long(_SYS_SECCOMP),
        ctypes.c_uint(_SECCOMP_SET_MODE_FILTER),
        ctypes.c_uint(flags),
        ctypes.c_char_p(header),
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"seccomp: {os.strerror(code)}")
    return int(result)
