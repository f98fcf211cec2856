"""What requests may hold; FastAPI checks it and writes the OpenAPI description from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from binderclip.search.serving.engine import Picture
from binderclip.search.serving.pictures import DATA

__all__ = ["ClassifyRequest", "EmbeddingRequest", "Part", "SearchRequest", "Text", "read_input"]


def _whole(text: str) -> str:
    """Half of a surrogate pair is no letter: JSON can hold it, UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


Text = Annotated[str, AfterValidator(_whole)]
Sentences = Annotated[list[Text], Field(min_length=1, max_length=64)]
Number = Annotated[float, Field(allow_inf_nan=False)]


def read_input(text: str, modality: str | None = None) -> str | Picture:
    """A text, or the picture that it writes out."""
    is_picture = modality == "image" or (modality is None and DATA.match(text[:20]) is not None)
    return Picture(text) if is_picture else text


class EmbeddingRequest(BaseModel):
    """OpenAI's request for embeddings; `modality` is infinity's."""

    input: Text | list[Text] | list[int] | list[list[int]] = Field(
        description="A text or a list of them; one that begins with data:image/ is a picture."
    )
    model: Text | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: Text | None = None
    modality: Literal["text", "image"] | None = Field(
        default=None,
        description="image: each input is a picture in base64 or a data address; text: each is a text.",
    )


class Part(BaseModel):
    """One part of a search: a text, a picture or a picture of the index, with a weight."""

    model_config = ConfigDict(extra="forbid")

    text: Text | None = None
    image: Text | None = Field(default=None, description="Base64 or a data address.")
    id: Text | None = Field(default=None, description="A picture of the index, by its id.")
    weight: Annotated[Number, Field(gt=0, le=100)] = 1.0

    @model_validator(mode="after")
    def _one_of(self) -> Part:
        if sum(bool(one) for one in (self.text, self.image, self.id)) != 1:
            raise ValueError("give exactly one of text, image and id")
        return self

    @property
    def source(self) -> str | Picture:
        """What is to be encoded, for a text or a picture."""
        return Picture(self.image) if self.image else read_input(self.text or "")


Parts = Text | Part | list[Text | Part]


class SearchRequest(BaseModel):
    """A search: the query, what to move towards and away from, filters and a page of the answer."""

    model_config = ConfigDict(extra="forbid")

    query: Parts = Field(default_factory=list, description="Text, data address of a picture, part, or a list of them.")
    plus: Parts = Field(default_factory=list, description="Towards this too.")
    minus: Parts = Field(default_factory=list, description="Away from this.")
    where: Text | None = Field(default=None, max_length=4096, examples=["path~holiday and date>=2024-01 and size>1MB"])
    limit: Annotated[int, Field(ge=1, le=200)] = 24
    offset: Annotated[int, Field(ge=0, le=10_000)] = 0
    min_score: Number | Literal["auto"] | None = Field(default=None, description="Least cosine; auto: probability 0.5.")
    fold: Annotated[Number, Field(ge=-1, le=1)] | None = Field(
        default=0.98, description="Cosine from which two count as one; null: each is listed."
    )


class ClassifyRequest(BaseModel):
    """Pictures (or texts) to be named with words of the client's own."""

    model_config = ConfigDict(extra="forbid")

    input: Text | list[Text] = Field(description="Pictures as base64 or data addresses.")
    labels: list[Text] = Field(min_length=1, max_length=1000, examples=[["cat", "dog", "car|automobile"]])
    template: Text | Sentences = Field(default="photos", description="A named set, or sentences with {} for the name.")
    top: Annotated[int, Field(ge=1, le=1000)] | None = None
    modality: Literal["text", "image"] = "image"
    model: Text | None = None


def as_parts(value: Any) -> list[Part]:
    """`query`, `plus` or `minus` as a list of parts; empty texts are left out."""
    listed = value if isinstance(value, list) else [value]
    return [one if isinstance(one, Part) else Part(text=one) for one in listed if isinstance(one, Part) or one.strip()]
