"""Blocks of histories to rank: what they hold, and how large they are."""

import torch

from recbole_unisrec.data.history_blocks import history_blocks
from recbole_unisrec.data.sequences import Pairs, bucket_lengths


def test_blocks_hold_every_history_once_and_no_more_items_than_there_is_room() -> None:
    torch.manual_seed(0)
    length = torch.randint(1, 21, (200,))
    stop = (length + 1).cumsum(0) - 1
    items = torch.randint(1, 50, (int(stop[-1]) + 1,))
    pairs = Pairs(items, torch.arange(200), stop - length, stop)
    order = length.argsort(stable=True)
    blocks = list(history_blocks(pairs, order, 64, bucket_lengths(20), lambda batch: None, torch.device("cpu")))
    assert torch.cat([block.index for block in blocks]).equal(order)
    assert len(blocks) > 20
    for block in blocks:
        batch = block.batch
        assert len(batch.item) == sum(n * width for n, width in batch.buckets) <= 64
        assert batch.one_each
        assert batch.target.equal(items[stop[block.index]])
        ends = batch.output
        for row, pair in enumerate(block.index.tolist()):
            n = int(length[pair])
            history = batch.item[int(ends[row]) - n + 1 : int(ends[row]) + 1]
            assert history.equal(items[int(stop[pair]) - n : int(stop[pair])])


def test_a_history_longer_than_the_room_is_a_block_of_its_own() -> None:
    pairs = Pairs(torch.arange(1, 13), torch.arange(2), torch.tensor([0, 6]), torch.tensor([5, 11]))
    blocks = list(history_blocks(pairs, torch.arange(2), 3, bucket_lengths(8), lambda batch: None, torch.device("cpu")))
    assert [block.index.tolist() for block in blocks] == [[0], [1]]
