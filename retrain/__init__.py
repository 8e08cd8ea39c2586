"""Feedback in, candidate adapter out: datasets, training, evaluation, the gate, the schedule.

Only this package may import torch, transformers, trl and peft, and only inside the functions that need them.
"""
