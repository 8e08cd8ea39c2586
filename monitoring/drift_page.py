"""Evidently's page about one window: the same columns, drawn. Imported only where a page is written.

Texts stay out of it: their words are nobody's business on a page that is kept, and Evidently's own text test fails on
small vocabularies. Evidently sends nothing anywhere: telemetry is switched off before it is imported.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monitoring.drift_rules import MEANS
from monitoring.two_samples import Column


def write_page(path: Path, columns: Sequence[Column], reference_rows: int) -> None:
    """Write a self-contained HTML page; it appears whole or not at all."""
    os.environ["DO_NOT_TRACK"] = "1"
    with warnings.catch_warnings():
        # It warns about its own dependencies; nothing that a reader of the page could act on.
        warnings.simplefilter("ignore")
        import pandas as pd
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import ValueDrift

        drawn = [column for column in columns if column.kind != "texts"]
        frame = pd.DataFrame({MEANS.get(one.name, one.name): np.asarray(one.values) for one in drawn})
        kinds = {MEANS.get(one.name, one.name): one.kind for one in drawn}
        frame = frame.astype({name: "str" for name, kind in kinds.items() if kind == "categories"})
        definition = DataDefinition(
            numerical_columns=[name for name, kind in kinds.items() if kind == "numbers"],
            categorical_columns=[name for name, kind in kinds.items() if kind == "categories"],
        )
        report = Report(
            [
                ValueDrift(column=name, method="ks" if kind == "numbers" else "chisquare", threshold=0.01)
                for name, kind in kinds.items()
            ]
        )
        current, reference = (
            Dataset.from_pandas(part.reset_index(drop=True), data_definition=definition)
            for part in (frame.iloc[reference_rows:], frame.iloc[:reference_rows])
        )
        snapshot = report.run(current, reference)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        snapshot.save_html(str(unfinished))
        unfinished.replace(path)
