"""Stands in for sgdml.utils."""
