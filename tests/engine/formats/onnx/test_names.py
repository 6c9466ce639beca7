"""Every path that is claimed is new, and no layer lies inside of another."""

from engine.formats.onnx.importer.names import Names


def test_a_layer_inside_of_a_layer_gets_a_neighbour():
    names = Names()
    wanted = ["attn.mha", "attn.mha.out_proj", "attn.mha.out_proj", "attn", "attn.mha_1", "attn.mha"]
    given = [names.claim(path, "layer") for path in wanted]
    assert given == ["attn.mha", "attn.mha_1.out_proj", "attn.mha_1.out_proj_1", "attn_1", "attn.mha_1_1", "attn.mha_2"]
