"""Second stage: the projector is fitted, then the language model learns to answer."""

import numpy as np
import torch
import torch.nn.functional as F

from .batches import IGNORED, Segments, ask_views, patch_labels, sample_rows
from .dataset import VIEWS_PER_SCENE
from .network import word_targets
from .questions import QUESTION_TYPES, VOCABULARY
from .trainer import Trainer


@torch.no_grad()
def align_projector(trainer: Trainer) -> None:
    """Fits the projector to the word embeddings of what the patches show, before any question.

    Least squares: the first layer whitens the tower's features, the second is solved for. What
    the tower sees is the target rather than the truth: small digits cannot be read.
    """
    first, second = trainer.architecture.projector(trainer.model)
    features, targets = [], []
    for _ in range(trainer.recipe.align_batches):
        rows = sample_rows(trainer.views, trainer.rng, trainer.recipe.vision_batch, 0.5)
        labels = patch_labels(trainer.views.objects[rows])
        tower = trainer.features(trainer.pictures(rows))
        seen = [logits.argmax(-1) for logits in trainer.labels(tower)]
        known = [torch.where(y == IGNORED, y, z) for y, z in zip(labels, seen, strict=True)]
        features.append(tower.flatten(0, 1))
        target = word_targets(trainer.model, tuple(known), trainer.architecture.knows_places)
        targets.append(target.flatten(0, 1))
    x, y = torch.cat(features).double(), torch.cat(targets).double()
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    whiten = vectors @ torch.diag((values + 1e-3 * values.mean()).rsqrt()) @ vectors.T
    first.weight.copy_(whiten)
    # Where GELU is nearly linear: the second layer can still undo the first.
    first.bias.copy_(1.0 - whiten @ x.mean(0))
    hidden = F.gelu(x @ whiten.T + first.bias)
    hidden = torch.cat([hidden, torch.ones(len(hidden), 1)], 1)
    # Patches that show something count three times: most show background.
    nothing = trainer.model.model.language_model.embed_tokens.weight[VOCABULARY["nothing"]]
    weight = torch.where(y @ nothing.double() > 1.0, 1.0, 3.0)[:, None]
    gram = hidden.T @ (weight * hidden)
    gram.diagonal().add_(1e-4 * gram.diagonal().mean())
    solved = torch.linalg.solve(gram, hidden.T @ (weight * y))
    second.weight.copy_(solved[:-1].T)
    second.bias.copy_(solved[-1])
    error = (hidden @ solved - y).square().mean() / y.square().mean()
    trainer.average("alignment error", float(error))
    trainer.write_log()


def whole_step(trainer: Trainer) -> None:
    """One batch of questions, on single views or on pairs of a picture and a window of it."""
    recipe, rng, progress = trainer.recipe, trainer.rng, trainer.progress
    pair = progress >= recipe.pair_from and rng.random() < recipe.pair_share
    count = recipe.batch // 2 if pair else recipe.batch
    # Windows, which mostly hold one object, teach to read it; whole pictures to find it.
    whole_share = 1.0 if pair else 0.6
    # Few, large, clear objects first: neither finding nor relations are learned in a crowd.
    easy_share = float(np.interp(progress, (0.15, 0.45), (0.75, 0.25)))
    rows = sample_rows(trainer.views, rng, count, whole_share, easy_share)
    crops = rows + (1 if rng.random() < 0.7 else 2) if pair else None
    shown = rows if crops is None else np.concatenate([rows, crops])

    learns = progress >= recipe.frozen_share
    with torch.set_grad_enabled(learns):
        features = trainer.features(trainer.pictures(shown))
    label_loss = 0.0
    if learns:
        labels = patch_labels(trainer.views.objects[shown])
        label_loss = sum(trainer.label_losses(features, labels))
    if pair:
        features = torch.cat([features[:count], features[count:]], 1)

    opening = trainer.architecture.answer_opening
    length = (19 if rng.random() < 0.2 else 15) + len(opening)
    # An object must be found before what lies beside it can be.
    relations_first = float(np.interp(progress, (0.08, 0.2), (-0.7, 0.5)))
    segments = ask_views(
        trainer.views, rows, rng, recipe.questions_per_view, length, opening, crops, relations_first
    )
    hidden = trainer.architecture.decode(trainer.model, features, segments.tokens)
    answered = segments.labels != IGNORED
    logits = trainer.model.lm_head(hidden[answered])
    truth, weights = segments.labels[answered], segments.weights[answered]
    losses = F.cross_entropy(logits, truth, reduction="none")
    loss = (losses * weights).sum() / weights.sum()
    trainer.update(loss + recipe.label_weight * label_loss)

    trainer.average("loss", loss.item())
    trainer.average("labels", float(torch.as_tensor(label_loss).detach()))
    _log_answers(trainer, segments, logits.argmax(-1) == truth, rows, pair)


def _log_answers(
    trainer: Trainer, segments: Segments, right: torch.Tensor, rows: np.ndarray, pair: bool
) -> None:
    """Accuracy of the first answer word by question type and by what the view shows."""
    answered = segments.labels != IGNORED
    view = np.broadcast_to((rows % VIEWS_PER_SCENE)[:, None, None], answered.shape)
    whole = torch.from_numpy(view == 0)[answered]
    kinds = segments.kinds[answered]
    for kind, name in enumerate((*QUESTION_TYPES, "caption")):
        for on_whole in (True, False):
            chosen = (kinds == kind) & (whole == on_whole)
            place = "pair" if pair else "whole" if on_whole else "window"
            if chosen.any():
                trainer.average(f"{name}/{place}", right[chosen].sum().item(), len(right[chosen]))
