"""Hostile files, a row of the survey of threats or more each: what the loaders of today do with them was measured there. `python -m tests.engine.files.corpus FOLDER`
reads every file of a folder that `write` filled, as the service does, and prints a line of JSON for each. A payload only creates the file `marker`."""

import base64
import io
import json
import os
import pickle
import resource
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

MIB = 2**20
LENET = {"architecture": {"name": "lenet_300_100"}}


class Marked:
    """A pickle that creates a file when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch marker",)


def stored(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A whole black picture of one bit a pixel, which compresses a thousandfold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 9)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), *more, (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose header claims another size."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("L", (16, 16)).save(out, "JPEG")
    data = out.getvalue()
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def safetensors(header: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def weight(**metadata: str) -> bytes:
    """One tensor of four bytes, and metadata that describe it."""
    return safetensors({"__metadata__": metadata, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))


def described(target: str, path: str = "a", tied: dict[str, str] | None = None) -> bytes:
    """Weights with a program of one operator."""
    meta = {"dtype": 7, "sizes": [{"as_int": 1}], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}, "requires_grad": True}
    tensor = lambda name: {"as_tensor": {"name": name}}  # noqa: E731
    nodes = [{"target": target, "inputs": [{"name": "self", "arg": tensor("x"), "kind": 1}], "outputs": [tensor("y")], "metadata": {}}]
    inputs = [
        {"parameter": {"arg": {"name": "p"}, "parameter_name": path}},
        {"user_input": {"arg": tensor("x")}},
    ]
    graph = {"nodes": nodes, "tensor_values": {"x": meta, "y": meta, "p": meta}}
    signature = {"input_specs": inputs, "output_specs": [{"user_output": {"arg": tensor("y")}}]}
    program = {"schema_version": {"major": 8}, "graph_module": {"graph": graph, "signature": signature}}
    return weight(**{"modelpress.program": json.dumps({"program": program, "parameters": ["a"], "tied": tied or {}})})


def graphed(*nodes: onnx.NodeProto, tensor: TensorProto | None = None) -> bytes:
    """Weights with an ONNX graph."""
    value = helper.make_tensor_value_info
    made = helper.make_graph(list(nodes), "g", [value("x", 1, ["n", 1])], [value("y", 1, None)], [tensor] if tensor is not None else [])
    text = base64.b64encode(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()).decode()
    return weight(**{"modelpress.graph": text})


def outside(location: str) -> TensorProto:
    found = TensorProto(name="b", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    found.external_data.add(key="location", value=location)
    return found


def huge() -> list[onnx.NodeProto]:
    shape = helper.make_tensor("s", TensorProto.INT64, [3], [2**13, 2**13, 2**10])
    return [
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["one"], keepdims=0),
        helper.make_node("Add", ["x", "one"], ["y"]),
    ]


def pickled(content: Any, compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    return stored(
        {"m/data.pkl": content if isinstance(content, bytes) else pickle.dumps(content, 2), "m/version": b"3\n", **members}, compression
    )


def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table({"a": np.zeros(60_000_000, np.int8), "y": np.zeros(60_000_000, np.int8)}), out, compression="zstd")
    return out.getvalue()


def tokenizer(pattern: str, text: str) -> bytes:
    document = {
        "version": "1.0",
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
    }
    return stored({"train.jsonl": json.dumps({"text": text}).encode() + b"\n", "tokenizer.json": json.dumps(document).encode()})


def lying_zip(data: bytes, size: int) -> bytes:
    """The first member's size in the central directory and in its own header is another."""
    out = bytearray(data)
    for magic, place in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = out.index(magic) + place
        out[at : at + 4] = struct.pack("<I", size)
    return bytes(out)


IDENTITY = "torch.ops.aten.relu.default"
Row = tuple[str, Callable[[], bytes], frozenset[str]]
"""Format, content, and codes with which it may be refused; `read` among them where it may be read harmlessly."""


def row(format: str, make: Callable[[], bytes], *codes: str) -> Row:
    return format, make, frozenset(codes)


ROWS: dict[str, Row] = {
    "pickle": row("pt", lambda: pickle.dumps(Marked(), 2), "unsafe_format"),
    "pickle in a zip": row("pt", lambda: pickled(Marked()), "unsafe_format", "model_invalid"),
    "deflated record": row("pt", lambda: pickled({}, zipfile.ZIP_DEFLATED, **{"m/data/0": bytes(200 * MIB)}), "decompression_limit_exceeded"),
    "bytearray of two gigabytes": row("pt", lambda: pickled(b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."), "unsafe_format"),
    "lists without end": row("pt", lambda: pickled(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."), "model_invalid", "unsafe_format"),
    "torchscript": row("pt", lambda: stored({"m/code/__torch__.py": b"x", "m/data.pkl": b"."}), "unsafe_format", "unsupported_format"),
    "objects in npy": row("npz", lambda: stored({"x_train.npy": _objects()}), "unsafe_format", "dataset_invalid"),
    "four terabytes in a header": row("npz", lambda: stored({"x_train.npy": _npy((2**42,))}), "dataset_invalid", "tensor_limit_exceeded", "truncated_upload", "decompression_limit_exceeded"),
    "bomb of zeros": row("npz", lambda: stored({"x_train.npy": _npy((2**28,)) + bytes(2**28)}, zipfile.ZIP_DEFLATED), "decompression_limit_exceeded"),
    "lying sizes": row("npz", lambda: lying_zip(stored({"x_train.npy": _npy((9,)) + bytes(9)}), 10), "dataset_invalid", "truncated_upload"),
    "header of 2^63": row("safetensors", lambda: struct.pack("<Q", 2**63) + b"{}", "tensor_limit_exceeded", "unsupported_format"),
    "many tensors": row("safetensors", lambda: safetensors(_many(150_000)), "tensor_limit_exceeded"),
    "name with escapes": row("safetensors", lambda: safetensors({"../../etc/x\n\x1b[31m": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}), "model_invalid"),
    "described: another function": row("safetensors", lambda: described("os.system"), "unsupported_operator"),
    "described: operator that reads files": row("safetensors", lambda: described("torch.ops.aten.from_file.default"), "unsupported_operator"),
    "described: name that is code": row("safetensors", lambda: described(IDENTITY, "a;open('marker','w')"), "model_invalid"),
    "described: tied to nothing": row("safetensors", lambda: described(IDENTITY, tied={"b": "nowhere"}), "model_invalid"),
    "described: tied to a method": row("safetensors", lambda: described(IDENTITY, tied={"forward": "a"}), "model_invalid"),
    "described: no JSON": row("safetensors", lambda: weight(**{"modelpress.program": "open('marker','w')"}), "model_invalid"),
    "described: nested without end": row("safetensors", lambda: weight(**{"modelpress.program": "[" * 100_000}), "model_invalid"),
    "described: well": row("safetensors", lambda: described(IDENTITY), "read"),
    "graph: file outside": row("safetensors", lambda: graphed(helper.make_node("Add", ["x", "b"], ["y"]), tensor=outside("/etc/passwd")), "model_invalid"),
    "graph: file outside, in a node": row("safetensors", lambda: graphed(helper.make_node("Constant", [], ["c"], value=outside("../x")), helper.make_node("Add", ["x", "c"], ["y"])), "external_data_forbidden"),
    "graph: no protobuf": row("safetensors", lambda: weight(**{"modelpress.graph": "!!!"}), "model_invalid"),
    "graph: gigabytes of a few bytes": row("safetensors", lambda: graphed(*huge()), "tensor_limit_exceeded"),
    "graph: another domain": row("safetensors", lambda: graphed(helper.make_node("Run", ["x"], ["y"], domain="evil")), "unsupported_operator", "model_invalid"),
    "folder: described, without a description": row("huggingface", lambda: stored({"config.json": b'{"modelpress": {"described": true}}', "model.safetensors": weight()}), "architecture_invalid"),
    "folder: described by code": row("huggingface", lambda: stored({"config.json": b'{"modelpress": {"described": true}}', "model.safetensors": described("os.system")}), "unsupported_operator"),
    "folder: code": row("huggingface", lambda: stored({"config.json": b"{}", "model.safetensors": weight(), "model.py": b"x"}), "unsafe_format"),
    "folder: arguments of a trainer": row("huggingface", lambda: stored({"config.json": b"{}", "model.safetensors": weight(), "training_args.bin": pickle.dumps(Marked())}), "unsafe_format"),
    "picture of 9000²": row("image_folder", lambda: stored({"train/a/1.png": png(9000, 9000)}), "decompression_limit_exceeded"),
    "picture of 13000²": row("image_folder", lambda: stored({"train/a/1.png": png(13_000, 13_000)}), "decompression_limit_exceeded"),
    "text of 100 MB in a picture": row("image_folder", lambda: stored({"train/a/1.png": png(8, 8, (b"zTXt", b"k\0\0" + zlib.compress(bytes(100 * MIB), 9)))}), "dataset_invalid", "decompression_limit_exceeded", "read"),
    "bombs of JPEG": row("image_folder", lambda: stored({f"train/a/{place}.jpg": jpeg(60_000, 60_000) for place in range(50)}), "decompression_limit_exceeded"),
    "postscript": row("image_folder", lambda: stored({"train/a/1.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n(marker) (w) file\n"}), "dataset_invalid"),
    "picture that inflates": row("image_folder", lambda: stored({"train/a/1.png": bytes(300 * MIB)}, zipfile.ZIP_DEFLATED), "decompression_limit_exceeded"),
    "out of the folder": row("image_folder", lambda: stored({"../../a/1.png": png(8, 8)}), "dataset_invalid", "unsupported_format"),
    "columns of few bytes": row("parquet", parquet, "decompression_limit_exceeded"),
    "pattern that backtracks": row("jsonl", lambda: tokenizer("(a+)+$", "a" * 40 + "b"), "dataset_invalid"),
    "lines that inflate": row("jsonl", lambda: stored({"train.jsonl": b" " * (300 * MIB)}, zipfile.ZIP_DEFLATED), "decompression_limit_exceeded"),
}  # fmt: skip


def _objects() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([Marked()], dtype=object), allow_pickle=True)
    return out.getvalue()


def _npy(shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return out.getvalue()


def _many(count: int) -> bytes:
    return b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % place for place in range(count)) + b"}"


def write(folder: Path) -> None:
    """Make every file."""
    for place, (_, make, _) in enumerate(ROWS.values()):
        (folder / f"{place:03d}").write_bytes(make())


def read_one(path: Path, format: str, work: Path) -> str:
    """The code with which a file is refused, or `read`."""
    from engine.contract.errors import EngineError
    from engine.contract.file_format import catalogue
    from engine.contract.metadata import DatasetMetadata, ModelMetadata
    from engine.data.loading import read_stored
    from engine.files.magic import check_file, sniff
    from engine.formats.loading import load_network

    try:
        with path.open("rb") as file:
            sniff(file.read(4096), format)
            check_file(file, format)
        if catalogue()[format].holds == "model":
            stated = LENET if format in ("pt", "safetensors") else {}
            load_network(path, format, ModelMetadata.model_validate(stated), work)
        else:
            stated = {"text": {"tokenizer": "file"}} if format == "jsonl" and b"tokenizer.json" in path.read_bytes()[-4096:] else {}
            read_stored(path, format, DatasetMetadata.model_validate(stated), None, work)
    except EngineError as error:
        return error.code
    return "read"


def main(folder: Path) -> None:
    """Read the files in turn, and say how each ended, how long it took and how much larger the process became."""
    for format, content in (("safetensors", described(IDENTITY)), ("image_folder", stored({"train/a/1.png": png(8, 8)}))):
        (folder / "good").write_bytes(content)
        assert read_one(folder / "good", format, folder / "good_work") == "read"  # libraries are loaded now
    for place, (name, (format, _, _)) in enumerate(ROWS.items()):
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        code = read_one(folder / f"{place:03d}", format, folder / f"work{place}")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        sys.stdout.write(json.dumps({"name": name, "code": code, "seconds": time.process_time() - started, "mib": grown / 1024}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
