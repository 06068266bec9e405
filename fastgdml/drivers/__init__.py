"""Interfaces to simulation programs."""
