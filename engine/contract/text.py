"""How texts become token numbers, and sequences of different lengths one array: `metadata.text` and `metadata.sequences` of a dataset."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.contract.base import Params

FieldName = Annotated[str, Field(min_length=1, max_length=256)]
Role = Literal["ids", "mask", "types", "positions"]
"""Token numbers; 1 at tokens and 0 at padding; 0 in the first and 1 in the second text of a pair; 0, 1, 2 …"""
Length = Annotated[int, Field(ge=1, le=2**20)]
Longer = Literal["refuse", "cut_end", "cut_start"]
IGNORED = -100
"""Target at places of padding: tasks leave it out."""


class SequencesSpec(Params):
    """Sequences of an npz file that are stored one behind the other: `x_train` has all their values, `x_train_lengths` the length of each."""

    length: Length | None = None
    """What every sequence is brought to; left out, the length that the network's input has, else that of the longest sequence of the file."""
    longer: Longer = "refuse"
    """What becomes of sequences that are longer."""
    pad: float = 0.0
    """Value that shorter ones are filled with at their end; targets are filled with -100, which does not count."""
    mask: FieldName | None = None
    """Input of the network that is 1 at values and 0 at padding, made of the lengths."""


class TextSpec(Params):
    """Which fields of a JSON line are what, and how their texts become token numbers."""

    text: FieldName = "text"
    """Field of the input: a text, or a list of whole numbers, which are token numbers already; with a tokenizer file also a list of words."""
    pair: FieldName | None = None
    """Field of a second text, for networks that compare two."""
    target: FieldName | None = None
    """Field of the target: text, number, or list of numbers; left out, one called target, label, class or y, if there is one."""
    targets: Literal["example", "token", "next_token"] = "example"
    """What a target belongs to. `token`: a list with one for each token number, byte or word (of a word its first token). `next_token`: the token that
    follows each place, padding left out; the field `target` is not read."""
    split: FieldName | None = None
    """Field with train, validation or test; left out, one called split. Files called like a split need none."""
    test_share: float = Field(0.0, ge=0, lt=1)
    """Without that: share of the lines, drawn at random and the same every time, that are the test split."""
    tokenizer: Literal["file", "bytes"] | None = None
    """`file`: the `tokenizer.json` in the archive (Hugging Face tokenizers). `bytes`: UTF-8. Left out, the file where there is one."""
    offset: int = Field(0, ge=0, le=100_000)
    """Added to bytes, for networks whose first numbers are special."""
    special_tokens: bool = True
    """Whether the tokenizer adds its own, such as [CLS] and [SEP]."""
    length: Length | None = None
    """Tokens of an example; left out, the length of the network's input, else that of the longest text."""
    longer: Longer = "cut_end"
    """What becomes of texts that are longer; `notes` of the dataset says how many were cut."""
    pad: int | None = Field(None, ge=0)
    """Number of the padding at the end; left out, the tokenizer's [PAD] or <pad>, else 0."""
    inputs: dict[FieldName, Role] = Field({}, max_length=16)
    """What each input of the network is, where its name does not tell: input_ids, attention_mask, token_type_ids, position_ids do."""

    @model_validator(mode="after")
    def _consistent(self) -> "TextSpec":
        if self.split is not None and self.test_share:
            raise ValueError("give either split or test_share")
        if self.tokenizer == "bytes" and self.pair is not None:
            raise ValueError("pairs need a tokenizer file, which states what parts them")
        if self.targets == "token" and self.pair is not None:
            raise ValueError("targets of tokens belong to one text")
        return self
