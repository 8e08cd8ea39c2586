"""Tests of the house itself: what holds of every file, whatever it does."""
