"""Attention pooling: each prompt reads the patches that answer it.

B items, P patches, E width of a patch, Q prompts, H heads, A width of a head, T width of a text vector.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

#: Width of a head.
HEAD_DIM = 32


class AttentionPooling(nn.Module):
    """``a_qp = mean_h softmax_p <q_qh, K_h x_p> / sqrt(A)`` and ``v_q = sum_p a_qp x_p``.

    The queries are a linear map of the prompt tokens plus one of the item's text vector. They start so small that the
    attention is nearly uniform: learning begins at the static mean of the patches, with prompts that differ.
    """

    def __init__(self, dim: int, num_heads: int, num_prompts: int, text_dim: int) -> None:
        super().__init__()
        self.num_heads, self.num_prompts = num_heads, num_prompts
        width = num_heads * HEAD_DIM
        self.query = nn.Linear(dim, width, bias=False)
        self.key = nn.Linear(dim, width, bias=False)
        self.text_query = nn.Linear(text_dim, num_prompts * width, bias=False) if text_dim else None
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=dim**-0.5)
        if self.text_query is not None:
            nn.init.normal_(self.text_query.weight, std=0.1)

    def forward(self, patches_BPE: Tensor, prompts_QE: Tensor | None, text_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        """The extracted vectors (B, Q, E) and the attention (B, Q, P), whose rows sum to 1.

        Args:
            patches_BPE: of about unit variance.
            prompts_QE: learned tokens; without any the text alone asks.
        """
        key_HAE = self.key.weight.view(self.num_heads, HEAD_DIM, -1) / math.sqrt(HEAD_DIM)
        # Queries are taken into the patches' space: a product with each patch is cheaper than a key for each patch.
        asked_BQHE = torch.einsum("bqha,hae->bqhe", self._queries(prompts_QE, text_BT), key_HAE)
        if len(asked_BQHE) == 1:
            logits = torch.einsum("bpe,qhe->bqhp", patches_BPE, asked_BQHE[0])
        else:
            logits = torch.einsum("bpe,bqhe->bqhp", patches_BPE, asked_BQHE)
        attention_BQP = logits.softmax(dim=-1).mean(dim=2)
        return attention_BQP @ patches_BPE, attention_BQP

    def _queries(self, prompts_QE: Tensor | None, text_BT: Tensor | None) -> Tensor:
        """(1 or B, Q, H, A)"""
        parts: list[Tensor] = []
        if prompts_QE is not None:
            parts.append(self.query(prompts_QE)[None])
        if self.text_query is not None and text_BT is not None:
            parts.append(self.text_query(text_BT).view(len(text_BT), self.num_prompts, -1))
        if not parts:
            raise ValueError("neither prompts nor text: nothing asks")
        total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return total.view(len(total), self.num_prompts, self.num_heads, HEAD_DIM)


def attention_entropy(attention_BQP: Tensor) -> Tensor:
    """(B, Q): entropy over the patches in units of that of uniform attention: 1 = everywhere alike, 0 = one patch."""
    entropy_BQ: Tensor = -torch.special.xlogy(attention_BQP, attention_BQP).sum(dim=-1)
    return entropy_BQ / math.log(max(attention_BQP.shape[-1], 2))
