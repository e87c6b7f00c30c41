"""The nodes: a thin layer between ComfyUI and the core, one file per node family.

Ids, input names and output names are frozen: saved workflows hold them. New inputs are appended.
"""

from . import runtime
from .box_pick import BoxPick
from .check import LaserCheck
from .con_vicrop import ConViCrop
from .contrastive_attention import ContrastiveAttention
from .counterfactual_mask import CounterfactualMask
from .find import LaserFind
from .laser_answer import LaserAnswerNode
from .laser_settings import LaserSettingsNode
from .load_lvlm import LoadLVLM, UnloadLVLM
from .paste_back import PasteBack
from .pick import LaserPick
from .vaq_layer_select import VAQLayerSelect
from .vat_decode import VATDecode

NODE_CLASS_MAPPINGS = {
    "LaserLoadLVLM": LoadLVLM,
    "LaserContrastiveAttention": ContrastiveAttention,
    "LaserVAQLayerSelect": VAQLayerSelect,
    "LaserConViCrop": ConViCrop,
    "LaserCounterfactualMask": CounterfactualMask,
    "LaserVATDecode": VATDecode,
    "LaserAnswer": LaserAnswerNode,
    "LaserSettings": LaserSettingsNode,
    "LaserBoxPick": BoxPick,
    "LaserPasteBack": PasteBack,
    "LaserUnload": UnloadLVLM,
    "LaserFind": LaserFind,
    "LaserPick": LaserPick,
    "LaserCheck": LaserCheck,
}

for kind in set(NODE_CLASS_MAPPINGS.values()):
    runtime.explain_out_of_memory(kind)

NODE_DISPLAY_NAME_MAPPINGS = {
    "LaserLoadLVLM": "Load LVLM",
    "LaserContrastiveAttention": "Contrastive Attention",
    "LaserVAQLayerSelect": "VAQ Layer Select",
    "LaserConViCrop": "Con-ViCrop",
    "LaserCounterfactualMask": "Counterfactual Mask",
    "LaserVATDecode": "VAT Decode",
    "LaserAnswer": "LASER Answer",
    "LaserSettings": "LASER Settings",
    "LaserBoxPick": "Box Pick",
    "LaserPasteBack": "Paste Back",
    "LaserUnload": "Unload LVLM",
    "LaserFind": "LASER Find",
    "LaserPick": "LASER Pick",
    "LaserCheck": "LASER Check",
}
