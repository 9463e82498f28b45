import random
class Batches:
    def __init__(self, items, batch_size, seed, rank=0, world=1):
        self.i=items; self.b=batch_size; self.s=seed; self.per_epoch=-(-len(items)//batch_size)
    def batch(self, m):
        e,k=divmod(m,self.per_epoch); o=list(range(len(self.i))); random.Random(f"{self.s}-{e}").shuffle(o)
        return [self.i[j] for j in o[k*self.b:(k+1)*self.b]]
    def epoch(self, m): return m/self.per_epoch
