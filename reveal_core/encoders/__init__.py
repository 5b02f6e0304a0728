from reveal_core.encoders.embedded import Embedded
from reveal_core.encoders.fake import Fake
from reveal_core.encoders.hf_vlm import HfVlm
from reveal_core.encoders.open_clip import OpenClip
from reveal_core.encoders.timm import Timm

EncoderConfig = OpenClip | Embedded | Timm | HfVlm | Fake
