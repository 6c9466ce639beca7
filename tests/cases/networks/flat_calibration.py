from tests.cases.prelude import *

# microsoft/onnxruntime#12470, #25278: calibration on one example, on constant inputs, on nothing but zeros; a channel that never fires.
net = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(8, 8, 3, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(8, 5),
)
with torch.no_grad():
    net[0].bias[:] = -50.0
    net[2].bias.zero_()
export(net, torch.randn(2, 3, 8, 8), "silent.onnx")
torch.manual_seed(1)
net = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(8, 8, 3, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(8, 5),
)
export(net, torch.randn(2, 3, 8, 8))
z = rng.standard_normal((32, 3, 8, 8)).astype("f")
for tag, x in (("one", z[:1]), ("zeros", z * 0), ("constant", z * 0 + 7), ("tiny", z * 1e-30), ("huge", z * 1e30)):
    np.savez(OUT / f"{tag}.npz", x_train=x, x_test=z)
for tag in ("one", "zeros", "constant", "tiny", "huge"):
    for o in ("minmax", "entropy", "percentile"):
        job(f"{tag}_{o}", {**STATIC, "calibration": {"observer": o}}, data=f"{tag}.npz")
for o in ("minmax", "entropy"):
    job(f"silent_{o}", {**STATIC, "calibration": {"observer": o}}, model="silent.onnx", data="one.npz")
