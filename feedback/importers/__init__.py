"""Importers: completions and feedback that another system recorded become rows of this record."""
