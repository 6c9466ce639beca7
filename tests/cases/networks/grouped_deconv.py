from tests.cases.prelude import *

# microsoft/onnxruntime#19694, #26456, pytorch/executorch#17842: per-channel scales of transposed convolutions, with groups and bias.
for tag, g in (("g1", 1), ("g2", 2), ("dw", 8)):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 16, 4, 2, 1, groups=g),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    with torch.no_grad():
        net[2].weight[:, 0] *= 20
    export(net, torch.randn(2, 3, 8, 8), tag + ".onnx")
    data((3, 8, 8), model=tag + ".onnx", name=tag + ".npz")
    for t, s in (("static", STATIC), ("dynamic", DYNAMIC), ("prune", PRUNE)):
        job(f"{tag}_{t}", s, model=tag + ".onnx", data=tag + ".npz")
