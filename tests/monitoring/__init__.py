"""Tests of `monitoring`: what we measure, and what we do about it."""
