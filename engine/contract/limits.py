"""Every bound on what a stranger's file may hold. Exceeding one is an error with the code that stands beside it."""

MAX_HEADER_BYTES = 16 * 2**20
"""safetensors header, npy header and pickle program of a `.pt` file (`tensor_limit_exceeded`)."""
MAX_TENSORS = 100_000
"""Tensors in one file (`tensor_limit_exceeded`)."""
MAX_NODES = 200_000
"""Operators in one ONNX graph, model-local functions expanded (`tensor_limit_exceeded`)."""
MAX_FOLDED_BYTES = 2**30
"""What a runtime computes from constants alone while it loads a graph, beside four times what the file stores (`tensor_limit_exceeded`)."""
MAX_TRAINABLE_NODES = 10_000
"""Operators of an ONNX graph that is made trainable; larger ones are described, and can be quantized, as they are."""
MAX_UNROLLED_NODES = 20_000
"""Operators that the bodies of its Loop and Scan become where it is made trainable (`unsupported_operator`)."""
MAX_TENSOR_ELEMENTS = 2**31
"""Elements of one tensor: weight, input or intermediate value (`tensor_limit_exceeded`)."""
MAX_ACTIVATION_BYTES = 8 * 2**30
"""Bytes of all intermediate values of one example together (`tensor_limit_exceeded`)."""
MAX_RANK = 16
"""Dimensions of one tensor (`tensor_limit_exceeded`)."""
MAX_GRAPH_DEPTH = 8
"""Subgraphs (If, Loop, Scan) inside one another (`model_invalid`)."""
MAX_DATASET_BYTES = 64 * 2**30
"""Inflated bytes of all arrays of one dataset (`decompression_limit_exceeded`)."""
MAX_INFLATE_RATIO = 200
"""Inflated bytes of an archive member for each stored one, where it inflates to more than `FREE_INFLATE_BYTES`."""
FREE_INFLATE_BYTES = 64 * 2**20
"""Members that inflate to no more than this are never called bombs; blank data compresses a thousandfold (`decompression_limit_exceeded`)."""
MAX_ARCHIVE_MEMBERS = 200_000
"""Members of one archive (`archive_limit_exceeded`)."""
MAX_IMAGE_BYTES = 64 * 2**20
"""Stored and inflated bytes of one picture in an archive (`decompression_limit_exceeded`)."""
MAX_IMAGE_PIXELS = 50_000_000
"""Width times height of one picture (`decompression_limit_exceeded`)."""
MAX_LINE_BYTES = 16 * 2**20
"""One line of a file of JSON lines (`dataset_invalid`)."""
MAX_TOKENIZER_BYTES = 64 * 2**20
"""A `tokenizer.json` (`decompression_limit_exceeded`)."""
MAX_SOUND_BYTES = 64 * 2**20
"""Stored and inflated bytes of one WAV file in an archive (`decompression_limit_exceeded`)."""
MAX_SOUND_FEATURES_BYTES = 2**30
"""Bytes that one sound becomes (`decompression_limit_exceeded`)."""
MAX_PAGE_BYTES = 64 * 2**20
"""What one page of a Parquet file inflates to (`decompression_limit_exceeded`)."""
MAX_CLASSES = 1_000_000
"""Distinct labels of a dataset (`dataset_invalid`)."""
TENSOR_NAME = r"[\w.\-/:]{1,256}"
"""What a tensor of a safetensors or `.pt` file may be called; `..` is refused as well (`model_invalid`)."""
ONNX_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator domains that may stand in an ONNX graph: the standard and ONNX Runtime's own (`unsupported_operator`)."""
