"""A model file gives the model back, or says what is wrong with it and what to do."""

import contextlib
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from blindharmony.errors import OutputError, TargetError
from blindharmony.flows.glow import MultiScaleFlow, small_2d
from blindharmony.flows.pyramid import Pyramid, PyramidSpec
from blindharmony.models.card import KEY
from blindharmony.models.file import load_target, save_target
from blindharmony.models.person import PersonModel
from blindharmony.models.target import FORMAT, HeldOut, Places, Target, TargetInfo, atlas_tensor

SPEC = PyramidSpec(widths=(3, 3), blocks=0, bins=4)
ARRAYS = ("levels", "quantiles", "coverage", "mean_image")


@pytest.fixture(scope="module")
def target() -> Target:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pyramid = Pyramid(SPEC, atlas_tensor()).eval()
    slices = MultiScaleFlow(small_2d()).eval()
    with torch.no_grad():
        for parameter in (*pyramid.parameters(), *slices.parameters()):
            parameter.add_(0.01 * torch.randn(parameter.shape))
    return Target(
        info=TargetInfo(
            name="toy",
            scans=3,
            pyramid=SPEC,
            slices=slices.spec,
            held_out=HeldOut(scans=1, bits_per_dim=(1.5,), level_bits=((1.0, 2.0, 3.0),)),
            notes={"scanner": "toy"},
        ),
        levels=np.linspace(0.01, 0.99, 9),
        quantiles=np.sort(rng.uniform(size=(3, 9))),
        coverage=rng.uniform(size=(80, 96, 80)).astype(np.float32),
        mean_image=rng.uniform(size=(80, 96, 80)).astype(np.float32),
        person=PersonModel(
            rng.normal(size=(6, 4)), rng.uniform(size=(6, 9)), np.arange(6) // 2, rng.normal(size=(6, 3))
        ),
        pyramid=pyramid,
        slices=slices,
        places=Places(
            np.where(rng.random((3, 40, 48, 40)) < 0.5, np.nan, -1.5).astype(np.float32),
            np.full((3, 40, 48, 40), 0.25, np.float32),
            rng.uniform(2, 9, 20),
        ),
        dark_places=Places(
            np.where(rng.random((1, 40, 48, 40)) < 0.5, np.nan, 0.125).astype(np.float32),
            np.full((1, 40, 48, 40), 0.0625, np.float32),
            rng.uniform(2, 9, 20),
        ),
    )


@pytest.fixture(scope="module")
def content(target, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    save_target(target, path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "toy.safetensors"


def parts(content):
    """Tensors and description of a model file."""
    length = int.from_bytes(content[:8], "little")
    return load(content), json.loads(json.loads(content[8 : 8 + length])["__metadata__"][KEY])


def pack(tensors, description):
    return save(tensors, {KEY: json.dumps(description)})


def refusal(path, content):
    """The message about a damaged file; it names the file and says what to do."""
    path.write_bytes(content)
    with pytest.raises(TargetError) as error:
        load_target(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert error.value.remedy
    assert "\n" not in message
    return message


class TestRoundTrip:
    def test_everything_comes_back(self, target, content, path):
        path.write_bytes(content)
        loaded = load_target(path)
        assert loaded.info == target.info
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(loaded, name), getattr(target, name))
            assert getattr(loaded, name).dtype == getattr(target, name).dtype
        for name in ("features", "curves", "heads", "textures"):
            np.testing.assert_array_equal(getattr(loaded.person, name), getattr(target.person, name))
        for loaded_places, places in ((loaded.places, target.places), (loaded.dark_places, target.dark_places)):
            for name in ("mean", "spread", "largest"):
                np.testing.assert_array_equal(getattr(loaded_places, name), getattr(places, name))
                assert getattr(loaded_places, name).dtype == getattr(places, name).dtype
        for part in ("pyramid", "slices"):
            was, now = getattr(target, part).state_dict(), getattr(loaded, part).state_dict()
            assert was.keys() == now.keys()
            assert all(torch.equal(was[k], now[k]) for k in was)

    def test_who_is_who_comes_back(self, target, path):
        person = replace(target.person, people=np.zeros_like(target.person.heads))
        info = target.info.model_copy(update={"learnt_from": ("0123456789abcdef",)})
        save_target(replace(target, info=info, person=person), path)
        loaded = load_target(path)
        np.testing.assert_array_equal(loaded.person.people, person.people)
        assert loaded.info.learnt_from == info.learnt_from

    def test_a_model_may_know_nothing_of_places(self, target, path):
        save_target(replace(target, places=None, dark_places=None), path)
        loaded = load_target(path)
        assert (loaded.places, loaded.dark_places) == (None, None)

    def test_an_older_model_is_saved_in_todays_format(self, content, path):
        tensors, description = parts(content)
        del description["learnt_from"]
        path.write_bytes(pack(tensors, description | {"format": 5}))
        loaded = load_target(path)
        assert (loaded.info.format, loaded.info.learnt_from, loaded.person.people) == (5, (), None)
        again = save_target(loaded, path.with_name("again.safetensors"))
        assert again.info.format == load_target(path.with_name("again.safetensors")).info.format == FORMAT

    def test_loading_and_saving_gives_equal_bytes(self, content, path):
        path.write_bytes(content)
        loaded = load_target(path)
        again = save_target(loaded, path.with_name("again.safetensors"))
        assert path.with_name("again.safetensors").read_bytes() == content
        assert again.digest == loaded.digest
        assert len(loaded.digest) == 12

    def test_flows_are_frozen_and_ready(self, content, path):
        path.write_bytes(content)
        loaded = load_target(path)
        for flow in (loaded.pyramid, loaded.slices):
            assert not flow.training
            assert not any(p.requires_grad for p in flow.parameters())

    def test_densities_are_the_same(self, target, content, path):
        path.write_bytes(content)
        x = torch.rand(1, 1, 40, 48, 40)
        mask = atlas_tensor(2)[None, None] > 0.2
        mask[:, :, 8:] = False
        with torch.no_grad():
            was, now = (t.pyramid.density(x, mask, first=1).nats for t in (target, load_target(path)))
        assert torch.equal(was, now)

    def test_flows_may_be_missing(self, target, path):
        info = target.info.model_copy(update={"pyramid": None, "slices": None})
        save_target(replace(target, info=info, pyramid=None, slices=None), path)
        loaded = load_target(path)
        assert loaded.pyramid is None
        assert loaded.slices is None

    def test_a_model_in_memory_is_returned_as_it_is(self, target):
        assert load_target(target) is target

    def test_an_existing_file_is_kept(self, target, path):
        path.write_bytes(b"precious")
        with pytest.raises(OutputError):
            save_target(target, path)
        assert path.read_bytes() == b"precious"
        save_target(target, path, overwrite=True)
        assert load_target(path).info == target.info


class TestDamage:
    @pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
    def test_truncated(self, content, path, share):
        refusal(path, content[: int(share * len(content))])

    @pytest.mark.parametrize("seed", range(5))
    def test_random_bytes(self, path, seed):
        assert "not a target model" in refusal(path, np.random.default_rng(seed).bytes(4096))

    @pytest.mark.parametrize("seed", range(20))
    def test_damaged_description(self, target, path, seed):
        # One byte of the description is another: either it still makes sense, or it is refused.
        info = target.info.model_copy(update={"pyramid": None, "slices": None})
        save_target(replace(target, info=info, pyramid=None, slices=None), path)
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        rng = np.random.default_rng(seed)
        damaged = bytearray(content)
        damaged[8 + rng.integers(length)] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(TargetError):
            assert isinstance(load_target(path), Target)

    @pytest.mark.parametrize("name", [*ARRAYS, "person.curves", "pyramid.base.input_sd"])
    def test_missing_tensor(self, content, path, name):
        tensors, description = parts(content)
        del tensors[name]
        message = refusal(path, pack(tensors, description))
        assert "damaged" in message

    @pytest.mark.parametrize(
        "name",
        ["levels", "quantiles", "coverage", "mean_image", "person.heads", "person.curves", "pyramid.base.input_sd"],
    )
    def test_wrong_shape(self, content, path, name):
        tensors, description = parts(content)
        tensors[name] = torch.zeros(2, 5, 2, dtype=tensors[name].dtype)
        assert "damaged" in refusal(path, pack(tensors, description))

    @pytest.mark.parametrize("name", ["quantiles", "mean_image", "person.features"])
    def test_values_that_are_no_numbers(self, content, path, name):
        tensors, description = parts(content)
        tensors[name] = torch.full_like(tensors[name], torch.nan)
        assert "damaged" in refusal(path, pack(tensors, description))

    @pytest.mark.parametrize(
        "change",
        [
            {"scans": "many"},
            {"surprise": 1},
            {"recipe": {"gain": "median"}},
            {"pyramid": {"shape": [80, 96]}},
        ],
    )
    def test_description_that_makes_no_sense(self, content, path, change):
        tensors, description = parts(content)
        assert "damaged" in refusal(path, pack(tensors, description | change))

    @pytest.mark.parametrize("description", [None, [], "toy", 3])
    def test_description_of_another_kind(self, content, path, description):
        tensors, _ = parts(content)
        refusal(path, pack(tensors, description))


class TestEarlierFormats:
    def test_format_3_had_spline_couplings_only(self, target, path):
        self.check(target, path, {"checkerboards": 0, "affine_rounds": 0, "rounds": 1}, 3, "affine_rounds")

    def test_format_4_had_no_checkerboards(self, target, path):
        self.check(target, path, {"checkerboards": 0, "affine_rounds": 2}, 4)

    def check(self, target, path, shape, version, *unknown):
        spec = SPEC.model_copy(update=shape)
        info = target.info.model_copy(update={"pyramid": spec})
        save_target(replace(target, info=info, pyramid=Pyramid(spec, atlas_tensor())), path)
        tensors, description = parts(path.read_bytes())
        for name in ("checkerboards", *unknown):
            del description["pyramid"][name]
        path.write_bytes(pack(tensors, description | {"format": version}))
        assert load_target(path).info.pyramid == spec

    def test_format_2_had_no_textures_and_all_versions_of_a_head_counted_the_same(self, target, content, path):
        tensors, description = parts(content)
        old = {k: v for k, v in tensors.items() if k != "person.textures"}
        path.write_bytes(pack(old, description | {"format": 2}))
        loaded = load_target(path)
        assert loaded.info.format == 2
        assert loaded.person.textures is None
        assert (loaded.person.likeness(np.zeros(3)) == 1).all()

    @pytest.mark.parametrize("people", [torch.zeros(5, dtype=torch.int64), torch.zeros(6)])
    def test_people_that_do_not_fit_are_refused(self, people, content, path):
        tensors, description = parts(content)
        assert "people" in refusal(path, pack(tensors | {"person.people": people}, description))

    @pytest.mark.parametrize(
        "textures", [torch.zeros(5, 3), torch.zeros(6), torch.zeros(6, 0), torch.full((6, 3), torch.nan)]
    )
    def test_textures_that_do_not_fit_are_refused(self, textures, content, path):
        tensors, description = parts(content)
        assert "textures" in refusal(path, pack(tensors | {"person.textures": textures}, description))

    def test_format_1_had_no_person_model_and_evidence_that_means_nothing_now(self, target, content, path):
        tensors, description = parts(content)
        old = {k: v for k, v in tensors.items() if not k.startswith("person.")}
        path.write_bytes(pack(old, description | {"format": 1, "evidence_scale": 0.5, "evidence_offset": [0.0, 0.1]}))
        loaded = load_target(path)
        assert loaded.person is None
        np.testing.assert_array_equal(loaded.quantiles, target.quantiles)


class TestForeign:
    def test_newer_format(self, content, path):
        tensors, description = parts(content)
        message = refusal(path, pack(tensors, description | {"format": FORMAT + 1, "new": "field"}))
        assert "newer version" in message
        assert "pip install -U blindharmony" in message

    def test_pickle(self, path):
        class Trap:
            def __reduce__(self):
                return pytest.fail, ("the file was unpickled",)

        assert "not a target model" in refusal(path, pickle.dumps({"model": Trap()}))

    def test_torch_file(self, path):
        torch.save({"weight": torch.zeros(3)}, path)
        assert "not a target model" in refusal(path, path.read_bytes())

    def test_safetensors_of_another_program(self, path):
        assert "not a target model" in refusal(path, save({"weight": torch.zeros(3)}, {"format": "pt"}))

    def test_no_such_file(self, path):
        with pytest.raises(TargetError, match="no such target model; give a model file or an included name"):
            load_target(path)
