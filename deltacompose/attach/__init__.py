"""Attach deltas to a backbone: one delta, a stack of deltas, or a bank of K deltas.

`attachment` attaches the edits of an expression; `bound` holds their tensors and maps an edit over a bank. The hooks
are in `module_hooks` (outputs and weights), `soft_prompts` (tokens) and `prefixes` (keys and values). `liveness` shows
that each edit acts; `token_view` gives mask and positions to the edits that ask for them. `first_layer` finds the first
layer that is touched, and `frozen_prefix` runs the layers below it once for each text.
"""

from deltacompose.attach.attachment import Attachment, attach, attached

__all__ = ["Attachment", "attach", "attached"]
