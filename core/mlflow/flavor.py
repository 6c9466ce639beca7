"""The file `MLmodel`, by which MLflow's own client loads what was published: `mlflow.onnx.load_model("models:/name/1")`."""

import yaml

from core.mlflow.story import MODEL_FOLDER, Story


def described(story: Story) -> str:
    """The text of `MLmodel` for the first ONNX file; empty where there is none, for MLflow has no flavor for the other formats."""
    path = next((file.path for file in story.files if file.is_model and file.format == "onnx"), None)
    if path is None:
        return ""
    data = path.removeprefix(f"{MODEL_FOLDER}/")
    flavors = {
        "onnx": {"code": None, "data": data, "providers": ["CPUExecutionProvider"]},
        "python_function": {"code": None, "data": data, "loader_module": "mlflow.onnx"},
    }
    document = {"artifact_path": MODEL_FOLDER, "flavors": flavors, "metadata": dict(story.lineage)}
    return yaml.safe_dump(document, sort_keys=True)
