"""Objectives: one file each, all of one shape; see ``training.objectives.step``."""
