"""What the codes of jobs that failed, and of files that are refused, mean and what to do about them."""

from api.codes.requests import Meaning

_SMALLER = "Make the file smaller or simpler; the limits are those of `docs/operations.md`."
_REPORT = "Please report it, with the model if you can share it."
_SETTINGS = "`message` names the setting of the step and what it may be; correct it in the spec and run the job again."

JOBS: dict[str, Meaning] = {
    code: Meaning(*texts)
    for code, texts in {
        "already_quantized": ("The network holds quantized operators already.", "Upload the floating-point network instead."),
        "architecture_invalid": ("The architecture that a model names is unknown, or its parameters do not fit.", "GET /v1/architectures lists those that there are, with their parameters."),
        "archive_limit_exceeded": ("An archive has more entries, or deeper ones, than it may.", _SMALLER),
        "augmentation_invalid": ("An augmentation does not fit the examples.", _SETTINGS),
        "budget_unreachable": ("A budget is below what the least setting of the network costs.", "Raise the budget, or let the step take away more."),
        "calibration_failed": ("On the calibration examples a tensor of the network is not finite.", "Check metadata.preprocessing of the dataset, and the network's own operators for overflow."),
        "checkpoint_invalid": ("A checkpoint of the training could not be read again.", _REPORT),
        "child_crashed": ("The process of the job crashed.", "Its log may say more. " + _REPORT),
        "child_killed": ("The process of the job was ended from outside, by an operator or by the system.", "The job is tried again by itself; POST /v1/jobs/{id}/retry runs it once more."),
        "child_protocol": ("The process of the job ended without a result, or said what nobody understands.", _REPORT),
        "constraints_not_met": ("The result misses a constraint, and the spec has `on_violation: fail`.", "The best artifact is kept. Relax the constraint, or compress less."),
        "decompression_limit_exceeded": ("A file unpacks to more bytes than it may.", _SMALLER),
        "device_unavailable": ("The job asks for a device that this worker does not have.", "Leave `device` at auto, or start a worker that has it."),
        "exit_after_last_layer": ("An early exit behind that layer would save nothing.", "Name earlier layers, or leave positions at auto."),
        "exit_position_invalid": ("An early exit cannot stand at that place.", "Choose another position, or leave positions at auto."),
        "exits_impossible": ("The order of the network's layers depends on what it computes, so that nothing can stop in between.", "Upload the network as ONNX, which holds its graph."),
        "export_failed": ("The network could not be written in a format.", "Leave the format out of `export`. " + _REPORT),
        "export_unsupported": ("The network cannot be published in a format that the spec asks for; the message says why.", "Leave the format out of `export`; ONNX holds every network."),
        "export_mismatch": ("The written file computes something else than the network that was trained.", _REPORT),
        "external_data_forbidden": ("The ONNX file keeps its weights in files beside it, which were not sent along.", "Send one file, or a zip with its weights as format=onnx_zip."),
        "import_mismatch": ("The trainable form of the network computes something else than its file.", "Methods that need no training (quantization) work on the file itself. " + _REPORT),
        "isolation_unavailable": ("The worker cannot shut the job in as its operator demands.", "The operator gives the worker the rights of `docs/operations.md`, or lowers MODELPRESS_ISOLATION_MINIMUM."),
        "job_invalid": ("The worker was given a job that it cannot read.", _REPORT),
        "layer_not_found": ("A name or pattern of `include` or `ignore` names no layer of the network.", "GET /v1/models/{id}/layers lists their names."),
        "loss_not_applicable": ("The loss does not suit the network's outputs.", "Choose the loss of the network's task: cross_entropy takes it."),
        "loss_weights_invalid": ("There are more or fewer loss weights than exits.", _SETTINGS),
        "metadata_invalid": ("The model's metadata contradict what its outputs and the dataset's targets are.", "Correct metadata.task or metadata.outputs of the model."),
        "metric_unknown": ("A metric that a step looks at is not measured on this network.", _SETTINGS),
        "model_not_found": ("The spec names a teacher or judge that the job was not given.", "Name the id of a model of the same project."),
        "no_confidence": ("An output is no decision by whose confidence a network could stop early.", "Early exits need outputs that classify; say in metadata.task where they do."),
        "no_device": ("A worker was started for a device that the machine does not have.", "Start it for another one: `modelpress worker --help`."),
        "no_exit_position": ("The network has no place for an early exit.", "Early exits need a network of at least two layers with weights."),
        "no_judge": ("A step measures files, which only a job can.", "Run it as a job instead of by itself."),
        "no_validation_examples": ("A step chooses by validation examples, and there are none.", "Upload x_validation and y_validation, or more training examples."),
        "non_finite_outputs": ("The uploaded model gives outputs that are not numbers on these examples.", "Check metadata.preprocessing of the dataset, and the model's weights."),
        "non_finite_weights": ("The model has weights that are not finite.", "Train or export it again; such weights are mostly the trace of a training that diverged."),
        "normalization_missing": ("The method learns the scales of batch normalization, and the network has none.", "Export the network with normalization kept, or set insert_normalization: true."),
        "not_trainable": ("The network, or a part of it, cannot be trained here.", "`message` names the operator. Quantization without training works on the file itself."),
        "nothing_quantized": ("The step would quantize no layer.", "Loosen `ignore`, or choose a method that quantizes what the network has."),
        "nothing_smoothed": ("The features of no tensor differ so much that smoothing them is worth it.", "Leave smoothing out."),
        "out_of_disk": ("The disk was full, or the job filled more of it than it may.", "Free space on the worker, or raise MODELPRESS_JOB_DISK_BYTES; then retry."),
        "out_of_memory": ("The job needed more memory than it may use.", "Use a smaller batch size, or raise limits.memory_bytes."),
        "output_unknown": ("A step names an output that the network does not have.", "GET /v1/models/{id} lists the outputs."),
        "pattern_invalid": ("A pattern of layer names is no regular expression.", "Correct it, or write the names with * instead."),
        "pruning_impossible": ("Nothing, or not as much as asked, can be removed from the chosen layers.", "GET /v1/models/{id}/layers says which layers can give channels, and which hang together."),
        "quantization_mismatch": ("ONNX Runtime computes something else from the quantized file than was trained.", "Use static_quantization, or keep parts of the network in float with `ignore`."),
        "replicas_diverged": ("The processes of a job on several devices came to different networks.", "Run the job with devices: 1. " + _REPORT),
        "routing_impossible": ("The network has no blocks that could be skipped, or its task no loss by which to learn when.", "Choose another method: GET /v1/methods says what each needs."),
        "runtime_crashed": ("ONNX Runtime crashed on a file of the job.", _REPORT),
        "storage_unavailable": ("The object store did not take or give a file.", "The job is tried again by itself; the operator sees to the store."),
        "tensor_limit_exceeded": ("A tensor, or a number of them, is larger than any is read.", _SMALLER),
        "timeout": ("The job, or the inspection of a file, took longer than it may.", "Raise limits.timeout_seconds, or train for fewer epochs."),
        "too_many_processes": ("The job started more processes than it may.", _REPORT),
        "training_diverged": ("The loss became infinite or not a number.", "Lower the learning rate, or set clip_gradient_norm; check the dataset's preprocessing."),
        "truncated_upload": ("The file ends before its own structure says that it does.", "Upload it again, with Content-Digest to be sure."),
        "unsafe_format": ("The file is a program: pickled modules, TorchScript and object arrays run code when they are read.", "Convert it as `hint` says: ONNX, torch.export, safetensors or plain arrays."),
        "unsupported_format": ("The bytes are in no format that is read here.", "`detail` says what they look like; GET /v1/methods and `docs/models.md` list what is read."),
        "unsupported_operator": ("The network has an operator that the file's reader or the method does not know.", "`message` names it. Export with another opset, or use a method that works on the file itself."),
        "width_empties_layer": ("A width leaves nothing of a layer.", "Leave out the smallest widths, or keep the layer whole with `ignore`."),
        "worker_lost": ("The worker of the job was not heard of any more, as often as the job may be tried.", "Look at the worker's log; POST /v1/jobs/{id}/retry runs the job again."),
    }.items()
}  # fmt: skip
"""Codes of `error` in jobs, models and datasets; some of them come as problem documents, too."""
