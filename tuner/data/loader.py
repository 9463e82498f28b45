"""Which items are trained together, and when: a pure function of the seed and the position."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Hashable, Sequence

from tuner.data.buckets import Item
from tuner.errors import DatasetError

PLANS_KEPT = 2
"""Epochs whose order is kept: around the end of one, processes are in two."""


class Batches:
    """An endless row of batches, dealt to ``world`` processes in turn; this one is number ``rank``.

    In an epoch each item appears exactly ``repeats`` times. The items of a batch share a bucket; what does not
    fill a batch makes smaller ones, as equal in size as possible. An epoch need not end with the same
    micro-step in every process: the row simply goes on, so that no batch is dropped or trained twice and all
    processes always have one.
    """

    def __init__(self, items: Sequence[Item], batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if not items:
            raise DatasetError("there is nothing to train on", hint="add samples to the folders in `data`")
        self.items = items
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self._buckets: dict[Hashable, list[int]] = defaultdict(list)
        for number, item in enumerate(items):
            self._buckets[item.bucket].append(number)
        self._plans: dict[int, list[list[int]]] = {}
        self._in_epoch = sum(
            self._parts(sum(items[number].repeats for number in members)) for members in self._buckets.values()
        )

    @property
    def per_epoch(self) -> int:
        """Micro-steps that an epoch takes, rounded up."""
        return -(-self._in_epoch // self.world)

    def epoch(self, micro_step: int) -> float:
        """Epochs finished when ``micro_step`` micro-steps are."""
        return micro_step * self.world / self._in_epoch

    def batch(self, micro_step: int) -> list[Item]:
        """This process' batch number ``micro_step``, counted from 0: 1 to ``batch_size`` items of one bucket."""
        epoch, position = divmod(micro_step * self.world + self.rank, self._in_epoch)
        if epoch not in self._plans:
            self._plans[epoch] = self._plan(epoch)
            if len(self._plans) > PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
        return [self.items[number] for number in self._plans[epoch][position]]

    def _parts(self, count: int) -> int:
        return -(-count // self.batch_size)

    def _plan(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch as positions in ``items``."""
        source = random.Random(f"tuner-batches/{self.seed}/{epoch}")
        batches: list[list[int]] = []
        for members in self._buckets.values():
            order = self._shuffled(members, source)
            parts = self._parts(len(order))
            edges = [len(order) * part // parts for part in range(parts + 1)]
            batches += [order[low:high] for low, high in itertools.pairwise(edges)]
        source.shuffle(batches)
        return batches

    def _shuffled(self, members: Sequence[int], source: random.Random) -> list[int]:
        """All members in random order, ``repeats`` times; in rounds, so that a batch seldom holds one twice."""
        order: list[int] = []
        round_number = 0
        while due := [number for number in members if self.items[number].repeats > round_number]:
            source.shuffle(due)
            order += due
            round_number += 1
        return order
