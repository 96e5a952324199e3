"""Differentiable operations: checks with teaching messages, and an Op with forward and backward together."""
