"""The record: completions, feedback, datasets, adapters, experiments, runs and the audit trail."""
