"""The workers of one run, and what they say to one another: nothing, where there is only one."""

import torch
import torch.distributed as dist
from torch import Tensor

from infra.errors import BadValue


class Group:
    """All workers of a run, by torch's process group; alone where there is none.

    Every method is collective: all workers call it, and the same number of times.

    Attributes:
        parts: How many parts a batch has: one per worker, or per neighbours who share samples.
        part: Which of them is this worker's.
    """

    def __init__(self, device: torch.device, sequence: int = 1) -> None:
        """Find the workers.

        Args:
            device: This worker's.
            sequence: So many neighbours share each sample's tokens.

        Raises:
            BadValue: The workers are no multiple of as many.
        """
        there = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if there else 0
        self.world = dist.get_world_size() if there else 1
        self.device, self.sequence = device, sequence
        if self.world % sequence:
            cure = f"there are {self.world} workers; give a divisor of these."
            raise BadValue("scale.sequence", sequence, cure)
        self.part, self.parts = self.rank // sequence, self.world // sequence

    @property
    def leads(self) -> bool:
        """Whether this worker is the one that reports and writes what is written once."""
        return self.rank == 0

    def neighbours(self) -> dist.ProcessGroup:
        """Make the group of the workers that share samples with this one."""
        own: dist.ProcessGroup
        for first in range(0, self.world, self.sequence):
            made = dist.new_group(list(range(first, first + self.sequence)))
            if first <= self.rank < first + self.sequence:
                own = made
        return own

    def mean(self, values: Tensor) -> Tensor:
        """Average over workers."""
        if self.world == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.world

    def most(self, wish: int) -> int:
        """Return the greatest of the workers' numbers."""
        if self.world == 1:
            return wish
        greatest = torch.tensor(wish, device=self.device)
        dist.all_reduce(greatest, dist.ReduceOp.MAX)
        return int(greatest)

    def barrier(self) -> None:
        """Wait until every worker is here."""
        if self.world > 1:
            # Not dist.barrier(): on NCCL that one guesses the device.
            self.most(0)
