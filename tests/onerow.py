"""References that read one row at a time, without padding and without a cache."""

from __future__ import annotations

import torch


def log_probability(backbone, text, answer):
    """Log-probability of an answer's tokens after a text's tokens, by one forward pass."""
    ids, target = torch.tensor([text]), torch.tensor([answer])
    with torch.no_grad():
        if backbone.kind == "decoder":
            logits = backbone.model(input_ids=torch.cat([ids, target], 1), use_cache=False).logits
            logits = logits[:, len(text) - 1 : -1]
        else:
            start = torch.tensor([[backbone.model.config.decoder_start_token_id]])
            read = torch.cat([start, target[:, :-1]], 1)
            logits = backbone.model(input_ids=ids, decoder_input_ids=read, use_cache=False).logits
    return torch.log_softmax(logits.double(), -1).gather(-1, target[..., None]).sum().item()
