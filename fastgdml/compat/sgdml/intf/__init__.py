"""Stands in for sgdml.intf."""
