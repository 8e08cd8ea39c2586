"""A recipe: every number that decides what training does, frozen and stored with its run.

The same recipe on the same dataset gives the same adapter, byte for byte on a CPU. A recipe is data, not
settings: nothing outside it and the dataset changes the weights. It refuses values that the trainer would
accept in silence and then do nothing with, such as dropout under DPO.

A run may train one adapter with several methods in sequence: the recipe is then that of the first stage, and holds
those of the later ones in `then`.

The defaults are for LoRA on real models: about ten times the rates that full fine-tuning wants. Models of a
few million parameters want more again; the model's policy overrides by field name, for every method
(`{"rank": 8}`) or for one (`{"sft": {"learning_rate": 0.001}}`).
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal, Self, cast

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from feedback.errors import HoneError
from feedback.mistakes import explain

Method = Literal["sft", "dpo", "kto"]
METHODS: tuple[Method, ...] = ("sft", "dpo", "kto")
PREVIOUS = "previous"
"""What a later stage starts from: the adapter that the stage before it made."""
SHAPE = ("base_model", "seed", "rank", "alpha", "target_modules", "quantised", "template_hash")
"""What the stages of a run have in common, since they train one adapter."""

METHOD_DEFAULTS: dict[Method, dict[str, Any]] = {
    "sft": {"learning_rate": 2e-4, "epochs": 3.0, "batch_size": 8},
    # Without the term on the better answer, DPO pushes both answers down: its margin looks best when it collapses.
    "dpo": {
        "learning_rate": 2e-5,
        "epochs": 1.0,
        "batch_size": 8,
        "beta": 0.1,
        "sft_weight": 0.2,
    },
    # beta 0.5 stayed near the base model where TRL's 0.1 drifted away from it.
    "kto": {"learning_rate": 2e-5, "epochs": 1.0, "batch_size": 8, "beta": 0.5},
}


class Recipe(BaseModel):
    """What a run trains with. Build one with `default_recipe`; read a stored one with `read_recipe`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    method: Method
    """TRL's trainer: `sft` on answers to imitate, `dpo` on pairs, `kto` on ratings."""
    base_model: str = Field(min_length=1)
    """Directory or hub name of the weights that the adapter belongs to."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of the adapter's first weights, the order of rows and dropout."""
    start_from: str | None = None
    """Directory of an adapter to continue from; unset: a fresh adapter on the base model. Of a later stage: `previous`,
    the adapter of the stage before it."""
    reference: Literal["base", "start"] = "base"
    """What DPO and KTO must stay close to: the base model, or the adapter they continue from."""

    rank: int = Field(8, ge=1, le=512)
    """Rank of the LoRA matrices; the engine must allow it (`--max-lora-rank`)."""
    alpha: int = Field(16, ge=1)
    """LoRA scaling: updates are multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the LoRA matrices. SFT only: TRL's DPO and KTO switch every dropout off."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Layers that get LoRA matrices; `all-linear` is every linear layer but the head."""

    learning_rate: float = Field(gt=0, le=1)
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup_share: float = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from zero."""
    epochs: float = Field(gt=0, le=1000)
    """Passes over the training rows."""
    batch_size: int = Field(8, ge=1, le=4096)
    """Rows per forward pass. KTO needs at least 2: it estimates divergence by exchanging answers within a
    batch."""
    accumulation_steps: int = Field(1, ge=1, le=4096)
    """Forward passes per optimiser step."""
    weight_decay: float = Field(0.0, ge=0, le=1)
    """AdamW weight decay on the LoRA matrices."""
    gradient_norm_max: float = Field(1.0, gt=0)
    """Longer gradients are scaled down to this norm."""
    max_length: int = Field(1024, ge=8)
    """Tokens of prompt and answer together; longer rows are left out and counted."""
    gradient_checkpointing: bool = True
    """Trade time for memory on an accelerator; without one it is left off."""

    quantised: bool = False
    """Hold the base model in 4 bits (NF4, bitsandbytes) while training; needs an accelerator."""
    patience: int | None = Field(None, ge=1)
    """Stop when the loss on validation rows has not fallen for this many of ten looks; unset: train to the end."""
    validation_share: float = Field(0.1, gt=0, lt=0.5)
    """With patience: share of the questions that are validated on instead of trained on."""

    beta: float | None = Field(None, gt=0)
    """DPO and KTO: how strongly the adapter is held to the reference."""
    loss: Literal["sigmoid", "robust", "ipo"] = "sigmoid"
    """DPO: the preference loss; `robust` and `ipo` suit noisy pairs."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """DPO: assumed share of pairs that are the wrong way round (`sigmoid` and `robust`)."""
    sft_weight: float = Field(0.0, ge=0)
    """DPO: weight of the likelihood of the better answer beside the preference loss."""
    desirable_weight: float | None = Field(None, gt=0)
    """KTO: weight of up-rated rows; unset: balanced from the counts, see `retrain.kto.balance`."""
    undesirable_weight: float | None = Field(None, gt=0)
    """KTO: weight of down-rated rows; unset: balanced from the counts."""

    template_hash: str | None = None
    """SHA-256 of the chat template that serving uses; training refuses a tokenizer with another one."""

    then: tuple["Recipe", ...] = ()
    """The later stages, in order, each on the adapter of the stage before it."""

    @model_validator(mode="after")
    def _means_what_it_says(self) -> Self:
        if self.method == "sft" and self.beta is not None:
            raise ValueError("beta belongs to dpo and kto; method is sft")
        if self.method != "sft" and self.beta is None:
            raise ValueError(f"{self.method} needs beta")
        if self.method != "sft" and self.dropout:
            raise ValueError(f"dropout has no effect under {self.method}; set it to 0")
        if self.method == "kto" and self.batch_size < 2:
            raise ValueError("kto needs batch_size of at least 2")
        if self.method != "dpo" and (self.sft_weight or self.label_smoothing or self.loss != "sigmoid"):
            raise ValueError(f"sft_weight, label_smoothing and loss belong to dpo; method is {self.method}")
        if self.method != "kto" and (self.desirable_weight or self.undesirable_weight):
            raise ValueError(
                f"desirable_weight and undesirable_weight belong to kto; method is {self.method}"
            )
        if self.reference == "start" and self.start_from is None:
            raise ValueError("reference 'start' needs start_from")
        for number, stage in enumerate(self.then, 2):
            if stage.start_from != PREVIOUS or stage.then:
                raise ValueError(
                    f"stage {number} must start from '{PREVIOUS}', and have no stages of its own"
                )
            for name in SHAPE:
                ours, theirs = getattr(self, name), getattr(stage, name)
                if ours != theirs:
                    raise ValueError(
                        f"{name} is {ours!r} in stage 1 and {theirs!r} in stage {number}; all train one adapter"
                    )
        return self

    @property
    def stages(self) -> tuple["Recipe", ...]:
        """The recipe of each stage, in order; of a run with one method, this recipe alone."""
        return (self.model_copy(update={"then": ()}), *self.then)

    @property
    def methods(self) -> str:
        """The methods in sequence, as the run is named by them: `sft`, or `sft+dpo`."""
        return "+".join(stage.method for stage in self.stages)

    @property
    def hash(self) -> str:
        """SHA-256 of the recipe's canonical JSON."""
        return hashlib.sha256(orjson.dumps(self.to_json(), option=orjson.OPT_SORT_KEYS)).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The recipe as it is stored with its run; `read_recipe` gives an equal one back."""
        own = self.model_dump(mode="json", exclude={"then"})
        return own | {"then": [stage.to_json() for stage in self.then]} if self.then else own


def default_recipe(
    method: Method,
    base_model: str,
    overrides: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Recipe:
    """The recipe for `method`: its defaults, then the policy's `overrides`, then `fields`.

    Raises:
        HoneError: an override is unknown or out of range; the message names it.
    """
    overrides = dict(overrides or {})
    for_methods = {name: overrides.pop(name, None) or {} for name in METHODS}
    values = METHOD_DEFAULTS[method] | _applicable(method, overrides) | dict(for_methods[method]) | fields
    return read_recipe({"method": method, "base_model": base_model, **values})


def recipe_in_stages(
    methods: str, base_model: str, overrides: Mapping[str, Any] | None = None, **fields: Any
) -> Recipe:
    """The recipe for one method (`sft`) or several in sequence (`sft+dpo`); `fields` are those of the first stage.

    A later stage is held to what the stage before it made, as the methods are defined. Where the run continues an
    adapter it is held to the base model, so that it cannot drift from round to round.

    Raises:
        HoneError: an override is unknown or out of range; the message names it.
    """
    first, *later = methods.split("+")
    made = default_recipe(cast(Method, first), base_model, overrides, **fields)
    if not later:
        return made
    shared = {name: getattr(made, name) for name in ("seed", "template_hash")}
    held_to = {"reference": "start" if made.start_from is None else "base", **(overrides or {})}
    stages = [
        default_recipe(cast(Method, method), base_model, held_to, start_from=PREVIOUS, **shared).to_json()
        for method in later
    ]
    return read_recipe(made.to_json() | {"then": stages})


def read_recipe(value: Mapping[str, Any]) -> Recipe:
    """Check a recipe that came from outside or from the record.

    Raises:
        HoneError: a field is unknown, missing or out of range; the message names it.
    """
    try:
        return Recipe.model_validate(dict(value))
    except ValidationError as error:
        wrong = explain(error.errors(), Recipe)
        what = f"field {wrong}" if wrong.field else f"for {value.get('base_model')!r}: {wrong.expected}."
        raise HoneError(f"Recipe {what} Correct it in the model's policy, training.recipe.") from error


def _applicable(method: Method, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides for every method, less those that only another method knows."""
    only = {
        "beta": ("dpo", "kto"),
        "dropout": ("sft",),
        "sft_weight": ("dpo",),
        "loss": ("dpo",),
    }
    only |= {
        "label_smoothing": ("dpo",),
        "desirable_weight": ("kto",),
        "undesirable_weight": ("kto",),
    }
    return {name: value for name, value in overrides.items() if method in only.get(name, METHODS)}
