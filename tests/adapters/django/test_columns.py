"""Django's model has the columns of the list that all stores share."""

from __future__ import annotations

from typing import Final

from backjob.django.models import Job
from backjob.stores.columns import JOB_COLUMNS, Kind

TYPES: Final = {
    **dict.fromkeys((Kind.STATUS, Kind.FLAG, Kind.SMALL), "SmallIntegerField"),
    Kind.INTEGER: "IntegerField",
    **dict.fromkeys((Kind.BIG, Kind.MOMENT, Kind.SPAN), "BigIntegerField"),
    Kind.LABEL: "ExactField",
    **dict.fromkeys((Kind.TEXT, Kind.JSON, Kind.REQUEST), "TextField"),
    Kind.BYTES: "BinaryField",
}


def test_the_model_has_the_listed_columns_in_their_order() -> None:
    fields = [(field.name, type(field).__name__, field.null) for field in Job._meta.get_fields()]
    listed = [(column.name, TYPES[column.kind], column.nullable) for column in JOB_COLUMNS]
    # Migration 0001 made the lessee a text.
    listed = [(name, "TextField" if name == "lessee" else kind, null) for name, kind, null in listed]
    assert fields == [("seq", "BigAutoField", False), *listed, ("body", "BinaryField", True)]
