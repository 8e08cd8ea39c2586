"""The table beside `completions` that remembers which row of another system became which completion.

It belongs to the record like those of `feedback.tables`, which see for what a column's type means.
"""

from sqlalchemy import Column, Index, Table, Text

from feedback.tables import metadata, moment

imported = Table(
    "imported",
    metadata,
    Column("project", Text, primary_key=True),
    Column("source", Text, primary_key=True, comment="The format, such as langfuse."),
    Column("source_id", Text, primary_key=True, comment="Hash of what the completion is called there."),
    Column("completion_id", Text, nullable=False),
    moment("created_at"),
    Index("ix_imported_completion_id", "completion_id"),
    comment="Which completion a row of another system became. "
    "Stays when that is deleted, so that it does not come back.",
)
