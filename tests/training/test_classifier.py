import torch
from torch import nn

from training.classifier import Classifier, Energy, FeatureDistance
from training.models import Network


def test_divides_logits_by_the_temperature_and_scores_the_others() -> None:
    network = Network(nn.Flatten(), nn.Linear(12, 3))
    images = torch.randn(5, 3, 2, 2)
    logits, familiarity = Classifier(network, 2.0, Energy())(images)
    assert torch.allclose(logits, network(images) / 2)
    assert torch.allclose(familiarity, network(images).logsumexp(dim=1))


def test_distance_is_mahalanobis_to_the_nearest_mean() -> None:
    scatter = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    whitening = torch.diag(scatter.diagonal().rsqrt())
    means = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    score = FeatureDistance(whitening, means @ whitening)
    features = torch.tensor([[2.0, 0.0], [0.0, 2.0], [10.0, 0.0], [7.0, 0.0]])
    assert torch.allclose(score(features, features), torch.tensor([-1.0, -2.0, 0.0, -1.5]))


def test_the_score_of_an_image_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    score = FeatureDistance(torch.eye(64), torch.randn(10, 64))
    features = torch.randn(100, 64)
    alone = torch.cat([score(row[None], row[None]) for row in features])
    assert torch.allclose(score(features, features), alone, atol=1e-5)
