"""The float32 checkpoint in transformers: what a package is compared with.

torch and transformers take seconds to import, and a build from its cache needs neither: they are imported where they
are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_ANSWERS_AT_ONCE = 16

Logits = NDArray[np.float32]
OnTokens = Callable[[int, int], None]
"""Called with the number of tokens written, of the longest of those answers that are written together, and the most."""


class FloatReference:
    """The checkpoint in a folder; with the PEFT adapter in the folder `adapter`, if that is given."""

    def __init__(self, checkpoint: Path, adapter: Path | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        if adapter is not None:
            from peft import PeftModel

            self._model = PeftModel.from_pretrained(self._model, str(adapter)).eval()

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """float32 `[len(tokens), vocab]`."""
        import torch

        with torch.no_grad():
            result: torch.Tensor = self._model(torch.tensor([list(tokens)])).logits[0]
        return result

    def logits_behind(self, prefix: Sequence[int], endings: Sequence[Sequence[int]]) -> list[Logits]:
        """For each ending float32 `[len(ending) + 1, vocab]`: after the prefix, then after each token of the ending.

        The prefix is computed once.
        """
        import torch

        with torch.no_grad():
            first = self._model(torch.tensor([list(prefix)]), use_cache=True, logits_to_keep=1)
            width = max(map(len, endings))
            if width == 0:
                return [first.logits[0].numpy()] * len(endings)
            first.past_key_values.batch_repeat_interleave(len(endings))
            # What an ending is padded with comes after it, and attention looks back only.
            padded = torch.tensor([[*ending, *[0] * (width - len(ending))] for ending in endings])
            rest = self._model(padded, past_key_values=first.past_key_values).logits
        return [
            torch.cat([first.logits[0], its[: len(ending)]]).numpy() for ending, its in zip(endings, rest, strict=True)
        ]

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        eos_token_ids: Sequence[int],
        on_tokens: OnTokens = lambda done, total: None,
    ) -> list[list[int]]:
        """What it goes on with greedily after each prompt, at most `max_tokens`, without the token that ends it."""
        groups = [prompts[at : at + _ANSWERS_AT_ONCE] for at in range(0, len(prompts), _ANSWERS_AT_ONCE)]
        answers: list[list[int]] = []
        for number, group in enumerate(groups):
            answers += self._answer_together(
                group,
                max_tokens,
                list(eos_token_ids),
                lambda done, before=number * max_tokens: on_tokens(before + done, len(groups) * max_tokens),  # type: ignore[misc]
            )
        return answers

    def _answer_together(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        eos_token_ids: list[int],
        on_step: Callable[[int], None],
    ) -> list[list[int]]:
        import torch
        from transformers import GenerationConfig, StoppingCriteriaList

        width, pad = max(map(len, prompts)), next(iter(eos_token_ids), 0)
        given = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        seen = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        # Put in the place of the checkpoint's own, which may ask to sample.
        self._model.generation_config = GenerationConfig(
            do_sample=False, max_new_tokens=max_tokens, eos_token_id=eos_token_ids or None, pad_token_id=pad
        )

        def watch(tokens: torch.Tensor, scores: object, **rest: object) -> torch.Tensor:
            """Stops nothing: transformers asks it after each step."""
            on_step(tokens.shape[1] - width)
            return torch.zeros(len(tokens), dtype=torch.bool)

        with torch.no_grad():
            written = self._model.generate(
                torch.tensor(given),
                attention_mask=torch.tensor(seen),
                stopping_criteria=StoppingCriteriaList([watch]),
            )
        return [_up_to(row[width:].tolist(), frozenset(eos_token_ids)) for row in written]


def _up_to(tokens: list[int], ends: frozenset[int]) -> list[int]:
    end = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:end]
