from dataclasses import dataclass
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
@dataclass(frozen=True)
class Preprocessing:
    resize: int
    crop: int
    mean: tuple
    std: tuple
    interpolation: str
