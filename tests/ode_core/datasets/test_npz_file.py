import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ode_core.datasets.labelled_arrays import ArraysRefused
from ode_core.datasets.npz_file import read_npz

LIMIT = 1_000_000
X = np.arange(24, dtype=np.float32).reshape(12, 2)
Y = np.arange(12) % 3


def npz(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def npy(array, **options):
    content = io.BytesIO()
    np.lib.format.write_array(content, array, **options)
    return content.getvalue()


def zipped(members, **options):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def header(text, version=(1, 0)):
    encoded = text.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(encoded)) + encoded


@pytest.fixture
def read(tmp_path):
    def read_content(content, limit=LIMIT):
        path = tmp_path / "upload"
        path.write_bytes(content)
        return read_npz(path, limit)

    return read_content


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_saves_is_read(read, save):
    content = io.BytesIO()
    given = {"inputs": np.asfortranarray(X), "labels": Y, "test_inputs": X.astype(">f8"), "test_labels": Y.astype("u1")}
    save(content, **given)
    found = read(content.getvalue())
    assert found.keys() == given.keys()
    for name, array in given.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 3), (1, 2, 3, 4)])
@pytest.mark.parametrize("kind", ["bool", "i1", "u1", "<i8", ">u4", "<f2", ">f8"])
def test_every_shape_and_type_of_numbers_is_read(read, kind, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(kind)
    found = read(npz(inputs=array))["inputs"]
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_the_second_version_of_the_header_is_read(read):
    assert np.array_equal(read(zipped({"inputs.npy": npy(X, version=(2, 0))}))["inputs"], X)


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_a_pickle_is_refused_and_not_executed(read):
    content = npz(inputs=np.array([Harmful()], dtype=object), labels=Y)
    with pytest.raises(ArraysRefused, match="never Python objects"):
        read(content)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"inputs.npy": npy(np.array(["a", "b"]))}, "has type <U1: only integers and floating-point"),
        ({"inputs.npy": npy(np.zeros(3, dtype=[("a", int)]))}, "not an array as numpy.save writes it"),
        ({"inputs.npy": npy(np.zeros(3, dtype="M8[s]"))}, "only integers and floating-point"),
        ({"inputs.npy": npy(np.zeros(3, dtype=complex))}, "only integers and floating-point"),
        ({"inputs.npy": npy(np.zeros(3, dtype=np.longdouble))}, "only integers and floating-point"),
        ({"inputs.npy": b""}, "not an array as numpy.save writes it"),
        ({"inputs.npy": b"\x80\x04N."}, "not an array as numpy.save writes it"),
        ({"inputs.npy": b"\x93NUMPY\x09\x00"}, "not an array as numpy.save writes it"),
        ({"inputs.npy": header("__import__('os').system('true')")}, "not an array as numpy.save writes it"),
        ({"inputs.npy": header("(" * 5000)}, "not an array as numpy.save writes it"),
        (
            {"inputs.npy": header("{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }")},
            "not an array as numpy.save writes it",
        ),
        (
            {"inputs.npy": header("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 9999999999), }")},
            "size that its header",
        ),
        ({"inputs.npy": b"\x93NUMPY\x02\x00" + b"\xff" * 4 + bytes(50)}, "not an array as numpy.save writes it"),
        (
            {
                "inputs.npy": header(
                    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 999999999999, 999999999999), }"
                )
            },
            "impossible shape",
        ),
        ({"inputs.npy": header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1, " * 70 + "), }")}, "not an"),
        ({"inputs.npy": b"\x93NUMPY\x01\x00\x05"}, "not an array as numpy.save writes it"),
        ({"inputs.npy": npy(X)[:-4]}, "size that its header promises"),
        ({"inputs.npy": npy(X) + b"more"}, "size that its header promises"),
        ({"inputs.npy": npy(X), "../../etc/passwd": b""}, r"holds '\.\./\.\./etc/passwd'"),
        ({"inputs.npy": npy(X), "extra.npy": npy(X)}, "it may hold inputs, labels"),
        ({"inputs": npy(X)}, "it may hold inputs, labels"),
    ],
)
def test_members_that_are_no_arrays_of_numbers_are_refused(read, members, message):
    with pytest.raises(ArraysRefused, match=message):
        read(zipped(members))


def test_a_bomb_is_refused_by_the_size_it_declares_before_it_is_unpacked(read):
    zeros = npy(np.zeros(10 * LIMIT, dtype=np.uint8))
    content = zipped({"inputs.npy": zeros}, compression=zipfile.ZIP_DEFLATED)
    assert len(content) < LIMIT / 50
    with pytest.raises(ArraysRefused, match="more than the 1,000,000 allowed") as refused:
        read(content)
    assert refused.value.too_large


def test_arrays_are_bounded_together(read):
    quarter = np.zeros(LIMIT // 4, dtype=np.uint8)
    read(npz(inputs=quarter, labels=quarter, test_inputs=quarter))
    with pytest.raises(ArraysRefused, match="allowed"):
        read(npz(inputs=quarter, labels=quarter, test_inputs=quarter, test_labels=quarter))


def test_a_bomb_that_declares_a_small_size_is_not_unpacked_beyond_it(read):
    honest = npy(np.zeros(10 * LIMIT, dtype=np.uint8))
    content = bytearray(zipped({"inputs.npy": honest}, compression=zipfile.ZIP_DEFLATED))
    small = struct.pack("<L", 1000)
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # local header, central directory
        place = content.index(signature) + offset
        assert struct.unpack_from("<L", content, place) == (len(honest),)
        content[place : place + 4] = small
    with pytest.raises(ArraysRefused, match="not a whole npz file"):
        read(bytes(content))


def test_an_array_given_twice_is_refused(read):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("inputs.npy", npy(X))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("inputs.npy", npy(X))
    with pytest.raises(ArraysRefused, match="twice"):
        read(content.getvalue())


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packings_are_refused(read, compression):
    with pytest.raises(ArraysRefused, match="do not use"):
        read(zipped({"inputs.npy": npy(X)}, compression=compression))


def test_a_flipped_bit_is_noticed(read):
    content = bytearray(npz(inputs=X, labels=Y))
    content[content.index(X.tobytes()) + 3] ^= 1
    with pytest.raises(ArraysRefused, match="not a whole npz file"):
        read(bytes(content))


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"PK\x03\x04", npz(inputs=X, labels=Y)[:-30], b"PK\x05\x06" + bytes(9)]
)
def test_a_cut_file_is_refused(read, content):
    with pytest.raises(ArraysRefused, match="not a whole npz file"):
        read(content)


VALID = npz(inputs=X, labels=Y)
PACKED = zipped({"inputs.npy": npy(X), "labels.npy": npy(Y)}, compression=zipfile.ZIP_DEFLATED)


@given(
    content=st.sampled_from([VALID, PACKED]),
    changes=st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4),
    length=st.integers(0, len(VALID)),
)
def test_no_damage_gets_past_as_anything_but_a_refusal_or_the_arrays(tmp_path_factory, content, changes, length):
    damaged = bytearray(content)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    path = tmp_path_factory.mktemp("damaged") / "upload"
    path.write_bytes(bytes(damaged[:length]) if length < len(VALID) else bytes(damaged))
    try:
        arrays = read_npz(path, LIMIT)
    except ArraysRefused:
        return
    assert sum(array.nbytes for array in arrays.values()) <= LIMIT
