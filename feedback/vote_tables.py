"""The tables beside `feedback`: whose a token without a name became, and what was taken back before it arrived.

They belong to the record like those of `feedback.tables`, which see for what a column's type means.
"""

from sqlalchemy import Column, Table, Text

from feedback.tables import metadata, moment

token_raters = Table(
    "token_raters",
    metadata,
    Column("completion_id", Text, primary_key=True, comment="The answer that the token came with."),
    Column("project", Text, nullable=False),
    Column("rater", Text, nullable=False, comment="Who used the token first; nobody else may use it."),
    moment("created_at"),
    comment="Whose a feedback token is that was signed without a rater.",
)

retractions = Table(
    "retractions",
    metadata,
    Column("feedback_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("rater", Text, comment="Who took it back with a token; NULL: an API key did."),
    moment("created_at"),
    comment="What was taken back while the database was away, and had not arrived then.",
)
