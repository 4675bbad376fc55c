"""Systems that train a network before they harmonize, and the network that segments; they need MONAI."""

from blindharmony.evidence.networks.cyclegan import CycleGAN
from blindharmony.evidence.networks.deepharmony import DeepHarmony
from blindharmony.evidence.networks.style import StyleTransfer
from blindharmony.evidence.networks.target_unet import TargetUNet
from blindharmony.evidence.system import System

#: Every trained system.
SYSTEMS: tuple[type[System], ...] = (DeepHarmony, CycleGAN, StyleTransfer, TargetUNet)
