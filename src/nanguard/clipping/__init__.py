"""Gradient clipping of every useful kind, that a NaN cannot break."""

from nanguard.clipping._clip import Clip as Clip
from nanguard.clipping._get import get as get
from nanguard.clipping.adagc import AdaGC as AdaGC
from nanguard.clipping.agc import AGC as AGC
from nanguard.clipping.autoclip import AutoClip as AutoClip
from nanguard.clipping.fixed import ClipByGlobalNorm as ClipByGlobalNorm
from nanguard.clipping.fixed import ClipByNorm as ClipByNorm
from nanguard.clipping.fixed import ClipByValue as ClipByValue
from nanguard.clipping.stable_adamw import StableAdamW as StableAdamW
from nanguard.clipping.zclip import ZClip as ZClip
