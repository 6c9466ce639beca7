"""The zip archive of `torch.save`, looked at with the standard library: is it weights, and would loading it call anything?"""

from __future__ import annotations

import pickletools
import re
import zipfile
from typing import IO

from engine.contract import limits
from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat
from engine.files.archive import first_member, open_archive
from engine.files.effort import spend

SAVE_HINT = (
    "Save the weights alone: torch.save(model.state_dict(), 'weights.pt'), or safetensors.torch.save_file(model.state_dict(), "
    "'weights.safetensors'); or export the whole model: torch.onnx.export(model.eval(), (example,), 'model.onnx', external_data=False)."
)
_MEMBER = re.compile(
    r"^[^/]+/(data\.pkl|byteorder|version|\.data/|\.format_version|\.storage_alignment|data/\d|code/|constants\.pkl|constants/|extra/)"
)
_ALLOWED = re.compile(
    r"^(collections OrderedDict|torch\._utils _rebuild_(tensor(_v2)?|parameter)|torch\.nn\.parameter Parameter|torch (Size|device|Tensor)"
    r"|torch(\.storage)? \w+Storage|torch (float|int|uint|bfloat|bool|complex)\w*|torch\.serialization _get_layout|__builtin__ set|builtins set)$"
)
"""What the program of a state dict names. torch's own weights_only loader is the guard; this only makes the message better."""


def recognizes(head: bytes) -> bool:
    """Whether a file that begins so is an archive of torch's."""
    name = first_member(head)
    return name is not None and _MEMBER.match(name) is not None


def check(stream: IO[bytes], size: int) -> None:
    """Refuse everything but stored tensors and the program that names them.

    Raises `unsafe_format` for TorchScript, exported programs and pickled modules, `archive_limit_exceeded`, `tensor_limit_exceeded`,
    `model_invalid`, and `archive.DAMAGED`.
    """
    with open_archive(stream) as archive:
        infos = archive.infolist()
        names = [info.filename for info in infos]
        inner = [name.split("/", 1)[-1] for name in names]
        if any(name.startswith("code/") or name == "constants.pkl" for name in inner):
            raise EngineError(
                "unsafe_format", "The file is TorchScript: it is a program, and running it is the only way to read it.", hint=SAVE_HINT
            )
        if "serialized_exported_program.json" in inner:
            raise EngineError(
                "unsafe_format", "The file is a torch.export program of an old torch, whose loader runs code.", hint=SAVE_HINT
            )
        if len(set(names)) < len(names):
            raise EngineError("model_invalid", "The archive holds a member twice.")
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise EngineError(
                    "decompression_limit_exceeded",
                    "The archive has compressed members; torch.save stores them as they are.",
                    hint=SAVE_HINT,
                )
        programs = [info for info, name in zip(infos, inner, strict=True) if name == "data.pkl"]
        if len(programs) != 1:
            raise EngineError("model_invalid", "The archive has no data.pkl, so it is not from torch.save.", hint=SAVE_HINT)
        if programs[0].file_size > limits.MAX_HEADER_BYTES:
            raise EngineError(
                "tensor_limit_exceeded", f"data.pkl has {programs[0].file_size} bytes, the limit is {limits.MAX_HEADER_BYTES}."
            )
        if sum(name.startswith("data/") for name in inner) > limits.MAX_TENSORS:
            raise EngineError("tensor_limit_exceeded", f"The file has more than {limits.MAX_TENSORS} tensors.")
        if programs[0].file_size <= 2**20:
            _check_program(archive.read(programs[0]))


def _check_program(program: bytes) -> None:
    """Find the globals that the pickle program names, and refuse those that weights do not need."""
    try:
        for opcode, argument, _ in pickletools.genops(program):
            spend()
            if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
                raise EngineError(
                    "unsafe_format", f"The file's pickle program uses {opcode.name}, which weights do not need.", hint=SAVE_HINT
                )
            if opcode.name == "GLOBAL" and not _ALLOWED.match(str(argument)):
                name = re.sub(r"[^\w.]", ".", str(argument))[:120]
                raise EngineError("unsafe_format", f"The file pickles {name}: it is a whole model or more than weights.", hint=SAVE_HINT)
    except (ValueError, IndexError, UnicodeDecodeError, EOFError) as error:
        raise EngineError("model_invalid", "The archive's data.pkl is damaged.", hint="Upload the file again.") from error


FORMAT = FileFormat("pt", "model", (".pt", ".pth"), recognizes, check, has_structure=False)
