"""What all sections of a config are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values_for_numbers(cls, values: Any) -> Any:
        """YAML's `true` would pass for the number 1."""
        if isinstance(values, Mapping):
            for key, value in values.items():
                field = cls.model_fields.get(key)
                if isinstance(value, bool) and field and bool not in types_of(field.annotation):
                    raise ValueError(f"{key} is {str(value).lower()}, which is no value for it")
        return values


def types_of(annotation: Any) -> list[type]:
    if isinstance(annotation, type):
        return [annotation]
    return [t for t in getattr(annotation, "__args__", ()) if isinstance(t, type)]
