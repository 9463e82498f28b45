import hashlib, torch
from pathlib import Path
from safetensors.torch import save_file, load_file
def component_identity(source, part):
    p,sub=source.locate(part); p=p/(sub or "")
    h=hashlib.sha256()
    for f in sorted(p.rglob("*")) if p.is_dir() else [p]:
        if f.is_file(): h.update(f.read_bytes())
    return h.hexdigest()
def text_key(caption, identity, tokens): return hashlib.sha256(repr((caption,identity,tokens)).encode()).hexdigest()
def latent_key(item, identity, dtype): return hashlib.sha256(repr((hashlib.sha256(item.sample.path.read_bytes()).hexdigest(),item.crop,identity,dtype)).encode()).hexdigest()
class RowCache:
    def __init__(self, folder): self.f=Path(folder); self.f.mkdir(parents=True,exist_ok=True); self.m={}
    def missing(self, keys): return [k for k in dict.fromkeys(keys) if not (self.f/k).exists()]
    def put(self,key,row): save_file(row,self.f/key)
    def flush(self): pass
    def get(self,key):
        if key not in self.m: self.m[key]=load_file(self.f/key)
        return self.m[key]
