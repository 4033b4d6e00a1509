"""Encoders as chains of residual operations: description, network, conversion and surgery."""
