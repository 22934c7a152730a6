"""CNN-RNN: any convolutional network of timm joined with an LSTM that reads the image row by row.

A re-implementation of the baselines of ma2020 (ResNet50-LSTM, InceptionV3-LSTM, Xception-LSTM): the
paper names them and gives no details that could be read. Here the pooled features of the network
and the last state of a two-layer LSTM over the rows of the grey image are concatenated, mapped to
128 features, and classified.
"""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import rgb_to_grayscale

from benchmark.errors import UserError, suggest
from benchmark.models.architectures import TimmNetwork

SUFFIX = "+lstm"


class CnnRnn(TimmNetwork):
    """Images [N, 3, H, img_size] → logits [N, classes], with timm's interface.

    Args:
        cnn: a built timm network; its classifier is taken off.
        num_classes: of the new classifier; 0 gives the 128 features instead of logits.
        img_size: width of the images, which are the inputs of one step of the LSTM.
    """

    num_features = head_hidden_size = 128

    def __init__(self, cnn: nn.Module, num_classes: int, img_size: int) -> None:
        super().__init__()
        self.cnn = cnn
        self.cnn.reset_classifier(0)
        self.img_size = img_size
        self.lstm = nn.LSTM(img_size, 64, num_layers=2, batch_first=True)
        self.fc = nn.Linear(cnn.head_hidden_size + self.lstm.hidden_size, self.num_features)
        self.reset_classifier(num_classes)
        self.pretrained_cfg = self.default_cfg = {
            **cnn.pretrained_cfg,
            "architecture": cnn.pretrained_cfg["architecture"] + SUFFIX,
            "first_conv": None,
            "classifier": "classifier",
            "num_classes": num_classes,
        }

    def forward_features(self, x: Tensor) -> Tensor:
        """Images → pooled features of the CNN beside the last state of the LSTM [N, F + 64].

        Raises:
            UserError: the images have another width than the LSTM was built for.
        """
        if x.shape[-1] != self.img_size:
            raise UserError(
                f"{self.pretrained_cfg['architecture']}: its LSTM reads rows of {self.img_size} "
                f"pixels, these images have {x.shape[-1]}: build it with img_size={x.shape[-1]}"
            )
        rows = rgb_to_grayscale(x).squeeze(1)
        _, (state, _) = self.lstm(rows)
        return torch.cat([self.cnn(x), state[-1]], dim=1)

    def pool(self, x: Tensor) -> Tensor:
        return self.fc(x).relu()


def create_cnn_rnn(name: str, num_classes: int, img_size: int = 224, **options: object) -> CnnRnn:
    """Build `<timm name>+lstm`, such as `resnet50+lstm`; random weights follow torch's seed.

    Args:
        name: of the CNN, with the suffix.
        img_size: side of the images, in pixels.
        options: for `timm.create_model` of the CNN, such as `pretrained`.

    Raises:
        UserError: no suffix, or timm knows no architecture of this name.
    """
    cnn, plus, rnn = name.rpartition("+")
    if plus + rnn != SUFFIX:
        raise UserError(f"'{name}' is no CNN-RNN: name it <timm name>{SUFFIX}")
    if not timm.is_model(cnn.partition(".")[0]):
        raise UserError(f"unknown backbone '{cnn}' (timm){suggest(cnn, timm.list_models())}")
    return CnnRnn(timm.create_model(cnn, **options), num_classes, img_size)
