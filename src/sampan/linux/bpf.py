"""bpf(2): the device filter of a v2 cgroup, as an eBPF program assembled here.

The program sees `struct bpf_cgroup_dev_ctx {u32 access_type; u32 major; u32 minor}`, where access_type holds the device
type in its low half and the access bits in its high half, and answers 1 (allow) or 0 (EPERM). It walks OCI's rules
backwards, because the last one that matches wins, bit by bit: an open for reading and writing is one request with two
bits.

Not here: maps, BTF, tracing, a loader for compiled objects.

Source: bpf(2); Documentation/bpf/standardization/instruction-set.rst; include/uapi/linux/bpf.h (kernel 6.18).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence

from sampan.linux.cgroups.devices import Rule

_SYS_BPF = 321 if os.uname().machine == "x86_64" else 280
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_PROG_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6  # attach type
_F_ALLOW_MULTI, _F_REPLACE = 2, 4

_DEV_BLOCK, _DEV_CHAR = 1, 2
_ACCESS = {"m": 1, "r": 2, "w": 4}

# Opcodes: class | source | operation
_LDX_W = 0x61  # dst = *(u32 *)(src + off)
_MOV_K, _MOV_X = 0xB7, 0xBF
_AND_K, _RSH_K, _AND_X = 0x57, 0x77, 0x5F
_JEQ_K, _JNE_K, _EXIT = 0x15, 0x55, 0x95

_R0, _R1, _TYPE, _ACC, _MAJOR, _MINOR, _TMP = 0, 1, 2, 3, 4, 5, 6

_libc = ctypes.CDLL(None, use_errno=True)


def _insn(op: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """Pack one `struct bpf_insn`: u8 code, u4 dst, u4 src, s16 off, s32 imm."""
    return struct.pack("<BBhi", op, dst | src << 4, off, imm if imm < 1 << 31 else imm - (1 << 32))


def device_program(rules: Sequence[Rule]) -> bytes:
    """Assemble the filter for `rules` (see cgroups.devices); what no rule matches is denied.

    Register ACC holds the access bits that are still undecided. An allow rule takes its bits out; a deny rule that
    meets one of them ends the walk with 0; no bit left ends it with 1.
    """
    code = [
        _insn(_LDX_W, _TYPE, _R1, 0),
        _insn(_MOV_X, _ACC, _TYPE),
        _insn(_AND_K, _TYPE, imm=0xFFFF),
        _insn(_RSH_K, _ACC, imm=16),
        _insn(_LDX_W, _MAJOR, _R1, 4),
        _insn(_LDX_W, _MINOR, _R1, 8),
    ]
    for rule in reversed(rules):
        code += _rule(rule)
        if rule[1][0] == "a":  # matches every request and every bit: nothing before it can matter
            break
    code += [_insn(_MOV_K, _R0, imm=0), _insn(_EXIT)]
    return b"".join(code)


def _rule(rule: Rule) -> list[bytes]:
    allow, (kind, major, minor), access = rule
    # runc and the v1 kernel interface both take a wildcard type as "everything", whatever else the rule says.
    bits = 7 if kind == "a" else sum(_ACCESS[bit] for bit in set(access))
    tests: list[tuple[int, int]] = []
    if kind != "a":
        tests.append((_TYPE, _DEV_BLOCK if kind == "b" else _DEV_CHAR))
        tests += [(register, value) for register, value in ((_MAJOR, major), (_MINOR, minor)) if value >= 0]
    verdict = [_insn(_MOV_K, _R0, imm=int(allow)), _insn(_EXIT)]
    if allow:
        body = [_insn(_AND_K, _ACC, imm=~bits & 7), _insn(_JNE_K, _ACC, off=len(verdict), imm=0), *verdict]
    else:
        body = [
            _insn(_MOV_X, _TMP, _ACC),
            _insn(_AND_K, _TMP, imm=bits),
            _insn(_JEQ_K, _TMP, off=len(verdict), imm=0),
            *verdict,
        ]
    code = []
    for index, (register, value) in enumerate(tests):
        code.append(_insn(_JNE_K, register, off=len(tests) - index - 1 + len(body), imm=value))
    return code + body


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """Call bpf(2) with a `union bpf_attr`; return its result and the union as the kernel left it."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = _libc.syscall(ctypes.c_long(_SYS_BPF), ctypes.c_int(command), buffer, ctypes.c_uint(len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf: {os.strerror(code)}")
    return int(result), buffer.raw


def prog_load(program: bytes, *, verbose: bool = False) -> int:
    """Load a cgroup device program (BPF_PROG_LOAD). Returns its descriptor (close-on-exec by the kernel).

    Raises:
        OSError: with `verbose` the verifier's log is part of the message.
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache")
    log = ctypes.create_string_buffer(1 << 16) if verbose else None
    attributes = struct.pack(
        "<IIQQIIQ",
        _PROG_TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
        1 if log else 0,
        len(log) if log else 0,
        ctypes.addressof(log) if log else 0,
    )
    attributes += struct.pack("<II16s", 0, 0, b"sampan_devices")
    try:
        return _bpf(_PROG_LOAD, attributes)[0]
    except OSError as e:
        if log is None or not log.value:
            raise
        raise OSError(e.errno, f"{e.strerror}: {log.value.decode(errors='replace')}") from e


def prog_query(cgroup_fd: int) -> list[int]:
    """Return the ids of the device programs attached to this very cgroup (BPF_PROG_QUERY)."""
    ids = (ctypes.c_uint32 * 64)()
    attributes = struct.pack("<IIIIQII", cgroup_fd, _CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), len(ids), 0)
    _, reply = _bpf(_PROG_QUERY, attributes)
    return list(ids[: struct.unpack_from("<I", reply, 24)[0]])


def prog_fd_by_id(program_id: int) -> int:
    """Open a program by its id (BPF_PROG_GET_FD_BY_ID)."""
    return _bpf(_PROG_GET_FD_BY_ID, struct.pack("<III", program_id, 0, 0))[0]


def prog_attach(cgroup_fd: int, program_fd: int, *, replace_fd: int = -1) -> None:
    """Attach a program (BPF_PROG_ATTACH) beside others (BPF_F_ALLOW_MULTI), or in the place of `replace_fd`."""
    flags = _F_ALLOW_MULTI | (_F_REPLACE if replace_fd >= 0 else 0)
    _bpf(_PROG_ATTACH, struct.pack("<IIIII", cgroup_fd, program_fd, _CGROUP_DEVICE, flags, max(replace_fd, 0)))


def prog_detach(cgroup_fd: int, program_fd: int) -> None:
    """Detach a program (BPF_PROG_DETACH)."""
    _bpf(_PROG_DETACH, struct.pack("<III", cgroup_fd, program_fd, _CGROUP_DEVICE))


def set_device_rules(cgroup_directory: str, rules: Sequence[Rule]) -> None:
    """Make `rules` the one device filter of a cgroup, with no moment without a filter once there was one.

    One old program is replaced in place. Several (another runtime left them) are detached after ours is attached: until
    then all must agree, which only denies more.
    """
    cgroup_fd = os.open(cgroup_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        old = [prog_fd_by_id(program_id) for program_id in prog_query(cgroup_fd)]
        try:
            program_fd = prog_load(device_program(rules))
            try:
                prog_attach(cgroup_fd, program_fd, replace_fd=old[0] if len(old) == 1 else -1)
            finally:
                os.close(program_fd)
            for fd in old if len(old) > 1 else ():
                prog_detach(cgroup_fd, fd)
        finally:
            for fd in old:
                os.close(fd)
    finally:
        os.close(cgroup_fd)
