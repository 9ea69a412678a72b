"""Truth in assertions: claims, parity with the releases, self-checks, quizzes, cards.

`check.parity` is a function; the package of the same name, one module a method, is imported from by its full
name: `from clipnotes.check.parity import components`.
"""

from clipnotes.check.claims import claim
from clipnotes.check.exercises import exercise, expect
from clipnotes.check.parity import golden, no_oracle, parity
from clipnotes.check.widgets import card, progress, quiz

__all__ = ["card", "claim", "exercise", "expect", "golden", "no_oracle", "parity", "progress", "quiz"]
