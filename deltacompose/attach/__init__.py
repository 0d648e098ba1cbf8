"""Attach deltas to a backbone: one delta, a stack of deltas, or a bank of K deltas."""

from deltacompose.attach.attachment import Attachment, attach, attached

__all__ = ["Attachment", "attach", "attached"]
