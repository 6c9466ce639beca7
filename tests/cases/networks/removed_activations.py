from tests.cases.prelude import *

# microsoft/onnxruntime#11660, #9425, #12556, #20616: Relu and Clip are dropped by the quantizer: signed activations, ignored layers before them, clipping away from zero.
W = rng.standard_normal
f = lambda *s: (W(s) * 0.5).astype("f")
build(
    [
        H.make_node("Conv", ["x", "w1", "b1"], ["h1"], "c1", pads=[1] * 4),
        H.make_node("Relu", ["h1"], ["r1"], "relu1"),
        H.make_node("Conv", ["r1", "w2", "b2"], ["h2"], "c2", pads=[1] * 4),
        H.make_node("Clip", ["h2", "lo", "hi"], ["r2"], "clip"),
        H.make_node("Conv", ["r2", "w3", "b3"], ["h3"], "c3", pads=[1] * 4),
        H.make_node("Clip", ["h3", "", "hi"], ["r3"], "cap"),
        H.make_node("MaxPool", ["r3"], ["m"], "mp", kernel_shape=[2, 2], strides=[2, 2]),
        H.make_node("GlobalAveragePool", ["m"], ["p"]),
        H.make_node("Flatten", ["p"], ["f"]),
        H.make_node("Gemm", ["f", "v", "c"], ["y"], "fc", transB=1),
    ],
    [("x", 1, ["n", 3, 6, 6])],
    [("y", 1, ["n", 5])],
    {
        "w1": f(8, 3, 3, 3),
        "b1": f(8),
        "w2": f(8, 8, 3, 3),
        "b2": f(8),
        "w3": f(8, 8, 3, 3),
        "b3": f(8),
        "v": f(5, 8),
        "c": f(5),
        "lo": np.float32(0.25),
        "hi": np.float32(1.0),
    },
)
data((3, 6, 6))
job("plain", STATIC)
job("sym", {**STATIC, "symmetric": True})
for t, i in (("no_c1", ["c1"]), ("no_convs", ["c1", "c2"]), ("no_relu", ["Relu", "Clip"]), ("no_pool", ["MaxPool", "fc"])):
    job(t, {**STATIC, "ignore": i})
job("entropy", {**STATIC, "calibration": {"observer": "entropy"}})
job("percentile", {**STATIC, "symmetric": True, "calibration": {"observer": "percentile", "percentile": 99.9}})
job("same", SAME)
job("prune", PRUNE)
