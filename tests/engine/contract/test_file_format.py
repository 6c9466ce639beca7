"""Every file format is found by its files, and each of them has what a format needs."""

import importlib
import inspect

import pytest

from engine.contract.errors import EngineError
from engine.contract.file_format import FileFormat, by_ending, catalogue, ending_of, format_of, names, writable_names
from engine.files.magic import sniff
from tests.engine.formats.onnx.files import GOOD

FORMATS = list(catalogue().values())


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_a_format_has_a_check_and_a_reader(format: FileFormat) -> None:
    assert importlib.import_module(f"engine.files.{format.name}").__doc__
    if not format.readable:
        return
    place = f"engine.formats.{format.name}.read" if format.holds == "model" else f"engine.data.{format.name}"
    reader = importlib.import_module(place).read
    wanted = ["path", "metadata", "work"] if format.holds == "model" else ["path", "metadata", "signature", "work"]
    assert list(inspect.signature(reader).parameters) == wanted
    assert reader.__doc__
    assert all(ending.startswith(".") and ending == ending.lower() for ending in format.endings)
    assert by_ending(format.ending) is format


@pytest.mark.parametrize("format", [format for format in FORMATS if format.writable], ids=lambda format: format.name)
def test_what_can_be_published_has_a_writer(format: FileFormat) -> None:
    network, path, *further = inspect.signature(importlib.import_module(f"engine.formats.{format.name}.write").write).parameters.values()
    assert (network.name, path.name) == ("network", "path")
    assert all(parameter.default is not parameter.empty for parameter in further)


def test_the_kinds_and_the_formats_of_results() -> None:
    assert set(names("model")) >= {"onnx", "safetensors", "pt", "architecture"}
    assert "npz" in names("dataset")
    assert {"onnx", "safetensors", "openvino"} <= set(writable_names())
    assert set(writable_names()) - set(names("model")) == {"openvino"}
    assert (ending_of("architecture"), ending_of("of_a_plugin_that_is_gone")) == (".json", ".of_a_plugin_that_is_gone")


def test_a_format_of_the_other_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(EngineError) as caught:
        format_of("npz", "model")
    assert caught.value.code == "unsupported_format"
    assert "onnx" in (caught.value.hint or "")


@pytest.mark.parametrize("name", GOOD)
def test_the_first_bytes_belong_to_one_certain_format_at_most(name: str) -> None:
    head = GOOD[name]()[:4096]
    certain = [format.name for format in FORMATS if not format.vague and format.recognizes(head)]
    assert certain in ([], [name])
    assert sniff(head, None) == name
