"""What the service is asked and answers: the JSON of each path, with its limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from recbole_unisrec.serving.answers import Recommendations

MAX_HISTORY = 5_000
MAX_ITEMS = 1_000  # new items in one request
MAX_CANDIDATES = 20_000
MAX_K = 1_000
MAX_TEXT = 20_000  # characters
MAX_ID = 512


def encodable(text: str) -> str:
    """The text, if it has a form in UTF-8; half a pair of surrogates has none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("not valid Unicode text") from error
    return text


Text = Annotated[StrictStr, AfterValidator(encodable)]
Id = Annotated[Text, Field(min_length=1, max_length=MAX_ID)]
History = Annotated[list[Id], Field(max_length=MAX_HISTORY, description="Item ids from old to new.")]
K = Annotated[StrictInt, Field(ge=1, le=MAX_K)]


class Body(BaseModel):
    """A request body; unknown fields are refused, so that a misspelt one does not go unnoticed."""

    model_config = ConfigDict(extra="forbid")


class RecommendBody(Body):
    """What to recommend after."""

    history: History = []
    k: K = 10
    exclude_seen: StrictBool = True
    candidates: Annotated[list[Id], Field(max_length=MAX_CANDIDATES)] | None = None
    strict: StrictBool = Field(False, description="An unknown item is an error (404) instead of being skipped.")


class NewItem(Body):
    """An item that the model was not trained on."""

    item_id: Id
    text: Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, pattern=r"\S")]
    title: Annotated[Text, Field(max_length=MAX_TEXT)] | None = None


class AddBody(Body):
    """Items to add, all or none."""

    items: Annotated[list[NewItem], Field(min_length=1, max_length=MAX_ITEMS)]
    replace: StrictBool = False


class RemoveBody(Body):
    """Items to remove, all or none."""

    item_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_ITEMS)]


class ExplainBody(Body):
    """Why `item` after `history`."""

    history: Annotated[History, Field(min_length=1)]
    item: Id


class PreviewBody(Body):
    """The text of an item that does not exist yet."""

    text: Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, pattern=r"\S")]
    history: History = []
    k: K = 10


class Item(BaseModel):
    """An item of an answer."""

    item_id: str
    title: str
    score: float | None = None


class Answer(BaseModel):
    """Items, best first; all from the state of the catalogue that `version` names."""

    items: list[Item]
    basis: str
    unknown: list[str]
    version: int


class ItemList(BaseModel):
    """Found items."""

    items: list[Item]
    version: int


class Changed(BaseModel):
    """Number of changed items, and of all items afterwards."""

    changed: int
    n_items: int
    version: int


class HistoryWeight(BaseModel):
    """Weight of an item of the history."""

    item_id: str
    title: str
    weight: float


class ExpertWeight(BaseModel):
    """Gate and weight of an expert of the adaptor."""

    gate: float
    weight: float


class Why(BaseModel):
    """An explanation: history by leave-one-out, experts as summands of the score."""

    item_id: str
    title: str
    score: float
    history: list[HistoryWeight]
    experts: list[ExpertWeight]
    id_weight: float
    text_weight: float = 0.0


class Preview(BaseModel):
    """Where an item that does not exist yet would stand."""

    score: float | None
    rank: int | None
    n_items: int
    reach: float | None
    n_histories: int
    similar: list[Item]


class Health(BaseModel):
    """State of the service."""

    status: str
    model: str
    form: str
    dataset: str
    n_items: int
    version: int
    reads_text: bool


class Ready(BaseModel):
    """The service answers."""

    status: str


class Problem(BaseModel):
    """An error: one sentence."""

    detail: str


def items_of(found: Recommendations) -> list[Item]:
    """The items of an answer."""
    pairs = zip(found.ids, found.titles, found.scores, strict=True)
    return [Item(item_id=item, title=title, score=score) for item, title, score in pairs]
