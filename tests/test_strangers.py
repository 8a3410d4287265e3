"""Checkpoints and cards from strangers: nothing is unpickled, sizes are checked before memory is taken."""

import ast
import io
import json
import pickle
import resource
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts

import unet_jax
from unet_jax.checkpoint import Checkpoints, load
from unet_jax.model_folder import read_model, write_model
from unet_jax.models import UNet, to_spec
from unet_jax.training import State

CARD = {
    "model": to_spec(UNet((4, 8))),
    "channels": 1,
    "normalisation": {"method": "percentile", "low": 1.0, "high": 99.8},
    "classes": ["background", "cell"],
    "patch": [16, 16],
}


@pytest.fixture
def folder(tmp_path):
    write_model({"params": {"w": np.arange(6.0).reshape(2, 3)}}, CARD, tmp_path)
    assert read_model(tmp_path)[0]["params"]["w"].shape == (2, 3)
    return tmp_path


@pytest.fixture(autouse=True)
def little_memory():
    """What is claimed, were it allocated, would be refused by the system: 64 GiB more than now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 2**24
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**36, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_no_pickle_anywhere():
    bad = []
    for path in sorted(Path(unet_jax.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            unpickles = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch"}
            if unpickles & {name.split(".")[0] for name in names}:
                bad.append(f"{path.name}:{node.lineno} imports one that unpickles")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                bad.append(f"{path.name}:{node.value.lineno} allows pickles")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec", "np.load", "numpy.load"):
                safe = any(k.arg == "allow_pickle" for k in node.keywords)
                if not safe:
                    bad.append(f"{path.name}:{node.lineno} {ast.unparse(node.func)}")
    assert bad == []


class Trap:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_a_pickle_among_the_parameters_is_not_opened(folder):
    np.savez(folder / "params.npz", **{"params/w": np.array([Trap(folder / "sprung")], object)})
    with pytest.raises(ValueError, match=r"params.npz is damaged .*object, not numbers"):
        read_model(folder)
    (folder / "params.npz").write_bytes(pickle.dumps(Trap(folder / "sprung")))
    with pytest.raises(ValueError, match=r"is damaged .*copy the folder again"):
        read_model(folder)
    assert not (folder / "sprung").exists()


def npz(path, header, data=b"", compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("params/w.npy", file.getvalue() + data)


@pytest.mark.parametrize("shape", [(2**40,), (2**31, 2**31), (7,)])
def test_an_array_that_says_it_is_larger_than_its_file(folder, shape):
    npz(folder / "params.npz", {"descr": "<f4", "fortran_order": False, "shape": shape}, b"1234")
    with pytest.raises(ValueError, match=r"params/w.npy says it has the shape .*not what the file holds"):
        read_model(folder)


def test_a_zip_bomb(folder):
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**22,)}
    npz(folder / "params.npz", header, bytes(2**24), zipfile.ZIP_DEFLATED)
    assert (folder / "params.npz").stat().st_size < 2**16
    with pytest.raises(ValueError, match="not what the file holds"):
        read_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": [10**9, 10**9]}, r"patch \[1000000000"),
        ({"patch": [0, 16]}, "patch"),
        ({"channels": 10**12}, "channels"),
        ({"classes": "cell"}, "classes cell"),
        ({"model": [1]}, "model"),
        ({"model": None}, "model None"),
    ],
)
def test_a_card_that_no_training_writes(folder, changes, message):
    (folder / "card.json").write_text(json.dumps({**CARD, **changes}))
    with pytest.raises(ValueError, match=f"the card says .*{message}"):
        read_model(folder)


@pytest.mark.parametrize("text", ["[" * 10**5, "[]", "\x00", " " * (2**24 + 1) + "{}"])
def test_a_card_that_is_no_card(folder, text):
    (folder / "card.json").write_text(text)
    with pytest.raises(ValueError, match=r"damaged|not a JSON object"):
        read_model(folder)


@pytest.fixture
def checkpoint(tmp_path):
    key = jax.random.PRNGKey(0)
    state = State(jnp.asarray(3), {"w": jax.random.normal(key, (4, 3))}, {}, {}, key)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, CARD, score=0.5)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [2**50, 3]}, "more than this machine's memory holds"),
        ({"shape": [2**24, 3]}, r"says it holds \d+ bytes of parameters, in files of \d+"),
        ({"shape": [4, 3], "chunks": [2**50, 3]}, "more than this machine's memory holds"),
    ],
)
# orbax leaves coroutines behind when one of its reads fails
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning")
def test_a_checkpoint_that_says_it_is_larger_than_its_files(checkpoint, changes, message):
    where = f"file://{checkpoint}/3/state/"
    store = ts.KvStore.open({"driver": "ocdbt", "base": where}).result()
    described = json.loads(store.read("params.w/.zarray").result().value)
    store.write("params.w/.zarray", json.dumps({**described, **changes}).encode()).result()
    with pytest.raises(ValueError, match=message):
        load(checkpoint)


def test_a_card_that_would_fill_the_memory(checkpoint):
    with (checkpoint / "3" / "card" / "metadata").open("r+b") as file:
        file.truncate(2**40)  # of holes
    with pytest.raises(ValueError, match=r"a card of 1099511627776 bytes"):
        load(checkpoint)


def test_a_model_of_no_known_name(folder):
    from unet_jax.prediction import Predictor

    (folder / "card.json").write_text(json.dumps({**CARD, "model": {"name": "os.system", "command": "touch x"}}))
    with pytest.raises(ValueError, match=r"unknown model 'os\.system'"):
        Predictor.load(folder)
