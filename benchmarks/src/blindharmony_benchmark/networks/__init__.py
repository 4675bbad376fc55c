"""Systems that train a network before they harmonize, and the network that segments; they need MONAI."""

from blindharmony_benchmark.networks.cyclegan import CycleGAN
from blindharmony_benchmark.networks.harmonizing_flows import HarmonizingFlows
from blindharmony_benchmark.networks.regression import DeepHarmony, TargetUNet
from blindharmony_benchmark.networks.style import StyleTransfer
from blindharmony_benchmark.system import System

#: Every trained system.
SYSTEMS: tuple[type[System], ...] = (DeepHarmony, CycleGAN, StyleTransfer, TargetUNet, HarmonizingFlows)
