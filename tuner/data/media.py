import numpy as np, torch
from PIL import Image, ImageOps
from tuner.families.base import Geometry
def reference_sizer(family): return None
def geometry(item):
    c=item.crop; return Geometry(item.sample.height_px,item.sample.width_px,c.top_px,c.left_px,c.height_px,c.width_px)
def load_pixels(item, modality="image"):
    im=ImageOps.exif_transpose(Image.open(item.sample.path)).convert("RGB").resize((item.crop.width_px,item.crop.height_px),Image.Resampling.LANCZOS)
    x=torch.from_numpy(np.array(im)).permute(2,0,1).float()/127.5-1
    return x if modality=="image" else x[:,None]
def write_clip(path, frames, fps): pass
