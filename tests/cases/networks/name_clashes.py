from tests.cases.prelude import *

# microsoft/onnxruntime#24705 (a shared bias "b" is copied as "b0", which exists), intel/neural-compressor#1506 (names with _quant in them).
W = rng.standard_normal
f = lambda *s: (W(s) * 0.3).astype("f")
build(
    [
        H.make_node("Conv", ["x", "w", "b"], ["b0"], "conv_quant", pads=[1] * 4),
        H.make_node("Relu", ["b0"], ["w_quantized"], "post_quant_relu"),
        H.make_node("Conv", ["w_quantized", "w2", "b"], ["b1"], "/post_quant_conv/Conv", pads=[1] * 4),
        H.make_node("Mul", ["b1", "w_scale"], ["x_QuantizeLinear_Output"], "x_QuantizeLinear"),
        H.make_node("Add", ["x_QuantizeLinear_Output", "w2_zero_point"], ["x_DequantizeLinear_Output"], "x_DequantizeLinear"),
        H.make_node("Sigmoid", ["x_DequantizeLinear_Output"], ["y_scale"], "w_DequantizeLinear"),
        H.make_node("GlobalAveragePool", ["y_scale"], ["p"]),
        H.make_node("Flatten", ["p"], ["f"]),
        H.make_node("Gemm", ["f", "b_quantized", "b_scale"], ["y"], "fc_quant", transB=1),
    ],
    [("x", 1, ["n", 3, 6, 6])],
    [("y", 1, ["n", 5])],
    {
        "w": f(8, 3, 3, 3),
        "b": f(8),
        "w2": f(8, 8, 3, 3),
        "w_scale": f(1, 8, 1, 1),
        "w2_zero_point": f(1, 8, 1, 1),
        "b_quantized": f(5, 8) * 4,
        "b_scale": f(5),
    },
    opset=13,
)
data((3, 6, 6))
job("static", STATIC)
job("dynamic", DYNAMIC)
job("tensor", {**STATIC, "granularity": "tensor"})
job("prune_static", PRUNE, STATIC)
