import numpy as np
import pytest
import torch

from probecache.analyze.probes.optim.cross_entropy import indicator, loss_and_residual, n_outputs


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("size", [0.1, 5.0, 60.0])
def test_equals_float64_by_definition(classes, size):
    generator = torch.Generator().manual_seed(0)
    logits = size * torch.randn(4, n_outputs(classes), 50, generator=generator)
    labels = torch.randint(0, classes, (50,), generator=generator)
    weights = torch.rand(50, generator=generator)
    z = logits.double().requires_grad_()
    full = torch.cat([torch.zeros_like(z), z], dim=1) if classes == 2 else z
    each = torch.nn.functional.cross_entropy(full, labels.expand(4, 50), reduction="none")
    expected = (each * weights).sum(dim=1)
    (gradient,) = torch.autograd.grad(expected.sum(), z)
    loss, residual = loss_and_residual(logits, indicator(labels, n_outputs(classes)), weights)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=0)
    # Relative, entry by entry: small residuals are what nearly separable data are decided by.
    torch.testing.assert_close(residual.double(), gradient, rtol=1e-4, atol=1e-15)


@pytest.mark.parametrize("size", [0.1, 5.0, 60.0])
@pytest.mark.parametrize("weights", [None, torch.linspace(0.1, 2, 50)])
def test_labels_give_what_their_indicator_gives(size, weights):
    logits = size * torch.randn(3, 40, 50, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 40
    loss, residual = loss_and_residual(logits.clone(), labels, weights)
    expected, same = loss_and_residual(logits.clone(), indicator(labels, 40), weights)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(residual, same, rtol=1e-5, atol=1e-20)


def test_a_loss_far_below_float32s_unit_is_kept():
    logits = torch.tensor([[[20.0], [0.0], [0.0]]])
    loss, residual = loss_and_residual(logits, indicator(torch.tensor([0]), 3), None)
    assert loss.item() == pytest.approx(2 * np.exp(-20), rel=1e-5)
    assert residual[0, 0, 0].item() == pytest.approx(-2 * np.exp(-20), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 10])
def test_classes_far_apart_leave_no_subnormal_numbers_and_lose_no_loss(classes):
    outputs = n_outputs(classes)
    logits = 80 * torch.randn(4, outputs, 500, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(500) % classes
    for truth in (indicator(labels, outputs), *([labels] if outputs > 1 else [])):
        loss, residual = loss_and_residual(logits.clone(), truth, None)
        far = residual[residual != 0].abs()
        assert float(far.min()) > torch.finfo(torch.float32).tiny
        z = torch.cat([torch.zeros_like(logits), logits], dim=1).double() if classes == 2 else logits.double()
        each = torch.nn.functional.cross_entropy(z, labels.expand(4, 500), reduction="none")
        torch.testing.assert_close(loss, each.sum(dim=1), rtol=1e-6, atol=0)


def test_one_class_losses_keep_float32s_precision_from_sure_to_hopeless():
    odds = torch.cat([-torch.logspace(-20, 1.8, 4001), torch.logspace(-20, 1.8, 4001)])  # up to 63
    for label in (0, 1):
        expected = torch.nn.functional.softplus((1 - 2 * label) * odds.double(), threshold=1e9)
        each = [loss_and_residual(z.view(1, 1, 1), torch.tensor([[label]]), None)[0].item() for z in odds]
        torch.testing.assert_close(torch.tensor(each, dtype=torch.float64), expected, rtol=3e-7, atol=0)
