"""The order of rows: epochs, members, resuming; what workers do."""

import lightning
import pytest
import torch
from data_helpers import encode

from uqbench.data.augment import RandomResizedCrop
from uqbench.data.images import EncodedImages
from uqbench.data.loaders import BatchDataset, BatchRows, EvalBatches, Loader, TrainBatches
from uqbench.data.readers import EvalReader, TrainReader, fit
from uqbench.errors import ConfigError, DataError
from uqbench.seeding import generator


def rows_of(batches) -> list[list[int]]:
    return [batch.index.tolist() for batch in batches]


def epochs(batches: TrainBatches, which) -> list[list[list[int]]]:
    seen = []
    for epoch in which:
        batches.set_epoch(epoch)
        seen.append(rows_of(batches))
    return seen


def test_an_epoch_is_the_permutation_of_its_named_stream():
    batches = TrainBatches(10, 4, seed=5, stream="train")
    batches.set_epoch(2)
    order = torch.randperm(10, generator=generator(5, "train", "order", 2)).tolist()
    assert rows_of(batches) == [order[:4], order[4:8], order[8:]]
    assert len(batches) == 3
    assert rows_of(TrainBatches(10, 4, 5, "train", drop_last=True)) == rows_of(TrainBatches(10, 4, 5, "train"))[:2]


def test_a_resumed_run_sees_what_an_uninterrupted_one_saw():
    for mode in ("shared", "independent", "bootstrap"):
        whole = epochs(TrainBatches(23, 5, 0, "train", 3, mode), range(6))
        assert epochs(TrainBatches(23, 5, 0, "train", 3, mode), [3, 4, 5]) == whole[3:]
        assert whole[0] != whole[1]


def test_independent_members_are_member_major_with_orders_of_their_own():
    batches = rows_of(TrainBatches(10, 4, 1, "train", 3, "independent"))
    assert [len(b) for b in batches] == [12, 12, 6]
    for member in range(3):
        order = torch.randperm(10, generator=generator(1, "train", "member", member, "order", 0)).tolist()
        mine = [row for b in batches for row in b[member * len(b) // 3 : (member + 1) * len(b) // 3]]
        assert mine == order


def test_a_member_is_the_same_in_an_ensemble_of_any_size():
    for mode in ("independent", "bootstrap"):
        two, five = (rows_of(TrainBatches(20, 4, 0, "train", m, mode)) for m in (2, 5))
        for a, b in zip(two, five, strict=True):
            assert a == b[:8]


def test_a_bootstrap_resample_is_drawn_once_with_replacement():
    def mine(epoch, member):
        batches = TrainBatches(1000, 100, 0, "train", 2, "bootstrap")
        batches.set_epoch(epoch)
        return [row for b in batches for row in b.index[member * 100 : (member + 1) * 100].tolist()]

    first, second = mine(0, 0), mine(1, 0)
    assert first != second and sorted(first) == sorted(second)
    assert sorted(first) != sorted(mine(0, 1))
    assert abs(len(set(first)) / 1000 - 0.632) < 0.05  # 1 - 1/e of the rows occur


def test_settings_are_refused():
    with pytest.raises(ConfigError, match="member_batches='own'"):
        TrainBatches(10, 4, 0, "train", 2, "own")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="drop_last"):
        TrainBatches(3, 4, 0, "train", drop_last=True)


class Echo:
    """Reads no images: gives the rows and the epoch back."""

    def __call__(self, batch: BatchRows) -> torch.Tensor:
        if 99 in batch.index:
            raise DataError("row 99 is bad; replace it")
        return torch.stack([batch.index, torch.full_like(batch.index, batch.epoch)])


def test_lightning_sets_the_epoch_and_workers_are_told_of_it():
    """Two epochs through the Trainer, with persistent workers, against the sampler's own answer."""

    class Recorder(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

        def training_step(self, batch, _):
            self.seen.append(batch["image"].tolist())
            return self.weight * 0.0

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    def run(workers):
        loader = Loader(BatchDataset(Echo(), torch.zeros(10).long()), TrainBatches(10, 4, 0, "train"), workers)
        module = Recorder()
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, barebones=False,
        )  # fmt: skip
        trainer.fit(module, loader)
        return module.seen

    expected = epochs(TrainBatches(10, 4, 0, "train"), [0, 1])
    for workers in (0, 1):
        seen = run(workers)
        assert [rows for rows, _ in seen] == expected[0] + expected[1]
        assert [set(epoch) for _, epoch in seen] == [{0}] * 3 + [{1}] * 3


def test_a_loader_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    list(Loader(BatchDataset(Echo(), torch.zeros(10).long()), EvalBatches(10, 4)))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_error_is_one_line_from_a_worker_too(workers):
    loader = Loader(BatchDataset(Echo(), torch.zeros(100).long()), EvalBatches(100, 40), workers)
    with pytest.raises(DataError) as caught:
        list(loader)
    assert str(caught.value) == "row 99 is bad; replace it"


@pytest.fixture
def encoded() -> EncodedImages:
    """Six images of different sizes, as a `datasets.Dataset` would give them."""
    import datasets

    draws = torch.Generator().manual_seed(0)
    sizes = [(20, 30), (40, 24), (16, 16), (33, 50), (25, 25), (60, 18)]
    files = [encode(torch.randint(256, (3, *size), generator=draws, dtype=torch.uint8)) for size in sizes]
    table = datasets.Dataset.from_dict({"image": [{"bytes": f, "path": None} for f in files]})
    table = table.cast_column("image", datasets.Image(decode=False))
    return EncodedImages(table, "image", torch.arange(6) % 3, "six images")


def test_decoded_rows_are_cropped_by_their_own_stream(encoded):
    crop = RandomResizedCrop(8)
    read = TrainReader(encoded, 8, None, crop, seed=0, stream="train")
    batch = read(BatchRows(torch.tensor([3, 0, 5]), epoch=2))
    assert batch.shape == (3, 3, 8, 8) and batch.dtype == torch.uint8
    assert torch.equal(batch[1], read(BatchRows(torch.tensor([0]), epoch=2))[0])
    assert not torch.equal(batch[1], read(BatchRows(torch.tensor([0]), epoch=3))[0])
    members = read(BatchRows(torch.tensor([0, 1, 0, 1]), epoch=2, members=2))
    assert not torch.equal(members[0], members[2])
    loaders = [Loader(BatchDataset(read, encoded.labels), TrainBatches(6, 4, 0, "train"), n) for n in (0, 1)]
    for one, other in zip(*loaders, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_crop_of_the_whole_image_is_the_image_resized(encoded):
    read = TrainReader(encoded, 8, None, RandomResizedCrop(8, scale=[1.0, 1.0], ratio=[0.1, 10.0]), 0, "train")
    read.crop.boxes = lambda n, h, w, _: torch.tensor([[0.0, 0.0, h, w]])  # type: ignore
    for row in range(6):
        out = read(BatchRows(torch.tensor([row])))[0]
        assert torch.equal(out, fit(encoded.decode(row), 8, None))


def test_evaluation_crops_the_centre():
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    image[:, 10:30, 30:50] = 255  # the central 20 x 20 of the short side's 40
    cropped = fit(image, 10, 20).float()
    assert (cropped[:, 1:-1, 1:-1] == 255).all()  # the filter reaches one pixel over the edge
    assert torch.equal(cropped, cropped.flip(-1)) and torch.equal(cropped, cropped.flip(-2))
    assert fit(image, 10, None).float().mean() == pytest.approx(255 * 400 / 3200, rel=0.02)


def test_a_corruption_sees_the_row_numbers_and_comes_before_the_crop(encoded):
    seen = []

    def corrupt(images, rows):
        seen.append((images.shape, rows.tolist()))
        return 255 - images

    batch = BatchRows(torch.tensor([4, 1]))
    clean = EvalReader(encoded, 8, 10)(batch)
    assert torch.equal(EvalReader(encoded, 8, 10, corrupt)(batch), 255 - clean)
    in_memory = encoded.select(torch.tensor([4])).load()
    assert EvalReader(in_memory, 8, 10, corrupt)(BatchRows(torch.tensor([0]))).shape == (1, 3, 8, 8)
    assert EvalReader(in_memory, 8, None, corrupt)(BatchRows(torch.tensor([0]))).shape == (1, 3, 25, 25)
    assert seen == [((2, 3, 8, 8), [4, 1]), ((1, 3, 25, 25), [0]), ((1, 3, 25, 25), [0])]
