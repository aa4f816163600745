"""Cross-entropy that never holds the logits of a whole batch.

The vocabulary is most of what a small model's training remembers: with 49,152 words 2,048 tokens
have 400 MB of logits. Here only tokens that count get logits at all, some at a time, and their
gradient is computed at once, so that nothing of that size waits for the backward pass.

Shapes in comments: B batch, L tokens, D model, V vocabulary, T tokens that count.
"""

from __future__ import annotations

from typing import Any

from mobilellm_mlx.backend import mx, nn, tree_flatten, tree_unflatten
from mobilellm_mlx.models import LanguageModel


def summed_loss(
    model: LanguageModel,
    hidden: mx.array,
    positions: mx.array,
    targets: mx.array,
    weights: mx.array,
    chunk: int,
) -> mx.array:
    """Negative log-likelihood of some tokens, summed, in nats; its gradient is at hand at once.

    Args:
        model: whose head is used.
        hidden: final hidden states, (B, L, D).
        positions: of the states that predict, in the flattened batch, (T,).
        targets: ids of the tokens that follow there, (T,).
        weights: 1 where the token counts, 0 where it only fills up the shape, (T,).
        chunk: tokens whose logits are held at a time.

    Returns:
        A scalar, float32.
    """
    states = hidden.reshape(-1, hidden.shape[-1])[positions]  # (T, D)
    trained = tree_flatten(head_module(model).trainable_parameters())
    names = [name for name, _ in trained]

    @mx.custom_function
    def loss(states: mx.array, *parameters: mx.array) -> tuple[mx.array, ...]:
        return _with_gradients(model, states, targets, weights, names, parameters, chunk)

    @loss.vjp
    def loss_vjp(_: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
        return tuple(cotangents[0].astype(each.dtype) * each for each in outputs[1:])

    outputs: Any = loss(states, *(array for _, array in trained))
    total: mx.array = outputs[0]
    return total


def only_loss(
    model: LanguageModel,
    hidden: mx.array,
    positions: mx.array,
    targets: mx.array,
    weights: mx.array,
    chunk: int,
) -> mx.array:
    """As ``summed_loss``, without anything for a gradient."""
    states = hidden.reshape(-1, hidden.shape[-1])[positions]  # (T, D)
    total = mx.zeros((), mx.float32)
    for start in range(0, states.shape[0], chunk):
        own = slice(start, start + chunk)
        states_now, _ = mx.depends([states[own], targets], [total])  # one chunk after the other
        logits = model.head(states_now).astype(mx.float32)  # (chunk, V)
        total = total + (weights[own] * _nll(logits, targets[own])).sum()
    return total


def head_module(model: LanguageModel) -> nn.Module:
    """What makes logits of hidden states."""
    return model.model.embed_tokens if model.config.tie_word_embeddings else model.lm_head


def _nll(logits: mx.array, targets: mx.array) -> mx.array:
    """(T, V), (T,) to (T,)."""
    said = mx.take_along_axis(logits, targets[:, None], axis=1).squeeze(1)
    return mx.logsumexp(logits, axis=1) - said


def _with_gradients(
    model: LanguageModel,
    states: mx.array,
    targets: mx.array,
    weights: mx.array,
    names: list[str],
    parameters: tuple[mx.array, ...],
    chunk: int,
) -> tuple[mx.array, ...]:
    """The summed loss, its gradient by the states (T, D), and by each of the head's parameters."""
    head = head_module(model)

    def logits_of(states: mx.array, *parameters: mx.array) -> mx.array:
        if names:
            head.update(tree_unflatten(list(zip(names, parameters, strict=True))))
        return model.head(states)

    total = mx.zeros((), mx.float32)
    by_states: list[mx.array] = []
    by_parameters: list[mx.array] = []
    for start in range(0, states.shape[0], chunk):
        own = slice(start, start + chunk)
        # Each chunk waits for the one before: otherwise all their logits could lie there at once.
        (states_now,) = mx.depends([states[own]], [total, *by_states[-1:], *by_parameters])
        logits = logits_of(states_now, *parameters)  # (chunk, V)
        wide = logits.astype(mx.float32)
        ids = targets[own][:, None]
        slope = mx.softmax(wide, axis=1, precise=True)
        # The sum of the softmax follows from its largest term: exponentials are what is slow here.
        total_of = wide.max(axis=1, keepdims=True) - mx.log(slope.max(axis=1, keepdims=True))
        said = mx.take_along_axis(wide, ids, axis=1)
        total = total + (weights[own][:, None] * (total_of - said)).sum()
        # The gradient is the softmax, less one at the target.
        slope = mx.put_along_axis(slope, ids, mx.exp(said - total_of) - 1, axis=1)
        slope = (slope * weights[own][:, None]).astype(logits.dtype)
        _, (by_state, *rest) = mx.vjp(logits_of, [states_now, *parameters], [slope])
        by_states.append(by_state)
        by_parameters = (
            [a + b for a, b in zip(by_parameters, rest, strict=True)] if by_parameters else rest
        )
    if names:  # tracing left its own arrays in the module
        head.update(tree_unflatten(list(zip(names, parameters, strict=True))))
    return total, mx.concatenate(by_states), *by_parameters
