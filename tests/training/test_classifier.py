import torch
from torch import nn

from training.classifier import Classifier, Energy, FeatureCosine
from training.models import Network


def test_divides_logits_by_the_temperature_and_scores_the_others() -> None:
    network = Network(nn.Flatten(), nn.Linear(12, 3))
    images = torch.randn(5, 3, 2, 2)
    logits, scores = Classifier(network, 2.0, Energy())(images)
    assert torch.allclose(logits, network(images) / 2)
    assert torch.allclose(scores, network(images).logsumexp(dim=1))


def test_cosine_is_that_to_the_nearest_mean_whatever_the_length() -> None:
    score = FeatureCosine(torch.tensor([[1.0, 0.0], [0.0, 5.0]]))
    features = torch.tensor([[2.0, 0.0], [0.0, 0.1], [3.0, 3.0], [-1.0, -1.0]])
    assert torch.allclose(score(features, features), torch.tensor([1.0, 1.0, 0.5**0.5, -(0.5**0.5)]))
