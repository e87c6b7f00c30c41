"""Attention for training on a CPU in float32, with the backward pass written out.

The library's attention needs several times as long here: it builds masks for every token pair and
its CPU backward is slow. Both functions below compute softmax(q k^T / sqrt(d)) v exactly. Shapes:
N = batch x heads, d = head width.
"""

import torch


class _Attend(torch.autograd.Function):
    """Plain attention. q (N, Lq, d), k and v (N, Lk, d), mask (Lq, Lk) additive or None."""

    @staticmethod
    def forward(ctx, q, k, v, mask):
        q = q * q.shape[-1] ** -0.5
        scores = torch.bmm(q, k.transpose(1, 2))
        if mask is not None:
            scores += mask
        weights = torch.softmax(scores, -1)
        out = torch.bmm(weights, v)
        ctx.save_for_backward(q, k, v, weights, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, weights, out = ctx.saved_tensors
        grad = grad.contiguous()
        grad_v = torch.bmm(weights.transpose(1, 2), grad)
        grad_scores = torch.bmm(grad, v.transpose(1, 2))
        grad_scores.sub_((grad * out).sum(-1, keepdim=True)).mul_(weights)
        grad_q = torch.bmm(grad_scores, k) * q.shape[-1] ** -0.5
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q)
        return grad_q, grad_k, grad_v, None


class _AttendQuestions(torch.autograd.Function):
    """Questions that share a prefix but do not see each other.

    q, k, v (N, Q*T, d): Q questions of T tokens; prefix_k, prefix_v (N, P, d); mask (T, T)
    additive, causal. Each token attends to the whole prefix and to its own question so far.
    """

    @staticmethod
    def forward(ctx, q, k, v, prefix_k, prefix_v, mask):
        rows, tokens, width = q.shape
        length = mask.shape[0]
        q = q * width**-0.5
        own = torch.bmm(q.view(-1, length, width), k.view(-1, length, width).transpose(1, 2))
        own = (own + mask).view(rows, tokens, length)
        scores = torch.cat([torch.bmm(q, prefix_k.transpose(1, 2)), own], -1)
        weights = torch.softmax(scores, -1)
        prefix = prefix_k.shape[1]
        # Two contiguous copies: every product below would otherwise make them again.
        prefix_weights = weights[:, :, :prefix].contiguous()
        own_weights = weights[:, :, prefix:].reshape(-1, length, length)
        out = torch.bmm(prefix_weights, prefix_v)
        out += torch.bmm(own_weights, v.view(-1, length, width)).view_as(out)
        ctx.save_for_backward(q, k, v, prefix_k, prefix_v, prefix_weights, own_weights, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, prefix_k, prefix_v, prefix_weights, own_weights, out = ctx.saved_tensors
        length, width = own_weights.shape[1], q.shape[2]
        grad = grad.contiguous()
        shared = (grad * out).sum(-1, keepdim=True)
        segments = [t.view(-1, length, width) for t in (q, k, v, grad)]
        q_own, k_own, v_own, grad_own = segments

        on_prefix = torch.bmm(grad, prefix_v.transpose(1, 2))
        on_prefix.sub_(shared).mul_(prefix_weights)
        on_own = torch.bmm(grad_own, v_own.transpose(1, 2))
        on_own.sub_(shared.view(-1, length, 1)).mul_(own_weights)

        grad_q = torch.bmm(on_prefix, prefix_k)
        grad_q += torch.bmm(on_own, k_own).view_as(grad_q)
        grad_k = torch.bmm(on_own.transpose(1, 2), q_own).view_as(k)
        grad_v = torch.bmm(own_weights.transpose(1, 2), grad_own).view_as(v)
        grad_prefix_k = torch.bmm(on_prefix.transpose(1, 2), q)
        grad_prefix_v = torch.bmm(prefix_weights.transpose(1, 2), grad)
        return grad_q * width**-0.5, grad_k, grad_v, grad_prefix_k, grad_prefix_v, None


def causal_mask(length: int) -> torch.Tensor:
    """(length, length) float32, zero on and below the diagonal, very negative above."""
    return torch.full((length, length), -1e4).triu_(1)


attend = _Attend.apply
attend_questions = _AttendQuestions.apply
